//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// The variants of visits.
const (
	oneVisitUp     = "Redis up"
	oneVisitFrozen = "Redis frozen"
	warmVisit      = "visit on a warm slot, " // and the engine
	browserKilled  = "browser killed"
	renderersDead  = "every renderer killed"
)

// The measures of visits.
const (
	visitsEach = "visits per RUC"
	mostVisits = "most of one RUC"
	serviceMs  = "scraper + browser CPU ms" // per visit, and per question whether its slot is warm again
	slotMiB    = "PSS MiB per slot"         // of scraper and browser, in equal shares
)

const (
	gatewayCount = 4
	coldNumbers  = 10  // in a round
	slowVisit    = 100 // ms, so that all callers come while it lasts
	warmCount    = 10  // visits before the first round: a young browser is slower
	slots        = 2   // the default of SUNAT_SLOTS
)

// engines are those there are, and how many visits of each are made in a round.
var engines = []struct {
	engine string
	visits int
}{{ruc.MotorChrome, 30}, {ruc.MotorFetch, 100}, {ruc.MotorHTTP, 100}}

// site is the replica, which tells how long its own answers took. Its form takes no time
// for the token, which would count as ours.
type site struct {
	*replica.Server
	url    string
	served atomic.Int64 // nanoseconds that the last POST took
}

func (l *lab) startSite(ctx context.Context) (*site, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &site{Server: replica.New(replica.Config{TokenAtOnce: true}, l.now), url: "http://" + ln.Addr().String() + replica.FormPath}
	server := &http.Server{ReadHeaderTimeout: readyWait, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := l.now()
		s.ServeHTTP(w, r)
		if r.Method == http.MethodPost {
			s.served.Store(int64(l.now().Sub(began)))
		}
	})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(ln) // until Close
	}()
	l.stops = append(l.stops, func() { s.Close(); _ = server.Close(); <-ended })
	return s, nil
}

// fleet is a site with one scraper on it, both tabs warm.
type fleet struct {
	servers
	*site
	scraper server
	nc      *nats.Conn
	asked   int // cold numbers so far
}

func (l *lab) startFleet(ctx context.Context, settings ...string) (f *fleet, err error) {
	f = &fleet{}
	if f.servers, err = l.startServers(ctx); err != nil {
		return nil, err
	}
	js, err := l.connect(ctx, f.servers)
	if err != nil {
		return nil, err
	}
	f.nc = js.Conn()
	if f.site, err = l.startSite(ctx); err != nil {
		return nil, err
	}
	if f.scraper, err = l.startService(ctx, "scraper", f.servers, append(f.settings(), settings...)...); err != nil {
		return nil, err
	}
	return f, l.warm(ctx, f)
}

// settings are those of services that know the site. It needs no politeness.
func (f *fleet) settings() []string {
	return []string{"SUNAT_URL=" + f.url, "SUNAT_PACE=0", "SUNAT_PAUSE=0", "SUNAT_MAX_CONCURRENT=8"}
}

// warm waits until both tabs show the form.
func (l *lab) warm(ctx context.Context, f *fleet) error {
	return l.await(ctx, f.scraper.process, "its tabs should be ready", func() bool {
		ready, err := metric(ctx, f.scraper.ops, `ruc_slots{state="ready"}`)
		return err == nil && ready == slots
	})
}

// cold is a number of which nothing is known.
func (f *fleet) cold() ruc.Number { f.asked++; return cold(f.asked) }

// resolve has a cold number visited and returns how long that took.
func (l *lab) resolve(ctx context.Context, f *fleet) (time.Duration, error) {
	n := f.cold()
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	began := l.now()
	m, err := f.nc.RequestWithContext(ctx, wire.SubjectResolve, n.AppendTo(nil))
	took := l.now().Sub(began)
	if err == nil {
		_, err = wire.ReadReply(n, m)
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", n, err)
	}
	return took, nil
}

// oneVisit counts how often numbers are visited that all callers of all gateways ask for
// at one time.
func oneVisit(ctx context.Context, l *lab) (Figures, error) {
	f, err := l.startFleet(ctx)
	if err != nil {
		return nil, err
	}
	if err := f.SetFault(replica.Fault{Kind: replica.FaultSlow, DelayMs: slowVisit}); err != nil {
		return nil, err
	}
	var gateways []server
	for range gatewayCount {
		g, err := l.startService(ctx, "gateway", f.servers, f.settings()...)
		if err != nil {
			return nil, err
		}
		gateways = append(gateways, g)
	}
	return l.each(ctx, []string{oneVisitUp, oneVisitFrozen}, func(ctx context.Context, name string) (round map[string]float64, err error) {
		if name == oneVisitFrozen {
			if err := f.redis.signal(syscall.SIGSTOP); err != nil {
				return nil, err
			}
			defer func() { err = errors.Join(err, f.redis.signal(syscall.SIGCONT)) }()
		}
		all, most := 0, 0
		for range coldNumbers {
			n := f.cold()
			if err := l.askAll(ctx, gateways, n); err != nil {
				return nil, err
			}
			visits := f.Stats().Visits[n.String()]
			all, most = all+visits, max(most, visits)
		}
		return map[string]float64{visitsEach: float64(all) / coldNumbers, mostVisits: float64(most)}, nil
	})
}

// askAll has every caller of every gateway ask for n at once, each of whom must be answered.
func (l *lab) askAll(ctx context.Context, gateways []server, n ruc.Number) error {
	var wg sync.WaitGroup
	errs := make([]error, len(gateways))
	for i, g := range gateways {
		wg.Go(func() {
			one := load{addr: g.http, requests: [][]byte{request(http.MethodGet, path(n))}, order: []int{0}, each: 1, status: http.StatusOK}
			_, errs[i] = one.run(ctx, readyWait, l.now)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// most is a line's figure that must hold in every round of every variant.
func most(measure string, names ...string) func(Figures) float64 {
	return func(f Figures) float64 {
		var all []float64
		for _, name := range names {
			all = append(all, f.rounds(name, measure)...)
		}
		if len(all) == 0 {
			return math.NaN()
		}
		return slices.Max(all)
	}
}

// visits measures single visits of each engine, each on a slot that is warm and while
// nothing else is done: from the request on NATS to its reply, less what the site took for
// its answer.
func visits(ctx context.Context, l *lab) (Figures, error) {
	fleets, counts := map[string]*fleet{}, map[string]int{}
	var variants []string
	for _, m := range engines {
		f, err := l.startFleet(ctx, "SUNAT_ENGINE="+m.engine)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.engine, err)
		}
		for range warmCount {
			if _, err := l.overhead(ctx, f); err != nil {
				return nil, fmt.Errorf("%s: %w", m.engine, err)
			}
		}
		name := warmVisit + m.engine
		variants, fleets[name], counts[name] = append(variants, name), f, m.visits
	}
	return l.each(ctx, variants, func(ctx context.Context, name string) (map[string]float64, error) {
		return l.visitRound(ctx, fleets[name], counts[name])
	})
}

// visitRound makes so many visits one after the other.
func (l *lab) visitRound(ctx context.Context, f *fleet, count int) (map[string]float64, error) {
	browserBefore, ownBefore, err := f.cpu()
	if err != nil {
		return nil, err
	}
	var over []uint32
	for range count {
		took, err := l.overhead(ctx, f)
		if err != nil {
			return nil, err
		}
		over = append(over, took)
	}
	browser, own, err := f.cpu()
	if err != nil {
		return nil, err
	}
	slices.Sort(over)
	round := latencies(over)
	perVisit := func(took time.Duration) float64 { return float64(took) / float64(time.Millisecond) / float64(count) }
	round[treeMs] = perVisit(browser - browserBefore)
	round[serviceMs] = perVisit(browser + own - browserBefore - ownBefore)
	round[slotMiB], err = f.memory()
	return round, err
}

// cpu is the processor time that the browser and the scraper have taken.
func (f *fleet) cpu() (browser, own time.Duration, err error) {
	browser, err = treeCPU(f.scraper.pid())
	if err != nil {
		return 0, 0, err
	}
	own, err = f.scraper.cpu()
	return browser, own, err
}

// memory is a slot's share of what scraper and browser hold, in MiB.
func (f *fleet) memory() (float64, error) {
	pids, err := descendants(f.scraper.pid())
	if err != nil {
		return 0, err
	}
	held, err := memoryOfAll(append(pids, f.scraper.pid()))
	return held[pssMiB] / slots, err
}

// overhead makes one visit and waits until its tab is warm again.
func (l *lab) overhead(ctx context.Context, f *fleet) (microseconds uint32, err error) {
	took, err := l.resolve(ctx, f)
	if err != nil {
		return 0, err
	}
	over := took - time.Duration(f.served.Load())
	return uint32(over / time.Microsecond), l.warm(ctx, f) //nolint:gosec // a visit ends within readyWait
}

// killed measures how long a lookup takes that comes right after a kill.
func killed(ctx context.Context, l *lab) (Figures, error) {
	f, err := l.startFleet(ctx)
	if err != nil {
		return nil, err
	}
	return l.each(ctx, []string{browserKilled, renderersDead}, func(ctx context.Context, name string) (map[string]float64, error) {
		below, err := descendants(f.scraper.pid())
		if err != nil {
			return nil, err
		}
		victims := below[:1] // the browser itself is the scraper's child
		if name == renderersDead {
			victims = slices.DeleteFunc(below, func(pid int) bool { return !strings.Contains(commandLine(pid), "--type=renderer") })
		}
		if len(victims) == 0 {
			return nil, errors.New("there is nothing to kill")
		}
		for _, pid := range victims {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				return nil, err
			}
		}
		took, err := l.resolve(ctx, f)
		if err != nil {
			return nil, err
		}
		return map[string]float64{seconds: took.Seconds()}, l.warm(ctx, f)
	})
}

func commandLine(pid int) string { return fileText(fmt.Sprintf("/proc/%d/cmdline", pid)) }

// descendants are the pids of all processes below one, parents before their children.
func descendants(of int) ([]int, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, path := range paths {
		pid, pidErr := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		b, err := os.ReadFile(path)
		if err != nil || pidErr != nil {
			continue // it has ended
		}
		parent, err := parentOf(string(b))
		if err != nil {
			return nil, err
		}
		children[parent] = append(children[parent], pid)
	}
	all := slices.Clone(children[of])
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all, nil
}

// treeCPU is the processor time that everything below a process has taken.
func treeCPU(of int) (sum time.Duration, err error) {
	below, err := descendants(of)
	if err != nil {
		return 0, err
	}
	for _, pid := range below {
		took, err := cpuOfPid(pid)
		if err != nil {
			return 0, err
		}
		sum += took
	}
	return sum, nil
}
