// Package cachewriter persists every answer that is stored as an event: a durable
// consumer of RUC_EVENTS that writes to the store, in batches, with the time that
// each answer has left. Several may run at once; the versions of answers keep their
// order. An event leaves the consumer once the store has it, or once it is a dead
// letter; while the store is away, all wait in the stream.
package cachewriter

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/store"
	"github.com/rucflow/rucflow/shared/wire"
)

// Store is where the answers go.
type Store interface {
	// Put keeps the entries that are newer than what is held; putting the same
	// again is harmless. store.EntryError reads its error.
	Put(ctx context.Context, entries []store.Entry) error
}

// Deps are the live things that a cachewriter works with. Run owns none of them.
type Deps struct {
	NATS     *nats.Conn
	Store    Store
	Log      zerolog.Logger
	Now      func() time.Time
	Registry *prometheus.Registry
	Ops      net.Listener // nil = no ops listener
	Pprof    bool
	// Provision creates missing streams and consumers; Update also changes those
	// that exist. Source marks whose data the stream holds.
	Provision, Update bool
	Source            string
}

const provisionTimeout = 30 * time.Second

// Run works until ctx ends. It returns nil exactly when it was told to stop.
func Run(ctx context.Context, cfg Config, deps Deps) error {
	js, err := jetstream.New(deps.NATS)
	if err != nil {
		return fmt.Errorf("cachewriter.Run: %w", err)
	}
	w, err := open(ctx, js, cfg, deps)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("cachewriter.Run: %w", err)
	}
	told := ctx
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var wg sync.WaitGroup
	wg.Go(func() { w.watch(ctx) })
	if deps.Provision {
		wg.Go(func() {
			service.Reprovision(ctx, deps.NATS, deps.Log, func(ctx context.Context) error { return provision(ctx, js, cfg, deps) })
		})
	}
	wg.Go(func() {
		err := service.ServeOps(ctx, deps.Ops, service.Ops{
			Registry: deps.Registry, Live: func() error { return nil }, Ready: service.NATSReady(deps.NATS), Pprof: deps.Pprof,
		})
		if err != nil {
			stop(fmt.Errorf("cachewriter.Run: %w", err))
		}
	})
	deps.Log.Info().Str("ops", service.Addr(deps.Ops)).Msg("cachewriter serves")
	w.run(ctx)
	wg.Wait()
	if told.Err() == nil {
		return context.Cause(ctx)
	}
	_ = deps.NATS.FlushTimeout(time.Second) // without a server there is nobody to flush to
	return nil
}

func open(ctx context.Context, js jetstream.JetStream, cfg Config, deps Deps) (*writer, error) {
	ctx, cancel := context.WithTimeout(ctx, provisionTimeout)
	defer cancel()
	if err := wire.AwaitServer(ctx, deps.NATS); err != nil {
		return nil, err
	}
	if deps.Provision {
		if err := provision(ctx, js, cfg, deps); err != nil {
			return nil, err
		}
	}
	consumer, err := js.Consumer(ctx, wire.StreamEvents, wire.ConsumerCachewriter)
	if err != nil {
		return nil, fmt.Errorf("%s/%s: %w", wire.StreamEvents, wire.ConsumerCachewriter, err)
	}
	if err := wire.CheckSource(consumer.CachedInfo(), deps.Source); err != nil {
		return nil, err // at start it is a mistake to be told; later it may pass
	}
	m, err := newMetrics(deps.Registry)
	if err != nil {
		return nil, err
	}
	if err := service.ObserveNATS(deps.Registry, "cachewriter", deps.NATS); err != nil {
		return nil, err
	}
	return &writer{
		nc: deps.NATS, js: js, consumer: consumer, source: deps.Source, store: deps.Store,
		policy: cfg.Policy(), now: deps.Now, clock: wire.NewClock(deps.Now), metrics: m, log: deps.Log,
	}, nil
}

func provision(ctx context.Context, js jetstream.JetStream, cfg Config, deps Deps) error {
	p := wire.Provisioner{JS: js, Source: deps.Source, Update: deps.Update, Warn: service.WarnOfDifference(deps.Log)}
	if err := p.Events(ctx, cfg.EventsMaxAge); err != nil {
		return err
	}
	if err := p.Cachewriter(ctx); err != nil {
		return err
	}
	return p.Dead(ctx)
}
