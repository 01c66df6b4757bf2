// Package audit writes every event of RUC_EVENTS down: a line of JSON for each, in the
// order of the stream, with its sequence, into files or to standard output.
//
// It has no consumer of its own. The last line of its files says how far it is, and from
// there it reads the stream by direct gets: two records of one thing, a consumer's and the
// files', could disagree after a kill, and then events would be missing or come twice. What
// is heard on the bus only wakes it.
package audit

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/service"
)

// Deps are the live things that an audit works with. Run owns none of them.
type Deps struct {
	NATS     *nats.Conn
	Log      zerolog.Logger
	Now      func() time.Time
	Out      io.Writer // where lines go without AUDIT_DIR
	Registry *prometheus.Registry
	Ops      net.Listener // nil = no ops listener
	Pprof    bool
}

const (
	// lookEvery is when the stream is looked at though nothing was heard.
	lookEvery = 5 * time.Second
	// askTimeout is how long the stream's end is asked for.
	askTimeout = 5 * time.Second
	// After a failure it is tried again, at first after retryMin.
	retryMin, retryMax = 250 * time.Millisecond, 30 * time.Second
	expireEvery        = time.Hour
)

// Run writes until ctx ends. It returns nil exactly when it was told to stop.
func Run(ctx context.Context, cfg Config, deps Deps) error {
	m, err := newMetrics(deps.Registry)
	if err != nil {
		return fmt.Errorf("audit.Run: %w", err)
	}
	if err := service.ObserveNATS(deps.Registry, "audit", deps.NATS); err != nil {
		return fmt.Errorf("audit.Run: %w", err)
	}
	a := &auditor{nc: deps.NATS, now: deps.Now, metrics: m, log: deps.Log}
	if cfg.Dir != "" {
		j, err := openJournal(cfg.Dir, int64(cfg.FileBytes), cfg.Keep)
		if err != nil {
			return err
		}
		a.sink, a.journal = j, j
	} else {
		p, err := openPrinter(deps.Out, cfg.Position)
		if err != nil {
			return err
		}
		a.sink, a.fromNow = p, cfg.Position == ""
	}
	told := ctx
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		err := service.ServeOps(ctx, deps.Ops, service.Ops{
			Registry: deps.Registry, Live: func() error { return nil }, Ready: service.NATSReady(deps.NATS), Pprof: deps.Pprof,
		})
		if err != nil {
			stop(fmt.Errorf("audit.Run: %w", err))
		}
	})
	deps.Log.Info().Str("ops", service.Addr(deps.Ops)).Str("dir", cfg.Dir).Uint64("after", a.sink.position().Seq).Msg("audit serves")
	err = a.run(ctx)
	stop(err)
	wg.Wait()
	if closeErr := a.sink.close(); closeErr != nil && err == nil {
		err = fmt.Errorf("audit.Run: %w", closeErr)
	}
	if err == nil && told.Err() == nil {
		return context.Cause(ctx)
	}
	return err
}
