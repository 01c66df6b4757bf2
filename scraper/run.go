// Package scraper asks SUNAT. Its front answers ruc.resolve, its slots take jobs
// from the work queue, visit the page through an engine, by default a headless
// Chromium, and store what they learn as events. Any number of scrapers form one fleet: one job per number,
// one limit, one pace.
package scraper

import (
	"cmp"
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

	"github.com/rucflow/rucflow/scraper/browser"
	"github.com/rucflow/rucflow/scraper/httpclient"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/wire"
)

// Deps are the live things that a scraper works with. Run owns none of them.
type Deps struct {
	NATS     *nats.Conn
	Log      zerolog.Logger
	Now      func() time.Time
	Registry *prometheus.Registry
	Ops      net.Listener // nil = no ops listener
	Pprof    bool
	// Provision creates missing streams and consumers; Update also changes those
	// that exist, which only the sole owner of a server may do.
	Provision, Update bool
	ShutdownTimeout   time.Duration

	engine engine // for tests; nil = as Config says
}

const (
	provisionTimeout = 30 * time.Second
	// downGrace is how long no tab may be warm before the front withdraws, so that
	// other scrapers get the requests.
	downGrace = 2 * time.Second
	downCheck = 250 * time.Millisecond
	// forsakenCheck is how often a scraper without a tab looks whether anybody works
	// on the queue, and forsakenAfter how often in a row nobody may.
	forsakenCheck = time.Second
	forsakenAfter = 2
)

// Run works until ctx ends, then finishes what it has in hand within
// ShutdownTimeout. It returns nil exactly when it was told to stop, and leaves no
// goroutine, process or file behind.
func Run(ctx context.Context, cfg Config, deps Deps) error {
	js, err := jetstream.New(deps.NATS)
	if err != nil {
		return fmt.Errorf("scraper.Run: %w", err)
	}
	consumer, err := openQueue(ctx, js, cfg, deps)
	if err != nil {
		return stopped(ctx, err)
	}
	if limit := consumer.CachedInfo().Config.MaxAckPending; limit != cfg.MaxConcurrent {
		deps.Log.Warn().Int("own", cfg.MaxConcurrent).Int("fleet", limit).Msg("the fleet's limit differs from SUNAT_MAX_CONCURRENT and counts")
	}
	turns, err := openTurns(ctx, js, cfg.Pace, deps.Now, deps.Log)
	if err != nil {
		return stopped(ctx, err)
	}
	m, err := newMetrics(deps.Registry)
	if err != nil {
		return fmt.Errorf("scraper.Run: %w", err)
	}
	if err := service.ObserveNATS(deps.Registry, "scraper", deps.NATS); err != nil {
		return fmt.Errorf("scraper.Run: %w", err)
	}
	eng := deps.engine
	if eng == nil {
		if eng, err = newEngine(cfg, deps, m.observe()); err != nil {
			return fmt.Errorf("scraper.Run: %w", err)
		}
	}

	// Three lives that end one after the other: taking work, doing it, the rest.
	rest, stopRest := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stopRest(nil)
	work, stopWork := context.WithCancel(rest)
	defer stopWork()
	pulling, stopPulling := context.WithCancel(work)
	defer stopPulling()

	clock := wire.NewClock(deps.Now)
	ps := newPause(cfg, wire.NewPauseWatch(deps.NATS, js, clock, func(err error) {
		if err != nil {
			deps.Log.Warn().Err(err).Msg("the fleet's pause cannot be read; visits go on without")
			return
		}
		deps.Log.Info().Msg("the fleet's pause can be read again")
	}), turns.pace, m.pauses.Inc, deps.Log)
	if err := showPause(deps.Registry, ps); err != nil {
		return fmt.Errorf("scraper.Run: %w", err)
	}
	load := newBacklog(consumer, turns.pace, deps.Now)
	fr := newFront(work, deps.NATS, js, clock, ps, load, deps.Now, deps.Log)
	stopListening, err := fr.listen()
	if err != nil {
		return err
	}
	defer stopListening()
	changed := &changedPages{dir: cmp.Or(cfg.ChangedDir, defaultChangedDir), now: deps.Now, counter: m.changed, log: deps.Log}
	sl := &slots{
		cfg: cfg, nc: deps.NATS, js: js, consumer: consumer, engine: eng, turns: turns, pause: ps, load: load, changed: changed,
		clock: clock, now: deps.Now, source: cfg.Source(), metrics: m, log: deps.Log,
	}

	var wg sync.WaitGroup
	fail := func(err error) {
		if err != nil {
			stopRest(err)
		}
	}
	wg.Go(func() { fail(eng.Run(rest)) })
	wg.Go(func() { m.followQueue(rest, consumer, clock) })
	wg.Go(func() { ps.run(rest) })
	wg.Go(func() { changed.run(rest) })
	if deps.Provision {
		wg.Go(func() {
			service.Reprovision(rest, deps.NATS, deps.Log, func(ctx context.Context) error { return provision(ctx, js, cfg, deps) })
		})
	}
	ps.read(ctx) // a scraper that starts in a pause keeps it
	wg.Go(func() {
		service.OnReconnect(rest, deps.NATS, func() {
			turns.reconnected()
			fr.wakeAll()
		})
	})
	wg.Go(func() {
		ready := func() error {
			if eng.Down(downGrace) {
				return errors.New("no tab is ready")
			}
			return nil
		}
		fail(service.ServeOps(rest, deps.Ops, service.Ops{
			Registry: deps.Registry, Live: func() error { return nil }, Ready: ready, Pprof: deps.Pprof,
		}))
	})
	slotsDone := make(chan struct{})
	wg.Go(func() { defer close(slotsDone); sl.run(pulling, work) })
	// The front answers while a tab is warm, and until ctx ends.
	answering, stopAnswering := context.WithCancel(rest)
	defer stopAnswering()
	context.AfterFunc(ctx, stopAnswering)
	wg.Go(func() { fail(answer(answering, deps, fr, eng, consumer)) })
	deps.Log.Info().Str("ops", service.Addr(deps.Ops)).Int("slots", cfg.Slots).Str("engine", cfg.Engine).Msg("scraper serves")

	select {
	case <-ctx.Done():
	case <-rest.Done():
	}
	grace, cancel := context.WithTimeout(rest, deps.ShutdownTimeout)
	defer cancel()
	fr.drain(grace) // callers inside get their reply while the slots still work
	stopPulling()
	select {
	case <-slotsDone:
	case <-grace.Done():
	}
	stopWork()
	<-slotsDone
	fr.wg.Wait() // who is still inside is told unavailable
	flush(deps.NATS)
	cause := context.Cause(rest)
	stopRest(nil)
	wg.Wait()
	if ctx.Err() == nil {
		return fmt.Errorf("scraper.Run: %w", cause)
	}
	return nil
}

// stopped turns an error that came of being told to stop into nil.
func stopped(ctx context.Context, err error) error {
	select {
	case <-ctx.Done():
		return nil
	default:
		return fmt.Errorf("scraper.Run: %w", err)
	}
}

const flushTimeout = time.Second

func flush(nc *nats.Conn) {
	_ = nc.FlushTimeout(flushTimeout) // without a server there is nobody to flush to
}

// openQueue returns the consumer of the work queue, which it makes if it may.
func openQueue(ctx context.Context, js jetstream.JetStream, cfg Config, deps Deps) (jetstream.Consumer, error) {
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
	consumer, err := js.Consumer(ctx, wire.StreamVisits, wire.ConsumerSlots)
	if err != nil {
		return nil, fmt.Errorf("%s/%s: %w", wire.StreamVisits, wire.ConsumerSlots, err)
	}
	return consumer, wire.CheckSource(consumer.CachedInfo(), cfg.Source())
}

func provision(ctx context.Context, js jetstream.JetStream, cfg Config, deps Deps) error {
	p := wire.Provisioner{JS: js, Source: cfg.Source(), Update: deps.Update, Warn: service.WarnOfDifference(deps.Log)}
	if err := p.Events(ctx, cfg.EventsMaxAge); err != nil {
		return err
	}
	if err := p.State(ctx); err != nil {
		return err
	}
	return p.Visits(ctx, cfg.Queue, cfg.MaxConcurrent, cfg.Pace)
}

func newEngine(cfg Config, deps Deps, observe browser.Observe) (engine, error) {
	if cfg.UsesChromium() {
		return browser.New(cfg.browser(), browser.Deps{Log: deps.Log, Now: deps.Now, Observe: observe})
	}
	return httpclient.New(cfg.http(), httpclient.Deps{Log: deps.Log, Now: deps.Now, Slots: observe.Slots})
}

// answer registers the front as a micro service, withdraws it while no tab has
// been warm for downGrace, and takes it back when ctx ends.
func answer(ctx context.Context, deps Deps, fr *front, eng engine, queue jetstream.Consumer) error {
	check := time.NewTicker(downCheck)
	defer check.Stop()
	lost := &forsaken{front: fr, queue: queue}
	for ctx.Err() == nil {
		svc, err := micro.AddService(deps.NATS, micro.Config{
			Name:        wire.ScraperService,
			Version:     service.Version,
			Metadata:    service.Build(),
			Description: "asks SUNAT for a RUC: a visit, or a share in one under way",
			ErrorHandler: func(_ micro.Service, err *micro.NATSError) {
				deps.Log.Error().Err(err).Msg("NATS reported an error")
			},
			Endpoint: &micro.EndpointConfig{
				Subject: wire.SubjectResolve, QueueGroup: wire.ScraperQueue, Handler: wire.Handler(fr.handle),
			},
		})
		if err != nil {
			return fmt.Errorf("scraper.answer: %w", err)
		}
		// While the fleet rests the front stays without a tab too: SUNAT may refuse its
		// form as well, and with no front left callers would not be told that it does.
		for ctx.Err() == nil && (!eng.Down(downGrace) || fr.pause.left() > 0) {
			if eng.Down(downGrace) {
				lost.check(ctx)
			} else {
				lost.idle = 0
			}
			select {
			case <-ctx.Done():
			case <-check.C:
			}
		}
		if err := svc.Stop(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			return fmt.Errorf("scraper.answer: %w", err)
		}
		if ctx.Err() == nil {
			deps.Log.Warn().Msg("no tab is ready; requests are left to other scrapers")
			if awaitTab(ctx, eng, fr, lost) != nil {
				return nil
			}
			deps.Log.Info().Msg("requests are taken again")
		}
	}
	return nil
}

// awaitTab returns when a tab is warm, or the fleet rests.
func awaitTab(ctx context.Context, eng engine, fr *front, lost *forsaken) error {
	waiting, ready := context.WithCancel(ctx)
	defer ready()
	var wg sync.WaitGroup
	var err error
	wg.Go(func() {
		defer ready()
		err = eng.WaitReady(waiting)
	})
	rests := false
	for !rests && sleep(waiting, downCheck) == nil {
		lost.check(waiting)
		rests = fr.pause.left() > 0
	}
	ready()
	wg.Wait()
	if rests {
		return ctx.Err()
	}
	return err
}

// forsaken finds that nobody in the fleet works on the queue. With SUNAT away no scraper
// has a tab, and every job would wait for its caller's whole time.
type forsaken struct {
	front *front
	queue jetstream.Consumer
	asked time.Time
	idle  int // how often in a row nobody did
}

// check tells who still waits for a job when it is so. A scraper without a tab calls it
// now and then.
func (f *forsaken) check(ctx context.Context) {
	now := f.front.now()
	if now.Sub(f.asked) < forsakenCheck {
		return
	}
	f.asked = now
	info, err := f.queue.Info(ctx)
	if err != nil || info.NumAckPending > 0 || info.NumPending == 0 {
		f.idle = 0
		return
	}
	if f.idle++; f.idle < forsakenAfter {
		return
	}
	reason := f.front.pause.refusal()
	if reason == nil {
		reason = &ruc.Error{Code: ruc.Unavailable, RetryAfter: unavailableRetry, Err: errors.New("no scraper has a tab")}
	}
	f.front.giveUp(reason)
}
