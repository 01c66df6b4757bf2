package prewarm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rucflow/rucflow/shared/client"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/wire"
)

const (
	// maxTries is how often a number is asked for that fails in a way that may pass.
	maxTries = 5
	// maxPause bounds what a refusal says of when to ask again: the fleet rests no longer.
	maxPause = wire.MaxPause
	// hoursLook is how often the time of day is looked at.
	hoursLook = time.Second
	// onlyHeld asks for what costs no visit.
	onlyHeld = "only-if-cached"
)

// minPause is the shortest time between two tries; tests have less.
var minPause = time.Second

// asker asks for one number at a time.
type asker struct {
	nc     *nats.Conn
	queue  *queue
	hours  Hours
	wait   time.Duration
	now    func() time.Time
	notice func(text string) // told what is waited for, once while it stays the same
	said   string
}

// held returns the answer of n that is held and fresh, if there is one. Its error is
// ctx's, or a *ruc.Error that further tries would not change.
func (a *asker) held(ctx context.Context, n ruc.Number) (r wire.Reply, ok bool, err error) {
	r, err = a.ask(ctx, n, onlyHeld, func(context.Context) error { return nil })
	if ruc.CodeOf(err) == ruc.NotHeld {
		return wire.Reply{}, false, nil
	}
	return r, err == nil, err
}

// fetch returns an answer of n no older than maxAge, by a visit when no other way; before
// it asks, it lets everybody else go first. Errors are those of held.
func (a *asker) fetch(ctx context.Context, n ruc.Number, maxAge time.Duration) (wire.Reply, error) {
	// With a bound for the age, an answer that is no longer fresh does not stand in for a
	// visit that cannot be had.
	return a.ask(ctx, n, fmt.Sprintf("max-age=%d", int(maxAge.Seconds())), a.turn)
}

// turn returns nil when a visit may be asked for: within the hours, and while nobody else
// has wanted one for a while.
func (a *asker) turn(ctx context.Context) error {
	for {
		for left := a.hours.left(a.now()); left > 0; left = a.hours.left(a.now()) {
			a.tell(fmt.Sprintf("waits for %d:00 in Lima", a.hours.from))
			if err := sleep(ctx, min(left, hoursLook)); err != nil {
				return err
			}
		}
		if err := a.queue.awaitIdle(ctx); err != nil {
			return err
		}
		if a.hours.left(a.now()) == 0 { // they may have ended meanwhile
			return nil
		}
	}
}

// ask makes a lookup after before, and again while there is hope: without end where the
// number has no part in the failure (no NATS, no gateway, the fleet's pause), else
// maxTries times.
func (a *asker) ask(ctx context.Context, n ruc.Number, cacheControl string, before func(context.Context) error) (wire.Reply, error) {
	defer func() { a.said = "" }()
	for tries := 0; ; {
		if err := before(ctx); err != nil {
			return wire.Reply{}, err
		}
		if !a.nc.IsConnected() { // a request would wait in a buffer
			a.tell("waits for NATS")
			if err := sleep(ctx, minPause); err != nil {
				return wire.Reply{}, err
			}
			continue
		}
		asked := a.now()
		r, err := a.lookup(ctx, n, cacheControl)
		if err == nil && cacheControl != onlyHeld {
			a.queue.visited(a.now().Sub(asked))
		}
		if err == nil || ctx.Err() != nil {
			return r, ctx.Err()
		}
		code := ruc.CodeOf(err)
		switch {
		case errors.Is(err, context.Canceled): // by lookup: it is not the number's fault
		case errors.Is(err, nats.ErrNoResponders):
			a.tell("waits for a gateway")
		case code == ruc.Blocked:
			a.tell("waits while SUNAT refuses all visits")
		case code.Retryable() && code != ruc.Changed: // which the fleet has tried twice
			if tries++; tries == maxTries {
				return wire.Reply{}, err
			}
			a.tell(fmt.Sprintf("tries again (%s)", code))
		default:
			return wire.Reply{}, err
		}
		if err := sleep(ctx, pause(err)); err != nil {
			return wire.Reply{}, err
		}
	}
}

// pause is the time until the next try.
func pause(err error) time.Duration {
	var e *ruc.Error
	if !errors.As(err, &e) {
		return minPause
	}
	return min(max(e.RetryAfter, minPause), maxPause)
}

// lookup is client.Lookup, cut short when the connection is lost, with which the reply is.
func (a *asker) lookup(ctx context.Context, n ruc.Number, cacheControl string) (wire.Reply, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lost := a.nc.StatusChanged(nats.RECONNECTING)
	defer a.nc.RemoveStatusListener(lost)
	defer service.Background(ctx, func(ctx context.Context) {
		select {
		case <-ctx.Done():
		case <-lost:
			cancel()
		}
	})()
	return client.Lookup(ctx, a.nc, n, client.Request{Wait: a.wait, CacheControl: cacheControl})
}

// tell gives a notice that is news.
func (a *asker) tell(text string) {
	if text != a.said {
		a.said = text
		a.notice(text)
	}
}
