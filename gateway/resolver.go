package gateway

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

const (
	// askAgain is how often a waiting flight asks anew. A request inside a server
	// that dies is lost without a word; asking again shares the visit under way.
	askAgain = 5 * time.Second
	// Nobody subscribes to ruc.resolve for a moment when the only scraper restarts.
	noResponderPatience = 200 * time.Millisecond
	noResponderPause    = 50 * time.Millisecond
	// natsPatience is how long a lookup waits for a lost NATS connection.
	natsPatience = 5 * time.Second
	// callersPerPending bounds those who wait, beside MAX_PENDING numbers.
	callersPerPending = 16
	pendingRetryAfter = 2 * time.Second
	unavailableRetry  = 10 * time.Second
)

var errOtherNumber = errors.New("gateway: the answer names another number")

// resolver asks the scrapers. All lookups of one number in this process share one
// flight, which ends on the reply or on the event, whichever comes first.
type resolver struct {
	nc      *nats.Conn
	now     func() time.Time
	clock   *wire.Clock   // the server's, by which events are stored
	timeout time.Duration // of a flight
	max     int           // flights
	log     zerolog.Logger
	ctx     context.Context // of all flights
	memory  func(ruc.Number) (*held, bool)
	keep    func(ruc.Number, *held)

	mu      sync.Mutex
	flights map[ruc.Number]*flight
	callers int
	lost    time.Time   // when the connection was lost; zero while it is there
	giveUp  *time.Timer // ends what still waits natsPatience after the loss
	wg      sync.WaitGroup
}

// flight is the shared wait for one number's answer.
type flight struct {
	ended  chan struct{}
	cancel context.CancelFunc
	again  chan struct{} // ask now: the connection is back
	after  uint64        // an event must be newer than this to end the flight
	held   *held         // valid once ended is closed and err is nil
	err    error
}

// place is one lookup's share in a flight.
type place struct {
	r      *resolver
	n      ruc.Number
	trace  wire.Trace
	anew   bool
	flight *flight
	joined bool // another lookup had asked before
}

// enter joins n's flight or begins one; anew means that what the memory holds will not
// do. The caller leaves when done. Errors: ruc.Overloaded, ruc.Unavailable.
func (r *resolver) enter(n ruc.Number, t wire.Trace, anew bool) (*place, error) {
	fl, joined, err := r.join(n, t, anew)
	if err != nil {
		return nil, err
	}
	return &place{r: r, n: n, trace: t, anew: anew, flight: fl, joined: joined}, nil
}

// wait returns the flight's outcome, or ruc.Timeout when ctx ends before; it may be
// called again then. Errors: ruc.Timeout, ruc.Overloaded, ruc.Unavailable, and what the
// scraper says.
func (p *place) wait(ctx context.Context) (*held, error) {
	for {
		select {
		case <-p.flight.ended:
		case <-ctx.Done():
			if p.r.ctx.Err() != nil {
				return nil, &ruc.Error{Code: ruc.Unavailable, Err: p.r.ctx.Err()}
			}
			return nil, &ruc.Error{Code: ruc.Timeout, Err: ctx.Err()}
		}
		if !p.joined || ruc.CodeOf(p.flight.err) != ruc.Timeout || ctx.Err() != nil {
			return p.flight.held, p.flight.err
		}
		// The flight was older than this caller, who may still wait.
		p.leave()
		fl, joined, err := p.r.join(p.n, p.trace, p.anew)
		p.flight, p.joined = fl, joined
		if err != nil {
			return nil, err
		}
	}
}

// leave gives the place up; the flight goes on without it.
func (p *place) leave() {
	if p.flight == nil {
		return // it was given up when the flight ended
	}
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	p.r.callers--
	p.flight = nil
}

// pending returns how many numbers are being resolved.
func (r *resolver) pending() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.flights)
}

func (r *resolver) join(n ruc.Number, t wire.Trace, anew bool) (fl *flight, joined bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.lost.IsZero() && r.now().Sub(r.lost) > natsPatience {
		return nil, false, errNATSAway()
	}
	if fl, joined = r.flights[n]; joined {
		if r.callers >= callersPerPending*r.max {
			return nil, false, &ruc.Error{Code: ruc.Overloaded, RetryAfter: pendingRetryAfter}
		}
		r.callers++
		return fl, true, nil
	}
	if len(r.flights) >= r.max || r.callers >= callersPerPending*r.max {
		return nil, false, &ruc.Error{Code: ruc.Overloaded, RetryAfter: pendingRetryAfter}
	}
	// A flight that ended after this caller had looked into the memory left its answer
	// there, before it ended.
	h, ok := r.memory(n)
	if ok && !anew {
		r.callers++
		fl = &flight{ended: make(chan struct{}), held: h}
		close(fl.ended)
		return fl, true, nil
	}
	// The flight's context is not the first caller's: others may wait longer.
	ctx, cancel := context.WithTimeout(r.ctx, r.timeout)
	fl = &flight{ended: make(chan struct{}), cancel: cancel, again: make(chan struct{}, 1)}
	if ok {
		fl.after = h.seq
	}
	r.flights[n] = fl
	r.callers++
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		defer cancel()
		h, err := r.ask(ctx, n, fl, t)
		if err == nil {
			// The event fills the memory too, but a moment later or, after a gap, not at all.
			r.keep(n, h)
		}
		r.end(n, fl, h, err)
	}()
	return fl, false, nil
}

// end gives a flight its outcome, once.
func (r *resolver) end(n ruc.Number, fl *flight, h *held, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endLocked(n, fl, h, err)
}

func (r *resolver) endLocked(n ruc.Number, fl *flight, h *held, err error) {
	if r.flights[n] != fl {
		return // ended already
	}
	delete(r.flights, n)
	fl.held, fl.err = h, err
	close(fl.ended)
	fl.cancel()
}

// answered ends the flight of n, if there is one, with an answer heard as event.
func (r *resolver) answered(n ruc.Number, h *held) { r.endHeard(n, h, nil) }

// failed ends the flight of n, if there is one, with a failure heard as event.
func (r *resolver) failed(n ruc.Number, err error) { r.endHeard(n, nil, err) }

func (r *resolver) endHeard(n ruc.Number, h *held, err error) {
	r.mu.Lock()
	fl := r.flights[n]
	r.mu.Unlock()
	if fl != nil && (h == nil || h.seq > fl.after) {
		r.end(n, fl, h, err)
	}
}

// connection notes whether NATS is there; when it comes back every flight asks
// again, and when it stays away every flight ends.
func (r *resolver) connection(there bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !there {
		if r.lost.IsZero() {
			r.lost = r.now()
			r.giveUp = time.AfterFunc(natsPatience, r.abandon)
		}
		return
	}
	r.lost = time.Time{}
	if r.giveUp != nil {
		r.giveUp.Stop()
	}
	for _, fl := range r.flights {
		select {
		case fl.again <- struct{}{}:
		default:
		}
	}
}

// abandon ends every flight if NATS is still away.
func (r *resolver) abandon() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lost.IsZero() {
		return
	}
	for n, fl := range r.flights {
		r.endLocked(n, fl, nil, errNATSAway())
	}
}

func errNATSAway() error {
	return &ruc.Error{Code: ruc.Unavailable, RetryAfter: unavailableRetry, Err: nats.ErrDisconnected}
}

// wait returns when every flight has ended; the caller has ended their context
// and does not report the connection any more.
func (r *resolver) wait() {
	r.wg.Wait()
	if r.giveUp != nil {
		r.giveUp.Stop()
	}
}

// replyBuffer holds the replies of one flight; each asking brings one at most.
const replyBuffer = 64

// ask sends the request, again and again, until a reply comes or ctx ends.
func (r *resolver) ask(ctx context.Context, n ruc.Number, fl *flight, t wire.Trace) (*held, error) {
	replies := make(chan *nats.Msg, replyBuffer)
	inbox := r.nc.NewInbox()
	sub, err := r.nc.ChanSubscribe(inbox, replies)
	if err != nil {
		return nil, &ruc.Error{Code: ruc.Unavailable, RetryAfter: unavailableRetry, Err: err}
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only on a closed connection
	began, begun := r.now(), r.clock.Now()
	var (
		nobodySince time.Time // since when nobody takes the request; zero while somebody may have
		asked       time.Time // when the last request left
		late        bool      // this is not the first time to ask
		taken       bool      // a request was not refused: its event may come whoever is there now
	)
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			if r.ctx.Err() != nil {
				return nil, &ruc.Error{Code: ruc.Unavailable, Err: r.ctx.Err()}
			}
			return nil, &ruc.Error{Code: ruc.Timeout, Err: ctx.Err()}
		case <-fl.again:
			next.Reset(0)
		case <-next.C:
			if !asked.IsZero() && r.now().Sub(asked) >= askAgain {
				taken = true
			}
			if late {
				if h := r.since(n, begun); h != nil {
					return h, nil
				}
			}
			if late = true; !r.nc.IsConnected() {
				// A request in nats.go's buffer would arrive after the reconnect, whatever
				// has been answered meanwhile; the reconnect brings us here again.
				next.Reset(askAgain)
				continue
			}
			asked = r.now()
			next.Reset(askAgain)
			m := nats.NewMsg(wire.SubjectResolve)
			m.Reply = inbox
			m.Data = n.AppendTo(nil)
			t.Set(m.Header)
			wire.SetWait(m.Header, r.timeout-r.now().Sub(began))
			if err := r.nc.PublishMsg(m); err != nil {
				return nil, &ruc.Error{Code: ruc.Unavailable, RetryAfter: unavailableRetry, Err: err}
			}
		case m := <-replies:
			if isNoResponders(m) && taken {
				continue
			}
			if isNoResponders(m) {
				if nobodySince.IsZero() {
					nobodySince = r.now()
				}
				if r.now().Sub(nobodySince) >= noResponderPatience {
					return nil, &ruc.Error{Code: ruc.Unavailable, RetryAfter: unavailableRetry, Err: nats.ErrNoResponders}
				}
				next.Reset(noResponderPause)
				continue
			}
			reply, err := wire.ReadReply(n, m)
			if taken && ruc.CodeOf(err) == ruc.Overloaded {
				continue // a scraper without room for a job that another has on the queue
			}
			if err != nil {
				return nil, err
			}
			h, err := newHeld(reply.Body, reply.Prefix, reply.Seq)
			if err != nil {
				return nil, &ruc.Error{Code: ruc.Internal, Err: err}
			}
			return h, nil
		}
	}
}

// since returns the answer that was stored after begun, if there is one: its event may
// have passed while the connection was lost, and asking would bring one more visit.
func (r *resolver) since(n ruc.Number, begun time.Time) *held {
	ctx, cancel := context.WithTimeout(r.ctx, lastTimeout)
	defer cancel()
	e, ok, err := wire.NewestAnswer(ctx, r.nc, n)
	if err != nil || !ok || e.Stored.Before(begun) {
		return nil // who cannot look asks
	}
	h, err := newHeld(e.Body, e.Prefix, e.Seq)
	if err != nil {
		return nil
	}
	return h
}

func isNoResponders(m *nats.Msg) bool {
	return len(m.Data) == 0 && m.Header.Get("Status") == "503"
}
