package gateway

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/wire"
)

const (
	// tailBuffer is how many events may be heard while others are read from the stream;
	// with more, all are read from it.
	tailBuffer = 1024
	// tailPatience is how long the event before one that was heard may be under way: the
	// kinds come by different subscriptions.
	tailPatience = 20 * time.Millisecond
	// tailRetry is when it is read again after it failed.
	tailRetry = 250 * time.Millisecond
	// tailTimeout is how long the stream's end is asked for.
	tailTimeout = 2 * time.Second
	// tailReads is how often it is read in vain for what must have been stored: by a
	// replica that lags.
	tailReads = 20
)

// tail gives every event of the stream to a feed, in their order: as they are heard, and
// from the stream what was not.
type tail struct {
	nc   *nats.Conn
	feed *feed
	log  zerolog.Logger

	heard chan stored
	lost  chan struct{} // something may not have been heard

	next    uint64            // sequence of the next event to hand out; 0 = not known
	newest  time.Time         // when the last one was stored
	waiting map[uint64]stored // heard, with some before them missing
	behind  bool              // the stream must be read
	vain    int               // how often that did not bring what was waited for
}

func newTail(nc *nats.Conn, f *feed, log zerolog.Logger) *tail {
	return &tail{
		nc: nc, feed: f, log: log, heard: make(chan stored, tailBuffer), lost: make(chan struct{}, 1),
		waiting: map[uint64]stored{}, behind: true,
	}
}

// hear takes an event in whatever order. It does not wait.
func (t *tail) hear(e stored) {
	select {
	case t.heard <- e:
	default:
		t.gap()
	}
}

// gap says that events may not have been heard.
func (t *tail) gap() {
	select {
	case t.lost <- struct{}{}:
	default: // it will look anyway
	}
}

func (t *tail) run(ctx context.Context) {
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.lost:
			t.behind = true
			look.Reset(0)
		case e := <-t.heard:
			orderly := len(t.waiting) == 0
			t.take(e)
			if orderly && len(t.waiting) > 0 {
				look.Reset(tailPatience)
			}
		case <-look.C:
			if !t.behind && len(t.waiting) == 0 {
				continue
			}
			if err := t.read(ctx); err != nil {
				t.log.Debug().Err(err).Msg("the events that were not heard cannot be read yet")
			}
			if t.behind || len(t.waiting) > 0 {
				look.Reset(tailRetry)
			}
		}
	}
}

// take hands out the event, and those that waited for it.
func (t *tail) take(e stored) {
	switch {
	case t.next > 0 && e.seq < t.next && e.at.After(t.newest):
		t.log.Warn().Uint64("seq", e.seq).Msg("the stream of events was made anew")
		t.next = e.seq
		clear(t.waiting)
	case e.seq < t.next:
		return // it was read from the stream
	}
	t.waiting[e.seq] = e
	if len(t.waiting) > tailBuffer {
		clear(t.waiting)
		t.behind = true
		t.gap()
	}
	if !t.behind {
		t.flush()
	}
}

// flush hands out what waits and follows the last that was.
func (t *tail) flush() {
	for {
		e, ok := t.waiting[t.next]
		if !ok {
			return
		}
		delete(t.waiting, e.seq)
		t.give(e)
	}
}

func (t *tail) give(e stored) {
	t.next, t.newest = e.seq+1, e.at
	t.feed.stored(e)
}

// read hands out what the stream holds and what waits.
func (t *tail) read(ctx context.Context) error {
	if err := t.locate(ctx); err != nil {
		return err
	}
	upTo := uint64(0) // what waits is stored, so it must be found
	if len(t.waiting) > 0 {
		upTo = slices.Max(slices.Collect(maps.Keys(t.waiting)))
	}
	err := wire.ReadEvents(ctx, t.nc, t.next, func(page []*nats.Msg) error {
		for _, m := range page {
			e, err := parseStored(m)
			if err != nil { // the cachewriter makes a dead letter of it
				t.next = wire.PlaceOf(m).Seq + 1
				continue
			}
			t.give(e)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("gateway.tail: %w", err)
	}
	if t.vain++; t.next <= upTo && t.vain < tailReads {
		return nil
	}
	t.behind, t.vain = false, 0
	for _, seq := range slices.Sorted(maps.Keys(t.waiting)) {
		if seq >= t.next {
			t.give(t.waiting[seq])
		}
	}
	clear(t.waiting)
	return nil
}

// locate says where to go on: where it stood or, where nobody would miss what is between,
// at the stream's end.
func (t *tail) locate(ctx context.Context) error {
	if t.next > 0 && !t.behind {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, tailTimeout)
	defer cancel()
	last, err := wire.LastEvent(ctx, t.nc)
	if err != nil {
		return err
	}
	first := max(t.next, last.Seq+1) // a replica may lag
	for seq := range t.waiting {
		first = min(first, seq)
	}
	if t.feed.skipTo(first - 1) {
		t.next, t.newest = first, last.Stored
	}
	return nil
}

// parseStored reads an event of whatever kind, with the body that readers are given.
func parseStored(m *nats.Msg) (stored, error) {
	if wire.KindOf(m) == wire.SubjectChanged {
		c, err := wire.ParseChanged(m)
		return stored{eventChanged, c.RUC, c.Seq, c.Stored, m.Data}, err
	}
	e, err := wire.ParseEvent(m)
	if err != nil || e.Failed {
		return stored{eventFailed, e.RUC, e.Seq, e.Stored, e.Body}, err
	}
	h, err := newHeld(e.Body, e.Prefix, e.Seq)
	if err != nil {
		return stored{}, err
	}
	return stored{eventResolved, e.RUC, e.Seq, e.Stored, h.body}, nil
}
