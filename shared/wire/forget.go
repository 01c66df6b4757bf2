package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/shared/ruc"
)

const (
	// settleTimeout bounds the wait for cachewriters to be done with what they had in
	// hand when the stream was purged: milliseconds, unless their store is away.
	settleTimeout = 5 * time.Second
	settlePoll    = 20 * time.Millisecond
)

// ErrUnsettled says that a cachewriter may still store an answer that was purged.
var ErrUnsettled = errors.New("the cachewriter has not finished what it had in hand")

// Forget removes n from every stream: its answers, failures and changes, its waiting
// job and the dead letters that name it. It returns once no cachewriter has an answer
// from before in hand; what is stored in caches is the caller's to delete, afterwards.
// A visit in flight stores its answer anew. Errors: ErrUnsettled; a stream that cannot
// be reached, or may not be by this user, ends with ctx.
func Forget(ctx context.Context, js jetstream.JetStream, n ruc.Number) error {
	for _, one := range []struct{ stream, subject string }{
		{StreamVisits, VisitSubject(n)}, // first, so that no slot takes it meanwhile
		{StreamEvents, eventSubjects(n)},
	} {
		s, err := js.Stream(ctx, one.stream)
		if err == nil {
			err = s.Purge(ctx, jetstream.WithPurgeSubject(one.subject))
		}
		if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("wire.Forget: %s: %w", one.stream, err)
		}
	}
	if err := forgetLetters(ctx, js, n); err != nil {
		return fmt.Errorf("wire.Forget: %s: %w", StreamDead, err)
	}
	if err := settled(ctx, js); err != nil {
		return err
	}
	// Again, for a change that a cachewriter had in hand holds two answers from before.
	s, err := js.Stream(ctx, StreamEvents)
	if err == nil {
		err = s.Purge(ctx, jetstream.WithPurgeSubject(ChangedSubject(n)))
	}
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("wire.Forget: %s: %w", StreamEvents, err)
	}
	return nil
}

// forgetLetters reads every dead letter, for which number one is about stands in its
// text alone.
func forgetLetters(ctx context.Context, js jetstream.JetStream, n ruc.Number) error {
	s, err := js.Stream(ctx, StreamDead)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil // made by the first cachewriter
	}
	if err != nil {
		return err
	}
	name := n.AppendTo(nil)
	for seq := uint64(1); ; seq++ {
		m, err := s.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(deadPrefix+"*"))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if seq = m.Sequence; !bytes.Contains(m.Data, name) && !names(m.Header, name) {
			continue
		}
		if err := s.SecureDeleteMsg(ctx, seq); err != nil {
			return err
		}
	}
}

func names(h nats.Header, number []byte) bool {
	for _, values := range h {
		for _, value := range values {
			if bytes.Contains([]byte(value), number) {
				return true
			}
		}
	}
	return false
}

// settled waits until everything that was given to cachewriters by now is acknowledged.
func settled(ctx context.Context, js jetstream.JetStream) error {
	c, err := js.Consumer(ctx, StreamEvents, ConsumerCachewriter)
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("wire.Forget: %w", err)
	}
	given := c.CachedInfo().Delivered.Stream
	deadline := time.NewTimer(settleTimeout)
	defer deadline.Stop()
	poll := time.NewTicker(settlePoll)
	defer poll.Stop()
	for info := c.CachedInfo(); info.NumAckPending > 0 && info.AckFloor.Stream < given; {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wire.Forget: %w", ctx.Err())
		case <-deadline.C:
			return fmt.Errorf("wire.Forget: %w", ErrUnsettled)
		case <-poll.C:
		}
		if info, err = c.Info(ctx); err != nil {
			return fmt.Errorf("wire.Forget: %w", err)
		}
	}
	return nil
}
