package browser

import (
	"sync"
	"time"
)

// state is where a slot stands.
//
//	cold ─browser up─▶ opening ─tab, binding, script─▶ warming ─form pushed─▶ parked
//	parked ─visit─▶ busy ─answer handed over─▶ warming
//	parked ─nobody asked for IdleReload─▶ left ─visit: form first─▶ busy
//	warming ─form does not come─▶ cold, tab open: tried again with back-off, and by any visit that finds no parked slot
//	any ─timeout, crash, worn─▶ discarding ─▶ opening
//	any ─browser lost or draining─▶ gone from the board
type state int

const (
	stateNone state = iota
	stateCold
	stateOpening
	stateWarming
	stateParked
	stateLeft
	stateBusy
	stateDiscarding
	stateCount
)

// board counts slots by state and wakes whoever waits for a change.
type board struct {
	now   func() time.Time
	tell  func(ready, busy, warming int)
	mu    sync.Mutex
	slots [stateCount]int
	// noneSince is when the last slot stopped being ready or busy; zero while one is.
	noneSince time.Time
	changed   chan struct{}
}

func newBoard(now func() time.Time, tell func(ready, busy, warming int)) *board {
	return &board{now: now, tell: tell, noneSince: now(), changed: make(chan struct{})}
}

// move takes one slot from a state to another; stateNone is outside the board.
func (b *board) move(from, to state) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.slots[from]--
	b.slots[to]++
	b.slots[stateNone] = 0
	ready, busy := b.readyLocked(), b.slots[stateBusy]
	switch up := ready+busy > 0; {
	case up:
		b.noneSince = time.Time{}
	case b.noneSince.IsZero():
		b.noneSince = b.now()
	}
	close(b.changed)
	b.changed = make(chan struct{})
	warming := b.slots[stateCold] + b.slots[stateOpening] + b.slots[stateWarming] + b.slots[stateDiscarding]
	b.tell(ready, busy, warming) // under the lock, so that the last numbers told are the true ones
}

func (b *board) readyLocked() int { return b.slots[stateParked] + b.slots[stateLeft] }

// ready returns how many slots can take a visit, and a channel that closes when any
// slot changes its state.
func (b *board) ready() (int, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.readyLocked(), b.changed
}

// parked is ready for slots that already show the form.
func (b *board) parked() (int, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.slots[stateParked], b.changed
}

// idleFor returns how long no slot has been ready or busy.
func (b *board) idleFor() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.noneSince.IsZero() {
		return 0
	}
	return b.now().Sub(b.noneSince)
}
