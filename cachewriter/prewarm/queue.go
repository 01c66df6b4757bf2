package prewarm

import (
	"context"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"golang.org/x/time/rate"
)

const (
	// recentVisits are remembered, everybody's.
	recentVisits = 15
	// assumedVisit is the length of a visit before one has been seen.
	assumedVisit = 2 * time.Second
	// restVisits is how many visits' time the queue must have been idle: who has just had
	// an answer often asks for the next number.
	restVisits = 2
	// The queue is looked at so often while it is idle, and at least every longestLook.
	looksPerRest = 4
	longestLook  = 250 * time.Millisecond
	lookTimeout  = 5 * time.Second
)

// queue watches the fleet's queue of visits for a time in which nobody wants one.
type queue struct {
	slots    jetstream.Consumer
	min, max time.Duration // bounds of rest
	now      func() time.Time
	log      zerolog.Logger
	visits   []time.Duration // the latest, oldest first
	saying   *rate.Sometimes // that it cannot be seen
}

// visited notes how long a visit took.
func (q *queue) visited(took time.Duration) {
	q.visits = append(q.visits, took)
	q.visits = q.visits[max(0, len(q.visits)-recentVisits):]
}

// rest is how long the queue must have been idle before a visit is asked for.
func (q *queue) rest() time.Duration {
	visit := assumedVisit
	if len(q.visits) > 0 {
		visit = slices.Sorted(slices.Values(q.visits))[len(q.visits)/2]
	}
	return min(max(restVisits*visit, q.min), q.max)
}

// awaitIdle returns nil once no job has been waiting or in flight for the length of rest,
// and an error when ctx ends. While the queue cannot be seen it does not count as idle.
func (q *queue) awaitIdle(ctx context.Context) error {
	var seen sight
	var since time.Time // the last look that did not find the queue idle
	for {
		info, err := q.look(ctx)
		now := q.now()
		if err != nil {
			seen = sight{}
			if ctx.Err() == nil {
				q.saying.Do(func() { q.log.Warn().Err(err).Msg("the queue of visits cannot be seen and is looked at again") })
			}
		}
		if err != nil || !seen.idle(info, now) {
			since = now
		} else if took := seen.visit(); took > 0 {
			q.visited(took)
		}
		rest := q.rest()
		if now.Sub(since) >= rest {
			return nil
		}
		if err := sleep(ctx, min(rest/looksPerRest, longestLook)); err != nil {
			return err
		}
	}
}

// sight is what a row of looks at the queue has shown.
type sight struct {
	at    time.Time // of the last look
	busy  bool      // a job was waiting or in flight then
	taken uint64    // the youngest job that a slot had been given, by its sequence

	took time.Duration // how long the queue has been busy since it was idle
	jobs uint64        // how many jobs slots were given meanwhile
}

// idle reports whether nothing has happened since the look before: what came and went
// between the two is seen by how far the slots have got.
func (s *sight) idle(info *jetstream.ConsumerInfo, now time.Time) bool {
	before := *s
	s.at, s.busy, s.taken = now, info.NumPending > 0 || info.NumAckPending > 0, info.Delivered.Stream
	if before.at.IsZero() {
		return false
	}
	if !before.busy && !s.busy && s.taken == before.taken {
		return true
	}
	s.took += now.Sub(before.at)
	s.jobs += max(s.taken, before.taken) - before.taken
	return false
}

// visit returns how long each of the visits took that were seen since it was called last,
// to within the time between two looks; 0 where none was.
func (s *sight) visit() (took time.Duration) {
	if s.jobs > 0 {
		took = s.took / time.Duration(s.jobs) //nolint:gosec // some jobs a second
	}
	s.took, s.jobs = 0, 0
	return took
}

func (q *queue) look(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	return q.slots.Info(ctx)
}

// sleep returns after d, or with ctx's error when that ends before.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
