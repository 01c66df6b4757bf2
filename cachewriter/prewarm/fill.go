package prewarm

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// filler fetches what of a list is not held. What is held needs no visit, and so a run
// that was ended goes on where it stopped: the cache is its memory.
type filler struct {
	*asker
	maxAge  time.Duration // CACHE_TTL: what is fresh will do
	out     io.Writer     // for the summary
	display display
	begun   time.Time
	counts  counts
}

// fill asks for every number of the list. It returns an error when something failed or was
// invalid, and nil also when it was told to stop.
func (f *filler) fill(ctx context.Context, l list) error {
	f.counts.invalid = len(l.invalid)
	for _, n := range l.numbers {
		f.display.show(f.counts, f.now().Sub(f.begun))
		err := f.one(ctx, n)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			f.counts.failed++
			p := wire.NewProblem(n, err)
			f.display.say(fmt.Sprintf("%s: %s: %s", n, p.Code, p.Detail))
		}
	}
	f.display.end()
	fmt.Fprintf(f.out, "%d of %d numbers in %v: %v\n", f.counts.done(), len(l.numbers), f.now().Sub(f.begun).Round(time.Millisecond), f.counts)
	if ctx.Err() == nil && f.counts.failed+f.counts.invalid > 0 {
		return fmt.Errorf("%d numbers failed, %d lines are invalid", f.counts.failed, f.counts.invalid)
	}
	return nil
}

func (f *filler) one(ctx context.Context, n ruc.Number) error {
	_, ok, err := f.held(ctx, n)
	if err != nil {
		return err
	}
	if ok {
		f.counts.held++
		return nil
	}
	r, err := f.fetch(ctx, n, f.maxAge)
	switch {
	case err != nil:
		return err
	case r.Prefix.Found:
		f.counts.fetched++
	default:
		f.counts.missing++
	}
	return nil
}
