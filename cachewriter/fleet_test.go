package cachewriter_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/cachewriter"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/store"
	"github.com/rucflow/rucflow/shared/store/storetest"
	"github.com/rucflow/rucflow/shared/wire"
)

// redisOf opens a store of its own, as each cachewriter has.
func redisOf(t *testing.T, server *storetest.RedisServer) *store.Redis {
	t.Helper()
	s, err := store.NewRedis(server.RedisConfig(), ruc.FuenteReplica, time.Now, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// body is an encoded answer.
type body struct {
	ruc  ruc.Number
	text string
}

// bodies returns an answer for each number, which says name. Encoding each by
// itself would take a test of thousands some seconds under the race detector.
func bodies(t *testing.T, numbers []ruc.Number, name string, at time.Time) []body {
	t.Helper()
	template := string(encode(t, foundAt(number, ruc.Text(name), at)))
	all := make([]body, len(numbers))
	for i, n := range numbers {
		all[i] = body{n, strings.Replace(template, number.String(), n.String(), 1)}
	}
	return all
}

// publishAll stores answers as events, in their order.
func (r *rig) publishAll(answers []body) {
	r.t.Helper()
	js, err := jetstream.New(r.nc, jetstream.WithPublishAsyncMaxPending(500))
	if err != nil {
		r.t.Fatal(err)
	}
	var last jetstream.PubAckFuture
	for _, a := range answers {
		r.jobs++
		m := wire.ResolvedEvent(a.ruc, wire.Job{Seq: r.jobs, Time: time.Now()}, []byte(a.text), ruc.FuenteReplica, time.Now())
		if last, err = js.PublishMsgAsync(m, jetstream.WithStallWait(patience)); err != nil {
			r.t.Fatal(err)
		}
	}
	select {
	case ack := <-last.Ok():
		r.last = ack.Sequence
	case err := <-last.Err():
		r.t.Fatal(err)
	case <-time.After(time.Minute):
		r.t.Fatal("the last event was not stored")
	}
}

// Two cachewriters, one of which dies with events in hand and is replaced, and a
// Redis that stands still meanwhile: whatever is delivered again and in whatever
// order, the newest answer of each number stays.
func TestTwoWriters_EventsWithRedeliveries(t *testing.T) {
	const alike = 5 // versions in a row that differ in nothing but their time
	versions, events := 10, uint64(5_000)
	if *full {
		versions, events = 20, 20_000
	}
	r := newRig(t)
	r.provision(time.Second)
	server := storetest.StartRedis(t)
	numbers := storetest.Numbers(int(events) / versions)
	now := time.Now()
	var answers, last []body
	for v := range versions {
		// The newer the version, the older its date: the order is the stream's.
		last = bodies(t, numbers, fmt.Sprintf("VERSIÓN %d", v/alike), now.Add(-time.Duration(v)*time.Minute))
		for _, i := range rand.Perm(len(last)) {
			answers = append(answers, last[i])
		}
	}
	r.publishAll(answers[:events/2])

	// The first dies in its third write, when Redis has the answers and NATS does
	// not know. The second waits for that with a batch in hand, so that the first
	// gets as far. Some writes later Redis stands still.
	var puts atomic.Int64
	died, freeze := make(chan struct{}), sync.OnceFunc(server.Freeze)
	writing := func(s *store.Redis, after func()) putFunc {
		return func(ctx context.Context, entries []store.Entry) error {
			if puts.Add(1) == 30 {
				freeze()
			}
			err := s.Put(ctx, entries)
			after()
			return err
		}
	}
	first := r.deps(nil)
	var writes atomic.Int64
	first.Store = writing(redisOf(t, server), func() {
		if writes.Add(1) == 3 {
			first.NATS.Close()
			close(died)
		}
	})
	second := r.deps(writing(redisOf(t, server), func() {
		select {
		case <-died:
		case <-t.Context().Done():
		}
	}))
	third := r.deps(writing(redisOf(t, server), func() {}))
	stopFirst := r.run(first)
	r.run(second)
	select {
	case <-died:
	case <-time.After(patience):
		t.Fatal("the first cachewriter did not get to write")
	}
	stopFirst()
	r.run(third)
	r.publishAll(answers[events/2:])
	for _, deps := range []cachewriter.Deps{second, third} {
		eventually(t, "Redis stands still", func() bool { return metric(t, deps, "ruc_cache_write_failures_total") >= 1 })
	}
	server.Thaw()
	r.settledWithin(2 * time.Minute)

	info, err := r.state()
	if err != nil || info.NumPending != 0 || info.NumAckPending != 0 {
		t.Errorf("%d events are pending, %d unacknowledged, %v", info.NumPending, info.NumAckPending, err)
	}
	if info.Delivered.Stream < r.last || info.Delivered.Consumer <= events {
		t.Errorf("nothing was delivered again: %+v", info.Delivered)
	}
	stream, err := r.js.Stream(t.Context(), wire.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	if changes := stream.CachedInfo().State.Msgs - events; changes != events/uint64(versions)*uint64(versions/alike-1) {
		t.Errorf("%d changes of %d answers, of which each number's %d versions differ", changes, events, versions/alike)
	}
	t.Logf("%d deliveries of %d events", info.Delivered.Consumer, events)
	c := server.Client()
	for i, n := range numbers {
		newest, ok, err := wire.NewestAnswer(t.Context(), r.nc, n)
		if err != nil || !ok {
			t.Fatalf("the newest event of %s: %v, %v", n, ok, err)
		}
		if string(newest.Body) != last[i].text {
			t.Fatalf("number %d: the stream's newest is not the one published last: %s", i, newest.Body)
		}
		held, err := c.Get(t.Context(), "sunat:ruc:"+n.String()).Result()
		if err != nil || held != string(newest.Body) {
			t.Errorf("number %d: Redis holds %q (%v), the newest event is %q", i, held, err, newest.Body)
		}
		if ttl, err := c.TTL(t.Context(), "sunat:ruc:"+n.String()).Result(); err != nil || ttl <= 0 || ttl > 7*day {
			t.Errorf("number %d: TTL %v, %v", i, ttl, err)
		}
	}
	if n := len(r.letters()); n != 0 {
		t.Errorf("%d dead letters", n)
	}
}

// While Redis stands still, what both hold goes back once; then each tries with one
// event at a time, and the rest is not sent to and fro.
func TestTwoWriters_RedisFrozenForLongerThanAckWait(t *testing.T) {
	const events, ackWait = 1200, 300 * time.Millisecond // one failing write takes 2 s
	r := newRig(t)
	r.provision(ackWait)
	server := storetest.StartRedis(t)
	writers := []cachewriter.Deps{r.deps(redisOf(t, server)), r.deps(redisOf(t, server))}
	for _, deps := range writers {
		r.run(deps)
	}
	r.publish(foundAt(number, "ANTES", time.Now()))
	r.settled()
	server.Freeze()
	answers := bodies(t, storetest.Numbers(events), "DESPUÉS", time.Now())
	r.publishAll(answers)
	failures := func(atLeast float64) {
		for _, deps := range writers {
			eventually(t, "both fail", func() bool { return metric(t, deps, "ruc_cache_write_failures_total") >= atLeast })
		}
	}
	failures(1)
	before := r.delivered()
	failures(3)
	if again := r.delivered() - before; again > 10 {
		t.Errorf("%d deliveries while Redis stood still", again)
	}
	server.Thaw()
	r.settled()
	if info, err := r.state(); err != nil || info.NumPending != 0 || info.NumAckPending != 0 {
		t.Errorf("%d events are pending, %d unacknowledged, %v", info.NumPending, info.NumAckPending, err)
	}
	c := server.Client()
	for _, a := range answers {
		if held, err := c.Get(t.Context(), "sunat:ruc:"+a.ruc.String()).Result(); err != nil || held != a.text {
			t.Fatalf("%s: %q, %v", a.ruc, held, err)
		}
	}
}

// A write that outlasts AckWait keeps its events: another cachewriter does not get
// them.
func TestTwoWriters_ASlowWriteKeepsItsEvents(t *testing.T) {
	const ackWait = 200 * time.Millisecond
	r := newRig(t)
	r.provision(ackWait)
	s := &shelf{}
	writing, goOn := make(chan struct{}, 9), make(chan struct{})
	slow := putFunc(func(ctx context.Context, entries []store.Entry) error {
		writing <- struct{}{}
		<-goOn
		return s.Put(ctx, entries)
	})
	r.run(r.deps(slow))
	r.run(r.deps(slow))
	r.publish(foundAt(number, "X", time.Now()))
	<-writing
	began := time.Now()
	eventually(t, "AckWait has passed several times", func() bool { return time.Since(began) > 5*ackWait })
	if n := r.delivered(); n != 1 {
		t.Errorf("delivered %d times", n)
	}
	close(goOn)
	r.settled()
	if n := len(s.all()); n != 1 {
		t.Errorf("stored %d times", n)
	}
}

func TestWriter_AServerThatStopsBeforeTheAcksCostsNothing(t *testing.T) {
	const events = 600
	r := newRig(t)
	r.provision(time.Second)
	s := &shelf{}
	stored, goOn := make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(stored); <-goOn })
	r.run(r.deps(putFunc(func(ctx context.Context, entries []store.Entry) error {
		err := s.Put(ctx, entries)
		once()
		return err
	})))
	r.publishAll(bodies(t, storetest.Numbers(events), "X", time.Now()))
	<-stored
	addr := r.bus.URL()[len("nats://"):]
	r.bus.Stop()
	close(goOn) // it acknowledges to nobody
	r.startBus(addr)
	eventually(t, "the test is connected again", r.nc.IsConnected)
	r.settled()
	if n := s.count(); n != events {
		t.Errorf("stored %d of %d", n, events)
	}
}

func TestMetrics_ShowTheLagAndTheWrites(t *testing.T) {
	const events = 300
	r := newRig(t)
	r.provision(10 * time.Second)
	r.publishAll(bodies(t, storetest.Numbers(events), "X", time.Now()))
	var down atomic.Bool
	down.Store(true)
	s := &shelf{}
	deps := r.deps(putFunc(func(ctx context.Context, entries []store.Entry) error {
		if down.Load() {
			return errors.New("connection refused")
		}
		return s.Put(ctx, entries)
	}))
	r.run(deps)
	is := func(want float64) func() bool {
		return func() bool { return metric(t, deps, "ruc_cachewriter_lag_events") == want }
	}
	eventually(t, "the lag shows what is waiting", is(events))
	eventually(t, "failures are counted", func() bool { return metric(t, deps, "ruc_cache_write_failures_total") > 2 })
	down.Store(false)
	eventually(t, "the lag is gone", is(0))
	if got := metric(t, deps, "ruc_cache_writes_total"); got != events {
		t.Errorf("%v writes counted", got)
	}
	for _, name := range []string{"ruc_cache_write_batch_events", "ruc_cache_write_duration_seconds"} {
		if got := metric(t, deps, name); got <= metric(t, deps, "ruc_cache_write_failures_total") {
			t.Errorf("%s: %v observations", name, got)
		}
	}
}
