// Package gateway answers lookups: over HTTP, and over NATS on ruc.lookup. It
// serves from memory or the store and asks the scrapers for the rest, one request
// per number however many callers wait.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/gateway/web"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/wire"
)

// Store is the cache behind the gateway's memory.
type Store interface {
	Kind() string // redis, file, memory
	// Get returns within a budget of its own; see package store.
	Get(ctx context.Context, n ruc.Number) (value []byte, ok bool, err error)
	Delete(ctx context.Context, n ruc.Number) error
	DeletePattern(ctx context.Context, pattern ruc.Pattern, dryRun bool) (n int, err error)
}

// Deps are the live things that a gateway works with. Run closes the listeners
// and owns nothing else.
type Deps struct {
	NATS            *nats.Conn
	Store           Store
	HTTP            net.Listener
	Ops             net.Listener // nil = no ops listener
	Log             zerolog.Logger
	Now             func() time.Time
	Registry        *prometheus.Registry
	Pprof           bool
	ShutdownTimeout time.Duration
}

const (
	// writeMargin is what a response may take beyond REQUEST_TIMEOUT.
	writeMargin = 10 * time.Second
	// maxLookups bounds the requests on ruc.lookup being served at one time.
	maxLookups = 4096
	// refusedLines bounds the log of refused requests, per second.
	refusedLines = 100
)

// Run serves until ctx ends, then lets the requests in hand end within
// ShutdownTimeout. It returns nil exactly when it was told to stop.
func Run(ctx context.Context, cfg Config, deps Deps) error {
	m, err := newMetrics(deps.Registry, deps.Store.Kind())
	if err != nil {
		return fmt.Errorf("gateway.Run: %w", err)
	}
	memory, err := newL1(int64(cfg.MemoryBytes), cfg.L1TTL)
	if err != nil {
		return err
	}
	defer memory.close()
	door, err := newAccess(cfg, deps.Now, m, deps.Log)
	if err != nil {
		return err
	}
	defer door.close()

	work, stopWork := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stopWork(nil)
	clock := wire.NewClock(deps.Now)
	res := &resolver{
		nc: deps.NATS, now: deps.Now, clock: clock, timeout: cfg.RequestTimeout, max: cfg.MaxPending, log: deps.Log,
		ctx: work, keep: memory.put, flights: map[ruc.Number]*flight{},
	}
	refresh := &refresher{
		at: cfg.RefreshAt, wanted: make(chan ruc.Number), resolve: res, timeout: cfg.RequestTimeout, log: deps.Log,
	}
	look := &lookups{
		l1: memory, store: deps.Store, resolve: res, refresh: refresh, nc: deps.NATS, policy: cfg.Policy(),
		timeout: cfg.RequestTimeout, staleAfter: cfg.StaleAfter, now: deps.Now, metrics: m, log: deps.Log, hits: sampledHits(deps.Log),
	}
	res.memory = func(n ruc.Number) (*held, bool) {
		f, ok := look.memory(n, wish{}, deps.Now())
		return f.held, ok
	}
	watchers := newFeed(deps.Now, m)
	events := newTail(deps.NATS, watchers, deps.Log)
	follow := &follower{l1: memory, resolve: res, feed: watchers, tail: events, metrics: m, log: deps.Log}
	stopFollowing, err := follow.listen(deps.NATS)
	if err != nil {
		return err
	}
	defer stopFollowing()
	if deps.NATS.IsConnected() {
		// A gateway that served before the server knows what it listens to would keep what
		// is invalidated meanwhile. Without an answer it serves all the same.
		_ = deps.NATS.FlushTimeout(time.Second)
	}
	js, err := jetstream.New(deps.NATS)
	if err != nil {
		return fmt.Errorf("gateway.Run: %w", err)
	}
	lots := newBatches(work, ctx.Done(), look)
	people := &census{js: js, now: deps.Now}
	pause := wire.NewPauseWatch(deps.NATS, js, clock, func(err error) {
		if err != nil { // a gateway that starts before the first scraper finds no bucket
			deps.Log.Info().Err(err).Msg("the fleet's pause cannot be read; /health does not show it")
			return
		}
		deps.Log.Info().Msg("the fleet's pause can be read again")
	})
	if err := gauges(deps.Registry, memory, res, people, watchers, lots, func() bool { return connected(deps.Store) }); err != nil {
		return fmt.Errorf("gateway.Run: %w", err)
	}
	if err := service.ObserveNATS(deps.Registry, "gateway", deps.NATS); err != nil {
		return fmt.Errorf("gateway.Run: %w", err)
	}
	ready := service.NATSReady(deps.NATS)
	pages, err := web.New(service.Version)
	if err != nil {
		return fmt.Errorf("gateway.Run: %w", err)
	}
	front := &server{
		lookups: look, histories: newHistories(deps.NATS, deps.Log), access: door, ready: ready, pages: pages,
		streams: newStreams(work, deps.NATS, watchers), batches: lots,
		admin: &admin{
			token: cfg.AdminToken, log: deps.Log,
			invalidated: &invalidations{ctx: work, store: deps.Store, nc: deps.NATS, js: js, l1: memory},
		},
		metrics: m, now: deps.Now, log: deps.Log,
		refused: deps.Log.Sample(&zerolog.BurstSampler{Burst: refusedLines, Period: time.Second}),
		health:  func() health { return state(deps, people, m, pause.Current().Left) },
	}
	app := front.app(cfg.RequestTimeout + writeMargin)
	bus := &natsSide{lookups: look, nc: deps.NATS, ctx: work, log: deps.Log, slots: make(chan struct{}, maxLookups)}
	svc, err := bus.serve(follow.gap)
	if err != nil {
		return err
	}

	var wg sync.WaitGroup
	fail := func(err error) {
		if err != nil {
			stopWork(err)
		}
	}
	wg.Go(func() {
		err := app.Listener(lazyListener{deps.HTTP})
		if err == nil && ctx.Err() == nil {
			err = errors.New("the HTTP listener was closed") // which fasthttp takes for an orderly end
		}
		fail(err)
	})
	wg.Go(func() { people.run(work, deps.NATS) })
	wg.Go(func() { refresh.run(work) })
	wg.Go(func() { events.run(work) })
	wg.Go(func() { pause.Run(work) })
	if door.keys != nil {
		wg.Go(func() { door.keys.follow(work) })
	}
	wg.Go(func() { watch(work, deps.NATS, res, follow) })
	wg.Go(func() {
		fail(service.ServeOps(work, deps.Ops, service.Ops{
			Registry: deps.Registry, Live: func() error { return nil }, Ready: ready, Pprof: deps.Pprof,
		}))
	})
	deps.Log.Info().Str("http", service.Addr(deps.HTTP)).Str("ops", service.Addr(deps.Ops)).Str("cache", deps.Store.Kind()).Msg("gateway serves")

	select {
	case <-ctx.Done():
	case <-work.Done():
	}
	cause := context.Cause(work)
	if err := svc.Stop(); err != nil {
		deps.Log.Warn().Err(err).Msg("the NATS service did not stop cleanly")
	}
	var ending sync.WaitGroup
	ending.Go(func() { bus.drain(deps.ShutdownTimeout) })
	ending.Go(watchers.close)
	if err := app.ShutdownWithTimeout(deps.ShutdownTimeout); err != nil {
		deps.Log.Warn().Err(err).Msg("requests in hand were cut off")
	}
	_ = deps.HTTP.Close() // again: a server that was not serving yet has not closed it
	ending.Wait()
	stopWork(nil)
	bus.wg.Wait()
	lots.wg.Wait()
	_ = deps.NATS.FlushTimeout(time.Second) // without a server there is nobody to flush to
	wg.Wait()
	res.wait()
	if ctx.Err() == nil {
		return fmt.Errorf("gateway.Run: %w", cause)
	}
	return nil
}

// remote is a store beyond this process, which can be away.
type remote interface{ Connected() bool }

func connected(s Store) bool {
	r, ok := s.(remote)
	return !ok || r.Connected()
}

func state(deps Deps, people *census, m *metrics, pause time.Duration) health {
	h := health{
		Status: "healthy", Redis: "not configured", NATS: "connected",
		Scrapers: people.scrapers(), Cache: deps.Store.Kind(), SUNAT: "ok",
		HitRate: m.hitRate(), Queue: people.jobs(),
	}
	if pause > 0 {
		h.SUNAT, h.Status = "paused", "degraded"
		h.PauseSeconds = int((pause + time.Second - 1) / time.Second)
	}
	if _, ok := deps.Store.(remote); ok {
		if h.Redis = "connected"; !connected(deps.Store) {
			h.Redis, h.Status = "disconnected", "degraded"
		}
	}
	if !deps.NATS.IsConnected() {
		h.NATS, h.Status = "disconnected", "degraded"
	}
	if h.Scrapers == 0 {
		h.Status = "degraded"
	}
	return h
}

// watch tells the resolver and the L1 of losses of the connection, until ctx ends.
func watch(ctx context.Context, nc *nats.Conn, res *resolver, f *follower) {
	changes := nc.StatusChanged(nats.CONNECTED, nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	defer nc.RemoveStatusListener(changes)
	if !nc.IsConnected() { // being connected is no news, at which flights would ask again
		res.connection(false)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case status, open := <-changes:
			if !open {
				return
			}
			if status == nats.CONNECTED {
				f.gap()
			}
			res.connection(status == nats.CONNECTED)
		}
	}
}

// natsSide answers ruc.lookup.
type natsSide struct {
	lookups *lookups
	nc      *nats.Conn
	ctx     context.Context
	log     zerolog.Logger
	slots   chan struct{}
	wg      sync.WaitGroup
}

// serve registers the micro service. gap is called when messages were lost.
func (s *natsSide) serve(gap func()) (micro.Service, error) {
	svc, err := micro.AddService(s.nc, micro.Config{
		Name:        wire.GatewayService,
		Version:     service.Version,
		Metadata:    service.Build(),
		Description: "looks a RUC up: from the cache, else at SUNAT",
		ErrorHandler: func(_ micro.Service, err *micro.NATSError) {
			s.log.Error().Err(err).Msg("NATS reported an error")
			if errors.Is(err, nats.ErrSlowConsumer) {
				gap()
			}
		},
		Endpoint: &micro.EndpointConfig{
			Subject: wire.SubjectLookup, QueueGroup: wire.GatewayQueue, Handler: wire.Handler(s.handle),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("gateway.serve: %w", err)
	}
	return svc, nil
}

// handle serves one request. micro calls it inside the subscription's callback,
// so what may wait is handed over.
func (s *natsSide) handle(req micro.Request) {
	t := wire.ReadTrace(nats.Header(req.Headers()))
	n, err := wire.ParseRequest(req.Data())
	if err != nil {
		s.refuse(req, n, t, err)
		return
	}
	select {
	case s.slots <- struct{}{}:
	default:
		s.refuse(req, n, t, &ruc.Error{Code: ruc.Overloaded, RetryAfter: pendingRetryAfter})
		return
	}
	req = wire.HandOver(req, s.nc)
	s.wg.Go(func() {
		defer func() { <-s.slots }()
		ctx, cancel := context.WithTimeout(s.ctx, wire.Wait(req.Headers().Get))
		defer cancel()
		f, err := s.lookups.lookup(ctx, n, t, parseWish(req.Headers().Get(wire.HeaderCacheControl)), asker{})
		if err != nil {
			s.refuse(req, n, t, err)
			return
		}
		if err := wire.RespondAnswer(req, f.answer, f.found, f.seq); err != nil {
			s.log.Error().Err(err).Str("ruc", n.Masked()).Msg("a reply could not be sent")
		}
	})
}

func (s *natsSide) refuse(req micro.Request, n ruc.Number, t wire.Trace, err error) {
	p := wire.NewProblem(n, err)
	p.RequestID = t.Request
	if err := p.Respond(req); err != nil {
		s.log.Error().Err(err).Str("ruc", n.Masked()).Msg("a reply could not be sent")
	}
}

// drain waits until every request in hand has its reply, at most d.
func (s *natsSide) drain(d time.Duration) {
	idle := make(chan struct{})
	go func() { s.wg.Wait(); close(idle) }()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-idle:
	case <-timer.C:
	}
}
