package scraper

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

const (
	// recent is how young a stored answer must be to count as the visit that a
	// caller asks for: it closes the window in which an answer has been stored
	// and its job not yet acknowledged.
	recent = 2 * time.Second
	// putAgain is how often a waiting front looks and puts its job again. One
	// message per subject makes that free, and it heals whatever was missed: an
	// event, a notice, a purged job, a restarted server.
	putAgain = 2 * time.Second
	// stepTimeout bounds one question to JetStream.
	stepTimeout = time.Second
	// stepRetry is the pause after a question that failed.
	stepRetry = 200 * time.Millisecond
	// jetStreamPatience is how long a front goes on asking a JetStream that does
	// not answer before it says unavailable.
	jetStreamPatience = 5 * time.Second
	// maxCallers bounds the callers waiting on one front, all numbers together.
	maxCallers = 4096
)

// front answers ruc.resolve. All callers of one number share a flight, which puts
// the job on the work queue and waits for an event newer than what it had seen.
// The protocol is described in package wire.
type front struct {
	nc    *nats.Conn
	js    jetstream.JetStream
	clock *wire.Clock
	pause *pause
	load  *backlog
	now   func() time.Time
	log   zerolog.Logger

	ctx     context.Context // of all flights
	mu      sync.Mutex
	flights map[ruc.Number]*resolveFlight
	callers int
	closed  bool           // no further callers
	wg      sync.WaitGroup // callers being served, and their flights
}

// resolveFlight is the shared wait for the next event of one number.
type resolveFlight struct {
	trace   wire.Trace // of the first caller
	callers int
	until   time.Time // the longest wait among the callers
	hints   chan hint // what the subscriptions heard; a lost one costs putAgain at most
	done    chan struct{}
	event   wire.Event // valid once done is closed and err is nil
	err     error
	cancel  context.CancelFunc
}

// hint wakes a flight: an event, a notice that the job is gone, or neither (look
// again).
type hint struct {
	event   *wire.Event
	dropped string
	err     error // nobody will visit
}

const hintBuffer = 8

func newFront(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, clock *wire.Clock, p *pause, load *backlog, now func() time.Time, log zerolog.Logger) *front {
	return &front{ctx: ctx, nc: nc, js: js, clock: clock, pause: p, load: load, now: now, log: log, flights: map[ruc.Number]*resolveFlight{}}
}

// listen subscribes to what ends a wait. One subscription of each for the whole
// process: one per number needs time to reach a cluster's other nodes.
func (f *front) listen() (stop func(), err error) {
	var subs []*nats.Subscription
	stop = func() {
		for _, s := range subs {
			_ = s.Unsubscribe() // fails only on a closed connection, which has none
		}
	}
	for subject, handle := range map[string]nats.MsgHandler{
		wire.SubjectResolved: f.onEvent,
		wire.SubjectFailed:   f.onEvent,
		wire.SubjectDropped:  f.onDropped,
	} {
		s, err := f.nc.Subscribe(subject, handle)
		if err != nil {
			stop()
			return nil, fmt.Errorf("scraper.front.listen: %w", err)
		}
		subs = append(subs, s)
	}
	return stop, nil
}

func (f *front) onEvent(m *nats.Msg) {
	e, err := wire.ParseEvent(m)
	if err != nil {
		f.log.Warn().Err(err).Str("subject", m.Subject).Msg("an event could not be read")
		return
	}
	f.wake(e.RUC, hint{event: &e})
}

func (f *front) onDropped(m *nats.Msg) {
	d, err := readDropped(m.Data)
	if err != nil {
		f.log.Warn().Err(err).Msg("a notice of a dropped job could not be read")
		return
	}
	f.wake(d.RUC, hint{dropped: d.Reason})
}

func (f *front) wake(n ruc.Number, h hint) {
	f.mu.Lock()
	fl := f.flights[n]
	f.mu.Unlock()
	if fl == nil {
		return
	}
	select {
	case fl.hints <- h:
	default: // it is awake already and looks before it waits again
	}
}

// wakeAll makes every flight look and put again; called after a reconnect.
func (f *front) wakeAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fl := range f.flights {
		select {
		case fl.hints <- hint{}:
		default:
		}
	}
}

// giveUp ends every flight with an error.
func (f *front) giveUp(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fl := range f.flights {
		select {
		case fl.hints <- hint{err: err}:
		default: // it is awake; if it waits again, it is told again
		}
	}
}

// handle serves one request. micro calls it inside the subscription's callback,
// so it hands over and returns.
func (f *front) handle(req micro.Request) {
	n, err := wire.ParseRequest(req.Data())
	if err == nil {
		// Nothing is put and nothing stored for a refusal: a pause of the prototype
		// left 1,606 failures in the stream within 18 s.
		err = f.pause.refusal()
	}
	if err == nil {
		err = f.enter()
	}
	if err != nil {
		f.replyError(req, n, err)
		return
	}
	req = wire.HandOver(req, f.nc)
	go func() {
		defer f.leave()
		e, err := f.resolve(f.ctx, n, wire.Wait(req.Headers().Get), wire.ReadTrace(nats.Header(req.Headers())))
		if err != nil {
			f.replyError(req, n, err)
			return
		}
		f.replyEvent(req, e)
	}()
}

func (f *front) enter() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return &ruc.Error{Code: ruc.Unavailable}
	}
	if f.callers >= maxCallers {
		return &ruc.Error{Code: ruc.Overloaded, RetryAfter: putAgain}
	}
	f.callers++
	f.wg.Add(1)
	return nil
}

func (f *front) leave() {
	f.mu.Lock()
	f.callers--
	f.mu.Unlock()
	f.wg.Done()
}

// drain refuses further callers and waits until those inside have their reply or
// ctx ends.
func (f *front) drain(ctx context.Context) {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	idle := make(chan struct{})
	go func() { f.wg.Wait(); close(idle) }()
	select {
	case <-idle:
	case <-ctx.Done():
	}
}

func (f *front) replyEvent(req micro.Request, e wire.Event) {
	var err error
	if e.Failed {
		var p wire.Problem
		if err = json.Unmarshal(e.Body, &p); err == nil {
			err = wire.NewProblem(e.RUC, p.Err()).Respond(req)
		}
	} else {
		err = wire.RespondAnswer(req, e.Body, e.Prefix.Found, e.Seq)
	}
	if err != nil {
		f.log.Error().Err(err).Str("ruc", e.RUC.Masked()).Msg("a reply could not be sent")
	}
}

func (f *front) replyError(req micro.Request, n ruc.Number, err error) {
	if err := wire.NewProblem(n, err).Respond(req); err != nil {
		f.log.Error().Err(err).Str("ruc", n.Masked()).Msg("a reply could not be sent")
	}
}

// resolve returns the event that answers a caller who waits so long.
// Errors: ruc.Timeout when the wait is over, ruc.Overloaded when the queue is full or
// too long for that wait, ruc.Unavailable when JetStream does not answer, ruc.Blocked when the fleet
// began to rest.
func (f *front) resolve(ctx context.Context, n ruc.Number, wait time.Duration, t wire.Trace) (wire.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	fl := f.join(n, f.now().Add(wait), t)
	defer f.part(n, fl)
	select {
	case <-fl.done:
		return fl.event, fl.err
	case <-ctx.Done():
		if f.ctx.Err() != nil {
			return wire.Event{}, &ruc.Error{Code: ruc.Unavailable, Err: f.ctx.Err()}
		}
		return wire.Event{}, &ruc.Error{Code: ruc.Timeout, Err: ctx.Err()}
	}
}

func (f *front) join(n ruc.Number, until time.Time, t wire.Trace) *resolveFlight {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl := f.flights[n]
	if fl == nil {
		ctx, cancel := context.WithCancel(f.ctx)
		fl = &resolveFlight{trace: t, hints: make(chan hint, hintBuffer), done: make(chan struct{}), cancel: cancel}
		// Registered before anything is read, so that no event is missed.
		f.flights[n] = fl
		f.wg.Go(func() {
			defer cancel()
			e, err := f.fly(ctx, n, fl)
			f.mu.Lock()
			fl.event, fl.err = e, err
			if f.flights[n] == fl {
				delete(f.flights, n)
			}
			f.mu.Unlock()
			close(fl.done)
		})
	}
	fl.callers++
	if until.After(fl.until) {
		fl.until = until
	}
	return fl
}

// part leaves a flight; the last one out ends it.
func (f *front) part(n ruc.Number, fl *resolveFlight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl.callers--; fl.callers == 0 {
		fl.cancel()
		if f.flights[n] == fl {
			delete(f.flights, n)
		}
	}
}

// left is what the most patient caller still waits.
func (f *front) left(fl *resolveFlight) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fl.until.Sub(f.now())
}

// fly waits for the next event of n: look, put, look, wait, and again.
func (f *front) fly(ctx context.Context, n ruc.Number, fl *resolveFlight) (wire.Event, error) {
	var seen uint64
	first := true
	mute := time.Time{} // since when JetStream has not answered
	for {
		e, ok, err := f.look(ctx, n)
		if err == nil && !ok {
			seen = 0 // what was seen is gone: forgotten, or the server lost its storage
		}
		if err == nil && ok {
			switch {
			case first && !e.Failed && f.clock.Now().Sub(e.Stored) < recent:
				return e, nil
			case !first && e.Seq > seen:
				return e, nil
			case first:
				seen = e.Seq
			}
		}
		var j placed
		if err == nil && first {
			// Also where the job is there already, from another front: that is not known
			// before the put.
			if err := f.load.refuses(ctx, f.left(fl)); err != nil {
				return wire.Event{}, err
			}
		}
		if err == nil {
			first = false
			j, err = f.put(ctx, n, seen, f.left(fl), fl.trace)
			if wire.IsQueueFull(err) {
				return wire.Event{}, f.load.overloaded(ctx, err)
			}
		}
		accepts := func(e wire.Event) bool { return e.Seq > seen || j.joined && e.Job == j.seq }
		if err == nil {
			if e, ok, err = f.look(ctx, n); err == nil && ok && accepts(e) {
				return e, nil
			}
		}
		if err == nil {
			f.announce(ctx, n, j.seq)
		}
		pause := putAgain
		if err != nil {
			if ctx.Err() != nil {
				return wire.Event{}, ctx.Err()
			}
			now := f.clock.Now()
			if mute.IsZero() {
				mute = now
				f.log.Warn().Err(err).Msg("JetStream does not answer")
			} else if now.Sub(mute) > jetStreamPatience {
				return wire.Event{}, &ruc.Error{Code: ruc.Unavailable, Err: err}
			}
			pause = stepRetry
		} else {
			mute = time.Time{}
		}
		e, answered, err := f.await(ctx, fl, pause, accepts)
		if answered || err != nil {
			return e, err
		}
	}
}

// await waits for something that ends the flight (answered), or for a reason to
// look again.
func (f *front) await(ctx context.Context, fl *resolveFlight, pause time.Duration, accepts func(wire.Event) bool) (e wire.Event, answered bool, err error) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return wire.Event{}, false, ctx.Err()
		case <-timer.C:
			return wire.Event{}, false, nil
		case h := <-fl.hints:
			switch {
			case h.err != nil:
				return wire.Event{}, false, h.err
			case h.event == nil && h.dropped == droppedBlocked:
				// Even if the probe's visit is not yet seen here, at once is too soon.
				return wire.Event{}, false, &ruc.Error{Code: ruc.Blocked, RetryAfter: max(f.pause.left(), time.Second)}
			case h.event == nil:
				return wire.Event{}, false, nil
			case accepts(*h.event):
				return *h.event, true, nil
			}
		}
	}
}

func (f *front) look(ctx context.Context, n ruc.Number) (wire.Event, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	return wire.Newest(ctx, f.nc, n)
}

// announce says where in the queue a job stands, for whoever watches.
func (f *front) announce(ctx context.Context, n ruc.Number, job uint64) {
	place, known := f.load.position(ctx, job)
	if !known {
		return // a slot has it, and says so
	}
	p := wire.Progress{RUC: n, Job: job, Stage: wire.StageQueued, Position: place}
	if err := f.nc.PublishMsg(p.Message()); err != nil {
		f.log.Debug().Err(err).Msg("progress could not be told")
	}
}

// placed is a job on the queue.
type placed struct {
	seq    uint64
	joined bool // it was there already, and the server said which it is
}

// put asks for a visit.
func (f *front) put(ctx context.Context, n ruc.Number, seen uint64, wait time.Duration, t wire.Trace) (placed, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	m := nats.NewMsg(wire.VisitSubject(n))
	m.Data = n.AppendTo(nil)
	m.Header.Set(wire.HeaderAfter, strconv.FormatUint(seen, 10))
	wire.SetWait(m.Header, wait)
	t.Set(m.Header)
	ack, err := f.js.PublishMsg(ctx, m, jetstream.WithExpectLastSequencePerSubject(0), jetstream.WithRetryAttempts(0))
	if seq, there := wire.JobThere(err); there {
		return placed{seq, seq != 0}, nil
	}
	if err != nil {
		return placed{}, err
	}
	f.load.put()
	return placed{seq: ack.Sequence}, nil
}

// The reasons why a job left the queue without a new event.
const (
	droppedStored  = "stored"  // a newer event is there already
	droppedExpired = "expired" // nobody waits any more, as far as the job knows
	droppedBlocked = "blocked" // the fleet rests
)

// dropped is the notice on ruc.dropped.
type dropped struct {
	RUC    ruc.Number `json:"ruc"`
	Reason string     `json:"reason"`
}

func readDropped(b []byte) (dropped, error) {
	var d dropped
	if err := json.Unmarshal(b, &d); err != nil {
		return dropped{}, err
	}
	return d, nil
}
