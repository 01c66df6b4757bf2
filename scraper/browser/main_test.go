package browser_test

import (
	"bytes"
	"context"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/rucflow/rucflow/scraper/browser"
	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/scraper/sunat"
	"github.com/rucflow/rucflow/shared/ruc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	company = ruc.MustParse("20131312955") // SUNAT itself
	person  = ruc.FromPrefix("1000000000")
)

// patience bounds every wait for something that should happen at once.
const patience = 20 * time.Second

// site is a replica on a loopback port.
type site struct {
	*replica.Server
	form string
}

func newSite(t testing.TB, cfg replica.Config) *site {
	t.Helper()
	s := replica.New(cfg, time.Now)
	server := httptest.NewServer(s)
	t.Cleanup(func() {
		s.Close()
		server.CloseClientConnections()
		server.Close()
	})
	return &site{Server: s, form: server.URL + replica.FormPath}
}

func (s *site) fail(t testing.TB, f replica.Fault) {
	t.Helper()
	if err := s.SetFault(f); err != nil {
		t.Fatal(err)
	}
}

// rig is a running Browser.
type rig struct {
	*browser.Browser
	temp   string
	groups map[int]bool // of the browsers seen
	events *events
	stop   context.CancelFunc
	done   chan struct{}
	runErr error
}

// events counts what the Browser tells.
type events struct {
	mu                 sync.Mutex
	started, discarded map[string]int
}

func (e *events) count(of map[string]int, cause string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	of[cause]++
}

func (e *events) of(counts map[string]int, cause string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return counts[cause]
}

// start runs a Browser on s until the test ends, and then checks that nothing of it is
// left. A missing Chromium fails the test with the line that installs it.
func start(t testing.TB, s *site, change func(*browser.Config)) *rig {
	t.Helper()
	cfg := browser.Config{
		URL:            s.form,
		Slots:          2,
		AttemptTimeout: 5 * time.Second,
		TempDir:        t.TempDir(),
	}
	if change != nil {
		change(&cfg)
	}
	r := &rig{
		temp:   cfg.TempDir,
		groups: map[int]bool{},
		events: &events{started: map[string]int{}, discarded: map[string]int{}},
		done:   make(chan struct{}),
	}
	log := zerolog.Nop()
	if testing.Verbose() {
		log = zerolog.New(zerolog.NewTestWriter(t)).With().Timestamp().Logger().Level(zerolog.InfoLevel)
	}
	var err error
	r.Browser, err = browser.New(cfg, browser.Deps{
		Log: log,
		Observe: browser.Observe{
			BrowserStarted: func(cause string) { r.events.count(r.events.started, cause) },
			SlotDiscarded:  func(cause string) { r.events.count(r.events.discarded, cause) },
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() {
		defer close(r.done)
		r.runErr = r.Run(ctx)
	}()
	t.Cleanup(func() { r.end(t) })
	return r
}

// end stops the Browser and checks that nothing is left.
func (r *rig) end(t testing.TB) {
	t.Helper()
	r.processes(t) // takes note of the browser that runs
	r.stop()
	select {
	case <-r.done:
	case <-time.After(patience):
		t.Fatal("Run did not return")
	}
	if r.runErr != nil {
		t.Errorf("Run: %v", r.runErr)
	}
	if left := r.processes(t); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
	if entries, err := os.ReadDir(r.temp); err != nil || len(entries) > 0 {
		t.Errorf("left in the temp directory: %v, %v", entries, err)
	}
}

// ready waits until n slots can take a visit.
func (r *rig) ready(t testing.TB, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := r.WaitReady(ctx); err != nil {
		t.Fatalf("WaitReady: %v", err)
	}
	eventually(t, "slots ready", func() bool { return r.Ready() >= n })
}

// visit asks for n and returns the page, which must come.
func (r *rig) visit(t testing.TB, n ruc.Number) sunat.Page {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	p, err := r.Visit(ctx, n, nil)
	if err != nil {
		t.Fatalf("Visit(%s): %v", n, err)
	}
	return p
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// process is one of a browser's.
type process struct {
	pid   int
	kind  string // "" for the browser itself, or renderer, zygote, utility …
	ticks int    // CPU time used, in 1/100 s
}

// processes returns those of every browser that the rig has been seen to run, by process
// group: of the headless shell's helpers neither the command line nor the environment says
// whose they are. Zombies are left out.
func (r *rig) processes(t testing.TB) []process {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	lines := map[int]string{}
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		lines[pid] = string(line)
		if strings.Contains(string(line), "--user-data-dir="+r.temp+"/") {
			r.groups[pid] = true
		}
	}
	var found []process
	for pid, line := range lines {
		state, group, ticks := stat(pid)
		if !r.groups[group] || state == 'Z' || state == 'X' {
			continue
		}
		p := process{pid: pid, ticks: ticks}
		for arg := range strings.FieldsFuncSeq(line, func(c rune) bool { return c == 0 || c == ' ' }) {
			if kind, is := strings.CutPrefix(arg, "--type="); is {
				p.kind = kind
			}
		}
		found = append(found, p)
	}
	return found
}

// stat reads /proc/pid/stat.
func stat(pid int) (state byte, group, ticks int) {
	line, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 'X', 0, 0
	}
	fields := bytes.Fields(line[bytes.LastIndexByte(line, ')')+1:])
	group, _ = strconv.Atoi(string(fields[2]))
	user, _ := strconv.Atoi(string(fields[11]))
	system, _ := strconv.Atoi(string(fields[12]))
	return fields[0][0], group, user + system
}

// signal sends sig to the processes of one kind.
func (r *rig) signal(t testing.TB, kind string, send func(pid int) error) {
	t.Helper()
	sent := 0
	for _, p := range r.of(t, kind) {
		if send(p.pid) == nil {
			sent++
		}
	}
	if sent == 0 {
		t.Fatalf("no process of kind %q", kind)
	}
}

// of returns the processes of one kind.
func (r *rig) of(t testing.TB, kind string) []process {
	t.Helper()
	return slices.DeleteFunc(r.processes(t), func(p process) bool { return p.kind != kind })
}

// ticks returns the CPU time that processes have used, in 1/100 s.
func ticks(of []process) int {
	sum := 0
	for _, p := range of {
		sum += p.ticks
	}
	return sum
}
