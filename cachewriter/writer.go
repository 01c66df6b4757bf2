package cachewriter

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/store"
	"github.com/rucflow/rucflow/shared/wire"
)

const (
	// A batch ends when it is full or when nothing came for batchLinger. Beyond 250
	// nothing is gained, for delivery and acks are then the limit.
	batchMax    = 250
	batchLinger = 5 * time.Millisecond
	// A short heartbeat notices a pull that was lost with a server.
	pullHeartbeat = 500 * time.Millisecond
	pullRetry     = 200 * time.Millisecond
	// giveBackDelay is when what a stopping writer gives back is given out again.
	// At once, it could go to its own last pull, which the server does not yet know
	// to be over.
	giveBackDelay = 200 * time.Millisecond

	storeRetryMin, storeRetryMax = 50 * time.Millisecond, 2 * time.Second
)

// putter is the store as the writer uses it.
type putter interface {
	// Put keeps the entries that are newer than what is held; putting the same
	// again is harmless.
	Put(ctx context.Context, entries []store.Entry) error
}

// writer moves events from the stream to the store, in batches. A message is
// acknowledged once the store has it.
type writer struct {
	consumer jetstream.Consumer
	epoch    int64 // the stream's birth; see store.Version
	store    putter
	policy   ruc.Policy
	clock    *wire.Clock
	metrics  *metrics
	log      zerolog.Logger
}

// run works until ctx ends; the batch in hand is finished or given back.
func (w *writer) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := w.consume(ctx); err != nil && ctx.Err() == nil {
			w.log.Warn().Err(err).Msg("the events stopped coming and are asked for again")
			sleep(ctx, pullRetry)
		}
	}
}

// consume writes batch after batch until ctx ends or the pull fails. Messages
// fetches ahead, which suits a writer: what it buffers is nobody else's turn.
func (w *writer) consume(ctx context.Context) error {
	events, err := w.consumer.Messages(jetstream.PullMaxMessages(batchMax), jetstream.PullHeartbeat(pullHeartbeat))
	if err != nil {
		return err
	}
	defer w.giveBack(events)
	for {
		first, err := events.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		batch := []jetstream.Msg{first}
		for len(batch) < batchMax {
			m, err := events.Next(jetstream.NextMaxWait(batchLinger))
			if err != nil {
				break // nothing came in time; a failed pull shows at the next Next
			}
			batch = append(batch, m)
		}
		w.write(ctx, batch)
	}
}

// giveBack ends a pull. What was fetched ahead goes back, for otherwise the
// server would keep it from every cachewriter until its AckWait is over.
func (w *writer) giveBack(events jetstream.MessagesContext) {
	events.Drain()
	for {
		m, err := events.Next()
		if err != nil {
			return // the buffer is empty
		}
		w.nak(m)
	}
}

func (w *writer) nak(m jetstream.Msg) {
	if err := m.NakWithDelay(giveBackDelay); err != nil {
		w.log.Warn().Err(err).Msg("an event could not be given back and will come again later")
	}
}

// write puts a batch into the store and acknowledges it. While the store fails the
// batch is kept, the server is told so, and nothing more is pulled.
func (w *writer) write(ctx context.Context, batch []jetstream.Msg) {
	good, entries := w.entries(batch)
	pause := storeRetryMin
	for {
		err := w.store.Put(ctx, entries)
		if err == nil {
			break
		}
		w.metrics.failed.Inc()
		w.log.Warn().Err(err).Int("events", len(entries)).Msg("a batch could not be stored yet")
		for _, m := range good {
			if err := m.InProgress(); err != nil {
				w.log.Debug().Err(err).Msg("an event could not be kept in progress")
			}
		}
		if !sleep(ctx, pause) {
			for _, m := range good {
				w.nak(m)
			}
			return
		}
		pause = min(2*pause, storeRetryMax)
	}
	for _, m := range good {
		if err := m.Ack(); err != nil {
			w.log.Warn().Err(err).Msg("an event could not be acknowledged and will come again")
		}
	}
	w.metrics.written.Add(float64(len(entries)))
}

// entries checks the events of a batch. What is no event is terminated: it would
// come back for ever. What has expired is acknowledged without being stored.
func (w *writer) entries(batch []jetstream.Msg) (good []jetstream.Msg, entries []store.Entry) {
	now := w.clock.Now()
	for _, m := range batch {
		e, err := wire.ParseConsumed(m)
		if err != nil {
			w.metrics.poison.Inc()
			w.log.Error().Err(err).Str("subject", m.Subject()).Msg("a message that is no event was discarded")
			if err := m.TermWithReason(err.Error()); err != nil {
				w.log.Warn().Err(err).Msg("a message could not be terminated and will come again")
			}
			continue
		}
		good = append(good, m)
		f := w.policy.Freshness(e.Prefix.Found, e.Prefix.ObtainedAt, now)
		if f.State != ruc.Fresh {
			continue
		}
		entries = append(entries, store.Entry{
			RUC: e.RUC, Value: e.Body, TTL: f.Left,
			Version: store.Version{Epoch: w.epoch, Seq: e.Seq},
		})
	}
	return good, entries
}

// sleep waits for d; false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
