package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// Kind is what an event tells.
type Kind string

// The kinds of events.
const (
	Resolved Kind = "resolved" // SUNAT answered, be it that it does not know the number
	Failed   Kind = "failed"   // a visit brought no answer
	Changed  Kind = "changed"  // an answer says something else than the one before
	Progress Kind = "progress" // a visit waits, or is under way; never stored
)

// Kinds lists every Kind.
func Kinds() []Kind { return []Kind{Resolved, Failed, Changed, Progress} }

// Event is one event. Of Answer, Problem, Change and Progress it has the one that its Kind
// names.
type Event struct {
	Kind   Kind
	RUC    ruc.Number
	Seq    uint64    // in the stream of events; 0 for progress, which is not stored
	Stored time.Time // the NATS server's time of storing; zero for progress
	ID     string    // of the CloudEvent; "" for progress
	Body   []byte    // as it was sent

	Answer   *ruc.Answer    // its Record is nil where SUNAT does not know the number
	Problem  *ruc.Error     // why the visit failed
	Change   *wire.Changed  // both answers, and the fields in which they differ
	Progress *wire.Progress // place in the queue, or attempt
}

// Subscription says what to hear. Its zero value hears every event from now on, and ends
// with the first gap.
type Subscription struct {
	Numbers []ruc.Number // only these; nil = all
	Kinds   []Kind       // only these; nil = all

	// Resume gives first what the stream holds after the sequence After, and fills every
	// gap from the stream: each stored event once and in order. Progress comes as it is
	// heard. It needs the right to $JS.API.DIRECT.GET.RUC_EVENTS, which the user client of
	// deploy/nats/users.conf does not have: without it, Subscribe ends after ten seconds.
	Resume bool
	After  uint64 // 0 = from the first

	// Listening is called once, when the server hears what is wanted: what is stored from
	// then on will be handled. May be nil.
	Listening func()
	// Gap is called when events may be missing, with an error that wraps ErrGap; those that
	// are missing may follow some that are still to be handled. What it returns ends
	// Subscribe; nil goes on. Where Gap itself is nil, the gap ends Subscribe.
	Gap func(error) error
	// Bad is called with a message that is no event of ours; what it returns ends
	// Subscribe. May be nil: a cachewriter makes a dead letter of what was stored.
	Bad func(*nats.Msg, error) error
}

// ErrGap says that events may be missing: the connection was lost for a while (core
// messages are lost with it, silently), they came faster than they were handled (it wraps
// nats.ErrSlowConsumer too) or, with Resume, the stream does not hold them any more.
var ErrGap = errors.New("events may be missing")

var errLost = errors.New("the connection was lost for a while")

const (
	// held is how many events wait for a slow handler.
	held = 1024
	// flushTimeout is how long the server may take to hear what is wanted.
	flushTimeout = 5 * time.Second
	// A replica of the stream may lag behind what was heard, and while the stream changes its
	// leader nobody answers: it is asked again and again for so long.
	resumePatience = 5 * time.Second
	resumeRetry    = 100 * time.Millisecond
)

// Subscribe calls handle with each event that s wants, one after the other and in the order
// in which they come, until ctx ends, which is no error, or until handle returns one, which
// it returns. Otherwise the error is that of Gap or Bad, or a *ruc.Error of code
// ruc.Unavailable: nc was closed, the server refuses the subscription (it wraps
// nats.ErrPermissionViolation), or the stream cannot be read; with Resume, Subscribe goes
// on from there when it is called again, After the last event that was handled.
func Subscribe(ctx context.Context, nc *nats.Conn, s Subscription, handle func(Event) error) error {
	if s.Bad == nil {
		s.Bad = func(*nats.Msg, error) error { return nil }
	}
	f := &follower{Subscription: s, nc: nc, handle: handle, heard: make(chan *nats.Msg, held), next: s.After + 1}
	state := nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer nc.RemoveStatusListener(state)
	defer f.close()
	err := f.listen(ctx)
	if err == nil && s.Listening != nil {
		s.Listening()
	}
	if err == nil && s.Resume {
		_, err = f.read(ctx)
	}
	for err == nil {
		select {
		case <-ctx.Done():
			return nil
		case <-state:
			err = f.back(ctx)
		case m := <-f.heard:
			err = f.hear(ctx, m)
		}
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

func unavailable(err error) error {
	return &ruc.Error{
		Code: ruc.Unavailable, Detail: "No es posible recibir los eventos de este servidor NATS.",
		Err: fmt.Errorf("client.Subscribe: %w", err),
	}
}

// follower is one call of Subscribe. All is done on its goroutine.
type follower struct {
	Subscription
	nc     *nats.Conn
	handle func(Event) error
	// heard is the channel of all subscriptions, so that their messages keep the order in
	// which the server sent them.
	heard   chan *nats.Msg
	subs    []*nats.Subscription
	dropped int // messages for which heard had no room

	next   uint64    // with Resume, the sequence that is to come next
	newest time.Time // when the one before it was stored
}

// listen subscribes. To resume, it hears all that is stored, for only so does a missing
// sequence tell a gap.
func (f *follower) listen(ctx context.Context) error {
	before := f.nc.LastError()
	for kind, subject := range map[Kind]string{
		Resolved: wire.SubjectResolved, Failed: wire.SubjectFailed, Changed: wire.SubjectChanged, Progress: wire.SubjectProgress,
	} {
		if !f.wants(kind) && (kind == Progress || !f.Resume) {
			continue
		}
		sub, err := f.nc.ChanSubscribe(subject, f.heard)
		if err != nil {
			return unavailable(err)
		}
		f.subs = append(f.subs, sub)
	}
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	if err := f.nc.FlushWithContext(ctx); err != nil {
		return unavailable(err)
	}
	// The server refuses a subscription before it answers the flush.
	if err := f.nc.LastError(); errors.Is(err, nats.ErrPermissionViolation) && !errors.Is(err, before) {
		return unavailable(err)
	}
	return nil
}

func (f *follower) close() {
	for _, sub := range f.subs {
		_ = sub.Unsubscribe() // fails only on a closed connection
	}
}

func (f *follower) wants(k Kind) bool { return f.Kinds == nil || slices.Contains(f.Kinds, k) }

// back goes on when the connection is there again. The state is told before the server has
// heard of the subscriptions, so that a flush is waited for.
func (f *follower) back(ctx context.Context) error {
	if f.nc.IsClosed() {
		return unavailable(nats.ErrConnectionClosed)
	}
	flushed, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	_ = f.nc.FlushWithContext(flushed) // fails where the connection was lost again, which is told
	if ctx.Err() != nil {
		return nil
	}
	return f.missed(ctx, errLost)
}

// missed reads from the stream what may be missing, or tells the gap.
func (f *follower) missed(ctx context.Context, why error) error {
	if !f.Resume {
		return f.gap(why)
	}
	_, err := f.read(ctx)
	return err
}

func (f *follower) gap(why error) error {
	err := fmt.Errorf("client.Subscribe: %w: %w", ErrGap, why)
	if f.Gap == nil {
		return err
	}
	return f.Gap(err)
}

// hear takes a message from a subscription.
func (f *follower) hear(ctx context.Context, m *nats.Msg) error {
	// Messages are dropped while heard is full, so there is always one that follows.
	dropped := 0
	for _, sub := range f.subs {
		n, err := sub.Dropped()
		if err != nil {
			return unavailable(err)
		}
		dropped += n
	}
	if dropped > f.dropped {
		f.dropped = dropped
		if err := f.missed(ctx, nats.ErrSlowConsumer); err != nil {
			return err
		}
	}
	at := wire.PlaceOf(m)
	if !f.Resume || at.Seq == 0 || m.Sub.Subject == wire.SubjectProgress {
		return f.give(m)
	}
	return f.follow(ctx, m, at)
}

// follow gives a stored message in its turn.
func (f *follower) follow(ctx context.Context, m *nats.Msg, at wire.Place) error {
	switch {
	case at.Seq < f.next && !at.Stored.After(f.newest):
		return nil // it was read from the stream
	case at.Seq < f.next:
		f.next = 1 // newer than the last one: the stream was made anew
	}
	patience := time.After(resumePatience)
	for at.Seq > f.next {
		if done, err := f.read(ctx); err != nil || !done {
			return err // where it is not done, the message will be read too
		}
		if at.Seq < f.next {
			return nil
		}
		select {
		case <-patience:
			if err := f.gap(fmt.Errorf("the stream does not hold what was stored before event %d", at.Seq)); err != nil {
				return err
			}
			return f.giveStored(m, at)
		case <-time.After(resumeRetry):
		}
	}
	return f.giveStored(m, at)
}

// read gives what the stream holds from the next event on. It is not done where the
// connection was lost meanwhile: its return is told.
func (f *follower) read(ctx context.Context) (done bool, err error) {
	patience := time.After(resumePatience)
	for {
		ended, err := f.readOnce(ctx)
		switch {
		case ended != nil || ctx.Err() != nil:
			return false, ended
		case err == nil:
			return true, nil
		case errors.Is(err, errLost) || f.nc.IsReconnecting():
			return false, nil
		}
		select {
		case <-patience:
			return false, unavailable(err)
		case <-time.After(resumeRetry):
		}
	}
}

// readOnce returns the handler's error, and that of reading.
func (f *follower) readOnce(ctx context.Context) (ended, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	lost := f.nc.StatusChanged(nats.RECONNECTING)
	var wg sync.WaitGroup
	wg.Go(func() { // a reply that was under way does not come any more
		<-lost
		cancel(errLost)
	})
	err = wire.ReadEvents(ctx, f.nc, f.next, func(page []*nats.Msg) error {
		for _, m := range page {
			if ended = f.giveStored(m, wire.PlaceOf(m)); ended != nil {
				return ended
			}
		}
		return nil
	})
	f.nc.RemoveStatusListener(lost) // closes it
	wg.Wait()
	return ended, err
}

// giveStored hands out what is next in the stream.
func (f *follower) giveStored(m *nats.Msg, at wire.Place) error {
	f.next, f.newest = at.Seq+1, at.Stored
	return f.give(m)
}

// give hands out a message, if it is wanted.
func (f *follower) give(m *nats.Msg) error {
	e, err := parse(m)
	if err != nil {
		return f.Bad(m, err)
	}
	if !f.wants(e.Kind) || f.Numbers != nil && !slices.Contains(f.Numbers, e.RUC) {
		return nil
	}
	return f.handle(e)
}

// parse reads a message of whatever kind.
func parse(m *nats.Msg) (Event, error) {
	e := Event{ID: m.Header.Get(nats.MsgIdHdr), Body: m.Data}
	switch kind := wire.KindOf(m); kind {
	case wire.SubjectChanged:
		c, err := wire.ParseChanged(m)
		if err != nil {
			return Event{}, err
		}
		e.Kind, e.RUC, e.Seq, e.Stored, e.Change = Changed, c.RUC, c.Seq, c.Stored, &c.Changed
		return e, nil
	case wire.SubjectResolved, wire.SubjectFailed:
		return e.stored(m)
	default:
		if kind+".*" != wire.SubjectProgress {
			_, err := wire.ParseEvent(m) // says why it is none
			return Event{}, err
		}
		p, err := wire.ParseProgress(m)
		e.Kind, e.RUC, e.Progress = Progress, p.RUC, &p
		return e, err
	}
}

// stored reads an answer or a failure.
func (e Event) stored(m *nats.Msg) (Event, error) {
	stored, err := wire.ParseEvent(m)
	if err != nil {
		return Event{}, err
	}
	e.RUC, e.Seq, e.Stored = stored.RUC, stored.Seq, stored.Stored
	if stored.Failed {
		var p wire.Problem
		if err := json.Unmarshal(m.Data, &p); err != nil {
			return Event{}, fmt.Errorf("client.Subscribe: no problem document: %w", err)
		}
		e.Kind, e.Problem = Failed, p.Err()
		return e, nil
	}
	e.Kind, e.Answer = Resolved, new(ruc.Answer)
	if err := json.Unmarshal(m.Data, e.Answer); err != nil {
		return Event{}, fmt.Errorf("client.Subscribe: no answer: %w", err)
	}
	return e, nil
}
