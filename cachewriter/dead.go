package cachewriter

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/shared/wire"
)

const (
	// deadTimeout bounds what the dead letters of one batch may cost the next one.
	deadTimeout = 5 * time.Second
	// deadRetry is when a message comes again whose letter could not be stored, the
	// first time; each further time it is twice as long. A flood of them would else
	// fill what the server hands out.
	deadRetry, deadRetryMax = 2 * time.Second, 5 * time.Minute
)

// corpse is a message that can never be stored.
type corpse struct {
	msg    jetstream.Msg
	reason wire.DeadReason
}

// bury stores each message as a dead letter and only then terminates it, so that
// it is lost at no moment. One that could not be stored comes again.
func (w *writer) bury(ctx context.Context, dead []corpse) {
	if len(dead) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, deadTimeout)
	defer cancel()
	var buried, later []jetstream.Msg
	var lastErr error
	for _, d := range dead {
		if ctx.Err() != nil {
			later = append(later, d.msg) // the stream does not answer at all
			continue
		}
		// No retries: a stream that is not there would take half a second for each.
		ack, err := w.js.PublishMsg(ctx, wire.DeadLetter(wire.ConsumerCachewriter, d.reason, d.msg), jetstream.WithRetryAttempts(0))
		if err != nil {
			later, lastErr = append(later, d.msg), err
			continue
		}
		buried = append(buried, d.msg)
		if ack.Duplicate {
			continue // an earlier delivery's letter was counted
		}
		w.metrics.dead[d.reason].Inc()
		// Not its subject, which names a number.
		e := w.log.Error().Str("reason", string(d.reason))
		if meta, err := d.msg.Metadata(); err == nil {
			e = e.Uint64("seq", meta.Sequence.Stream)
		}
		e.Msg("a message that cannot be stored was set aside as a dead letter")
	}
	w.settle(buried, func(m jetstream.Msg) error { return m.TermWithReason("it is a dead letter") })
	w.settle(later, func(m jetstream.Msg) error { return m.NakWithDelay(deadDelay(m)) })
	if len(later) > 0 && !errors.Is(lastErr, context.Canceled) {
		w.log.Error().Err(lastErr).Int("events", len(later)).Msg("dead letters could not be stored; their messages will come again")
	}
}

// deadDelay is when a message is given out again whose letter could not be stored.
func deadDelay(m jetstream.Msg) time.Duration {
	delay := deadRetry
	if meta, err := m.Metadata(); err == nil {
		for n := uint64(1); n < meta.NumDelivered && delay < deadRetryMax; n++ {
			delay *= 2
		}
	}
	return min(delay, deadRetryMax)
}
