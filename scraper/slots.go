package scraper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/scraper/sunat"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// engine gets SUNAT's page; packages browser and httpclient hold those that there are.
type engine interface {
	// Run blocks until ctx ends and leaves nothing behind.
	Run(ctx context.Context) error
	// Visit makes one attempt on some warm tab. gate is called when the tab is
	// parked on the form; the POST leaves between its return and the call of what
	// it returned. An error of gate ends the visit and is returned as it is. With an
	// error of the parser's comes the page that it is about.
	Visit(ctx context.Context, n ruc.Number, gate func(context.Context) (left func(), err error)) (sunat.Page, error)
	// WaitReady returns when a tab is warm.
	WaitReady(ctx context.Context) error
	// Down reports whether no tab has been warm for longer than d.
	Down(d time.Duration) bool
}

// slots pull jobs from the work queue and make the visits.
//
// The invariant of the queue: a job leaves it only after an event newer than its
// Ruc-After is stored, or with a ruc.dropped.
type slots struct {
	cfg      Config
	nc       *nats.Conn
	js       jetstream.JetStream
	consumer jetstream.Consumer // RUC_VISITS/slots
	engine   engine
	turns    *turns
	pause    *pause
	load     *backlog
	changed  *changedPages
	clock    *wire.Clock
	now      func() time.Time
	source   string // whose data: sunat, replica
	metrics  *metrics
	log      zerolog.Logger
}

const (
	// silentPause is the wait before the one retry after a reset or a silent
	// timeout: two in a row are taken for a block.
	silentPause = 2 * time.Second
	// Between the second and the third attempt, out of regard for the site; the first retry
	// is immediate, and so is one after a failure of the browser.
	retryPauseMin, retryPauseMax = 200 * time.Millisecond, 500 * time.Millisecond
	// storeRetryMax bounds the pause between two tries to store an event.
	storeRetryMin, storeRetryMax = 100 * time.Millisecond, 2 * time.Second
	ackTimeout                   = 2 * time.Second
	// unavailableRetry is when it makes sense to ask again after SUNAT could not be.
	unavailableRetry = 30 * time.Second
	// giveBackDelay is when a job that a stopping scraper had in hand is given out
	// again. At once, it could go to another slot of that same scraper, whose pull
	// the server does not yet know to be over, and be stuck for AckWait.
	giveBackDelay = 200 * time.Millisecond
)

// run pulls with one goroutine per slot until pulling ends, then waits for the
// visits in hand; working cuts those short.
func (s *slots) run(pulling, working context.Context) {
	var wg sync.WaitGroup
	for range s.cfg.Slots {
		wg.Go(func() { s.pull(pulling, working) })
	}
	wg.Wait()
}

func (s *slots) pull(pulling, working context.Context) {
	for pulling.Err() == nil {
		if s.engine.WaitReady(pulling) != nil {
			return
		}
		m, err := fetchOne(pulling, s.consumer)
		if m != nil {
			s.serve(working, m)
			continue
		}
		if err != nil && pulling.Err() == nil {
			s.log.Debug().Err(err).Msg("a pull for a job failed")
			if sleep(pulling, fetchRetry) != nil {
				return
			}
		}
	}
}

// job is one delivery of a job.
type job struct {
	wire.Job
	ruc        ruc.Number
	after      uint64        // an event newer than this ends the job
	wait       time.Duration // how long somebody waits, from Job.Time on
	deliveries int
	trace      wire.Trace // of the lookup that put the job
	msg        jetstream.Msg
}

func readJob(m jetstream.Msg) (job, error) {
	n, err := wire.NumberOf(m.Subject())
	if err != nil {
		return job{}, err
	}
	meta, err := m.Metadata()
	if err != nil {
		return job{}, err
	}
	return job{
		Job:        wire.Job{Seq: meta.Sequence.Stream, Time: meta.Timestamp},
		ruc:        n,
		after:      wire.Sequence(m.Headers().Get, wire.HeaderAfter),
		wait:       wire.Wait(m.Headers().Get),
		deliveries: int(min(meta.NumDelivered, 1<<30)),
		trace:      wire.ReadTrace(m.Headers()),
		msg:        m,
	}, nil
}

// serve takes one job to its end.
func (s *slots) serve(ctx context.Context, m jetstream.Msg) {
	j, err := readJob(m)
	if err != nil {
		s.log.Error().Err(err).Str("subject", m.Subject()).Msg("a job that names no number was discarded")
		s.settle(m.TermWithReason("no number in the subject"))
		return
	}
	log := s.log.With().Str("ruc", j.ruc.Masked()).Uint64("job", j.Seq).Str("req", j.trace.Request).Logger()
	ctx, stop := s.keepInProgress(ctx, m)
	defer stop()

	newer, err := s.newer(ctx, j)
	for err != nil {
		// Without a look the slot cannot know whether the visit is needed. It keeps
		// the job: given back, each failure would count as the death of a slot.
		log.Warn().Err(err).Msg("the newest event could not be read")
		if sleep(ctx, fetchRetry) != nil {
			s.settle(m.NakWithDelay(giveBackDelay))
			return
		}
		newer, err = s.newer(ctx, j)
	}
	if newer {
		s.drop(ctx, j, droppedStored)
		return
	}
	if j.deliveries > s.cfg.Attempts {
		// Each delivery before this one ended with the death of its slot.
		failure := s.failure(j, s.cfg.Attempts, &ruc.Error{Code: ruc.Unavailable, Err: errors.New("every slot that took the job died")})
		if s.store(ctx, log, j, wire.FailedEvent(j.ruc, j.Job, failure, s.source, s.now())) {
			s.settle(m.TermWithReason("delivered too often"))
		}
		return
	}
	if s.clock.Now().Sub(j.Time) > j.wait {
		s.drop(ctx, j, droppedExpired)
		return
	}

	if j.deliveries == 1 {
		s.metrics.wait.Observe(max(0, s.clock.Now().Sub(j.Time)).Seconds())
	}
	leave, err := s.pause.enter(ctx)
	if err != nil {
		s.drop(ctx, j, droppedBlocked)
		return
	}
	start := s.now()
	answer, attempts, err := s.visit(ctx, log, j, &leave)
	// Before the event is stored and the place in the queue free, so that the next
	// slot finds the pause.
	s.pause.ended(ctx, leave, err)
	switch {
	case errors.Is(err, errStored):
		s.drop(ctx, j, droppedStored)
		return
	case errors.Is(err, errPaused):
		s.drop(ctx, j, droppedBlocked)
		return
	}
	if ctx.Err() != nil {
		s.settle(m.NakWithDelay(giveBackDelay))
		return
	}
	event, outcome := s.event(j, answer, attempts, err)
	took := s.now().Sub(start)
	s.metrics.visits.WithLabelValues(s.cfg.Engine, outcome).Observe(took.Seconds())
	s.load.visited(took)
	line := log.Info()
	if err != nil {
		line = log.Warn().AnErr("cause", errors.Unwrap(err))
	}
	line.Str("outcome", outcome).Int("attempts", attempts).Dur("took", took).Msg("visit ended")
	if s.store(ctx, log, j, event) {
		s.acknowledge(ctx, log, m)
	}
}

// keepInProgress tells the server that the job is being worked on, until stop.
func (s *slots) keepInProgress(ctx context.Context, m jetstream.Msg) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(wire.SlotHeartbeat)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if err := m.InProgress(); err != nil {
					s.log.Debug().Err(err).Msg("a job could not be kept in progress")
				}
			}
		}
	})
	return ctx, func() { cancel(); wg.Wait() }
}

// newer reports whether an event newer than the job's Ruc-After is stored: the
// same comparison by which a front accepts an event.
func (s *slots) newer(ctx context.Context, j job) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	e, ok, err := wire.Newest(ctx, s.nc, j.ruc)
	return ok && e.Seq > j.after, err
}

// drop acknowledges a job that needs no visit and tells the fronts.
func (s *slots) drop(ctx context.Context, j job, reason string) {
	s.metrics.avoided[reason].Inc()
	s.acknowledge(ctx, s.log, j.msg)
	b, err := json.Marshal(dropped{RUC: j.ruc, Reason: reason})
	if err == nil {
		err = s.nc.Publish(wire.SubjectDropped, b)
	}
	if err != nil {
		// Fronts that still wait put the job again within putAgain.
		s.log.Warn().Err(err).Msg("a dropped job could not be announced")
	}
}

func (s *slots) acknowledge(ctx context.Context, log zerolog.Logger, m jetstream.Msg) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ackTimeout)
	defer cancel()
	if err := m.DoubleAck(ctx); err != nil {
		// The job comes back after AckWait and is dropped by the look.
		log.Warn().Err(err).Msg("a job could not be acknowledged")
	}
}

// settle reports an acknowledgement that failed; the server gives the job out
// again after AckWait.
func (s *slots) settle(err error) {
	if err != nil {
		s.log.Warn().Err(err).Msg("a job could not be given back")
	}
}

// errStored says that somebody else's event made the visit needless.
var errStored = errors.New("a newer event is stored")

// visit tries until there is an answer or the cause forbids another try. attempts
// counts the tries that reached SUNAT or tried to. leave is renewed by each of them.
func (s *slots) visit(ctx context.Context, log zerolog.Logger, j job, leave *pass) (answer ruc.Answer, attempts int, err error) {
	mute := 0 // resets and silent timeouts in a row
	for attempts = 1; ; attempts++ {
		s.announce(j, attempts)
		answer, err = s.attempt(ctx, j, leave)
		if err == nil || errors.Is(err, errStored) || errors.Is(err, errPaused) || ctx.Err() != nil {
			return answer, attempts, err
		}
		var v *sunat.VisitError
		if errors.As(err, &v) && (v.Cause == sunat.CauseReset || v.Cause == sunat.CauseSilent) {
			mute++
		} else {
			mute = 0
		}
		pause, again := s.again(err, attempts, mute)
		if mute >= 2 {
			err = &ruc.Error{Code: ruc.Blocked, Err: err}
		}
		if !again {
			return ruc.Answer{}, attempts, err
		}
		log.Info().Err(err).Int("attempt", attempts).Msg("an attempt failed and is repeated")
		if err := sleep(ctx, pause); err != nil {
			return ruc.Answer{}, attempts, err
		}
	}
}

// announce says that an attempt begins, for whoever watches.
func (s *slots) announce(j job, attempt int) {
	p := wire.Progress{RUC: j.ruc, Job: j.Seq, Stage: wire.StageVisiting, Attempt: attempt, Attempts: s.cfg.Attempts}
	if err := s.nc.PublishMsg(p.Message()); err != nil {
		s.log.Debug().Err(err).Msg("progress could not be told")
	}
}

// again decides, by cause, whether another attempt is made and after which pause.
// mute counts the resets and silent timeouts in a row.
func (s *slots) again(err error, attempts, mute int) (pause time.Duration, again bool) {
	limit := s.cfg.Attempts
	switch code := codeOf(err); {
	case mute >= 2:
		return 0, false
	case mute == 1:
		pause = silentPause
	case code == ruc.Changed:
		limit = min(limit, 2) // a changed page stays changed: one look at it on another tab
	case code != ruc.Unavailable:
		return 0, false
	case attempts > 1 && !ours(err):
		pause = retryPauseMin + rand.N(retryPauseMax-retryPauseMin) //nolint:gosec // a pause is no secret
	}
	return pause, attempts < limit
}

// ours reports whether the browser failed, and not the site.
func ours(err error) bool {
	var v *sunat.VisitError
	return errors.As(err, &v) && (v.Cause == sunat.CauseCrash || v.Cause == sunat.CauseLost)
}

// codeOf gives a failed attempt its code. A code that was given already counts.
func codeOf(err error) ruc.Code {
	var coded *ruc.Error
	var v *sunat.VisitError
	if errors.As(err, &coded) || !errors.As(err, &v) {
		return ruc.CodeOf(err)
	}
	switch v.Cause {
	case sunat.CauseSilent, sunat.CauseReset, sunat.CauseNetwork, sunat.CauseCrash, sunat.CauseLost:
		return ruc.Unavailable
	default:
		// CauseDialog: the page's own check refused a number that passed ours.
		return ruc.Internal
	}
}

// attempt makes one try: the turn, a last look, the page, its parse.
func (s *slots) attempt(ctx context.Context, j job, leave *pass) (ruc.Answer, error) {
	page, err := s.engine.Visit(ctx, j.ruc, func(ctx context.Context) (func(), error) {
		give, err := s.turns.take(ctx)
		if err != nil {
			return nil, err
		}
		// The turn may have been long in coming, and after a server's restart two
		// slots can hold one job.
		switch newer, err := s.newer(ctx, j); {
		case err != nil:
			give()
			return nil, &ruc.Error{Code: ruc.Unavailable, Err: err}
		case newer:
			give()
			return nil, errStored
		}
		renewed, err := s.pause.check(*leave)
		if err != nil {
			give()
			return nil, err
		}
		*leave = renewed
		return give, nil
	})
	at := s.now()
	var result sunat.Result
	if err == nil {
		result, err = sunat.Parse(page, j.ruc)
	}
	if codeOf(err) == ruc.Changed {
		s.changed.keep(page, err)
	}
	if err != nil {
		return ruc.Answer{}, err
	}
	if !result.Found {
		return ruc.Missing(j.ruc, at, s.source, s.cfg.Engine), nil
	}
	for _, label := range result.Unknown {
		s.metrics.labels.Inc()
		s.log.Warn().Str("label", label).Msg("the page has a label that is not known")
	}
	return ruc.Found(j.ruc, result.Record, at, s.source, s.cfg.Engine), nil
}

// event makes the event that ends a job, and the word for its outcome.
func (s *slots) event(j job, a ruc.Answer, attempts int, err error) (m *nats.Msg, outcome string) {
	if err == nil {
		body, encodeErr := a.Encode()
		if encodeErr == nil && len(body) <= wire.MaxAnswerBytes {
			outcome = "found"
			if !a.Encontrado {
				outcome = string(ruc.NotFound)
			}
			return wire.ResolvedEvent(j.ruc, j.Job, body, s.source, s.now()), outcome
		}
		err = &ruc.Error{Code: ruc.Changed, Err: fmt.Errorf("an answer of %d bytes: %w", len(body), encodeErr)}
	}
	return wire.FailedEvent(j.ruc, j.Job, s.failure(j, attempts, err), s.source, s.now()), string(codeOf(err))
}

// failure is the problem document of a job given up after so many attempts.
func (s *slots) failure(j job, attempts int, err error) wire.Problem {
	code := codeOf(err)
	last := wire.NewProblem(j.ruc, &ruc.Error{Code: code}).Detail
	var e *ruc.Error
	if errors.As(err, &e) && e.Detail != "" {
		last = e.Detail
	}
	p := wire.NewProblem(j.ruc, &ruc.Error{
		Code:       code,
		Detail:     fmt.Sprintf("No se pudo obtener información del RUC %s después de %d intentos. Último error: %s", j.ruc, attempts, last),
		RetryAfter: s.retryAfter(code),
		Attempts:   attempts,
	})
	if attempts == 1 {
		p.Detail = fmt.Sprintf("No se pudo obtener información del RUC %s después de 1 intento. Último error: %s", j.ruc, last)
	}
	p.Motor = s.cfg.Engine
	return p
}

// retryAfter is when it makes sense to ask again after a failure.
func (s *slots) retryAfter(code ruc.Code) time.Duration {
	switch code {
	case ruc.Blocked:
		if left := s.pause.left(); left > 0 {
			return left
		}
		return 5 * time.Minute // how long SUNAT's refusals last, as measured by others
	case ruc.Unavailable:
		return unavailableRetry
	default:
		return 0
	}
}

func (s *slots) publish(ctx context.Context, j job, kind string, m *nats.Msg) (*jetstream.PubAck, error) {
	if kind == eventResolved {
		return wire.StoreAnswer(ctx, s.nc, s.js, j.ruc, m)
	}
	return s.js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0))
}

// store keeps trying until the event is stored; false when ctx ended first.
func (s *slots) store(ctx context.Context, log zerolog.Logger, j job, m *nats.Msg) bool {
	j.trace.Set(m.Header)
	kind := eventResolved
	if strings.HasPrefix(m.Subject, wire.SubjectFailed) {
		kind = eventFailed
	}
	pause := storeRetryMin
	for {
		step, cancel := context.WithTimeout(ctx, ackTimeout)
		ack, err := s.publish(step, j, kind, m)
		cancel()
		if err == nil {
			if !ack.Duplicate {
				s.metrics.published[kind].Inc()
			}
			return true
		}
		log.Warn().Err(err).Msg("an event could not be stored yet")
		if sleep(ctx, pause) != nil {
			return false
		}
		pause = min(2*pause, storeRetryMax)
	}
}
