package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Where the fleet's pause is kept: a key of a KV bucket, which is a stream of that
// name with KV_ before it.
const (
	BucketState = "RUC_STATE"
	KeyPause    = "pause"

	streamState  = "KV_" + BucketState
	subjectPause = "$KV." + BucketState + "." + KeyPause
)

// MaxPause is the longest pause. More, as a person may have written it, counts as so
// much.
const MaxPause = time.Hour

const (
	// pauseStep bounds one question or one write.
	pauseStep = time.Second
	// pausePatience is how long a write is tried: a restarted server is back in less.
	pausePatience = 5 * time.Second
	// pauseWatchLife is how long a watch is trusted, and the server's time.
	pauseWatchLife = 30 * time.Second
	// A watch that cannot be had is tried for again after so long, doubling.
	pauseRetryMin, pauseRetryMax = 200 * time.Millisecond, 10 * time.Second

	// The header by which a KV bucket marks a deletion, and its values.
	headerOperation = "KV-Operation"
	operationDelete = "DEL"
)

// codeWrongLastReplicated is codeWrongLast as a stream with several replicas says it.
const codeWrongLastReplicated jetstream.ErrorCode = 10164

// Pause is what the key pause holds while the fleet rests because SUNAT refused it.
type Pause struct {
	For   time.Duration // from the entry's time on, by the server's clock; at most MaxPause
	N     int           // how many visits in a row were refused, those in flight counting as one
	Probe string        // who tries whether SUNAT answers again; "" = nobody yet
}

type pauseJSON struct {
	ForMs int64  `json:"forMs"`
	N     int    `json:"n"`
	Probe string `json:"probe"`
}

// Encode returns the value of the key: {"forMs":300000,"n":1,"probe":""}.
func (p Pause) Encode() []byte {
	b, err := json.Marshal(pauseJSON{ForMs: p.For.Milliseconds(), N: p.N, Probe: p.Probe})
	if err != nil {
		// Two numbers and a string: nothing that can fail to encode.
		panic(fmt.Sprintf("wire.Pause.Encode: %v", err))
	}
	return b
}

// ParsePause reads the value of the key, as a person may have written it too.
func ParsePause(b []byte) (Pause, error) {
	var v pauseJSON
	if err := json.Unmarshal(b, &v); err != nil {
		return Pause{}, fmt.Errorf("wire.ParsePause: %w", err)
	}
	if v.ForMs < 0 {
		return Pause{}, fmt.Errorf("wire.ParsePause: forMs is %d", v.ForMs)
	}
	return Pause{
		For:   time.Duration(min(v.ForMs, MaxPause.Milliseconds())) * time.Millisecond,
		N:     max(v.N, 1),
		Probe: v.Probe,
	}, nil
}

// PauseState is the key as it was seen last. The zero value is a key that was never
// written.
type PauseState struct {
	Pause
	Since    time.Time     // the entry's time, by the server's clock; zero = there is no pause
	Left     time.Duration // of the pause; 0 with Set = it has run out and waits for a probe
	Revision uint64        // of the entry or of its deletion; a write names it
}

// Set reports whether there is a pause, run out or not.
func (s PauseState) Set() bool { return !s.Since.IsZero() }

// PauseWatch follows the key pause and writes it. It needs no right but those to
// watch one key: STREAM.INFO of the bucket, a consumer of the one subject, and, to
// write, the subject itself. It is safe for concurrent use.
type PauseWatch struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	clock  *Clock
	report func(error)

	known chan struct{}
	once  sync.Once

	mu      sync.Mutex
	state   PauseState
	missing bool // there is no bucket, as the server said
}

// NewPauseWatch returns a watch that sees no pause until Run has heard of one. report
// is called with an error when the key can no longer be watched, and with nil when it
// can again.
func NewPauseWatch(nc *nats.Conn, js jetstream.JetStream, clock *Clock, report func(error)) *PauseWatch {
	return &PauseWatch{nc: nc, js: js, clock: clock, report: report, known: make(chan struct{})}
}

// Known is closed once Run has read the key, or has failed to.
func (w *PauseWatch) Known() <-chan struct{} { return w.known }

// Current returns the key as it was seen last.
func (w *PauseWatch) Current() PauseState {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.state
	if s.Set() {
		// Clocks that differ cannot make a pause longer than it is.
		s.Left = min(max(0, s.Since.Add(s.For).Sub(w.clock.Now())), s.For)
	}
	return s
}

// Run follows the key until ctx ends. It also teaches the clock the server's time.
func (w *PauseWatch) Run(ctx context.Context) {
	back := w.nc.StatusChanged(nats.CONNECTED)
	defer w.nc.RemoveStatusListener(back)
	retry, failing := pauseRetryMin, false
	for ctx.Err() == nil {
		stop, err := w.follow(ctx)
		wait := pauseWatchLife
		switch {
		case ctx.Err() != nil:
		case err != nil:
			if !failing {
				w.report(err)
			}
			w.once.Do(func() { close(w.known) })
			failing, wait = true, retry
			retry = min(2*retry, pauseRetryMax)
		default:
			if failing {
				w.report(nil)
			}
			failing, retry = false, pauseRetryMin
		}
		// The server may have lost the watch, and tells nobody. So none lives across a
		// reconnect, and none for longer than pauseWatchLife.
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case _, open := <-back:
			if !open {
				back = nil // the connection was closed for good
			}
		}
		timer.Stop()
		stop()
	}
}

// follow hears the key's value and its changes until stop is called.
func (w *PauseWatch) follow(ctx context.Context) (stop func(), err error) {
	stop = func() {}
	step, cancel := context.WithTimeout(ctx, pauseStep)
	defer cancel()
	before := w.Current().Revision
	asked := w.clock.now()
	bucket, err := w.js.Stream(step, streamState)
	w.found(!errors.Is(err, jetstream.ErrStreamNotFound), before)
	if err != nil {
		return stop, fmt.Errorf("wire.PauseWatch: %s: %w", BucketState, err)
	}
	info := bucket.CachedInfo()
	w.clock.learn(asked, info.TimeStamp)
	if info.State.LastSeq < before {
		w.reset(before) // the bucket was made anew
	}
	// What KeyValue.Watch does, but that one's stop waits five seconds for a server
	// that is gone.
	push, err := w.nc.JetStream(nats.MaxWait(pauseStep))
	if err != nil {
		return stop, fmt.Errorf("wire.PauseWatch: %w", err)
	}
	sub, err := push.Subscribe(subjectPause, w.heard, nats.BindStream(streamState), nats.OrderedConsumer(), nats.DeliverLastPerSubject())
	if err != nil {
		return stop, fmt.Errorf("wire.PauseWatch: watching %s: %w", subjectPause, err)
	}
	if pending, err := sub.InitialConsumerPending(); err == nil && pending == 0 {
		w.reset(before)
		w.once.Do(func() { close(w.known) })
	}
	return func() { _ = sub.Unsubscribe() }, nil // the server forgets a consumer that nobody hears
}

// heard takes one entry of the key.
func (w *PauseWatch) heard(m *nats.Msg) {
	defer w.once.Do(func() { close(w.known) })
	meta, err := m.Metadata()
	if err != nil {
		return // not of a stream
	}
	s := PauseState{Revision: meta.Sequence.Stream}
	if m.Header.Get(headerOperation) == "" {
		if s.Pause, err = ParsePause(m.Data); err != nil {
			w.report(err)
		} else {
			s.Since = meta.Timestamp
		}
	}
	w.set(s)
}

// set takes a newer state. The same revision comes from this process's own write
// first, with the time that it takes it for, and then with the server's.
func (w *PauseWatch) set(s PauseState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.Revision >= w.state.Revision {
		w.state = s
	}
}

// found notes whether there is a bucket. Without one there is no pause.
func (w *PauseWatch) found(there bool, revision uint64) {
	if !there {
		w.reset(revision)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.missing = !there
}

// gone reports whether a write need not be tried again.
func (w *PauseWatch) gone(err error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.missing || errors.Is(err, nats.ErrConnectionClosed)
}

// reset forgets the state unless it has changed since revision.
func (w *PauseWatch) reset(revision uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state.Revision == revision {
		w.state = PauseState{}
	}
}

// Replace writes p in the place of the revision that the caller has seen (0 = none).
// won is false when somebody else has written since; the watch will hear what.
func (w *PauseWatch) Replace(ctx context.Context, revision uint64, p Pause) (s PauseState, won bool, err error) {
	m := nats.NewMsg(subjectPause)
	m.Data = p.Encode()
	if s.Revision, won, err = w.write(ctx, revision, m); won {
		s.Pause, s.Since = p, w.clock.Now()
		w.set(s)
	}
	return s, won, err
}

// Clear ends the pause of that revision. won is as in Replace.
func (w *PauseWatch) Clear(ctx context.Context, revision uint64) (won bool, err error) {
	m := nats.NewMsg(subjectPause)
	m.Header.Set(headerOperation, operationDelete)
	deleted, won, err := w.write(ctx, revision, m)
	if won {
		w.set(PauseState{Revision: deleted})
	}
	return won, err
}

func (w *PauseWatch) write(ctx context.Context, revision uint64, m *nats.Msg) (written uint64, won bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, pausePatience)
	defer cancel()
	for {
		step, done := context.WithTimeout(ctx, pauseStep)
		ack, err := w.js.PublishMsg(step, m, jetstream.WithExpectLastSequencePerSubject(revision), jetstream.WithRetryAttempts(0))
		done()
		switch {
		case err == nil:
			return ack.Sequence, true, nil
		case hasAPICode(err, codeWrongLast), hasAPICode(err, codeWrongLastReplicated):
			return 0, false, nil
		case w.gone(err):
			return 0, false, fmt.Errorf("wire.PauseWatch: writing %s: %w", subjectPause, err)
		}
		timer := time.NewTimer(pauseRetryMin)
		select {
		case <-ctx.Done():
			timer.Stop()
			return 0, false, fmt.Errorf("wire.PauseWatch: writing %s: %w", subjectPause, err)
		case <-timer.C:
		}
	}
}
