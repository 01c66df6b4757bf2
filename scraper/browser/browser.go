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
// With Config.Fetch the tab does not leave the form for the answer. The page's own script
// still makes the token, checks the number and fills in the form, but what it then submits
// is sent by fetch, and the answer's bytes are what comes out: a tenth of the CPU time,
// because no document is shown (17 against 186 ms a visit, interleaved, two crowded cores).
//
// The package only gets pages: what a page means is decided by package sunat, and
// whether to try again by the caller, who sees the [sunat.Cause] of every failure. A slot
// is a goroutine that owns one tab; nothing else touches it. A parked one has the form's
// scripts loaded; one that left is at about:blank. See package dispatch.
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

	"github.com/rucflow/rucflow/scraper/dispatch"
)

// Config is what an operator may set. Zero values stand for the defaults named.
type Config struct {
	// URL is the address of the search form (http or https). Required.
	URL string
	// Fetch has the form's query sent from inside the parked page, which stays on the
	// form, instead of by the page's own leaving for the answer.
	Fetch bool
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
	dispatch.Desk
	cfg  Config
	log  zerolog.Logger
	now  func() time.Time
	obs  Observe
	path string // Chromium's, set by Run

	board   *dispatch.Board
	running atomic.Bool
	version atomic.Pointer[string]
}

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
	board := dispatch.NewBoard(deps.Now, cfg.AttemptTimeout, obs.Slots)
	return &Browser{Desk: dispatch.NewDesk(board), cfg: cfg, log: deps.Log, now: deps.Now, obs: obs, board: board}, nil
}

// Version returns the browser's own name and version, as "HeadlessChrome/156.0.7204.0",
// or "" before the first start.
func (b *Browser) Version() string {
	if v := b.version.Load(); v != nil {
		return *v
	}
	return ""
}

// handoverWait is how long a planned replacement may take to park a slot before the worn
// browser is stopped all the same.
const handoverWait = 30 * time.Second

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
		b.board.Stop()
		return fmt.Errorf("browser.Run: %w", err)
	}
	b.path = path
	b.sweep()

	var retired sync.WaitGroup
	defer retired.Wait()
	retire := func(g *generation) {
		if g != nil {
			retired.Go(func() { g.retire(dispatch.DrainWait) })
		}
	}
	defer b.board.Stop()
	defer context.AfterFunc(ctx, b.board.Stop)()

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
