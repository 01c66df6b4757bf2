package store

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// answering stands in for a Redis: each round trip of a client with it ends as it says.
type answering func() error

func (a answering) DialHook(next redis.DialHook) redis.DialHook { return next }

func (a answering) ProcessHook(redis.ProcessHook) redis.ProcessHook {
	return func(_ context.Context, cmd redis.Cmder) error {
		err := a()
		cmd.SetErr(err)
		return err
	}
}

func (a answering) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(_ context.Context, cmds []redis.Cmder) error {
		err := a()
		for _, cmd := range cmds {
			cmd.SetErr(err)
		}
		return err
	}
}

func TestGatherer_NobodyWaitsBehindASilentServer(t *testing.T) {
	const (
		callers = 3 * gatherMax
		timeout = 30 * time.Millisecond
	)
	for name, tc := range map[string]struct {
		err   error // of each round trip
		takes time.Duration
		want  error
		all   bool // those who wait are dismissed, and not asked for
	}{
		"silent":               {os.ErrDeadlineExceeded, timeout, os.ErrDeadlineExceeded, true},
		"silent, by a context": {context.DeadlineExceeded, timeout, context.DeadlineExceeded, true},
		"given up early":       {context.DeadlineExceeded, timeout - 1, context.DeadlineExceeded, false},
		"gone":                 {io.EOF, timeout, io.EOF, false},
		"answers late":         {redis.Nil, timeout, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			var elapsed, trips atomic.Int64
			asked, release := make(chan struct{}, callers), make(chan struct{})
			c := redis.NewClient(&redis.Options{})
			t.Cleanup(func() { _ = c.Close() })
			c.AddHook(answering(func() error {
				trips.Add(1)
				asked <- struct{}{}
				<-release
				elapsed.Store(int64(tc.takes))
				return tc.err
			}))
			g := newGatherer(timeout, time.Minute, func() time.Time { return time.Unix(0, elapsed.Load()) })
			t.Cleanup(g.close)
			var wg sync.WaitGroup
			for range gatherers { // each has a round trip under way
				wg.Go(func() {
					if _, err := g.get(t.Context(), c, "k"); !errors.Is(err, tc.want) {
						t.Errorf("a caller of the first round trips: %v", err)
					}
				})
				<-asked
			}
			waiting := make([]query, callers)
			for i := range waiting {
				waiting[i] = query{ctx: t.Context(), key: "k", done: make(chan reading, 1)}
				g.queries <- waiting[i]
			}
			close(release)
			wg.Wait()
			for i, q := range waiting {
				if r := <-q.done; !errors.Is(r.err, tc.want) {
					t.Errorf("caller %d, who waited: %v", i, r.err)
				}
			}
			if all := trips.Load() == gatherers; all != tc.all {
				t.Errorf("%d round trips, of which %d were under way", trips.Load(), gatherers)
			}
		})
	}
}
