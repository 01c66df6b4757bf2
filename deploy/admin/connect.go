package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/service"
)

// The users that commands are for, where NATS has users. They name the inbox.
const (
	operatorRole = "admin"
	clientRole   = "client"
)

// asClient names the inbox of programs that are no service of ours.
var asClient = nats.CustomInboxPrefix(strings.TrimSuffix(nats.InboxPrefix, "."))

// connect connects at once or not at all, for who waits for a command wants to be told
// that nobody answers. The context that it returns ends with the connection, and with what the
// server refuses, which would show as a reply that does not come; because tells it.
func connect(ctx context.Context, cfg service.NATSConfig, role string, extra ...nats.Option) (context.Context, *nats.Conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	refused := func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrPermissionViolation) {
			cancel(notAllowed(cfg, role, err))
		}
	}
	closed := func(*nats.Conn) { cancel(nil) }
	nc, err := cfg.Connect(role, zerolog.Nop(), append([]nats.Option{
		nats.RetryOnFailedConnect(false), nats.ErrorHandler(refused), nats.ClosedHandler(closed),
	}, extra...)...)
	if err != nil {
		cancel(err)
		return nil, nil, err
	}
	return ctx, nc, nil
}

func notAllowed(cfg service.NATSConfig, role string, err error) error {
	if cfg.User == "" || cfg.User == role {
		return fmt.Errorf("the NATS server refuses it: %w", err)
	}
	return fmt.Errorf("the NATS server refuses it to the user %s; the user for this is %s: %w", cfg.User, role, err)
}

// because returns what ended ctx, where it is why err came.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

// plain is text that somebody else wrote, fit for a terminal: on one line and without
// control characters.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, text)
}

// printJSON prints v as one line that reads as what is in it was written.
func printJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
