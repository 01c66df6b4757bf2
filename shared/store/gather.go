package store

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// gatherers send what has been asked for while they waited for the answers before: with
	// one, nothing would be asked meanwhile; more than a few send less at a time.
	gatherers = 2
	// gatherMax bounds what is asked for at one time: some hundred KB of answers.
	gatherMax = 64
	// gatherQueue is how many may wait to be asked for; who finds no room waits too.
	gatherQueue = 256
)

// query is one read under way.
type query struct {
	ctx  context.Context
	key  string
	done chan reading // takes one without a receiver
}

// reading is what came of it; a nil value is none.
type reading struct {
	value []byte
	err   error
}

// gatherer reads keys, many with one round trip where many are asked for at the same time.
// A read that is alone is not held up, and none waits behind a server that has said nothing
// for a whole timeout. It is safe for concurrent use.
type gatherer struct {
	timeout time.Duration // of the server
	budget  time.Duration // of one round trip, with its connection
	now     func() time.Time
	queries chan query
	begin   sync.Once // with the first read, or never
	wg      sync.WaitGroup
	end     sync.Once
	over    chan struct{}
}

func newGatherer(timeout, budget time.Duration, now func() time.Time) *gatherer {
	return &gatherer{timeout: timeout, budget: budget, now: now, queries: make(chan query, gatherQueue), over: make(chan struct{})}
}

// close ends it, when c was closed. Later reads fail.
func (g *gatherer) close() {
	g.begin.Do(func() {})
	g.end.Do(func() { close(g.over) })
	g.wg.Wait()
}

// get reads one key by c, until ctx ends at the latest.
func (g *gatherer) get(ctx context.Context, c redis.UniversalClient, key string) ([]byte, error) {
	g.begin.Do(func() {
		for range gatherers {
			g.wg.Go(func() { g.run(c) })
		}
	})
	q := query{ctx: ctx, key: key, done: make(chan reading, 1)}
	select {
	case g.queries <- q:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-g.over:
		return nil, redis.ErrClosed
	}
	select {
	case r := <-q.done:
		return r.value, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-g.over:
		return nil, redis.ErrClosed
	}
}

func (g *gatherer) run(c redis.UniversalClient) {
	batch := make([]query, 0, gatherMax)
	for {
		select {
		case <-g.over:
			return
		case q := <-g.queries:
			batch = g.more(append(batch[:0], q))
		}
		began := g.now()
		if err := g.read(c, batch); timedOut(err) && g.now().Sub(began) >= g.timeout {
			g.dismiss(err)
		}
	}
}

// timedOut reports whether err says that something was waited for in vain.
func timedOut(err error) bool {
	var timeout interface{ Timeout() bool } // of the network's errors and of a context's
	return errors.As(err, &timeout) && timeout.Timeout()
}

// dismiss fails those who wait: they would ask what has just not answered.
func (g *gatherer) dismiss(err error) {
	for {
		select {
		case q := <-g.queries:
			q.done <- reading{err: err}
		default:
			return
		}
	}
}

// more adds what else is asked for by now, but for those who have left.
func (g *gatherer) more(batch []query) []query {
	for len(batch) < gatherMax {
		select {
		case q := <-g.queries:
			if q.ctx.Err() == nil {
				batch = append(batch, q)
			}
		default:
			return batch
		}
	}
	return batch
}

// read answers the queries of batch, and returns the last one's error.
func (g *gatherer) read(c redis.UniversalClient, batch []query) error {
	if len(batch) == 1 { // within its own time
		r := readingOf(c.Get(batch[0].ctx, batch[0].key))
		batch[0].done <- r
		return r.err
	}
	ctx, cancel := context.WithTimeout(context.Background(), g.budget)
	defer cancel()
	pipe := c.Pipeline()
	replies := make([]*redis.StringCmd, len(batch))
	for i, q := range batch {
		replies[i] = pipe.Get(ctx, q.key)
	}
	_, _ = pipe.Exec(ctx) // each reply has its own error
	var last error
	for i, q := range batch {
		r := readingOf(replies[i])
		q.done <- r
		last = r.err
	}
	return last
}

func readingOf(reply *redis.StringCmd) reading {
	value, err := reply.Bytes()
	if errors.Is(err, redis.Nil) {
		return reading{}
	}
	return reading{value, err}
}
