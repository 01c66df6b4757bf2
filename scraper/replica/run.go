package replica

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/rs/zerolog"
)

const (
	readTimeout = 10 * time.Second // of a request, head and body
	idleTimeout = 2 * time.Minute  // of a connection between requests
	// stopTimeout bounds the shutdown; held responses are broken off before it.
	stopTimeout = 5 * time.Second
)

// Deps are the live things that Run needs.
type Deps struct {
	Listener net.Listener // taken over: closed when Run returns
	Log      zerolog.Logger
	Now      func() time.Time // nil is the machine's clock
}

// Run serves the site until ctx ends, then breaks off what hangs, lets the rest
// finish within five seconds, and returns nil. It leaves no goroutine behind.
func Run(ctx context.Context, cfg Config, deps Deps) error {
	if deps.Now == nil {
		deps.Now = time.Now
	}
	site := New(cfg, deps.Now)
	defer site.Close()
	server := &http.Server{
		Handler:           site,
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          log.New(deps.Log, "", 0),
	}
	deps.Log.Info().Str("url", "http://"+deps.Listener.Addr().String()+FormPath).Msg("replica serving")

	served := make(chan error, 1)
	go func() { served <- server.Serve(deps.Listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("replica.Run: serve: %w", err)
	case <-ctx.Done():
	}

	site.Close()
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := server.Shutdown(stopping); err != nil {
		deps.Log.Warn().Err(err).Msg("replica cut off clients that did not finish")
		_ = server.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("replica.Run: serve: %w", err)
	}
	deps.Log.Info().Msg("replica stopped")
	return nil
}
