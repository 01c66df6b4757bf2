//go:build soak

// The soak is no part of the tests of every run yet: its short form has not been shown to
// be steady on a busy machine.

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/deploy/bench"
	"github.com/rucflow/rucflow/gateway"
	"github.com/rucflow/rucflow/scraper/browser"
	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// The soak: thousands of visits with faults in between, and what every process holds
// near the start against what it holds at the end.

const (
	soakSlots = 4
	// soakConcurrent is less than the slots, so that a slot finds nobody waiting now and
	// then and collects its garbage, as it does at the pace that SUNAT bears.
	soakConcurrent = 3
	soakCallers    = 6
	soakRequest    = 30 * time.Second // REQUEST_TIMEOUT
	// soakPatience is how long a number may take that is asked for again and again.
	soakPatience = 2 * time.Minute
	// aftermath is how long a visit may be made twice after something was killed.
	aftermath = 3 * time.Second
)

// span is a stretch of the run, in visits. What is held is measured at every step of it.
type span struct{ from, to, step int }

// soakPlan says how long the run is and where it is measured.
type soakPlan struct {
	visits      int
	level, end  span // compared with each other; of the same width
	step        int  // between the measurements outside of them
	apart       int  // visits between the start of a browser and a measurement that counts
	faulty      float64
	killBrowser []int // before these visits, moved by chance by up to apart
	renderers   int   // killed, at any time
	natsCuts    int
	redisCuts   int
	growth      float64 // of memory, at most
	engine      string  // SUNAT_ENGINE
	shown       int     // visits between the measurements of memory that are shown one by one; 0 = none
}

// The windows of the long form are as wide as all visits that its four tabs live for
// (200 each), so that each holds tabs of every age. The browser is killed in the first
// quarter only: so it comes to its planned replacement after 5,000 visits, and its
// successor is thousands of visits old at the end.
func newSoakPlan() soakPlan {
	return long(
		soakPlan{
			visits: 200, level: span{40, 100, 20}, end: span{140, 200, 20}, step: 20, apart: 20,
			faulty: 0.05, killBrowser: []int{101}, renderers: 2, natsCuts: 3, redisCuts: 1,
			// A young browser still fills its caches; this form is after what grows with
			// every visit, and counts.
			growth: 0.5,
		},
		soakPlan{
			visits: 10_000, level: span{100, 900, 50}, end: span{9200, 10_000, 50}, step: 100, apart: 100,
			faulty: 0.03, killBrowser: []int{1000, 1300, 1600}, renderers: 40, natsCuts: 40, redisCuts: 15,
			growth: 0.2,
		},
	)
}

// with is the plan with an engine and, unless 0, so many visits.
func (p soakPlan) with(engine string, visits int) soakPlan {
	p.engine = engine
	if visits > 0 {
		const parts = 40
		p.visits, p.step, p.shown = visits, visits/parts, visits/10
		p.level, p.end = span{p.shown, 4 * p.shown, p.step}, span{7 * p.shown, visits, p.step}
		p.killBrowser = nil
	}
	if engine == ruc.MotorHTTP {
		p.killBrowser, p.renderers = nil, 0
	}
	return p
}

// measures reports whether what is held is measured after a visit.
func (p soakPlan) measures(visit int) bool {
	for _, w := range []span{p.level, p.end} {
		if w.holds(visit) {
			return (visit-w.from)%w.step == 0
		}
	}
	return visit%p.step == 0
}

func (w span) holds(visit int) bool { return w.from <= visit && visit <= w.to }

// soak is the fleet with lines that can be cut, and what is measured of it.
type soak struct {
	*fleet
	plan      soakPlan
	random    *rand.Rand
	lines     []*proxy // to NATS: the gateway's, the scraper's, the cachewriter's
	redisLine *proxy
	js        jetstream.JetStream
	held      []held
	client    *http.Client
	samples   []sample
	starts    float64 // of browsers, seen by the last measurement
	started   int     // the visit at which the last start was seen

	mu        sync.Mutex
	done      []soakVisit
	problems  map[ruc.Code]int
	disturbed []time.Time
	count     map[string]int // of faults and disturbances, by kind
}

// held is something that a process holds.
type held struct {
	what string
	// memory is in bytes, and its median is compared. Anything else is a count that
	// fluctuates by a few, with connections that come and go: it has grown when even the
	// least at the end is more than the most around the level. A leak gets there.
	memory bool
	now    func() float64
}

// sample is all that is held after so many visits.
type sample struct {
	visit  int
	old    bool // no browser has started lately
	values []float64
}

// soakVisit is one number's lookup, asked until it was answered.
type soakVisit struct {
	n            ruc.Number
	faults       int // that it met at most
	began, ended time.Time
}

func newSoak(t *testing.T, plan soakPlan, seed uint64) *soak {
	// The gateway's memory is full after some 30 visits, and so again soon after each cut from
	// NATS, which empties it: how full it is would count as growth. (With 1 MiB the heap was
	// 1.9 MiB with 28 answers held and 3.2 with 478.)
	// OPS_PPROF is for the forced collections; memory is sampled no more than without it.
	f := newFleet(t, "OPS_PPROF=true", "GODEBUG=memprofilerate=0", "CACHE_MEMORY_BYTES=64KiB", "SUNAT_ATTEMPT_TIMEOUT=5s", fmt.Sprintf("REQUEST_TIMEOUT=%s", soakRequest),
		fmt.Sprintf("SUNAT_SLOTS=%d", soakSlots), fmt.Sprintf("SUNAT_MAX_CONCURRENT=%d", soakConcurrent),
		"SUNAT_ENGINE="+plan.engine, "CHROME_PATH="+chromeWithPort(t))
	s := &soak{
		// Connections that stay: a gateway's goroutine for one lives on for ten seconds.
		client: &http.Client{Timeout: soakRequest + 10*time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: soakCallers}},
		fleet:  f, plan: plan, random: rand.New(rand.NewPCG(seed, 0)), redisLine: newProxy(t, f.redis.Addr()),
		problems: map[ruc.Code]int{}, count: map[string]int{},
	}
	t.Cleanup(s.client.CloseIdleConnections)
	start := func(name string) []*process {
		line := newProxy(t, strings.TrimPrefix(f.NATS, "nats://"))
		s.lines = append(s.lines, line)
		return []*process{f.launch(name, "NATS_URL=nats://"+line.addr(), "REDIS_URL=redis://"+s.redisLine.addr())}
	}
	f.gateways, f.scrapers, f.writers = start("gateway"), start("scraper"), start("cachewriter")
	f.whole()
	f.HTTP, s.js = f.gateways[0].addr("http"), f.jetStream()
	s.held = s.everythingHeld()
	return s
}

// chromeWithPort is a Chromium that has a second way in beside the scraper's pipe, for
// collectTabs. As a flag of the scraper's it would take the pipe's place. It is a copy:
// of files that other Chromiums of the machine map too, PSS would be a share that
// changes when they come and go (219 and 304 MiB were seen within a minute).
func chromeWithPort(t *testing.T) string {
	t.Helper()
	chrome, err := browser.FindChrome(os.Getenv("CHROME_PATH"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if from := filepath.Dir(chrome); filepath.Base(from) != "bin" { // a folder of its own
		if out, err := exec.Command("cp", "-r", from, filepath.Join(dir, "copy")).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		chrome = filepath.Join(dir, "copy", filepath.Base(chrome))
	}
	path := filepath.Join(dir, "chrome")
	script := fmt.Sprintf("#!/bin/sh\nexec '%s' --remote-debugging-port=0 \"$@\"\n", chrome)
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func (s *soak) processes() []*process { return slices.Concat(s.gateways, s.scrapers, s.writers) }

// everythingHeld lists what is measured. NATS and Redis hold every answer, as they
// should; they are not measured.
func (s *soak) everythingHeld() (list []held) {
	for _, p := range s.processes() {
		list = append(list,
			held{p.name + ": heap", true, func() float64 { return s.heap(p) }},
			held{p.name + ": PSS", true, func() float64 { return s.pss("Pss", p.cmd.Process.Pid) }})
	}
	if s.plan.engine == ruc.MotorHTTP {
		return append(list, s.countsOfProcesses()...)
	}
	list = append(list,
		held{"browser tree: PSS", true, func() float64 { return s.pss("Pss", s.browserProcesses("")...) }},
		held{"browser tree: PSS without files", true, func() float64 { return s.pss("Pss_Anon", s.browserProcesses("")...) }})
	return append(append(list, s.countsOfProcesses()...),
		held{"browser tree: processes", false, func() float64 { return float64(len(s.browserProcesses(""))) }},
		held{"browser tree: descriptors", false, s.browserDescriptors},
		held{"temporary entries", false, s.temporary})
}

func (s *soak) countsOfProcesses() (list []held) {
	for _, p := range s.processes() {
		list = append(list,
			held{p.name + ": goroutines", false, func() float64 { return p.metric("go_goroutines") }},
			held{p.name + ": descriptors", false, func() float64 { return p.metric("process_open_fds") }})
	}
	return list
}

// heap is what a process has allocated, after a forced collection. The first of two
// moves what pools hold to where the second takes it.
func (s *soak) heap(p *process) float64 {
	var profile string
	for range 2 {
		resp, err := client.Get("http://" + p.addr("ops") + "/debug/pprof/heap?gc=1&debug=1")
		if err != nil {
			s.t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			s.t.Fatal(err)
		}
		profile = string(b)
	}
	_, after, _ := strings.Cut(profile, "\n# HeapAlloc = ")
	line, _, _ := strings.Cut(after, "\n")
	v, err := strconv.ParseFloat(line, 64)
	if err != nil {
		s.t.Fatalf("%s's heap profile: %v", p.name, err)
	}
	if p.name == "gateway" {
		v -= gateway.BallastBytes // beside which no growth would show
	}
	return v
}

// pss adds up a field of what the kernel says of processes' memory, in bytes.
func (s *soak) pss(field string, pids ...int) (sum float64) {
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(b)) {
			if value, ok := strings.CutPrefix(line, field+":"); ok {
				kB, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
				if err != nil {
					s.t.Error(err)
				}
				sum += kB * 1024
			}
		}
	}
	return sum
}

func (s *soak) browserDescriptors() (count float64) {
	for _, pid := range s.browserProcesses("") {
		count += float64(len(s.entries(fmt.Sprintf("/proc/%d/fd", pid))))
	}
	return count
}

// temporary counts the entries of the temporary folders, the processes' and in it the
// browser's.
func (s *soak) temporary() float64 {
	count := len(s.entries(s.tmp))
	for _, dir := range s.profiles() {
		count += len(s.entries(filepath.Join(dir, "..", "tmp")))
	}
	return float64(count)
}

func (s *soak) entries(dir string) []os.DirEntry {
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Error(err)
	}
	return list
}

func (s *soak) profiles() []string {
	dirs, err := filepath.Glob(filepath.Join(s.tmp, "rucflow-chrome-*", "profile"))
	if err != nil {
		s.t.Fatal(err)
	}
	return dirs
}

// collectTabs forces a garbage collection in every tab of the browser.
func (s *soak) collectTabs() {
	for _, dir := range s.profiles() {
		b, err := os.ReadFile(filepath.Join(dir, "DevToolsActivePort"))
		if err != nil {
			continue // a browser that is going
		}
		port, _, _ := strings.Cut(string(b), "\n")
		resp, err := client.Get("http://127.0.0.1:" + port + "/json/list")
		if err != nil {
			continue
		}
		var tabs []struct {
			URL string `json:"webSocketDebuggerUrl"`
		}
		err = json.NewDecoder(resp.Body).Decode(&tabs)
		_ = resp.Body.Close()
		for _, tab := range tabs {
			err = errors.Join(err, collectTab("http"+strings.TrimPrefix(tab.URL, "ws")))
		}
		if err != nil {
			s.t.Errorf("forced collection: %v", err)
		}
	}
}

// collectTab is the least of a WebSocket (RFC 6455) that sends one command and waits
// for its answer.
func collectTab(url string) error {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	for name, value := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "cnVjZmxvdyBydWNmbG93IQ==",
	} {
		req.Header.Set(name, value)
	}
	// No timeout of a client's: it would end with the answer's header.
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if !ok || resp.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("no WebSocket: status %d", resp.StatusCode)
	}
	defer time.AfterFunc(readyWait, func() { _ = conn.Close() }).Stop()
	const command = `{"id":1,"method":"HeapProfiler.collectGarbage"}`
	// One text frame, masked with zeros, as a client has to.
	if _, err := conn.Write(append([]byte{0x81, 0x80 | byte(len(command)), 0, 0, 0, 0}, command...)); err != nil {
		return err
	}
	r := bufio.NewReader(conn)
	head := make([]byte, 2)
	if _, err := io.ReadFull(r, head); err != nil {
		return err
	}
	answer := make([]byte, head[1])
	if _, err := io.ReadFull(r, answer); err != nil {
		return err
	}
	if string(answer) != `{"id":1,"result":{}}` {
		return fmt.Errorf("the browser answered %q", answer)
	}
	return nil
}

// measure waits until nothing is under way, forces collections and notes what is held.
func (s *soak) measure(visit int) {
	s.eventually("all work is done", settleBound, func() bool {
		visits, err := s.js.Stream(s.t.Context(), wire.StreamVisits)
		if err != nil || visits.CachedInfo().State.Msgs > 0 {
			return false
		}
		writer, err := s.js.Consumer(s.t.Context(), wire.StreamEvents, wire.ConsumerCachewriter)
		if err != nil || writer.CachedInfo().NumPending > 0 || writer.CachedInfo().NumAckPending > 0 {
			return false
		}
		_, _, health := s.get("/health")
		return strings.Contains(health, `"status":"healthy"`) && s.scrapers[0].metric(`ruc_slots{state="ready"`) == soakSlots
	})
	s.clear() // faults that no visit met
	s.collectTabs()
	if starts := s.scrapers[0].metric("ruc_browser_starts_total"); starts != s.starts {
		if s.starts > 0 {
			s.started = visit
		}
		s.starts = starts
	}
	now := sample{visit: visit, old: visit-s.started >= s.plan.apart}
	for _, h := range s.held {
		now.values = append(now.values, h.now())
	}
	s.samples = append(s.samples, now)
}

// disturbance is something that goes wrong on our side, once.
type disturbance struct {
	kind string
	do   func()
}

// disturbances chooses the visits before which something is killed or cut off.
func (s *soak) disturbances() map[int]disturbance {
	const natsCut = "a process cut off from NATS"
	chosen := map[int]disturbance{}
	at := func(visit int, d disturbance) {
		for chosen[visit].do != nil {
			visit++
		}
		chosen[visit] = d
	}
	anywhere := func(times int, d disturbance) {
		for range times {
			at(1+s.random.IntN(s.plan.visits-1), d)
		}
	}
	cut := func(line *proxy) {
		line.set(lineCut)
		<-time.After(time.Duration(s.random.IntN(200)) * time.Millisecond)
		line.set(lineGood)
	}
	// What is made when it is first needed is no growth: so everything but the browser's
	// end happens once before the level.
	renderer := disturbance{"a renderer killed", func() {
		if pids := s.browserProcesses("--type=renderer"); len(pids) > 0 {
			kill(s.t, pids[s.random.IntN(len(pids))])
		}
	}}
	redis := disturbance{"all cut off from Redis", func() { cut(s.redisLine) }}
	for i, line := range s.lines {
		at(5+5*i, disturbance{natsCut, func() { cut(line) }})
	}
	at(20, redis)
	at(25, renderer)
	for _, visit := range s.plan.killBrowser {
		at(visit+s.random.IntN(s.plan.apart), disturbance{"Chromium killed", func() { kill(s.t, s.chromium(s.scrapers[0])) }})
	}
	anywhere(s.plan.renderers, renderer)
	anywhere(s.plan.natsCuts, disturbance{natsCut, func() { cut(s.lines[s.random.IntN(len(s.lines))]) }})
	anywhere(s.plan.redisCuts, redis)
	return chosen
}

// siteFault sets a fault of the site for a number and returns how often it will show.
func (s *soak) siteFault(n ruc.Number) int {
	f := replica.Fault{Kind: siteFaults[s.random.IntN(len(siteFaults))], RUC: n.String(), Times: 1 + s.random.IntN(2)}
	if f.Kind == replica.FaultSlow {
		f.DelayMs = s.random.IntN(1000)
	}
	s.fault(f)
	s.count["SUNAT: "+f.Kind]++
	return f.Times
}

// lookup asks for a number until it is answered. Whatever else it is told has a code.
func (s *soak) lookup(n ruc.Number, faults int) {
	v := soakVisit{n: n, faults: faults, began: time.Now()}
	want, exists := replica.Lookup(n)
	for answered := false; !answered; {
		if time.Since(v.began) > soakPatience {
			s.t.Errorf("%s: not answered within %v", n, soakPatience)
			break
		}
		done := callOnce(s.client, s.gateways[0], n, exists)
		var a ruc.Answer
		var p wire.Problem
		switch {
		case done.err != nil:
			s.t.Errorf("%s: %v", n, done.err)
		case done.status == http.StatusOK && exists:
			if err := json.Unmarshal([]byte(done.body), &a); err != nil || a.RUC != n || a.Record == nil || a.RazonSocial != want.Record.RazonSocial {
				s.t.Errorf("%s: %v: %s", n, err, done.body)
			}
			answered = true
		case done.status == http.StatusNotFound && !exists:
			answered = true
		default:
			if err := json.Unmarshal([]byte(done.body), &p); err != nil || !p.Code.Known() || p.Code == ruc.Internal || p.Code == ruc.NotFound || p.Status != done.status {
				s.t.Errorf("%s: %d: %s", n, done.status, done.body)
			}
			s.mu.Lock()
			s.problems[p.Code]++
			s.mu.Unlock()
			// Until its job is acknowledged, a failure is also the answer to who asks next.
			<-time.After(20 * time.Millisecond)
		}
	}
	v.ended = time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = append(s.done, v)
}

// run makes the visits and returns how long they took without the measurements.
func (s *soak) run() (took time.Duration) {
	type asked struct {
		n      ruc.Number
		faults int
	}
	work := make(chan asked)
	var callers, open sync.WaitGroup
	for range soakCallers {
		callers.Go(func() {
			for a := range work {
				s.lookup(a.n, a.faults)
				open.Done()
			}
		})
	}
	defer callers.Wait()
	defer close(work)
	disturbances := s.disturbances()
	began := time.Now()
	for visit := 1; visit <= s.plan.visits; visit++ {
		if d, ok := disturbances[visit]; ok {
			d.do()
			s.count[d.kind]++
			s.disturbed = append(s.disturbed, time.Now())
		}
		a := asked{n: fresh(100_000 + visit)}
		if s.random.Float64() < s.plan.faulty {
			a.faults = s.siteFault(a.n)
		}
		open.Add(1)
		work <- a
		if s.plan.measures(visit) {
			open.Wait()
			took += time.Since(began)
			s.measure(visit)
			if *full && visit%1000 == 0 {
				var table bytes.Buffer
				if visit < s.plan.visits {
					s.compare(&table, span{visit - (s.plan.end.to - s.plan.end.from), visit, 0}, false)
				}
				s.t.Logf("%d visits, %.1f a second\n%s", visit, float64(visit)/took.Seconds(), table.String())
			}
			began = time.Now()
		}
	}
	open.Wait()
	return took + time.Since(began)
}

// posts counts what SUNAT was asked and checks that no number cost more than it had to:
// one visit, one for each fault, and one if something was killed meanwhile.
func (s *soak) posts() (total, extra int) {
	visits := s.stats().Visits
	for _, v := range s.done {
		made, allowed := visits[v.n.String()], 1+v.faults
		if slices.ContainsFunc(s.disturbed, func(at time.Time) bool { return v.began.Before(at.Add(aftermath)) && v.ended.After(at) }) {
			allowed++
		}
		if made < 1 || made > allowed {
			s.t.Errorf("%s: %d POSTs, %d allowed", v.n, made, allowed)
		}
		total += made
		extra += made - 1
	}
	return total, extra
}

// compare writes the table of what is held at the level and at an end, and returns it.
// Only the last one is judged.
func (s *soak) compare(out io.Writer, at span, judge bool) (all []bench.Growth) {
	within := func(window span) (chosen []sample) {
		for _, m := range s.samples {
			if window.holds(m.visit) && m.old {
				chosen = append(chosen, m)
			}
		}
		return chosen
	}
	level, end := within(s.plan.level), within(at)
	if len(level) < 2 || len(end) < 2 {
		if judge {
			s.t.Errorf("a browser has just started wherever it was measured: %d measurements at first and %d at the end count", len(level), len(end))
		}
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\tat %d\tat %d\thighest\tgrowth\tfloor\theld\n", (s.plan.level.from+s.plan.level.to)/2, at.to)
	for i, h := range s.held {
		sorted := func(samples []sample) (values []float64) {
			for _, m := range samples {
				values = append(values, m.values[i])
			}
			slices.Sort(values)
			return values
		}
		first, last, highest := sorted(level), sorted(end), 0.0
		g := bench.Growth{What: h.what, Memory: h.memory, Before: first[len(first)-1], After: last[0]}
		if h.memory {
			g.Before, g.After = first[len(first)/2], last[len(last)/2]
		}
		for _, m := range s.samples {
			if m.visit >= s.plan.level.from {
				highest = max(highest, m.values[i])
			}
		}
		g.Held = g.More() == 0
		row := fmt.Sprintf("%.0f–%.0f\t%.0f–%.0f\t%.0f\t%.0f\t0", first[0], g.Before, g.After, last[len(last)-1], highest, g.More())
		if h.memory {
			const mib = 1 << 20
			g.Held = g.Share() <= s.plan.growth
			row = fmt.Sprintf("%.1f MiB\t%.1f MiB\t%.1f MiB\t%+.1f %%\t≤ %.0f %%", g.Before/mib, g.After/mib, highest/mib, 100*g.Share(), 100*s.plan.growth)
		}
		fmt.Fprintf(w, "%s\t%s\t%v\n", h.what, row, g.Held)
		if judge && (!g.Held || g.Before == 0) {
			s.t.Errorf("%s: %v at first, %v at the end", h.what, g.Before, g.After)
		}
		all = append(all, g)
	}
	_ = w.Flush() // whoever reads the table sees what is missing
	return all
}

// labelled lists a counter of the scraper by cause.
func (s *soak) labelled(metric string) string {
	counts := map[string]int{}
	for _, cause := range []string{
		"first", "lost", "frozen", "unstable", "worn", // of browsers
		"silent", "reset", "network", "crash", "dialog", "cancelled", "form", "open", // of tabs too
	} {
		if n := s.scrapers[0].metric(metric + `{cause="` + cause + `"`); n > 0 {
			counts[cause] = int(n)
		}
	}
	return list(counts)
}

// list writes counts, the names in order.
func list[K ~string](counts map[K]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, counts[name]))
	}
	return strings.Join(parts, ", ")
}

// memories writes what each holds of memory as the run went on.
func (s *soak) memories(out io.Writer) {
	const mib = 1 << 20
	for i, h := range s.held {
		if !h.memory {
			continue
		}
		var row []string
		for _, m := range s.samples {
			if m.visit%s.plan.shown == 0 {
				row = append(row, fmt.Sprintf("%.1f", m.values[i]/mib))
			}
		}
		fmt.Fprintf(out, "%s after every %d visits, MiB: %s\n", h.what, s.plan.shown, strings.Join(row, " "))
	}
}

var (
	soakSeed   = flag.Uint64("seed", 0, "with TestSoak: the seed of its faults, which repeats a run; by the clock if 0")
	soakEngine = flag.String("engine", ruc.MotorChrome, "with TestSoak: SUNAT_ENGINE")
	soakVisits = flag.Int("visits", 0, "with TestSoak: how many visits, a multiple of 40; 0 = as the form has them")
	// soakFigures is where `make bench` takes them from.
	soakFigures = flag.String("figures", "", "with TestSoak: write its table to this file, as JSON")
)

// write writes the table where -figures says.
func (s *soak) write(grown []bench.Growth, took time.Duration) {
	if *soakFigures == "" || len(grown) == 0 {
		return
	}
	b, err := json.Marshal(bench.Soak{Visits: s.plan.visits, PerSecond: float64(s.plan.visits) / took.Seconds(), Grown: grown})
	if err == nil {
		err = os.WriteFile(*soakFigures, b, 0o600)
	}
	if err != nil {
		s.t.Error(err)
	}
}

// TestSoak prints its table. `make soak` is the long form.
func TestSoak(t *testing.T) {
	seed := *soakSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed %d", seed)
	if *soakVisits%40 != 0 {
		t.Fatalf("-visits %d is no multiple of 40", *soakVisits)
	}
	plan := newSoakPlan().with(*soakEngine, *soakVisits)
	s := newSoak(t, plan, seed)
	took := s.run()
	posts, extra := s.posts()

	var table bytes.Buffer
	s.write(s.compare(&table, plan.end, true), took)
	if plan.shown > 0 {
		s.memories(&table)
	}
	fmt.Fprintf(&table, "%d visits in %v, %.1f a second; %d POSTs, %d of them again\n", plan.visits, took.Round(time.Second), float64(plan.visits)/took.Seconds(), posts, extra)
	fmt.Fprintf(&table, "faults: %s\n", list(s.count))
	fmt.Fprintf(&table, "problems told meanwhile: %s\n", list(s.problems))
	fmt.Fprintf(&table, "browsers started: %s; tabs discarded: %s\n", s.labelled("ruc_browser_starts_total"), s.labelled("ruc_tabs_discarded_total"))
	t.Logf("\n%s", table.String())
	if len(s.done) != plan.visits {
		t.Errorf("%d of %d were answered", len(s.done), plan.visits)
	}
}
