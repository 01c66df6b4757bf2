package service

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
)

const (
	reprovisionTimeout = 10 * time.Second
	reprovisionPause   = time.Second
)

// OnReconnect calls f whenever the connection has come back, until ctx ends.
func OnReconnect(ctx context.Context, nc *nats.Conn, f func()) {
	back := nc.StatusChanged(nats.CONNECTED)
	defer nc.RemoveStatusListener(back)
	for {
		select {
		case <-ctx.Done():
			return
		case _, open := <-back:
			if !open {
				return
			}
			f()
		}
	}
}

// Reprovision calls provision after every reconnect, until it succeeds: a server that has
// lost its storage comes back without streams. It returns when ctx ends.
func Reprovision(ctx context.Context, nc *nats.Conn, log zerolog.Logger, provision func(context.Context) error) {
	OnReconnect(ctx, nc, func() {
		for ctx.Err() == nil && nc.IsConnected() { // at the next reconnect it begins anew
			step, cancel := context.WithTimeout(ctx, reprovisionTimeout)
			err := provision(step)
			cancel()
			if err == nil {
				return
			}
			log.Warn().Err(err).Msg("the streams could not be looked after yet")
			select {
			case <-ctx.Done():
			case <-time.After(reprovisionPause):
			}
		}
	})
}

// WarnOfDifference logs what on the NATS server is not as this process would have made it.
func WarnOfDifference(log zerolog.Logger) func(what, field, want, found string) {
	return func(what, field, want, found string) {
		log.Warn().Str("what", what).Str("field", field).Str("own", want).Str("found", found).
			Msg("a stream differs from this process's settings and was left as it is")
	}
}
