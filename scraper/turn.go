package scraper

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/wire"
)

const (
	// fetchWait and fetchHeartbeat: a pull that was outstanding when the server
	// died is lost and Fetch does not notice; a short heartbeat finds it within a
	// second, where the wait alone left the slot deaf for its whole length.
	fetchWait      = 5 * time.Second
	fetchHeartbeat = 500 * time.Millisecond
	// fetchRetry is the pause after a pull that failed.
	fetchRetry = 200 * time.Millisecond
	// turnHeartbeat is how often the holder of the turn says that it lives; the turn's
	// AckWait is a second at least.
	turnHeartbeat = 250 * time.Millisecond
)

// fetchOne pulls one message; nil when none came within fetchWait. It never
// fetches ahead: a message in a buffer would hold a place of MaxAckPending.
func fetchOne(ctx context.Context, c jetstream.Consumer) (jetstream.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchWait)
	defer cancel()
	batch, err := c.Fetch(1, jetstream.FetchContext(ctx), jetstream.FetchHeartbeat(fetchHeartbeat))
	if err != nil {
		return nil, err
	}
	for m := range batch.Messages() {
		return m, nil
	}
	if err := batch.Error(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return nil, err
	}
	return nil, nil
}

// turns hands out the right to send a POST to SUNAT. The one message of RUC_TURN
// is that right; whoever takes it gives it back with a delay of one pace, timed by
// the server, so the pace holds for the fleet whatever the number of scrapers.
type turns struct {
	consumer  jetstream.Consumer // nil when the pace is off
	pace      time.Duration
	now       func() time.Time
	reconnect atomic.Int64 // when the connection came back last, Unix nanoseconds
	log       zerolog.Logger
}

// reconnected notes that the connection was away. A server killed within some
// 100 ms of giving the turn may forget that it did, so nobody takes a turn for one
// pace after a reconnect.
func (t *turns) reconnected() { t.reconnect.Store(t.now().UnixNano()) }

// take waits for the turn. give returns it and must be called when the POST has
// left, or will not leave.
func (t *turns) take(ctx context.Context) (give func(), err error) {
	if t.consumer == nil {
		return func() {}, nil
	}
	for {
		if at := t.reconnect.Load(); at != 0 {
			if err := sleep(ctx, time.Unix(0, at).Add(t.pace).Sub(t.now())); err != nil {
				return nil, err
			}
		}
		m, err := fetchOne(ctx, t.consumer)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			t.log.Warn().Err(err).Msg("the turn could not be fetched")
			if err := sleep(ctx, fetchRetry); err != nil {
				return nil, err
			}
			continue
		case m == nil:
			continue
		}
		release := t.hold(m)
		return func() {
			release()
			if err := m.NakWithDelay(t.pace); err != nil {
				// It comes back by itself after the consumer's AckWait.
				t.log.Warn().Err(err).Msg("the turn could not be given back")
			}
		}, nil
	}
}

// hold keeps the turn until release: on a busy machine more than the consumer's AckWait
// may pass before the POST leaves, and another slot would get the turn meanwhile. At a
// load of 40 on two cores two POSTs came 0 ms apart so.
func (t *turns) hold(m jetstream.Msg) (release func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(turnHeartbeat)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				_ = m.InProgress() // without NATS it is lost, as it would be with this process
			}
		}
	})
	return sync.OnceFunc(func() { close(done); wg.Wait() })
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// openTurns reads the fleet's pace from its consumer. A process set otherwise
// follows the fleet and says so.
func openTurns(ctx context.Context, js jetstream.JetStream, own time.Duration, now func() time.Time, log zerolog.Logger) (*turns, error) {
	c, err := js.Consumer(ctx, wire.StreamTurn, wire.ConsumerTurn)
	if err != nil {
		return nil, fmt.Errorf("scraper.openTurns: %w", err)
	}
	t := &turns{pace: wire.Pace(c.CachedInfo()), now: now, log: log}
	if t.pace > 0 {
		t.consumer = c
	}
	if t.pace != own {
		log.Warn().Dur("own", own).Dur("fleet", t.pace).Msg("the fleet's pace differs from SUNAT_PACE and counts")
	}
	return t, nil
}
