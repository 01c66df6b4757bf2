package wire

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	reprovisionTimeout = 10 * time.Second
	reprovisionPause   = time.Second
)

// Reprovision calls provision after every reconnect, until it succeeds: a server that has
// lost its storage comes back without streams. It returns when ctx ends. failed hears of
// each try that failed.
func Reprovision(ctx context.Context, nc *nats.Conn, provision func(context.Context) error, failed func(error)) {
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
		}
		for ctx.Err() == nil && nc.IsConnected() { // at the next reconnect it begins anew
			step, cancel := context.WithTimeout(ctx, reprovisionTimeout)
			err := provision(step)
			cancel()
			if err == nil {
				break
			}
			failed(err)
			select {
			case <-ctx.Done():
			case <-time.After(reprovisionPause):
			}
		}
	}
}
