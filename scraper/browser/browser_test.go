package browser_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rucflow/rucflow/scraper/browser"
	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/scraper/sunat"
	"github.com/rucflow/rucflow/shared/ruc"
)

func TestVisit_BringsThePageOfTheNumberAsked(t *testing.T) {
	r := start(t, newSite(t, replica.Config{}), nil)
	for _, n := range []ruc.Number{company, person} {
		p := r.visit(t, n)
		for _, want := range []string{n.String(), `class="list-group"`, "panel-footer", "<footer", "<title>"} {
			if !strings.Contains(p.HTML, want) {
				t.Errorf("%s: the page lacks %q:\n%s", n, want, p.HTML)
			}
		}
		if p.Status != 200 || !strings.HasSuffix(p.URL, replica.QueryPath) {
			t.Errorf("%s: status %d, URL %s", n, p.Status, p.URL)
		}
	}
	if v := r.Version(); !strings.Contains(v, "/") {
		t.Errorf("Version() = %q", v)
	}
}

func TestVisit_TwentyInARowOnTwoSlots(t *testing.T) {
	s := newSite(t, replica.Config{})
	r := start(t, s, nil)
	for i := range 20 {
		n := ruc.FromPrefix(fmt.Sprintf("20%08d", 5000+i))
		if p := r.visit(t, n); !strings.Contains(p.HTML, n.String()) {
			t.Fatalf("visit %d brought the page of another number", i)
		}
	}
	if posts := s.Stats().Posts; posts != 20 {
		t.Errorf("%d POSTs for 20 visits", posts)
	}
	if got := len(r.events.discarded); got != 0 {
		t.Errorf("tabs discarded: %v", r.events.discarded)
	}
}

func TestVisit_TabsAreReplacedWhenWornUnnoticed(t *testing.T) {
	r := start(t, newSite(t, replica.Config{}), func(c *browser.Config) { c.UsesPerTab, c.CollectEvery = 3, 2 })
	for range 14 {
		r.visit(t, company)
	}
	if r.events.of(r.events.discarded, "worn") < 2 {
		t.Errorf("tabs discarded: %v", r.events.discarded)
	}
}

func TestVisit_BrowserIsReplacedWhenWornUnnoticed(t *testing.T) {
	r := start(t, newSite(t, replica.Config{}), func(c *browser.Config) { c.VisitsPerBrowser = 3 })
	r.ready(t, 2)
	for range 3 {
		r.visit(t, company)
	}
	for r.events.of(r.events.started, "worn") == 0 {
		r.visit(t, company)
	}
	for range 3 {
		r.visit(t, company)
	}
}

// Pages that are no record are pages all the same, and come at once.
func TestVisit_AnyPageIsHandedOver(t *testing.T) {
	s := newSite(t, replica.Config{})
	r := start(t, s, nil)
	tests := []struct {
		fault  string
		status int
		holds  string
	}{
		{"500", 500, "Internal Server Error"},
		{"403", 403, "Forbidden"},
		{replica.FaultEmpty, 200, "<body>"},
		{replica.FaultError, 200, "Surgieron problemas"},
		{replica.FaultWAF, 200, "Request Rejected"},
		{replica.FaultBounce, 200, "txtRuc"},
		{replica.FaultAlert, 200, company.String()},
		{replica.FaultAlertLoad, 200, company.String()},
		{replica.FaultOtherRUC, 200, "list-group"},
		{replica.FaultHalf, 200, "list-group"},
	}
	for _, tt := range tests {
		t.Run(tt.fault, func(t *testing.T) {
			r.ready(t, 1)
			s.fail(t, replica.Fault{Kind: tt.fault, On: replica.OnResult})
			defer s.ClearFaults()
			began := time.Now()
			p := r.visit(t, company)
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("took %s", took)
			}
			if p.Status != tt.status || !strings.Contains(p.HTML, tt.holds) {
				t.Errorf("status %d, page:\n%s", p.Status, p.HTML)
			}
			if whole := strings.Contains(p.HTML, "<footer"); whole == (tt.fault == replica.FaultHalf) && strings.Contains(p.HTML, "list-group") {
				t.Errorf("footer there: %t", whole)
			}
		})
	}
	if len(r.events.started) != 1 {
		t.Errorf("browser starts: %v", r.events.started)
	}
}

func TestVisit_FailuresHaveTheirCause(t *testing.T) {
	const attempt = 2 * time.Second
	tests := []struct {
		fault    string
		cause    sunat.Cause
		earliest time.Duration
		latest   time.Duration
	}{
		{replica.FaultHang, sunat.CauseSilent, attempt, attempt + time.Second},
		{replica.FaultHalfOpen, sunat.CauseSilent, attempt, attempt + time.Second},
		{replica.FaultReset, sunat.CauseReset, 0, attempt},
	}
	s := newSite(t, replica.Config{})
	r := start(t, s, func(c *browser.Config) { c.AttemptTimeout = attempt })
	for _, tt := range tests {
		t.Run(tt.fault, func(t *testing.T) {
			r.ready(t, 2)
			s.fail(t, replica.Fault{Kind: tt.fault, On: replica.OnResult})
			began := time.Now()
			_, err := r.Visit(t.Context(), company, nil)
			took := time.Since(began)
			s.ClearFaults()
			wantCause(t, err, tt.cause)
			if took < tt.earliest || took > tt.latest {
				t.Errorf("took %s, want %s to %s", took, tt.earliest, tt.latest)
			}
			if p := r.visit(t, company); !strings.Contains(p.HTML, company.String()) {
				t.Error("the next visit brought another page")
			}
		})
	}
}

func TestVisit_PopupLeavesNoTarget(t *testing.T) {
	s := newSite(t, replica.Config{})
	r := start(t, s, nil)
	s.fail(t, replica.Fault{Kind: replica.FaultPopup, On: replica.OnForm})
	r.ready(t, 2)
	before := len(r.of(t, "renderer"))
	for range 4 {
		r.visit(t, company)
	}
	r.ready(t, 2)
	eventually(t, "no renderer more", func() bool { return len(r.of(t, "renderer")) <= before })
}

func TestVisit_RendererKilled(t *testing.T) {
	bothWays(t, func(t *testing.T, way func(*browser.Config)) {
		s := newSite(t, replica.Config{})
		r := start(t, s, way)
		r.ready(t, 2)
		took, err := r.visitWhile(t, s, func() { r.signal(t, "renderer", kill) })
		wantCause(t, err, sunat.CauseCrash)
		if took > time.Second {
			t.Errorf("noticed after %s", took)
		}
		began := time.Now()
		for { // the other slot's renderer was killed too, and may not know yet
			if _, err = r.Visit(t.Context(), company, nil); err == nil {
				break
			}
			wantCause(t, err, sunat.CauseCrash)
		}
		t.Logf("renderer killed: noticed after %s, next answer after another %s", took, time.Since(began))
		if len(r.events.started) != 1 {
			t.Errorf("browser starts: %v", r.events.started)
		}
	})
}

func TestVisit_BrowserKilled(t *testing.T) {
	bothWays(t, func(t *testing.T, way func(*browser.Config)) {
		s := newSite(t, replica.Config{})
		r := start(t, s, way)
		r.ready(t, 2)
		took, err := r.visitWhile(t, s, func() { r.signal(t, "", kill) })
		wantCause(t, err, sunat.CauseLost)
		if took > time.Second {
			t.Errorf("noticed after %s", took)
		}
		began := time.Now()
		r.visit(t, company)
		t.Logf("browser killed: noticed after %s, next answer after another %s", took, time.Since(began))
		if got := r.events.of(r.events.started, "lost"); got != 1 {
			t.Errorf("browser starts: %v", r.events.started)
		}
	})
}

func TestVisit_BrowserFrozen(t *testing.T) {
	s := newSite(t, replica.Config{})
	r := start(t, s, func(c *browser.Config) { c.AttemptTimeout = 2 * time.Second })
	r.ready(t, 2)
	r.signal(t, "", func(pid int) error { return syscall.Kill(pid, syscall.SIGSTOP) })
	began := time.Now()
	_, err := r.Visit(t.Context(), company, nil)
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("took %s", took)
	}
	wantCause(t, err, sunat.CauseSilent)
	eventually(t, "the next browser", func() bool { return r.events.of(r.events.started, "frozen") == 1 })
	r.visit(t, company)
}

func TestVisit_CallerGone(t *testing.T) {
	s := newSite(t, replica.Config{})
	r := start(t, s, nil)
	r.ready(t, 2)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var cancelled time.Time
	_, err := r.visitCtx(ctx, t, s, func() { cancelled = time.Now(); cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if took := time.Since(cancelled); took > time.Second {
		t.Errorf("returned after %s", took)
	}
	r.visit(t, company)

	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	_, err = r.visitCtx(deadlineContext{ctx}, t, s, cancel)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestVisit_FormDoesNotCome(t *testing.T) {
	s := newSite(t, replica.Config{})
	s.fail(t, replica.Fault{Kind: replica.FaultReset, On: replica.OnForm})
	r := start(t, s, nil)
	_, err := r.Visit(t.Context(), company, nil)
	wantCause(t, err, sunat.CauseReset)
	// The slot that was busy with the visit is given up after its reply.
	eventually(t, "no slot is ready or busy", func() bool { return r.Ready() == 0 && r.Down(0) })

	s.ClearFaults()
	s.fail(t, replica.Fault{Kind: replica.FaultWAF, On: replica.OnForm})
	if p := r.visit(t, company); !strings.Contains(p.HTML, "Request Rejected") {
		t.Errorf("page:\n%s", p.HTML)
	}

	s.ClearFaults()
	if p := r.visit(t, company); !strings.Contains(p.HTML, company.String()) {
		t.Errorf("page:\n%s", p.HTML)
	}
	r.ready(t, 2)
	if r.Down(0) {
		t.Error("down with slots ready")
	}
}

func TestVisit_IdleTabLeavesTheSiteAndComesBack(t *testing.T) {
	s := newSite(t, replica.Config{})
	r := start(t, s, func(c *browser.Config) { c.IdleReload = 50 * time.Millisecond; c.Slots = 1 })
	r.ready(t, 1)
	forms := s.Stats().Forms
	<-time.After(300 * time.Millisecond) // that nothing happens takes a span to see
	if got := s.Stats().Forms; got != forms || r.Ready() != 1 {
		t.Errorf("idle: %d forms more, %d ready", got-forms, r.Ready())
	}
	if p := r.visit(t, company); !strings.Contains(p.HTML, company.String()) {
		t.Errorf("page:\n%s", p.HTML)
	}
}

func TestRun_StopsWithAVisitInFlight(t *testing.T) {
	s := newSite(t, replica.Config{ResultDelay: 300 * time.Millisecond})
	r := start(t, s, nil)
	r.ready(t, 2)
	visited := make(chan error, 1)
	go func() {
		_, err := r.Visit(context.Background(), company, nil)
		visited <- err
	}()
	eventually(t, "the POST", func() bool { return s.Stats().Posts == 1 })
	began := time.Now()
	r.end(t)
	t.Logf("stopped in %s, 0.3 s of it the visit's", time.Since(began))
	if err := <-visited; err != nil {
		t.Errorf("the visit in hand: %v", err)
	}
	_, err := r.Visit(t.Context(), company, nil)
	wantCause(t, err, sunat.CauseLost)
	if err := r.WaitReady(t.Context()); err == nil {
		t.Error("WaitReady after the end")
	}
}

func TestRun_NoChromium(t *testing.T) {
	b, err := browser.New(browser.Config{URL: "http://127.0.0.1:1/", ChromePath: "/nowhere/chromium"}, browser.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Run(t.Context()); err == nil {
		t.Error("no error")
	}
	if _, err := b.Visit(t.Context(), company, nil); err == nil {
		t.Error("a visit without a browser")
	}
}

func TestRun_ProgramThatIsNoBrowser(t *testing.T) {
	b, err := browser.New(browser.Config{URL: "http://127.0.0.1:1/", ChromePath: "true", TempDir: t.TempDir()}, browser.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := b.Run(ctx); err != nil {
		t.Errorf("Run: %v", err) // it goes on trying until told to end
	}
}

func TestNew_SaysEverythingThatIsWrong(t *testing.T) {
	_, err := browser.New(browser.Config{URL: "ftp://x", Slots: 99, Sandbox: "maybe", AttemptTimeout: -1, Flags: []string{"--", "a b"}}, browser.Deps{})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"ftp://x", "99", "maybe", "attempt timeout", `"--"`, `"a b"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing from: %v", want, err)
		}
	}
}

func wantCause(t testing.TB, err error, want sunat.Cause) {
	t.Helper()
	var visit *sunat.VisitError
	if !errors.As(err, &visit) || visit.Cause != want {
		t.Fatalf("error %v, want cause %q", err, want)
	}
}

// deadlineContext is a context whose end is a passed deadline, whenever it comes: the
// POST may take as long as the machine needs.
type deadlineContext struct{ context.Context }

func (c deadlineContext) Err() error {
	if c.Context.Err() != nil {
		return context.DeadlineExceeded
	}
	return nil
}

func kill(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }

// visitWhile starts a visit that the site never answers, does the deed once the POST has
// arrived, and returns how the visit ended and how long after the deed.
func (r *rig) visitWhile(t *testing.T, s *site, deed func()) (time.Duration, error) {
	return r.visitCtx(t.Context(), t, s, deed)
}

func (r *rig) visitCtx(ctx context.Context, t *testing.T, s *site, deed func()) (took time.Duration, err error) {
	t.Helper()
	s.fail(t, replica.Fault{Kind: replica.FaultHang, On: replica.OnResult})
	defer s.ClearFaults()
	posts := s.Stats().Posts
	ended := make(chan error, 1)
	go func() {
		_, err := r.Visit(ctx, company, nil)
		ended <- err
	}()
	eventually(t, "the POST, or the visit's end", func() bool { return s.Stats().Posts > posts || len(ended) == 1 })
	if s.Stats().Posts == posts {
		t.Fatalf("the visit ended before its POST: %v", <-ended)
	}
	began := time.Now()
	deed()
	err = <-ended
	return time.Since(began), err
}
