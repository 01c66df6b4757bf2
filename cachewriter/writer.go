package cachewriter

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/store"
	"github.com/rucflow/rucflow/shared/wire"
)

const (
	// A batch ends when it is full or when nothing came for batchLinger. Beyond 250
	// nothing is gained, for delivery and acks are then the limit.
	batchMax    = 250
	batchLinger = 5 * time.Millisecond
	// lanes is how many batches are under way at one time: while the store takes one,
	// the one before it is acknowledged. A third would have nothing to overlap.
	lanes = 2
	// A short heartbeat notices a pull that was lost with a server.
	pullHeartbeat = 500 * time.Millisecond
	pullRetry     = 200 * time.Millisecond
	// giveBackDelay is when what a writer gives back is given out again. At once, it
	// could go to the writer's own last pull, which the server does not yet know to
	// be over.
	giveBackDelay = 200 * time.Millisecond

	// drainWait is how long more of a pull that ends is waited for: nats.go says that
	// nothing more comes, but without a server only after ten seconds.
	drainWait = 200 * time.Millisecond

	// A store that is away is tried with one event, after pauses of these bounds.
	storeRetryMin, storeRetryMax = 50 * time.Millisecond, 2 * time.Second
	// probeWait is how long such an event is waited for, and so by how much a try
	// may outlast the end of the process.
	probeWait = 500 * time.Millisecond

	// identifyTimeout bounds a question for the consumer.
	identifyTimeout = 2 * time.Second

	// minHold bounds how often the server is told that a batch is worked on.
	minHold = 10 * time.Millisecond

	// watchInterval is how old the lag and the server's time may be.
	watchInterval = 5 * time.Second
)

// writer moves events from the stream to the store, in batches.
type writer struct {
	nc       *nats.Conn
	js       jetstream.JetStream
	consumer jetstream.Consumer
	source   string
	epoch    int64 // the stream's birth; see store.Version
	store    Store
	policy   ruc.Policy
	now      func() time.Time
	clock    *wire.Clock
	metrics  *metrics
	log      zerolog.Logger

	mu        sync.Mutex
	awaySince time.Time // when the store took nothing any more; zero while it does
}

// errStoreAway says that the store took nothing of a batch.
var errStoreAway = errors.New("cachewriter: the store takes no answers")

// run works until ctx ends; what is not stored by then is given back.
func (w *writer) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := w.consume(ctx)
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, errStoreAway):
			w.awaitStore(ctx)
		default:
			w.log.Warn().Err(err).Msg("the events stopped coming and are asked for again")
			sleep(ctx, pullRetry)
		}
	}
}

// consume writes batch after batch until ctx ends, the pull fails or the store is
// away. Messages fetches ahead, which suits a writer: what it buffers is nobody
// else's turn.
func (w *writer) consume(ctx context.Context) error {
	if err := w.identify(ctx); err != nil {
		return err
	}
	events, err := w.consumer.Messages(jetstream.PullMaxMessages(batchMax), jetstream.PullHeartbeat(pullHeartbeat))
	if err != nil {
		return err
	}
	writes, pulling := errgroup.WithContext(ctx)
	free := make(chan struct{}, lanes)
	before := closed
	for {
		select {
		case free <- struct{}{}:
		case <-pulling.Done():
		}
		batch, err := nextBatch(pulling, events)
		if err != nil {
			w.giveBack(events) // before the writes end, which may take seconds
			return cmp.Or(writes.Wait(), err)
		}
		stored, told := before, make(chan struct{})
		before = told
		writes.Go(func() error {
			defer func() { close(told); <-free }()
			return w.write(ctx, batch, giveBackDelay, stored)
		})
	}
}

// closed is what waits for nothing.
var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// nextBatch waits for an event and takes those that come with it.
func nextBatch(ctx context.Context, events jetstream.MessagesContext) ([]jetstream.Msg, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	first, err := events.Next(jetstream.NextContext(ctx))
	if err != nil {
		return nil, err
	}
	batch := append(make([]jetstream.Msg, 0, batchMax), first)
	for m := range comingSoon(events) {
		if batch = append(batch, m); len(batch) == batchMax {
			break
		}
	}
	return batch, nil
}

// comingSoon are the events that follow one another without a pause. A failed pull ends
// them too, and shows at the next Next.
func comingSoon(events jetstream.MessagesContext) iter.Seq[jetstream.Msg] {
	return func(yield func(jetstream.Msg) bool) {
		for {
			m, err := events.Next(jetstream.NextMaxWait(batchLinger))
			if err != nil || !yield(m) {
				return
			}
		}
	}
}

// identify learns whose data the stream holds and when it was born. It may have been
// deleted and made anew since the last pull: by the old birth, every answer of the new
// stream would count as older than what is held, and be dropped.
func (w *writer) identify(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, identifyTimeout)
	defer cancel()
	info, err := w.consumer.Info(ctx)
	if err != nil {
		return err
	}
	if err := wire.CheckSource(info, w.source); err != nil {
		return err
	}
	w.epoch = wire.Epoch(info)
	return nil
}

// awaitStore tries the store with one event after the other until it takes one or
// has nothing to take. All others stay in the stream meanwhile, for a cachewriter
// whose store is not away, and none is redelivered only because it waits here.
func (w *writer) awaitStore(ctx context.Context) {
	for pause := storeRetryMin; sleep(ctx, pause); pause = min(2*pause, storeRetryMax) {
		if w.identify(ctx) != nil {
			continue // NATS is away too
		}
		// Not bound to ctx: the server would give an event to a pull that was left
		// and keep it from the others for the consumer's AckWait.
		m, err := w.consumer.Next(jetstream.FetchMaxWait(probeWait))
		if err != nil {
			continue // another cachewriter has them all, or NATS is away too
		}
		// Later than the next try, which then takes another event: should this one
		// be why the store fails, it does not stand before the rest.
		if w.write(ctx, []jetstream.Msg{m}, 2*pause, closed) == nil {
			return
		}
	}
}

// giveBack ends a pull. What was fetched ahead goes back, for otherwise the
// server would keep it from every cachewriter until its AckWait is over.
func (w *writer) giveBack(events jetstream.MessagesContext) {
	events.Drain()
	var left []jetstream.Msg
	for {
		m, err := events.Next(jetstream.NextMaxWait(drainWait))
		if err != nil {
			break // the buffer is empty
		}
		left = append(left, m)
	}
	w.settle(left, func(m jetstream.Msg) error { return m.NakWithDelay(giveBackDelay) })
}

// write puts a batch into the store, stores what it changes, and settles each of its
// messages: what is stored, or has expired, is acknowledged once its change is stored or
// found needless; what never can be becomes a dead letter; the rest is given back, after
// delay where the store took nothing at all, which is errStoreAway. What it changes is
// stored after before is closed, so that the changes of one number stay in order.
func (w *writer) write(ctx context.Context, batch []jetstream.Msg, delay time.Duration, before <-chan struct{}) error {
	defer w.hold(batch)()
	w.metrics.batch.Observe(float64(len(batch)))
	live, entries, done, dead := w.read(batch)
	changes := w.look(ctx, slices.Concat(live, done))
	err := w.put(ctx, entries)
	var later []jetstream.Msg
	refused := map[uint64]bool{}
	for i, it := range live {
		switch err := store.EntryError(err, i); {
		case err == nil:
			done = append(done, it)
			w.metrics.written.Inc()
		case errors.Is(err, store.ErrRefused):
			refused[it.event.Seq] = true // it is an answer all the same
			done = append(done, it)
		default:
			later = append(later, it.msg)
		}
	}
	away := len(later) > 0 && len(later) == len(live)
	switch {
	case ctx.Err() != nil:
		delay = giveBackDelay
	case away:
		w.storeIsAway(err)
	case len(live) > 0:
		w.storeIsBack()
		if len(later) > 0 {
			delay = storeRetryMax
			w.log.Warn().Err(err).Int("events", len(later)).Msg("some answers could not be stored yet")
		}
	}
	<-before
	told, untold := w.tell(ctx, done, changes())
	var acked []jetstream.Msg
	for _, it := range told {
		if refused[it.event.Seq] {
			dead = append(dead, corpse{it.msg, wire.DeadRefused})
			continue
		}
		acked = append(acked, it.msg)
	}
	w.settle(acked, jetstream.Msg.Ack)
	w.settle(later, func(m jetstream.Msg) error { return m.NakWithDelay(delay) })
	w.bury(ctx, dead)
	w.giveBackUntold(ctx, untold)
	if away {
		return errStoreAway
	}
	return nil
}

// read sorts a batch into the events to store, with their entries, those that have
// expired, and what is no event.
func (w *writer) read(batch []jetstream.Msg) (live []item, entries []store.Entry, done []item, dead []corpse) {
	now := w.clock.Now()
	for _, m := range batch {
		e, err := wire.ParseConsumed(m)
		if err != nil {
			dead = append(dead, corpse{m, wire.ReasonOf(err)})
			continue
		}
		f := w.policy.Freshness(e.Prefix.Found, e.Prefix.ObtainedAt, now)
		if f.State != ruc.Fresh {
			done = append(done, item{m, e})
			continue
		}
		live = append(live, item{m, e})
		entries = append(entries, store.Entry{
			RUC: e.RUC, Value: e.Body, TTL: f.Left,
			Version: store.Version{Epoch: w.epoch, Seq: e.Seq},
		})
	}
	return live, entries, done, dead
}

// put hands entries to the store, once.
func (w *writer) put(ctx context.Context, entries []store.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	began := w.now()
	err := w.store.Put(ctx, entries)
	if err != nil && ctx.Err() != nil {
		return err // broken off by us, which says nothing of the store
	}
	w.metrics.took.Observe(w.now().Sub(began).Seconds())
	if err != nil {
		w.metrics.failed.Inc()
	}
	return err
}

// storeIsAway logs one line when the store fails; the tries after it are not worth
// any. So does storeIsBack.
func (w *writer) storeIsAway(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.awaySince.IsZero() {
		w.awaySince = w.now()
		w.log.Warn().Err(err).Msg("the store takes no answers; they wait in the stream")
	}
}

func (w *writer) storeIsBack() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.awaySince.IsZero() {
		w.log.Info().Dur("took", w.now().Sub(w.awaySince)).Msg("the store takes answers again")
		w.awaySince = time.Time{}
	}
}

// hold tells the server that the batch is worked on, until release: a slow store
// or a dead-letter stream that does not answer may outlast the consumer's AckWait,
// and another cachewriter would get the batch, and then this one again.
func (w *writer) hold(batch []jetstream.Msg) (release func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(max(w.consumer.CachedInfo().Config.AckWait/3, minHold)) // of a consumer made by hand it may be 0
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			for _, m := range batch {
				_ = m.InProgress() // settled meanwhile, or without NATS: it comes again and is stored again
			}
		}
	})
	return func() { close(done); wg.Wait() }
}

// settle tells the server what became of messages. A word that is lost costs a
// redelivery, and storing the same again changes nothing.
func (w *writer) settle(messages []jetstream.Msg, tell func(jetstream.Msg) error) {
	failed := 0
	var lastErr error
	for _, m := range messages {
		if err := tell(m); err != nil {
			failed, lastErr = failed+1, err
		}
	}
	if failed > 0 {
		w.log.Warn().Err(lastErr).Int("events", failed).Msg("events could not be settled and will come again")
	}
}

// watch learns the server's time and the lag until ctx ends. A question that fails
// leaves both as they are.
func (w *writer) watch(ctx context.Context) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		if info, err := w.clock.Learn(ctx, w.consumer); err == nil {
			w.metrics.lag.Set(float64(info.NumPending) + float64(info.NumAckPending))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// sleep waits for d; false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
