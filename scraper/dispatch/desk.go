package dispatch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rucflow/rucflow/scraper/sunat"
	"github.com/rucflow/rucflow/shared/ruc"
)

// ErrStopped is why a visit fails once the engine has been told to end.
var ErrStopped = errors.New("dispatch: the engine has stopped")

// Job is a visit on its way to a slot.
type Job struct {
	Ctx    context.Context
	Number ruc.Number
	gate   func(context.Context) (left func(), err error)
	reply  chan outcome // has room for the one outcome
}

type outcome struct {
	page sunat.Page
	err  error
}

// ShutError is an error of the caller's gate.
type ShutError struct{ Err error }

func (e *ShutError) Error() string { return "dispatch: the gate is shut: " + e.Err.Error() }
func (e *ShutError) Unwrap() error { return e.Err }

// Enter passes the caller's gate. left is never nil, and may be called again. The error is
// a *ShutError.
func (j *Job) Enter(ctx context.Context) (left func(), err error) {
	if j.gate == nil {
		return func() {}, nil
	}
	if left, err = j.gate(ctx); err != nil {
		return nil, &ShutError{err}
	}
	return sync.OnceFunc(left), nil
}

// Reply ends the visit. A gate's error is handed over as the gate returned it. It must be
// called once.
func (j *Job) Reply(p sunat.Page, err error) {
	var shut *ShutError
	if errors.As(err, &shut) {
		err = shut.Err
	}
	j.reply <- outcome{p, err}
}

// Desk is where visits are asked for, the callers' side of a Board. Engines embed it.
type Desk struct{ board *Board }

// NewDesk returns the desk of a board.
func NewDesk(b *Board) Desk { return Desk{b} }

// Visit asks SUNAT's form for n, once, and returns the page that came back, whatever
// it says. It waits for a slot, then at most the engine's attempt timeout for the page.
// The error is a *[sunat.VisitError], or ctx.Err() as soon as ctx ends. Visit is safe
// for concurrent use; before Run has a slot ready it waits for one. Two visits in a
// row go to two slots where there are two, so trying again is trying on another one.
//
// gate, if not nil, is called when all is ready for the query, with a context that also
// ends with the slot. The query leaves for SUNAT between its return and the call of the
// function that it returned, which is called exactly once; the attempt timeout counts
// from there. An error of gate ends the visit and is returned as it is.
func (d Desk) Visit(ctx context.Context, n ruc.Number, gate func(context.Context) (left func(), err error)) (sunat.Page, error) {
	if err := ctx.Err(); err != nil {
		return sunat.Page{}, err
	}
	j := &Job{Ctx: ctx, Number: n, gate: gate, reply: make(chan outcome, 1)}
	if err := d.board.hand(ctx, j); err != nil {
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
// have to get the form first, so that the reason why none is parked (a reset, a
// refusal page) reaches the caller instead of a silent wait.
func (b *Board) hand(ctx context.Context, j *Job) error {
	b.waiting.Add(1)
	defer b.waiting.Add(-1)
	giveUp := time.NewTimer(b.timeout)
	defer giveUp.Stop()
	for {
		parked, changed := b.parked()
		cold := b.coldJobs
		if parked > 0 {
			cold = nil
		}
		select {
		case <-b.quit: // before the jobs: a draining slot must not be offered more
			return &sunat.VisitError{Cause: sunat.CauseLost, Err: ErrStopped}
		default:
		}
		select {
		case b.jobs <- j:
			return nil
		case cold <- j:
			return nil
		case <-changed:
		case <-b.quit:
			return &sunat.VisitError{Cause: sunat.CauseLost, Err: ErrStopped}
		case <-ctx.Done():
			return ctx.Err()
		case <-giveUp.C:
			return &sunat.VisitError{
				Cause: sunat.CauseLost,
				Err:   fmt.Errorf("dispatch: no slot became ready within %s", b.timeout),
			}
		}
	}
}

// WaitReady returns when a slot can take a visit, or with ctx.Err(), or with an error
// once the engine has ended.
func (d Desk) WaitReady(ctx context.Context) error {
	for {
		ready, changed := d.board.ready()
		if ready > 0 {
			return nil
		}
		select {
		case <-changed:
		case <-d.board.quit:
			return ErrStopped
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Ready returns the number of slots that can take a visit now.
func (d Desk) Ready() int {
	n, _ := d.board.ready()
	return n
}

// Down reports whether no slot has been ready or busy with a visit for longer than t.
func (d Desk) Down(t time.Duration) bool { return d.board.idleFor() > t }
