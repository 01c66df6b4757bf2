// Package dispatch hands visits to the slots of an engine: to one that stands on SUNAT's
// search form, or, while none does, to one that has to get the form first.
//
//	slot   what makes one visit at a time: a tab of a browser, a session of a client
//	parked a slot that has the form and waits for a number
//	left   a slot whose form is too old, because nobody asked for a while
package dispatch

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// State is where a slot stands. Slots that open nothing know neither Opening nor
// Discarding.
//
//	cold ─▶ opening ─▶ warming ─the form came─▶ parked
//	parked ─visit─▶ busy ─answer handed over─▶ warming, or parked where the form is still good
//	parked ─nobody asked for long─▶ left ─visit: form first─▶ busy
//	warming ─form does not come─▶ cold: tried again with back-off, and by any visit that finds no parked slot
//	any ─given up─▶ discarding ─▶ opening
//	any ─end─▶ none
type State int

// The states. StateNone is outside the board.
const (
	StateNone State = iota
	StateCold
	StateOpening
	StateWarming
	StateParked
	StateLeft
	StateBusy
	StateDiscarding
	stateCount
)

// Board counts slots by state, wakes whoever waits for a change, and carries visits from
// a Desk to the slots. It is safe for concurrent use.
type Board struct {
	now     func() time.Time
	timeout time.Duration // of a visit's wait for a slot
	tell    func(ready, busy, warming int)

	// jobs is unbuffered and only parked slots receive from it: there is no pool to lock
	// and no health flag to race with, and a number never goes to a slot that is not
	// ready. coldJobs is offered while no slot is parked.
	jobs     chan *Job
	coldJobs chan *Job
	waiting  atomic.Int64  // visits that no slot has taken yet
	quit     chan struct{} // closed when no more visits are taken
	quitOnce sync.Once

	mu    sync.Mutex
	slots [stateCount]int
	// noneSince is when the last slot stopped being ready or busy; zero while one is.
	noneSince time.Time
	changed   chan struct{}
}

// NewBoard returns a board without slots. A visit waits for a slot for at most timeout.
// tell is told at each change how many slots can take a visit, are in one, or have yet
// to get the form; it must be quick.
func NewBoard(now func() time.Time, timeout time.Duration, tell func(ready, busy, warming int)) *Board {
	return &Board{
		now: now, timeout: timeout, tell: tell,
		jobs: make(chan *Job), coldJobs: make(chan *Job), quit: make(chan struct{}),
		noneSince: now(), changed: make(chan struct{}),
	}
}

// Move takes one slot from a state to another.
func (b *Board) Move(from, to State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.slots[from]--
	b.slots[to]++
	b.slots[StateNone] = 0
	ready, busy := b.readyLocked(), b.slots[StateBusy]
	switch up := ready+busy > 0; {
	case up:
		b.noneSince = time.Time{}
	case b.noneSince.IsZero():
		b.noneSince = b.now()
	}
	close(b.changed)
	b.changed = make(chan struct{})
	warming := b.slots[StateCold] + b.slots[StateOpening] + b.slots[StateWarming] + b.slots[StateDiscarding]
	b.tell(ready, busy, warming) // under the lock, so that the last numbers told are the true ones
}

func (b *Board) readyLocked() int { return b.slots[StateParked] + b.slots[StateLeft] }

// ready returns how many slots can take a visit, and a channel that closes when any
// slot changes its state.
func (b *Board) ready() (int, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.readyLocked(), b.changed
}

// parked is ready for slots that already have the form.
func (b *Board) parked() (int, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.slots[StateParked], b.changed
}

// idleFor returns how long no slot has been ready or busy.
func (b *Board) idleFor() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.noneSince.IsZero() {
		return 0
	}
	return b.now().Sub(b.noneSince)
}

// Jobs are for a parked slot, ColdJobs for one that has to get the form first.
func (b *Board) Jobs() <-chan *Job { return b.jobs }

// ColdJobs are the visits that found no slot parked.
func (b *Board) ColdJobs() <-chan *Job { return b.coldJobs }

// Waiting returns how many visits wait for a slot.
func (b *Board) Waiting() int { return int(b.waiting.Load()) }

// Stop ends every wait for a slot, now and later.
func (b *Board) Stop() { b.quitOnce.Do(func() { close(b.quit) }) }

// DrainWait bounds the visits in hand when an engine is told to end. It leaves a process
// that has 15 s to shut down time to say goodbye elsewhere.
const DrainWait = 10 * time.Second

// FormWait bounds the form, from the request to its arrival.
const FormWait = 8 * time.Second

// FormBackOff spaces attempts to bring back a form that does not come: 1 s to 30 s, out
// of regard for a site in trouble. A visit that finds no parked slot tries at once.
func FormBackOff() *backoff.ExponentialBackOff {
	return &backoff.ExponentialBackOff{
		InitialInterval:     time.Second,
		RandomizationFactor: 0.2,
		Multiplier:          2,
		MaxInterval:         30 * time.Second,
	}
}
