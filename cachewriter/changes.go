package cachewriter

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/shared/wire"
)

const (
	// lookTimeout bounds the reading of the answers before those of one batch, and
	// putTimeout the storing of what they change: milliseconds, as a rule.
	lookTimeout = 10 * time.Second
	putTimeout  = 10 * time.Second
	// maxPuts bounds the changes of one batch that are being stored at one time.
	maxPuts = 32
)

// item is one event of a batch with the message that it came in.
type item struct {
	msg   jetstream.Msg
	event wire.Event
}

// news is what the answers of a batch say that the ones before them did not.
type news struct {
	changes map[uint64][]byte // encoded, by the sequence of the answer
	unknown map[uint64]error  // whose answer before could not be read
}

// look compares each answer with the one before it in the stream, unless it says itself
// that there is nothing new. It goes on while the store is written to, of which it needs
// nothing.
func (w *writer) look(ctx context.Context, items []item) (wait func() news) {
	var answers []wire.Event
	for _, it := range items {
		if !it.event.SaysNothingNew() {
			answers = append(answers, it.event)
		}
	}
	if len(answers) == 0 {
		return func() news { return news{} }
	}
	found := make(chan news, 1)
	go func() {
		ctx, cancel := context.WithTimeout(ctx, lookTimeout)
		defer cancel()
		found <- w.compare(answers, wire.Before(ctx, w.nc, answers))
	}()
	return func() news { return <-found }
}

func (w *writer) compare(answers []wire.Event, before []wire.Predecessor) news {
	n := news{changes: map[uint64][]byte{}, unknown: map[uint64]error{}}
	for i, b := range before {
		if b.Err != nil {
			n.unknown[answers[i].Seq] = b.Err
			continue
		}
		if !b.OK {
			continue // the first that is known of a number is no change
		}
		c, differs, err := wire.Compare(b.Event, answers[i])
		var body []byte
		if err == nil && differs {
			body, err = c.Encode()
		}
		switch {
		case err != nil:
			// Not now and not later either: what cannot be read says of no change.
			w.log.Error().Err(err).Uint64("seq", answers[i].Seq).Msg("two answers could not be compared")
		case differs:
			n.changes[answers[i].Seq] = body
		}
	}
	return n
}

// tell stores the changes of the items, which the store has. It returns those whose
// change is not stored or not known: they may not be acknowledged. What was begun ends
// also when the process is to, which takes milliseconds.
func (w *writer) tell(ctx context.Context, items []item, n news) (told, later []item) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), putTimeout)
	defer cancel()
	// The changes of one number follow one another, those of different ones do not wait.
	slices.SortFunc(items, func(a, b item) int { return cmp.Compare(a.event.Seq, b.event.Seq) })
	chains := map[string][]item{}
	var lastErr error
	for _, it := range items {
		switch seq := it.event.Seq; {
		case n.unknown[seq] != nil:
			later = append(later, it)
			// What was purged, or is on its way to the replica that was asked, is no trouble.
			if err := n.unknown[seq]; !errors.Is(err, wire.ErrNotHeld) {
				lastErr = err
			}
		case n.changes[seq] != nil:
			chains[it.event.RUC.String()] = append(chains[it.event.RUC.String()], it)
		default:
			told = append(told, it)
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	places := make(chan struct{}, maxPuts)
	for _, chain := range chains {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			for i, it := range chain {
				err := w.tellOne(ctx, it, n.changes[it.event.Seq])
				mu.Lock()
				if err != nil {
					later, lastErr = append(later, chain[i:]...), err
					mu.Unlock()
					return
				}
				told = append(told, it)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(later) > 0 && lastErr != nil && !errors.Is(lastErr, context.Canceled) {
		w.log.Warn().Err(lastErr).Int("events", len(later)).Msg("some changes could not be looked for or stored; their answers will come again")
	}
	return told, later
}

func (w *writer) tellOne(ctx context.Context, it item, body []byte) error {
	e := it.event
	stored, err := wire.PutChange(ctx, w.nc, w.js, e.RUC, e.Seq, wire.ChangedEvent(e.RUC, e.Seq, body, it.msg.Headers(), w.source, w.now()))
	if stored {
		w.metrics.changes.Inc()
	}
	return err
}

// giveBackUntold has answers come again whose change is not stored. The first time soon,
// for a replica that lags is milliseconds behind; an answer that was purged never comes.
func (w *writer) giveBackUntold(ctx context.Context, untold []item) {
	var messages []jetstream.Msg
	for _, it := range untold {
		messages = append(messages, it.msg)
	}
	w.settle(messages, func(m jetstream.Msg) error {
		if meta, err := m.Metadata(); ctx.Err() != nil || err == nil && meta.NumDelivered == 1 {
			return m.NakWithDelay(giveBackDelay)
		}
		return m.NakWithDelay(deadDelay(m))
	})
}
