// Package browser gets SUNAT's page through one headless Chromium that it starts,
// watches and replaces, and that holds a few tabs ("slots") parked on the search
// form before anyone asks.
//
// A visit on a parked tab is one script call in (fill, click) and one message out:
// a script that runs at the start of every document pushes what that document is
// through a binding. Nothing polls. Against the usual way of this library (type,
// click, wait until visible) on the same warm tab that took a fifth of the time and
// 40 % of the CPU; against a browser per look-up, a twentieth of the time and a
// fifth of the CPU (chromium-headless-shell 156, two busy cores, local imitation of
// the page). The tab goes back to the form after the answer has been handed over,
// so the form's own round trip is never on a caller's path.
//
// The package only fetches: what a page means is decided by package sunat, and
// whether to try again by the caller, who sees the [sunat.Cause] of every failure.
//
//	slot   a goroutine that owns one tab; nothing else touches it
//	parked a slot whose tab shows the form, scripts loaded, waiting for a number
//	left   a slot whose tab went to about:blank because nobody asked for a while
package browser

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/scraper/sunat"
	"github.com/rucflow/rucflow/shared/ruc"
)

// Config is what an operator may set. Zero values stand for the defaults named.
type Config struct {
	// URL is the address of the search form (http or https). Required.
	URL string
	// Slots is the number of parked tabs, 1 to 32; default 2: one request a second
	// and address, which is what SUNAT bears, keeps one busy and one warm. A tab
	// costs 30 to 40 MB.
	Slots int
	// AttemptTimeout bounds one visit from the click to the whole page, and apart
	// from that the wait for a slot; default 15 s.
	AttemptTimeout time.Duration
	// ChromePath is the program to start; empty searches, see [FindChrome].
	ChromePath string
	// Sandbox is "auto" (off only for root, for whom Chromium refuses to start with
	// it), "on" or "off" (also "true", "false"); default auto.
	Sandbox string
	// Flags are more Chromium flags, as "--name=value" or "--name". They replace
	// this package's flag of the same name, except disable-features, which adds.
	Flags []string
	// UserAgent replaces Chromium's own; default empty: its own.
	UserAgent string
	// TempDir holds the profile while the browser runs; default os.TempDir().
	TempDir string
	// IdleReload is how long a form stays parked unused before the tab leaves it
	// for about:blank (default 10 min, the life of a session at SUNAT). The next
	// visit loads the form first.
	IdleReload time.Duration
	// UsesPerTab and TabMaxAge say when a tab is replaced by a new one (defaults
	// 200 visits, 30 min), one slot at a time while another one is parked.
	UsesPerTab int
	TabMaxAge  time.Duration
	// CollectEvery is the number of visits on a tab between two forced garbage
	// collections (default 25). V8 puts full collections off while a page is
	// replaced twice per visit: without this the tree grew 0.45 MB a visit, with it
	// the same tab stayed at half the size.
	CollectEvery int
	// VisitsPerBrowser and BrowserMaxAge say when the whole browser is replaced
	// (defaults 5,000 visits, 6 h): the new one is parked before the old one stops.
	VisitsPerBrowser int
	BrowserMaxAge    time.Duration
}

// withDefaults returns c with its zero values filled in.
func (c Config) withDefaults() Config {
	setDefault(&c.Slots, 2)
	setDefault(&c.AttemptTimeout, 15*time.Second)
	setDefault(&c.Sandbox, "auto")
	setDefault(&c.TempDir, os.TempDir())
	setDefault(&c.IdleReload, 10*time.Minute)
	setDefault(&c.UsesPerTab, 200)
	setDefault(&c.TabMaxAge, 30*time.Minute)
	setDefault(&c.CollectEvery, 25)
	setDefault(&c.VisitsPerBrowser, 5000)
	setDefault(&c.BrowserMaxAge, 6*time.Hour)
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// MaxSlots bounds Config.Slots: each slot is a renderer of 30–40 MB.
const MaxSlots = 32

// validate says everything that is wrong with c at once.
func (c Config) validate() error {
	var errs []error
	if u, err := url.Parse(c.URL); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		errs = append(errs, fmt.Errorf("the form's address must be an http or https URL, not %q", c.URL))
	}
	if c.Slots < 1 || c.Slots > MaxSlots {
		errs = append(errs, fmt.Errorf("slots must be 1 to %d, not %d", MaxSlots, c.Slots))
	}
	if c.AttemptTimeout <= 0 {
		errs = append(errs, fmt.Errorf("the attempt timeout must be positive, not %s", c.AttemptTimeout))
	}
	if _, err := c.sandboxed(); err != nil {
		errs = append(errs, err)
	}
	for _, f := range c.Flags {
		if name, _ := splitFlag(f); name == "" {
			errs = append(errs, fmt.Errorf("%q is not a Chromium flag", f))
		}
	}
	for _, d := range []time.Duration{c.IdleReload, c.TabMaxAge, c.BrowserMaxAge} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("a duration must not be negative: %s", d))
		}
	}
	if c.UsesPerTab < 0 || c.CollectEvery < 0 || c.VisitsPerBrowser < 0 {
		errs = append(errs, errors.New("a number of visits must not be negative"))
	}
	return errors.Join(errs...)
}

// Deps are the live things a Browser works with.
type Deps struct {
	Log     zerolog.Logger
	Now     func() time.Time // for ages; default time.Now
	Observe Observe
}

// Observe is told what happens, for metrics. Every field may be nil; the functions
// must be quick and safe for concurrent use.
type Observe struct {
	// BrowserStarted: a Chromium runs, because of "first", "lost", "frozen",
	// "unstable" or "worn" (the only planned one).
	BrowserStarted func(cause string)
	// SlotDiscarded: a tab was given up, because of a [sunat.Cause], "worn" (planned),
	// "cancelled" (its caller left in mid-visit), "form" (it could not be brought
	// back to the form) or "open" (it never opened).
	SlotDiscarded func(cause string)
	// Slots: so many slots can now take a visit, are in one, or are on their way back
	// to the form.
	Slots func(ready, busy, warming int)
}

func (o Observe) withDefaults() Observe {
	if o.BrowserStarted == nil {
		o.BrowserStarted = func(string) {}
	}
	if o.SlotDiscarded == nil {
		o.SlotDiscarded = func(string) {}
	}
	if o.Slots == nil {
		o.Slots = func(int, int, int) {}
	}
	return o
}

// Browser gets pages. Make one with New, keep Run going, call Visit from anywhere.
type Browser struct {
	cfg  Config
	log  zerolog.Logger
	now  func() time.Time
	obs  Observe
	path string // Chromium's, set by Run

	// jobs is unbuffered and only parked slots receive from it: there is no pool to
	// lock and no health flag to race with, and a number is never typed into a tab
	// that is not ready. coldJobs is offered while no slot is parked.
	jobs     chan *job
	coldJobs chan *job
	waiting  atomic.Int64  // visits that no slot has taken yet
	quit     chan struct{} // closed when Run stops taking visits
	quitOnce sync.Once
	running  atomic.Bool

	board   *board
	version atomic.Pointer[string]
}

// errStopped is why a visit fails once Run has been told to end.
var errStopped = errors.New("browser: stopped")

// New checks cfg and returns a Browser that does nothing yet.
func New(cfg Config, deps Deps) (*Browser, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("browser.New: %w", err)
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	obs := deps.Observe.withDefaults()
	return &Browser{
		cfg:      cfg,
		log:      deps.Log,
		now:      deps.Now,
		obs:      obs,
		jobs:     make(chan *job),
		coldJobs: make(chan *job),
		quit:     make(chan struct{}),
		board:    newBoard(deps.Now, obs.Slots),
	}, nil
}

// Visit asks SUNAT's form for n, once, and returns the page that came back, whatever
// it says. It waits for a slot, then at most Config.AttemptTimeout for the page.
// The error is a *[sunat.VisitError], or ctx.Err() as soon as ctx ends. Visit is safe
// for concurrent use; before Run has a slot ready it waits for one. Two visits in a
// row go to two slots where there are two, so trying again is trying on another tab.
//
// gate, if not nil, is called when the tab stands on the form, with a context that also
// ends with the tab. The query leaves for SUNAT between its return and the call of the
// function that it returned, which is called exactly once; AttemptTimeout counts from
// there. An error of gate ends the visit and is returned as it is.
func (b *Browser) Visit(ctx context.Context, n ruc.Number, gate func(context.Context) (left func(), err error)) (sunat.Page, error) {
	if err := ctx.Err(); err != nil {
		return sunat.Page{}, err
	}
	j := &job{ctx: ctx, number: n, gate: gate, reply: make(chan outcome, 1)}
	if err := b.hand(ctx, j); err != nil {
		return sunat.Page{}, err
	}
	select {
	case out := <-j.reply:
		return out.page, out.err
	case <-ctx.Done():
		return sunat.Page{}, ctx.Err()
	}
}

// hand gives j to a slot: to a parked one, or while there is none to one that would
// have to load the form first, so that the reason why none is parked (a reset, a
// refusal page) reaches the caller instead of a silent wait.
func (b *Browser) hand(ctx context.Context, j *job) error {
	b.waiting.Add(1)
	defer b.waiting.Add(-1)
	giveUp := time.NewTimer(b.cfg.AttemptTimeout)
	defer giveUp.Stop()
	for {
		parked, changed := b.board.parked()
		cold := b.coldJobs
		if parked > 0 {
			cold = nil
		}
		select {
		case <-b.quit: // before the jobs: a draining slot must not be offered more
			return &sunat.VisitError{Cause: sunat.CauseLost, Err: errStopped}
		default:
		}
		select {
		case b.jobs <- j:
			return nil
		case cold <- j:
			return nil
		case <-changed:
		case <-b.quit:
			return &sunat.VisitError{Cause: sunat.CauseLost, Err: errStopped}
		case <-ctx.Done():
			return ctx.Err()
		case <-giveUp.C:
			return &sunat.VisitError{
				Cause: sunat.CauseLost,
				Err:   fmt.Errorf("browser: no slot became ready within %s", b.cfg.AttemptTimeout),
			}
		}
	}
}

// WaitReady returns when a slot can take a visit, or with ctx.Err(), or with an error
// once Run has ended.
func (b *Browser) WaitReady(ctx context.Context) error {
	for {
		ready, changed := b.board.ready()
		if ready > 0 {
			return nil
		}
		select {
		case <-changed:
		case <-b.quit:
			return errStopped
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Ready returns the number of slots that can take a visit now.
func (b *Browser) Ready() int {
	n, _ := b.board.ready()
	return n
}

// Down reports whether no slot has been ready or busy with a visit for longer than d.
func (b *Browser) Down(d time.Duration) bool { return b.board.idleFor() > d }

// Version returns the browser's own name and version, as "HeadlessChrome/156.0.7204.0",
// or "" before the first start.
func (b *Browser) Version() string {
	if v := b.version.Load(); v != nil {
		return *v
	}
	return ""
}

const (
	// drainWait bounds the visits in hand when Run is told to end. It leaves a
	// process that has 15 s to shut down time to say goodbye elsewhere.
	drainWait = 10 * time.Second
	// handoverWait is how long a planned replacement may take to park a slot before
	// the worn browser is stopped all the same.
	handoverWait = 30 * time.Second
)

// Run starts Chromium and keeps it and its slots alive until ctx ends; then it lets
// the visits in hand finish (at most 10 s), stops everything and returns nil. It
// leaves no goroutine, process or file behind. The error is non-nil only when there
// is no Chromium to start, and then says how to install it. Run works once.
func (b *Browser) Run(ctx context.Context) error {
	if b.running.Swap(true) {
		return errors.New("browser.Run: called twice")
	}
	path, err := FindChrome(b.cfg.ChromePath)
	if err != nil {
		b.stopTaking()
		return fmt.Errorf("browser.Run: %w", err)
	}
	b.path = path
	b.sweep()

	var retired sync.WaitGroup
	defer retired.Wait()
	retire := func(g *generation) {
		if g != nil {
			retired.Go(func() { g.retire(drainWait) })
		}
	}
	defer b.stopTaking()
	defer context.AfterFunc(ctx, b.stopTaking)()

	retry := restartBackOff()
	current := b.start(ctx, "first", retry)
	for current != nil {
		select {
		case <-current.life.Done():
			cause := lostCause(context.Cause(current.life))
			b.log.Warn().Str("cause", cause).AnErr("reason", context.Cause(current.life)).Msg("browser lost, starting another")
			if current.opened.Load() {
				retry.Reset()
			} else if !pause(ctx, retry.NextBackOff()) {
				cause = ""
			}
			retire(current)
			current = b.start(ctx, cause, retry)
		case <-current.worn:
			next := b.start(ctx, "worn", retry)
			if next != nil {
				next.waitParked(ctx, handoverWait)
			}
			retire(current)
			current = next
		case <-ctx.Done():
			retire(current)
			current = nil
		}
	}
	return nil
}

// stopTaking ends every wait for a slot, now and later.
func (b *Browser) stopTaking() { b.quitOnce.Do(func() { close(b.quit) }) }

// start brings up one browser and its slots, trying until it works or ctx ends, and
// then returns nil.
func (b *Browser) start(ctx context.Context, cause string, retry *backoff.ExponentialBackOff) *generation {
	for ctx.Err() == nil {
		began := b.now()
		c, err := launch(ctx, b.cfg, b.path, b.log)
		if err == nil {
			b.version.Store(&c.version)
			b.obs.BrowserStarted(cause)
			b.log.Info().Str("cause", cause).Str("version", c.version).Int("pid", c.pid).
				Dur("took", b.now().Sub(began)).Msg("browser started")
			return newGeneration(b, c)
		}
		if ctx.Err() != nil {
			return nil
		}
		b.log.Error().Err(err).Msg("browser did not start")
		pause(ctx, retry.NextBackOff())
	}
	return nil
}

// restartBackOff spaces the starts of a browser that does not stay up: 0.05 s to 2 s.
func restartBackOff() *backoff.ExponentialBackOff {
	return &backoff.ExponentialBackOff{
		InitialInterval:     50 * time.Millisecond,
		RandomizationFactor: 0.2,
		Multiplier:          2,
		MaxInterval:         2 * time.Second,
	}
}

// pause waits for d and reports whether ctx still runs.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// sweep removes what a killed process of ours left in the temp directory.
func (b *Browser) sweep() {
	removed, err := sweepDirs(b.cfg.TempDir)
	if err != nil {
		b.log.Warn().Err(err).Msg("leftover profiles could not be removed")
	}
	if len(removed) > 0 {
		b.log.Info().Strs("dirs", removed).Msg("leftover profiles removed")
	}
}

// withoutFragment cuts the part of an address that never reached the server.
func withoutFragment(address string) string {
	address, _, _ = strings.Cut(address, "#")
	return address
}
