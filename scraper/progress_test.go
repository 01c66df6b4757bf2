package scraper

import (
	"context"
	"errors"
	"testing"

	"github.com/rucflow/rucflow/scraper/sunat"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// Whoever watches hears the place in the queue, told by the front, and each attempt, told
// by the slot.
func TestProgress_IsTold(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.MaxConcurrent = 1 })
	heard := r.hear(wire.SubjectProgress)
	release := make(chan struct{})
	e := &fakeEngine{visit: func(ctx context.Context, n ruc.Number, attempt int) (sunat.Page, error) {
		if n == number {
			return until(release)(ctx, n, attempt)
		}
		if n == second && attempt == 1 {
			return sunat.Page{}, &sunat.VisitError{Cause: sunat.CauseCrash, Err: errors.New("fake")}
		}
		return shown(n), nil
	}}
	r.run(e)

	// hears waits for one message; others may come before, for fronts repeat theirs, and know
	// the queue as it was a moment ago.
	hears := func(want wire.Progress) {
		t.Helper()
		for {
			got, err := wire.ParseProgress(next(t, heard))
			if err != nil {
				t.Fatal(err)
			}
			if got.Job == 0 {
				t.Errorf("no job: %+v", got)
			}
			if got.Job = 0; got == want {
				return
			}
		}
	}
	queued := func(n ruc.Number, position int) wire.Progress {
		return wire.Progress{RUC: n, Stage: wire.StageQueued, Position: position}
	}
	visiting := func(n ruc.Number, attempt int) wire.Progress {
		return wire.Progress{RUC: n, Stage: wire.StageVisiting, Attempt: attempt, Attempts: 3}
	}

	first := r.ask(number, patience)
	hears(visiting(number, 1))
	third := numbers(1)[0]
	then := r.ask(second, patience)
	hears(queued(second, 1))
	last := r.ask(third, patience)
	hears(queued(third, 2))
	close(release)
	hears(visiting(second, 1))
	hears(visiting(second, 2))
	hears(visiting(third, 1))
	for _, a := range []<-chan reply{first, then, last} {
		if got := <-a; got.err != nil {
			t.Error(got.err)
		}
	}
}
