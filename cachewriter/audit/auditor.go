package audit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/wire"
)

// sink takes the lines.
type sink interface {
	position() position
	write(lines []byte, first, last position) error
	recover() error // after a failed write: position is right again
	close() error
}

// auditor brings every event from the stream to a sink.
type auditor struct {
	nc      *nats.Conn
	sink    sink
	journal *journal // the sink, where it is one: old files are removed
	fromNow bool     // of a sink that is empty: begin at the stream's end
	now     func() time.Time
	metrics *metrics
	log     zerolog.Logger

	next uint64 // sequence of the event to write next; 0 = not known
}

// run writes until ctx ends.
func (a *auditor) run(ctx context.Context) error {
	news := make(chan struct{}, 1)
	wake := func(*nats.Msg) {
		select {
		case news <- struct{}{}:
		default: // it will look anyway
		}
	}
	for _, subject := range []string{wire.SubjectResolved, wire.SubjectFailed, wire.SubjectChanged} {
		s, err := a.nc.Subscribe(subject, wake)
		if err != nil {
			return fmt.Errorf("audit.run: %w", err)
		}
		defer func() { _ = s.Unsubscribe() }() // fails only on a closed connection
	}
	again := backoff.NewExponentialBackOff()
	again.InitialInterval, again.MaxInterval = retryMin, retryMax
	expire := time.NewTicker(expireEvery)
	defer expire.Stop()
	a.expire()
	for {
		wait := lookEvery
		if err := a.write(ctx); err == nil {
			again.Reset()
		} else if ctx.Err() == nil {
			wait = again.NextBackOff()
			a.metrics.failures.Inc()
			a.log.Warn().Err(err).Dur("retry", wait).Msg("the audit waits and tries again; the events wait in the stream")
			select { // what is heard meanwhile does not make it hurry
			case <-time.After(wait):
				continue
			case <-ctx.Done():
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-news:
		case <-time.After(wait):
		case <-expire.C:
			a.expire()
		}
	}
}

func (a *auditor) expire() {
	if a.journal == nil {
		return
	}
	removed, err := a.journal.expire(a.now())
	for _, name := range removed {
		a.log.Info().Str("file", name).Msg("a file older than AUDIT_KEEP was removed")
	}
	if err != nil {
		a.log.Warn().Err(err).Msg("old files cannot be removed")
	}
}

// write brings what the stream has to the sink.
func (a *auditor) write(ctx context.Context) error {
	if !a.nc.IsConnected() {
		a.next = 0 // it may be another stream afterwards
		return wire.ErrNotConnected
	}
	last, err := a.locate(ctx)
	if err != nil {
		return err
	}
	if a.next == 0 || last.Seq < a.next {
		a.metrics.lag.Set(0)
		return nil
	}
	a.metrics.lag.Set(float64(last.Seq - a.next + 1))
	err = wire.ReadEvents(ctx, a.nc, a.next, func(page []*nats.Msg) error { return a.page(page, last.Seq) })
	if err != nil {
		return fmt.Errorf("audit.write: %w", err)
	}
	return nil
}

// page writes some events.
func (a *auditor) page(page []*nats.Msg, newest uint64) error {
	var lines []byte
	next, missing := a.next, uint64(0)
	for _, m := range page {
		seq := wire.PlaceOf(m).Seq
		if seq > next && next > 1 {
			missing += seq - next
			a.log.Info().Uint64("from", next).Uint64("to", seq-1).Msg("these events are no longer in the stream: they expired, or their number was forgotten")
		}
		lines = append(lines, encode(m)...)
		next = seq + 1
	}
	if err := a.sink.write(lines, placeOf(page[0]), placeOf(page[len(page)-1])); err != nil {
		a.next = 0
		return errors.Join(err, a.sink.recover())
	}
	a.next = next
	a.metrics.written.Add(float64(len(page)))
	a.metrics.missing.Add(float64(missing))
	a.metrics.lag.Set(float64(max(newest, next-1) - (next - 1)))
	return nil
}

func placeOf(m *nats.Msg) position {
	at := wire.PlaceOf(m)
	return position{at.Seq, at.Stored}
}

// locate says where to go on, a.next, and where the stream ends. It is 0 while the stream does
// not have what was written already.
func (a *auditor) locate(ctx context.Context) (last wire.Place, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if last, err = wire.LastEvent(ctx, a.nc); err != nil {
		return last, fmt.Errorf("audit.locate: %w", err)
	}
	at := a.sink.position()
	anew := last.Seq < at.Seq && last.Stored.After(at.Stored)
	if a.next == 0 && at.Seq > 0 && !anew {
		there, ok, err := wire.EventAt(ctx, a.nc, at.Seq)
		if err != nil {
			return last, fmt.Errorf("audit.locate: %w", err)
		}
		anew = ok && !there.Stored.Equal(at.Stored)
	}
	switch {
	case anew:
		a.log.Warn().Uint64("seq", at.Seq).Msg("the stream was made anew since this event; all that it holds is written")
		a.next = 1
	case last.Seq < at.Seq: // emptied, and perhaps about to be another; or a replica lags
		a.next = 0
	case a.next > 0:
	case at.Seq == 0 && a.fromNow:
		a.next = last.Seq + 1
	default:
		a.next = at.Seq + 1
	}
	return last, nil
}
