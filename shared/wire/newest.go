package wire

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/rucflow/rucflow/shared/ruc"
)

// The status of a direct get that found no message.
const statusNoMessage = "404"

// NewestAnswer returns the newest stored answer of n; ok is false where there is
// none. It asks the stream directly (0.1 ms) and needs no right but
// $JS.API.DIRECT.GET.RUC_EVENTS.ruc.resolved.*.
func NewestAnswer(ctx context.Context, nc *nats.Conn, n ruc.Number) (e Event, ok bool, err error) {
	return newest(ctx, nc, ResolvedSubject(n))
}

// Newest returns the newest stored event of n, answer or failure.
func Newest(ctx context.Context, nc *nats.Conn, n ruc.Number) (e Event, ok bool, err error) {
	answer, okAnswer, err := newest(ctx, nc, ResolvedSubject(n))
	if err != nil {
		return Event{}, false, err
	}
	failure, okFailure, err := newest(ctx, nc, FailedSubject(n))
	if err != nil {
		return Event{}, false, err
	}
	if okFailure && (!okAnswer || failure.Seq > answer.Seq) {
		return failure, true, nil
	}
	return answer, okAnswer, nil
}

func newest(ctx context.Context, nc *nats.Conn, subject string) (Event, bool, error) {
	m, err := nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+StreamEvents+"."+subject, nil)
	if err != nil {
		return Event{}, false, fmt.Errorf("wire.Newest: %w", err)
	}
	switch status := m.Header.Get(headerStatus); status {
	case "":
	case statusNoMessage:
		return Event{}, false, nil
	default:
		return Event{}, false, fmt.Errorf("wire.Newest: status %s %s", status, m.Header.Get("Description"))
	}
	e, err := ParseEvent(m)
	if errors.Is(err, ErrBadEvent) {
		// Somebody else's message under our subject says nothing about n.
		return Event{}, false, nil
	}
	return e, err == nil, err
}
