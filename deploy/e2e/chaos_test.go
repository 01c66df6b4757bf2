package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"

	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// The chaos suite: one fault after the other in one running fleet, callers all the
// while, and after each fault the same questions. Its table says what held.

const (
	chaosRequest = 20 * time.Second // REQUEST_TIMEOUT; AckWait and a visit fit
	chaosVisit   = 300 * time.Millisecond
	chaosSlots   = 2 // SUNAT_SLOTS, of each scraper
	// recoveryBound is AckWait of a job whose slot died, a visit, and what a restarted
	// Chromium takes.
	recoveryBound = wire.SlotAckWait + 5*time.Second
	// settleBound is how long events may take to Redis once everything is back: a
	// writer's AckWait, in which a killed one holds its share.
	settleBound = 45 * time.Second
	warmNumbers = 10
)

// column is one invariant.
type column int

const (
	colRecord  column = iota // a 200 holds the record of the number asked
	colError                 // no error is kept: asked again afterwards, every number is answered
	colAbsent                // who exists is never told not to, who does not is never shown a record
	colEvents                // every answer's event is in the stream, and the newest of each number in Redis
	colVisits                // POSTs of one cold number
	colWait                  // every caller is answered within REQUEST_TIMEOUT and a second
	colRecover               // a cold lookup through each gateway, from the mend on
	colLeaks                 // no process, goroutine, descriptor or temporary entry more than before
	columns
)

var columnNames = [columns]string{"record", "errors kept", "not found", "events", "visits", "longest wait", "recovered", "leaks"}

// fault is one thing that goes wrong.
type fault struct {
	name   string
	inject func(c *chaos)
	lasts  time.Duration  // how long it is left so
	heal   func(c *chaos) // nil: it heals by itself, or inject did
	// visits is the most POSTs that a cold number may cost; 0 stands for 1.
	visits int
	// without are the invariants that do not apply, and why.
	without map[column]string
	// own is a fault of the site: the visits are the fault's, not delayed by ours.
	own bool
	// chromium is a fault of the browser, which not every engine has.
	chromium bool
	// away is a gateway that nobody can ask meanwhile.
	away *int
}

// concerns reports whether a fault is another one to another engine. The rest are between
// processes that know no engine, and are tried with one.
func (f fault) concerns(engine string) bool { return engine == ruc.MotorChrome || f.own || f.chromium }

// chaos is the fleet and what stands between its parts.
type chaos struct {
	*fleet
	engine    string            // of the scrapers
	natsLines map[string]*proxy // by whose line it is: gateway0, gateway1, scraper, cachewriter
	redisLine *proxy
	redisCLI  *redis.Client
	js        jetstream.JetStream
	admin     *nats.Conn // reads events
	warm      []ruc.Number
	next      int
	base      map[string]usage // by program
	baseTemp  []string
}

// usage is what a process holds.
type usage struct{ goroutines, descriptors float64 }

func newChaos(t *testing.T) *chaos {
	f := newFleetOn(t, servers{redis: []string{"--user", "chaos", "on", ">" + token, "~*", "+@all"}}, "SUNAT_PAUSE=1s", "SUNAT_ATTEMPT_TIMEOUT=2s",
		fmt.Sprintf("SUNAT_SLOTS=%d", chaosSlots), fmt.Sprintf("REQUEST_TIMEOUT=%s", chaosRequest))
	c := &chaos{fleet: f, engine: ruc.MotorChrome, natsLines: map[string]*proxy{}, redisLine: newProxy(t, f.redis.Addr()), base: map[string]usage{}}
	line := func(whose string) []string {
		p := c.natsLines[whose]
		if p == nil {
			p = newProxy(t, strings.TrimPrefix(f.NATS, "nats://"))
			c.natsLines[whose] = p
		}
		return []string{"NATS_URL=nats://" + p.addr(), "REDIS_URL=redis://" + c.redisLine.addr()}
	}
	for range 2 {
		f.scrapers = append(f.scrapers, f.launch("scraper", line("scraper")...))
		f.writers = append(f.writers, f.launch("cachewriter", line("cachewriter")...))
	}
	for i := range 2 {
		f.gateways = append(f.gateways, f.launch("gateway", line(fmt.Sprint("gateway", i))...))
	}
	f.whole()
	f.HTTP = f.gateways[0].addr("http")
	c.redisCLI, c.js = f.redisAs("chaos", token), f.jetStream()
	c.admin = f.connectAs("admin")
	for range warmNumbers {
		c.warm = append(c.warm, c.cold())
	}
	for _, n := range c.warm {
		status, _, body := f.lookup(n)
		f.answer(n, status, body)
	}
	f.eventually("the warmed numbers are in Redis", readyWait, func() bool {
		return !slices.ContainsFunc(c.warm, func(n ruc.Number) bool { return c.inRedis(n) == "" })
	})
	c.takeBase()
	return c
}

// takeBase notes what every process holds before the faults, once every tab is open:
// each has a dozen goroutines.
func (c *chaos) takeBase() {
	c.t.Helper()
	for _, p := range c.scrapers {
		c.eventually("every slot is ready", readyWait, func() bool { return p.metric(`ruc_slots{state="ready"}`) == chaosSlots })
	}
	clear(c.base)
	for _, p := range c.processes() {
		c.base[p.name] = usage{max(c.base[p.name].goroutines, p.metric("go_goroutines")), max(c.base[p.name].descriptors, p.metric("process_open_fds"))}
	}
	c.baseTemp = c.temporary()
}

// use replaces the scrapers by some with another engine.
func (c *chaos) use(engine string) {
	if engine == c.engine {
		return
	}
	c.engine = engine
	for i, p := range c.scrapers {
		p.stop(syscall.SIGTERM)
		c.scrapers[i] = launch(c.t, p.name, append(slices.Clone(p.env), "SUNAT_ENGINE="+engine)...)
	}
	c.whole()
	c.takeBase()
}

func (c *chaos) processes() []*process { return slices.Concat(c.gateways, c.scrapers, c.writers) }

func (c *chaos) cold() ruc.Number {
	c.next++
	return fresh(50000 + c.next)
}

func (c *chaos) inRedis(n ruc.Number) string {
	b, err := c.redisCLI.Get(c.t.Context(), "sunat:ruc:"+n.String()).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return "" // away; whoever asks, asks again
	}
	return b
}

// temporary lists the processes' temporary folder.
func (c *chaos) temporary() (names []string) {
	list, err := os.ReadDir(c.tmp)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// call is one lookup and what came of it.
type call struct {
	n      ruc.Number
	exists bool
	status int
	body   string
	err    error
	took   time.Duration
}

// impatient ends a caller's wait some time after a gateway should have.
var impatient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: chaosRequest + 10*time.Second}

// callOnce asks a gateway for a number.
func callOnce(client *http.Client, gateway *process, n ruc.Number, exists bool) call {
	began := time.Now()
	done := call{n: n, exists: exists}
	resp, err := client.Get("http://" + gateway.addr("http") + "/obtener-ruc/" + n.String())
	if err == nil {
		var b []byte
		b, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		done.status, done.body = resp.StatusCode, string(b)
	}
	done.err, done.took = err, time.Since(began)
	return done
}

// load are the callers of one row.
type load struct {
	c        *chaos
	gateways []*process // that are asked
	absent   int        // the first number that nobody has
	wg       sync.WaitGroup
	mu       sync.Mutex
	done     []call
	cold     []ruc.Number
}

// ask has every gateway asked for a number.
func (l *load) ask(n ruc.Number, exists bool) {
	for _, g := range l.gateways {
		l.wg.Go(func() {
			done := callOnce(impatient, g, n, exists)
			l.mu.Lock()
			defer l.mu.Unlock()
			l.done = append(l.done, done)
		})
	}
}

func (l *load) askCold() ruc.Number {
	n := l.c.cold()
	l.cold = append(l.cold, n)
	l.ask(n, true)
	return n
}

// warm asks for numbers that everybody has, and now and then for one that SUNAT does
// not know, until stop is closed.
func (l *load) warm(stop <-chan struct{}) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-tick.C:
			l.ask(l.c.warm[i%len(l.c.warm)], true)
			if i%10 == 0 {
				l.ask(ruc.FromPrefix(fmt.Sprintf("2099%06d", l.absent+i)), false)
			}
		}
	}
}

// row does one fault and asks the questions.
func (c *chaos) row(f fault) (cells [columns]string, failed []string) {
	c.t.Helper()
	c.whole()
	c.eventually("the fleet rests", settleBound, func() bool { return c.idle() })
	l := &load{c: c, gateways: slices.Clone(c.gateways), absent: c.next * 100}
	if f.away != nil {
		l.gateways = slices.Delete(l.gateways, *f.away, *f.away+1)
	}
	if !f.own {
		c.fault(replica.Fault{Kind: replica.FaultSlow, DelayMs: int(chaosVisit / time.Millisecond)})
	}
	stop := make(chan struct{})
	var background sync.WaitGroup
	background.Go(func() { l.warm(stop) })

	if first := l.askCold(); !f.own {
		c.eventually("a visit is under way", readyWait, func() bool { return c.visits(first) > 0 })
	}
	began := time.Now()
	f.inject(c)
	for step := f.lasts / 3; time.Since(began) < f.lasts; <-time.After(step) {
		l.askCold()
	}
	if f.heal != nil {
		f.heal(c)
	}
	if f.own {
		c.clear()
	}
	recovered := c.recovers()
	after := l.askCold()
	close(stop)
	background.Wait()
	l.wg.Wait()
	if !f.own {
		c.clear()
	}
	settled := c.settles(l, f)

	fail := func(col column, format string, args ...any) {
		failed = append(failed, columnNames[col]+": "+fmt.Sprintf(format, args...))
		cells[col] = "FAILED"
	}
	count := map[int]int{}
	codes := map[ruc.Code]int{}
	var longest time.Duration
	for _, done := range l.done {
		count[done.status]++
		longest = max(longest, done.took)
		want, _ := replica.Lookup(done.n)
		var a ruc.Answer
		var p wire.Problem
		switch {
		case done.err != nil || done.took > chaosRequest+time.Second:
			fail(colWait, "%s: %v after %v", done.n, done.err, done.took)
		case done.status == http.StatusOK && !done.exists:
			fail(colAbsent, "%s is shown a record: %s", done.n, done.body)
		case done.status == http.StatusOK:
			if err := json.Unmarshal([]byte(done.body), &a); err != nil || a.RUC != done.n || a.Record == nil || a.RazonSocial != want.Record.RazonSocial {
				fail(colRecord, "%s: %v: %s", done.n, err, done.body)
			}
		case done.status == http.StatusNotFound && done.exists:
			fail(colAbsent, "%s is said not to exist: %s", done.n, done.body)
		default:
			if err := json.Unmarshal([]byte(done.body), &p); err != nil || !p.Code.Known() || p.Code == ruc.Internal || p.Status != done.status {
				fail(colWait, "%s: %d: %s", done.n, done.status, done.body)
			}
			codes[p.Code]++
		}
	}
	ok := count[http.StatusOK]
	say := func(col column, format string, args ...any) {
		if cells[col] == "" {
			cells[col] = fmt.Sprintf(format, args...)
		}
	}
	say(colRecord, "%d right", ok)
	say(colAbsent, "%d right", count[http.StatusNotFound])
	say(colWait, "%.1f s, %d of %d with a code", longest.Seconds(), len(l.done)-ok-count[http.StatusNotFound], len(l.done))
	c.t.Logf("%s: problems by code: %v", f.name, codes)

	most := 0
	for _, n := range append(l.cold, after) {
		most = max(most, c.visits(n))
	}
	if limit := max(f.visits, 1); most > limit {
		if _, none := f.without[colVisits]; !none {
			fail(colVisits, "%d POSTs of one number, %d allowed", most, limit)
		}
	}
	say(colVisits, "≤ %d", most)

	for _, n := range l.cold {
		for _, g := range c.gateways {
			if again := callOnce(impatient, g, n, true); again.status != http.StatusOK {
				fail(colError, "%s afterwards: %d %v %s", n, again.status, again.err, again.body)
			}
		}
	}
	say(colError, "none of %d", len(l.cold))

	if settled != "" {
		fail(colEvents, "%s", settled)
	}
	say(colEvents, "all of %d", len(l.cold))

	if recovered < 0 {
		fail(colRecover, "not within %v", recoveryBound)
	}
	say(colRecover, "%.1f s", recovered.Seconds())

	if what := c.leaks(); what != "" {
		fail(colLeaks, "%s", what)
	}
	say(colLeaks, "none")
	for col, why := range f.without {
		cells[col] = "– " + why
	}
	return cells, failed
}

// idle reports whether no job waits and no visit is under way.
func (c *chaos) idle() bool {
	s, err := c.js.Stream(c.t.Context(), wire.StreamVisits)
	return err == nil && s.CachedInfo().State.Msgs == 0
}

// recovers waits until each gateway brings the answer to a cold lookup, and returns how
// long that took from now; negative when it did not come.
func (c *chaos) recovers() time.Duration {
	began := time.Now()
	for _, g := range []int{0, 1} {
		for callOnce(impatient, c.gateways[g], c.cold(), true).status != http.StatusOK {
			if time.Since(began) > recoveryBound {
				return -1
			}
			<-time.After(20 * time.Millisecond)
		}
	}
	return time.Since(began)
}

// settles waits until the events of what was answered are in the stream and in Redis,
// and says what is missing.
func (c *chaos) settles(l *load, f fault) (missing string) {
	answered := map[ruc.Number]string{}
	for _, done := range l.done {
		if done.exists && done.status == http.StatusOK && slices.Contains(l.cold, done.n) {
			answered[done.n] = done.body
		}
	}
	deadline := time.Now().Add(settleBound)
	for n, body := range answered {
		for {
			e, ok, err := wire.NewestAnswer(c.t.Context(), c.admin, n)
			stored := c.inRedis(n)
			switch {
			case err == nil && ok && stored == string(e.Body):
			case f.without[colEvents] != "" && (stored == "" || stored == body):
			case time.Now().After(deadline):
				return fmt.Sprintf("%s: event %t %v, in Redis %q, answered %q", n, ok, err, stored, body)
			default:
				<-time.After(20 * time.Millisecond)
				continue
			}
			break
		}
	}
	return ""
}

// leaks waits until nobody holds more than before the faults, and says who does.
func (c *chaos) leaks() (what string) {
	for deadline := time.Now().Add(20 * time.Second); ; <-time.After(100 * time.Millisecond) {
		if what = c.held(); what == "" || time.Now().After(deadline) {
			return what
		}
	}
}

func (c *chaos) held() string {
	for _, p := range c.processes() {
		base := c.base[p.name]
		// Connections to Redis come and go with the load.
		if g := p.metric("go_goroutines"); g > base.goroutines+10 {
			return fmt.Sprintf("%s has %.0f goroutines, before %.0f", p.name, g, base.goroutines)
		}
		if d := p.metric("process_open_fds"); d > base.descriptors+10 {
			return fmt.Sprintf("%s has %.0f descriptors open, before %.0f", p.name, d, base.descriptors)
		}
	}
	if now := c.temporary(); len(now) > len(c.baseTemp) {
		return fmt.Sprintf("temporary entries: %q, before: %q", now, c.baseTemp)
	}
	browsers := map[int]int{} // by parent
	for _, pid := range c.browserProcesses("--user-data-dir") {
		browsers[parent(pid)]++
	}
	want := 1
	if c.engine == ruc.MotorHTTP {
		want = 0
	}
	for _, p := range c.scrapers {
		if n := browsers[p.cmd.Process.Pid]; n != want {
			return fmt.Sprintf("a scraper has %d browsers", n)
		}
	}
	if n := browsers[1]; n > 0 {
		return fmt.Sprintf("%d browsers without a scraper", n)
	}
	return ""
}

// only chooses rows of the table.
var only = flag.String("row", "", "with TestChaos: only the faults that this regular expression matches")

// TestChaos prints the table. `make chaos` runs all of it.
func TestChaos(t *testing.T) {
	chosen, err := regexp.Compile(*only)
	if err != nil {
		t.Fatal(err)
	}
	c := newChaos(t)
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "fault\t"+strings.Join(columnNames[:], "\t"))
	defer func() { // also when a row ends the test
		_ = w.Flush() // into memory
		t.Logf("\n%s", table.String())
	}()
	for _, engine := range []string{ruc.MotorChrome, ruc.MotorFetch, ruc.MotorHTTP} {
		for _, f := range chaosFaults() {
			if !f.concerns(engine) || !chosen.MatchString(f.name) || !*full && !slices.Contains(everyRun, f.name) {
				continue
			}
			name := engine + ": " + f.name
			t.Log(name)
			if f.chromium && engine == ruc.MotorHTTP {
				fmt.Fprintln(w, name+"\t– it has no Chromium")
				continue
			}
			c.use(engine)
			cells, failed := c.row(f)
			fmt.Fprintln(w, name+"\t"+strings.Join(cells[:], "\t"))
			for _, why := range failed {
				t.Errorf("%s: %s", name, why)
			}
		}
	}
}
