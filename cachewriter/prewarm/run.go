// Package prewarm fills the cache before anybody asks: it looks the numbers of a list up,
// once or for as long as it runs, and lets everybody else go first. It is a client of the
// gateways like any other, and writes nothing itself.
//
// It is polite in three ways. A number whose answer is held costs no visit (Cache-Control:
// only-if-cached). Before it asks for one that is not, the queue of visits must have been
// idle for twice the median visit. And it waits for the answer before it goes on, so of its
// own jobs there is one at most: who asks meanwhile waits for the rest of one visit.
package prewarm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/wire"
)

// Deps are the live things that a prewarm works with. Run owns none of them.
type Deps struct {
	NATS *nats.Conn
	Log  zerolog.Logger
	Now  func() time.Time

	// For a list that is fetched once.
	In       io.Reader // read where the list is "-"
	Out      io.Writer // the summary
	Err      io.Writer // invalid lines, failures, progress
	Terminal bool      // Err is one

	// For a list that is watched.
	Registry *prometheus.Registry
	Ops      net.Listener // nil = no ops listener
	Pprof    bool
}

const openTimeout = 30 * time.Second

// Run works until the list is done, with -watch until ctx ends. It returns nil when it was
// told to stop, and when every line of the list was a number that has its answer now.
func Run(ctx context.Context, cfg Config, deps Deps) error {
	if (cfg.File == "") == (cfg.Watch == "") {
		return fmt.Errorf("prewarm.Run: give either -file or -watch, with a list; %w", service.ErrUsage)
	}
	if cfg.Watch != "" {
		return watch(ctx, cfg, deps)
	}
	return fill(ctx, cfg, deps)
}

func fill(ctx context.Context, cfg Config, deps Deps) error {
	l, err := readFile(cfg.File, cfg.Column, deps.In)
	if err != nil {
		return fmt.Errorf("prewarm.Run: %w", err)
	}
	for _, b := range l.invalid {
		fmt.Fprintln(deps.Err, b)
	}
	a, err := open(ctx, cfg, deps)
	if err != nil {
		return stopped(ctx, err)
	}
	d := newDisplay(deps.Err, deps.Terminal, len(l.numbers))
	a.notice = d.say
	f := &filler{asker: a, maxAge: cfg.CacheTTL, out: deps.Out, display: d, begun: deps.Now()}
	return f.fill(ctx, l)
}

func watch(ctx context.Context, cfg Config, deps Deps) error {
	m, err := newMetrics(deps.Registry)
	if err != nil {
		return fmt.Errorf("prewarm.Run: %w", err)
	}
	if err := service.ObserveNATS(deps.Registry, "prewarm", deps.NATS); err != nil {
		return fmt.Errorf("prewarm.Run: %w", err)
	}
	w := &watcher{path: cfg.Watch, column: cfg.Column, policy: cfg.Policy(), refreshAt: cfg.RefreshAt, metrics: m, log: deps.Log}
	told := ctx
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	if w.asker, err = open(ctx, cfg, deps); err != nil {
		return stopped(ctx, err)
	}
	if err := w.reload(); err != nil {
		return fmt.Errorf("prewarm.Run: %w", err)
	}
	w.notice = func(text string) { deps.Log.Info().Msg(text) }
	var wg sync.WaitGroup
	wg.Go(func() {
		err := service.ServeOps(ctx, deps.Ops, service.Ops{
			Registry: deps.Registry, Live: func() error { return nil }, Ready: service.NATSReady(deps.NATS), Pprof: deps.Pprof,
		})
		if err != nil {
			stop(fmt.Errorf("prewarm.Run: %w", err))
		}
	})
	deps.Log.Info().Str("ops", service.Addr(deps.Ops)).Msg("prewarm serves")
	w.run(ctx)
	wg.Wait()
	if told.Err() == nil {
		return context.Cause(ctx)
	}
	return nil
}

// stopped is nil where err came because ctx ended.
func stopped(ctx context.Context, err error) error {
	select {
	case <-ctx.Done():
		return nil
	default:
		return fmt.Errorf("prewarm.Run: %w", err)
	}
}

func open(ctx context.Context, cfg Config, deps Deps) (*asker, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if err := wire.AwaitServer(ctx, deps.NATS); err != nil {
		return nil, err
	}
	js, err := jetstream.New(deps.NATS)
	if err != nil {
		return nil, err
	}
	slots, err := js.Consumer(ctx, wire.StreamVisits, wire.ConsumerSlots)
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("%s/%s: %w: start a scraper, or `rucflow provision`", wire.StreamVisits, wire.ConsumerSlots, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s/%s: %w", wire.StreamVisits, wire.ConsumerSlots, err)
	}
	return &asker{
		nc: deps.NATS, hours: cfg.Hours, wait: cfg.Wait, now: deps.Now,
		queue: &queue{
			slots: slots, min: cfg.IdleMin, max: cfg.IdleMax, now: deps.Now, log: deps.Log,
			saying: &rate.Sometimes{First: 1, Interval: time.Minute},
		},
	}, nil
}
