package browser

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rucflow/rucflow/scraper/dispatch"
)

// unstableWithin is how close two tabs that do not open must follow each other for the
// browser to be given up.
const unstableWithin = 10 * time.Second

// turnWait bounds how long a slot lets another one open its tab first: a tab takes 0.1 s, a
// form that comes at once as long again, and one that does not is not waited for.
const turnWait = 300 * time.Millisecond

// generation is one browser and the slots that live in it. When the browser ends, all
// its slots end, and the next generation starts afresh: nobody has to agree with
// anybody on who restarts it.
type generation struct {
	*chrome
	b *Browser
	// idle bounds what slots do while nobody waits for them. It ends with the browser's
	// life, or before it when they are to finish the visits in hand and take no other.
	idle   context.Context
	drain  context.CancelFunc
	worn   chan struct{} // closed: replace this browser when convenient
	slots  sync.WaitGroup
	opened atomic.Bool // a tab opened, so the browser works
	parked chan struct{}
	turn   chan struct{} // full while a slot opens its tab

	wornOnce, parkedOnce sync.Once
	visits               atomic.Int64
	age                  *time.Timer

	mu          sync.Mutex
	lastFailure time.Time // of opening a tab
	replacing   int       // slots that are replacing a worn tab
}

// newGeneration puts the slots into c and returns at once.
func newGeneration(b *Browser, c *chrome) *generation {
	g := &generation{
		chrome: c,
		b:      b,
		worn:   make(chan struct{}),
		parked: make(chan struct{}),
		turn:   make(chan struct{}, 1),
	}
	g.idle, g.drain = context.WithCancel(c.life)
	g.age = time.AfterFunc(b.cfg.BrowserMaxAge, g.wearOut)
	for i := range b.cfg.Slots {
		g.slots.Go(newSlot(g, i).run)
	}
	return g
}

func (g *generation) wearOut() { g.wornOnce.Do(func() { close(g.worn) }) }

// countVisit asks for a new browser when this one has done its share.
func (g *generation) countVisit() {
	if g.visits.Add(1) >= int64(g.b.cfg.VisitsPerBrowser) {
		g.wearOut()
	}
}

// hasParked notes that a slot stands ready.
func (g *generation) hasParked() { g.parkedOnce.Do(func() { close(g.parked) }) }

// waitParked returns when a slot stands ready, or will not.
func (g *generation) waitParked(ctx context.Context, limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-g.parked:
	case <-g.life.Done():
	case <-timer.C:
	case <-ctx.Done():
	}
}

// tabFailed notes a tab that did not open. Two in short order are the browser's fault;
// a renderer that crashes is not, and costs its tab only (0.2 s against 1 s).
func (g *generation) tabFailed() {
	g.suspect()
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.b.now()
	if !g.lastFailure.IsZero() && now.Sub(g.lastFailure) < unstableWithin {
		g.end(errUnstable)
	}
	g.lastFailure = now
}

// takeTurn waits, for turnWait at most, until no other slot is opening a tab and loading
// the form. Two that do so together are both later than the first one need be, which is
// the one that callers wait for.
func (g *generation) takeTurn() (giveUp func()) {
	timer := time.NewTimer(turnWait)
	defer timer.Stop()
	select {
	case g.turn <- struct{}{}:
		return func() { <-g.turn }
	case <-timer.C:
	case <-g.idle.Done():
	}
	return func() {}
}

// mayReplace reports whether a slot may leave to replace a worn tab: one at a time, and
// only while another slot stands ready, so that callers never notice. A slot that must
// (overdue) goes anyway. After true the slot calls replaced.
func (g *generation) mayReplace(overdue bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	ready := g.b.Ready()
	if !overdue && (g.replacing > 0 || (ready == 0 && g.b.cfg.Slots > 1)) {
		return false
	}
	g.replacing++
	return true
}

func (g *generation) replaced() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.replacing--
}

// retire lets the visits in hand finish, at most for wait, and stops the browser.
func (g *generation) retire(wait time.Duration) {
	g.age.Stop()
	g.drain()
	cut := time.AfterFunc(wait, func() { g.end(dispatch.ErrStopped) })
	g.slots.Wait()
	cut.Stop()
	if err := g.stop(); err != nil {
		g.log.Error().Err(err).Msg("browser did not stop cleanly")
	}
}
