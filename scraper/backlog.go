package scraper

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/shared/ruc"
)

const (
	// backlogAge is how old the known length of the queue may be. What this process
	// puts meanwhile it counts itself.
	backlogAge = 250 * time.Millisecond
	// recentVisits are remembered. Nobody is refused for how long visits take before
	// knownVisits of them have been seen.
	recentVisits, knownVisits = 15, 3
	// assumedVisit is the length of a visit before one has been seen.
	assumedVisit = 2 * time.Second
	// maxRetryAfter bounds what a caller is told to wait.
	maxRetryAfter = 10 * time.Minute
)

// backlog estimates how long a new job would wait for its visit: the length of the
// queue times the recent visits' median.
type backlog struct {
	queue jetstream.Consumer
	limit int           // visits at one time in the fleet
	pace  time.Duration // between two of them
	now   func() time.Time

	mu     sync.Mutex
	jobs   int    // waiting or in flight
	taken  uint64 // the youngest job that a slot was given, by its sequence
	asked  time.Time
	visits []time.Duration // of this process, the latest recentVisits in a ring
	next   int
}

func newBacklog(queue jetstream.Consumer, pace time.Duration, now func() time.Time) *backlog {
	return &backlog{queue: queue, limit: max(queue.CachedInfo().Config.MaxAckPending, 1), pace: pace, now: now}
}

// visited notes how long a visit took, its turns included.
func (b *backlog) visited(took time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.visits) < recentVisits {
		b.visits = append(b.visits, took)
		return
	}
	b.visits[b.next] = took
	b.next = (b.next + 1) % recentVisits
}

// put notes that this process put a job.
func (b *backlog) put() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.jobs++
}

// wait estimates how long a job put now would take to its answer. known is false while
// too few visits have been seen, or the queue's length cannot be had.
func (b *backlog) wait(ctx context.Context) (d time.Duration, known bool) {
	err := b.refresh(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Duration(b.jobs+1) * b.each(), err == nil && len(b.visits) >= knownVisits
}

// each is what one job adds to the wait of those behind it.
func (b *backlog) each() time.Duration {
	visit := assumedVisit
	if len(b.visits) > 0 {
		visit = slices.Sorted(slices.Values(b.visits))[len(b.visits)/2]
	}
	return max(visit/time.Duration(b.limit), b.pace)
}

// overloaded is the refusal of a job for which there is no room or no time.
func (b *backlog) overloaded(ctx context.Context, cause error) error {
	after, _ := b.wait(ctx) // the best guess there is
	return &ruc.Error{Code: ruc.Overloaded, RetryAfter: min(max(after, time.Second), maxRetryAfter), Err: cause}
}

// refuses returns the refusal of a job whose visit would end after its caller's wait.
func (b *backlog) refuses(ctx context.Context, wait time.Duration) error {
	if d, known := b.wait(ctx); known && d > wait {
		return b.overloaded(ctx, fmt.Errorf("the visit would end in %s, the caller waits %s", d.Round(time.Millisecond), wait.Round(time.Millisecond)))
	}
	return nil
}

func (b *backlog) refresh(ctx context.Context) error {
	b.mu.Lock()
	fresh := !b.asked.IsZero() && b.now().Sub(b.asked) < backlogAge
	if !fresh {
		b.asked = b.now() // one question at a time
	}
	b.mu.Unlock()
	if fresh {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	info, err := b.queue.Info(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.asked = time.Time{} // what is known may be of any age: the next caller asks too
		return err
	}
	b.jobs = int(info.NumPending) + info.NumAckPending //nolint:gosec // a queue of at most some thousand
	b.taken = info.Delivered.Stream
	return nil
}

// position is a job's place among those that no slot has taken, 1 = next. known is false
// where a slot has it, or the queue could not be asked. Jobs that have left the queue
// before their turn count on: it may be nearer than said.
func (b *backlog) position(ctx context.Context, job uint64) (place int, known bool) {
	if b.refresh(ctx) != nil {
		return 0, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if job <= b.taken {
		return 0, false
	}
	return int(min(job-b.taken, math.MaxInt32)), true
}
