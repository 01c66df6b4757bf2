package e2e

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// full asks for the long form of the series; `make series` does.
var full = flag.Bool("full", false, "the long form of the series tests, half an hour and more")

// long is one value for every run and another for the long form.
func long[T any](short, full_ T) T {
	if *full {
		return full_
	}
	return short
}

// busy is the scraper that has a visit under way.
func (f *fleet) busy() (i int) {
	f.t.Helper()
	f.eventually("a scraper is busy", readyWait, func() bool {
		i = slices.IndexFunc(f.scrapers, func(p *process) bool { return p.metric(`ruc_slots{state="busy"}`) > 0 })
		return i >= 0
	})
	return i
}

// replace kills a process and starts another in its place.
func (f *fleet) replace(all []*process, i int) {
	f.t.Helper()
	all[i].stop(syscall.SIGKILL)
	all[i] = all[i].again()
}

// chromium is the pid of a scraper's browser.
func (f *fleet) chromium(scraper *process) int {
	f.t.Helper()
	for _, pid := range f.browserProcesses("") {
		if parent(pid) == scraper.cmd.Process.Pid {
			return pid
		}
	}
	f.t.Fatal("the scraper has no browser")
	return 0
}

// parent is the pid of a process's parent, 0 where it has ended.
func parent(pid int) int {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0
	}
	// pid (name) state ppid: the name may hold anything.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	ppid, _ := strconv.Atoi(fields[1]) // 0 when unreadable, as documented
	return ppid
}

// TestSeries_Killed: whatever is killed while ten callers wait for a visit, each of them
// gets the number that he asked for, in time, and the visit is made at most twice.
func TestSeries_Killed(t *testing.T) {
	const (
		visit   = 2 * time.Second
		callers = 10
		// takeover is what is left of a dead slot's AckWait, the visit that follows, and
		// a second.
		takeover = wire.SlotAckWait + visit + time.Second
	)
	rounds := long(1, 20)
	f := startFleet(t, 2, 2, 2)
	f.fault(replica.Fault{Kind: replica.FaultSlow, DelayMs: int(visit / time.Millisecond)})
	next := 30000
	for _, victim := range []struct {
		name  string
		limit time.Duration // from the kill to the last answer
		kill  func()
	}{
		{"scraper", takeover, func() { f.replace(f.scrapers, f.busy()) }},
		{"gateway", takeover, func() { f.replace(f.gateways, 1) }}, // callers ask the other one
		{"cachewriter", takeover, func() { f.replace(f.writers, 0) }},
		{"Chromium", takeover, func() { kill(t, f.chromium(f.scrapers[f.busy()])) }},
		{"nats-server", 2*visit + 3*time.Second, func() { // the visit goes on, or is made again
			f.nats.stop(syscall.SIGKILL)
			f.startNATS()
		}},
	} {
		t.Run(victim.name, func(t *testing.T) {
			var worst time.Duration
			visits := map[int]int{}
			for round := range rounds {
				f.whole()
				next++
				n := fresh(next)
				var wg sync.WaitGroup
				for range callers {
					wg.Go(func() {
						status, _, body := f.lookup(n)
						f.answer(n, status, body)
					})
				}
				f.eventually("the visit is under way", readyWait, func() bool { return f.visits(n) == 1 })
				began := time.Now()
				victim.kill()
				wg.Wait()
				took := time.Since(began)
				worst = max(worst, took)
				if took > victim.limit {
					t.Errorf("round %d: answered %v after the kill", round, took)
				}
				v := f.visits(n)
				if visits[v]++; v > 2 {
					t.Errorf("round %d: %d visits", round, v)
				}
				f.eventually("no browser without its scraper is left", readyWait, func() bool {
					return !slices.ContainsFunc(f.browserProcesses("--user-data-dir"), func(pid int) bool { return parent(pid) == 1 })
				})
			}
			t.Logf("%s: %d rounds × %d callers, all answered; worst %v after the kill; rounds by number of visits %v",
				victim.name, rounds, callers, worst.Round(time.Millisecond), visits)
		})
	}
}

// TestSeries_RedisComesAndGoes: an open loop of lookups while Redis is absent, comes,
// freezes, is killed and comes back.
func TestSeries_RedisComesAndGoes(t *testing.T) {
	const (
		perSecond, coldPerSecond, newsPerSecond = 500, 5, 20
		budget                                  = 45 * time.Second // REQUEST_TIMEOUT
	)
	phase := long(2*time.Second, 12*time.Second)
	warmed := make([]ruc.Number, long(200, 1000))
	f := newFleet(t)
	f.redis.Kill()
	f.start(2, 2, 2)

	nc := f.connectAs("admin")
	js, err := jetstream.New(f.connectAs("scraper"))
	if err != nil {
		t.Fatal(err)
	}
	var version atomic.Uint64
	// refresh stores a newer answer of n, as a scraper would.
	refresh := func(n ruc.Number) {
		v := version.Add(1)
		a := ruc.Found(n, ruc.Record{RazonSocial: ruc.Text(fmt.Sprintf("VERSION %d", v))}, time.Now(), ruc.FuenteReplica, ruc.MotorChrome)
		body, err := a.Encode()
		if err != nil {
			t.Error(err)
			return
		}
		job := wire.Job{Seq: v, Time: time.Now()}
		if _, err := js.PublishMsg(context.Background(), wire.ResolvedEvent(n, job, body, ruc.FuenteReplica, time.Now())); err != nil {
			t.Errorf("storing an event: %v", err)
		}
	}
	for i := range warmed {
		warmed[i] = ruc.FromPrefix(fmt.Sprintf("2077%06d", i))
		refresh(warmed[i])
	}
	for _, gateway := range f.gateways {
		f.eventually("every gateway holds the warmed numbers", readyWait, func() bool {
			return gateway.metric("ruc_memory_entries") >= float64(len(warmed))
		})
	}

	keepAlive := &http.Client{Timeout: budget + 5*time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256}}
	defer keepAlive.CloseIdleConnections()
	var wg sync.WaitGroup
	var hits, cold, slowest, slowestCold atomic.Int64
	lookup := func(n ruc.Number, gateway *process, count, slow *atomic.Int64) {
		began := time.Now()
		resp, err := keepAlive.Get("http://" + gateway.addr("http") + "/v1/ruc/" + n.String())
		if err != nil {
			t.Errorf("%s: %v", n, err)
			return
		}
		defer resp.Body.Close()
		var body bytes.Buffer
		if _, err := body.ReadFrom(resp.Body); err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(body.String(), n.String()) {
			t.Errorf("%s: %d %v %s", n, resp.StatusCode, err, body.String())
		}
		count.Add(1)
		took := time.Since(began)
		for old := slow.Load(); int64(took) > old && !slow.CompareAndSwap(old, int64(took)); old = slow.Load() {
		}
		if took > budget {
			t.Errorf("%s: after %v", n, took)
		}
	}
	nextCold, loaded := 40000, time.Duration(0)
	// load asks for one phase, each request at its time whatever became of the others.
	load := func() {
		began := time.Now()
		for i := range int(phase.Seconds() * perSecond) {
			<-time.After(time.Until(began.Add(time.Duration(i) * time.Second / perSecond)))
			gateway := f.gateways[i%len(f.gateways)]
			if i%(perSecond/coldPerSecond) == 0 {
				nextCold++
				n := fresh(nextCold)
				wg.Go(func() { lookup(n, gateway, &cold, &slowestCold) })
				continue
			}
			n := warmed[rand.N(len(warmed))]
			wg.Go(func() { lookup(n, gateway, &hits, &slowest) })
			if i%(perSecond/newsPerSecond) == 1 {
				wg.Go(func() { refresh(n) })
			}
		}
		loaded += time.Since(began)
	}
	connected := func(want bool) {
		t.Helper()
		f.eventually(fmt.Sprintf("Redis is used: %v", want), readyWait, func() bool {
			return !slices.ContainsFunc(f.gateways, func(p *process) bool { return (p.metric("ruc_store_connected") == 1) != want })
		})
	}
	load() // absent
	connected(false)
	f.redis.Restart()
	load() // there
	connected(true)
	f.redis.Freeze()
	load() // frozen
	f.redis.Thaw()
	load() // there again
	connected(true)
	f.redis.Kill()
	load() // killed
	connected(false)
	f.redis.Restart()
	wg.Wait()
	connected(true)
	t.Logf("%d hits and %d cold lookups in %v, %.0f a second; slowest hit %v, slowest cold one %v",
		hits.Load(), cold.Load(), loaded.Round(time.Second), float64(hits.Load()+cold.Load())/loaded.Seconds(),
		time.Duration(slowest.Load()).Round(time.Millisecond), time.Duration(slowestCold.Load()).Round(time.Millisecond))

	events, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	f.eventually("the cachewriters have written everything", 2*readyWait, func() bool {
		c, err := events.Consumer(t.Context(), wire.StreamEvents, wire.ConsumerCachewriter)
		return err == nil && c.CachedInfo().NumPending == 0 && c.CachedInfo().NumAckPending == 0
	})
	client := f.reader()
	for i := range nextCold - 40000 {
		warmed = append(warmed, fresh(40001+i))
	}
	for _, n := range warmed {
		newest, ok, err := wire.NewestAnswer(t.Context(), js.Conn(), n)
		if err != nil || !ok {
			t.Fatalf("%s: no event: %v", n, err)
		}
		if held, err := client.Get(t.Context(), "sunat:ruc:"+n.String()).Bytes(); err != nil || !bytes.Equal(held, newest.Body) {
			t.Errorf("%s: Redis holds %.120s (%v), the newest event is %.120s", n, held, err, newest.Body)
		}
	}
}

// TestSeries_VisitsAvoided: requests that follow a Zipf law cost one visit for each
// number, and the metrics say so too.
func TestSeries_VisitsAvoided(t *testing.T) {
	const numbers, clients = 10_000, 16
	requests := long(300, 10_000)
	f := startFleet(t, 2, 2, 2, "SUNAT_SLOTS=4")
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	zipf := rand.NewZipf(random, 1.2, 1, numbers-1)
	asked := make(chan ruc.Number)
	distinct := map[ruc.Number]bool{}
	var wg sync.WaitGroup
	for i := range clients {
		r := f.through(f.gateways[i%len(f.gateways)])
		wg.Go(func() {
			for n := range asked {
				status, _, body := r.lookup(n)
				r.answer(n, status, body)
			}
		})
	}
	for range requests {
		n := ruc.FromPrefix(fmt.Sprintf("2088%06d", zipf.Uint64()))
		distinct[n] = true
		asked <- n
	}
	close(asked)
	wg.Wait()
	visits, each := 0, f.stats().Visits
	for n := range distinct {
		visits += each[n.String()]
	}
	var measured, lookups float64
	for _, p := range f.scrapers {
		measured += p.metric("ruc_visit_duration_seconds_count")
	}
	for _, p := range f.gateways {
		lookups += p.metric("ruc_lookup_duration_seconds_count")
	}
	avoided := 1 - float64(visits)/float64(requests)
	t.Logf("seed %d: %d requests for %d of %d numbers: %d visits, %.1f %% avoided; by the metrics %.0f lookups, %.0f visits, %.1f %%",
		seed, requests, len(distinct), numbers, visits, 100*avoided, lookups, measured, 100*(1-measured/lookups))
	if visits != len(distinct) {
		t.Errorf("%d visits for %d numbers", visits, len(distinct))
	}
	if int(lookups) != requests || int(measured) != visits {
		t.Errorf("the metrics say %v lookups and %v visits", lookups, measured)
	}
	if *full && avoided < 0.8 {
		t.Errorf("only %.1f %% avoided", 100*avoided)
	}
}
