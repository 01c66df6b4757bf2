package cachewriter_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/store"
	"github.com/rucflow/rucflow/shared/store/storetest"
	"github.com/rucflow/rucflow/shared/wire"
)

var full = flag.Bool("full", false, "the long forms: 1,000 changes and 10,000 unchanged refreshes; 20,000 events with redeliveries")

// changes returns every stored change, oldest first.
func (r *rig) changes() (all []wire.ChangedNotice) {
	r.t.Helper()
	for m := range r.messages(wire.SubjectChanged + ".*") {
		c, err := wire.ParseChanged(m)
		if err != nil {
			r.t.Errorf("%v: %s", err, m.Data)
		}
		all = append(all, c)
	}
	return all
}

// messages goes through what the stream of events holds, as a direct get shows it.
func (r *rig) messages(subject string) func(yield func(*nats.Msg) bool) {
	r.t.Helper()
	stream, err := r.js.Stream(r.t.Context(), wire.StreamEvents)
	if err != nil {
		r.t.Fatal(err)
	}
	return func(yield func(*nats.Msg) bool) {
		for seq := uint64(1); ; {
			raw, err := stream.GetMsg(r.t.Context(), seq, jetstream.WithGetMsgSubject(subject))
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				return
			}
			if err != nil {
				r.t.Fatal(err)
			}
			seq = raw.Sequence + 1
			raw.Header.Set("Nats-Sequence", fmt.Sprint(raw.Sequence))
			raw.Header.Set("Nats-Time-Stamp", raw.Time.UTC().Format(time.RFC3339Nano))
			if !yield(&nats.Msg{Subject: raw.Subject, Header: raw.Header, Data: raw.Data}) {
				return
			}
		}
	}
}

func TestChanges_SayWhatIsDifferent(t *testing.T) {
	r := newRig(t)
	deps := r.deps(&shelf{})
	r.run(deps)
	heard, err := r.nc.SubscribeSync(wire.SubjectChanged)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	before, after := foundAt(number, "ANTES & CÍA", now.Add(-day)), foundAt(number, "DESPUÉS", now)
	r.publish(before)
	m := wire.ResolvedEvent(number, wire.Job{Seq: 99, Time: now}, encode(t, after), after.Fuente, now)
	trace := wire.NewTrace("pedido-4711", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	trace.Set(m.Header)
	seq := r.store(m)
	r.settled()
	got, err := heard.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"ruc":"20131312955","antes":` + string(encode(t, before)) + `,"despues":` + string(encode(t, after)) +
		`,"cambios":[{"campo":"razonSocial","antes":"ANTES & CÍA","despues":"DESPUÉS"}]}`
	if string(got.Data) != want {
		t.Errorf("%s, not %s", got.Data, want)
	}
	id := fmt.Sprintf("changed:20131312955:%d", seq)
	for name, want := range map[string]string{
		"Nats-Msg-Id": id, "ce-id": id, "ce-specversion": "1.0", "ce-type": "pe.ruc.changed.v1", "ce-source": "/rucflow/cachewriter/replica",
		"ce-subject": "20131312955", "Content-Type": "application/json", "Ruc-Seq": fmt.Sprint(seq), "Nats-Subject": "ruc.changed.20131312955",
		"X-Request-Id": trace.Request, "traceparent": trace.Parent,
	} {
		if got := got.Header.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if at, err := time.Parse(time.RFC3339Nano, got.Header.Get("ce-time")); err != nil || at.Before(now) {
		t.Errorf("ce-time: %v, %v", at, err)
	}
	if c, err := wire.ParseChanged(got); err != nil || c.Answer != seq || c.RUC != number {
		t.Errorf("%+v, %v", c, err)
	}
	if n := metric(t, deps, "ruc_changes_total"); n != 1 {
		t.Errorf("%v changes counted", n)
	}
}

func TestChanges_OfEachRealOneAndNothingElse(t *testing.T) {
	// As a slot stores answers, and as it did before they said what they follow.
	t.Run("answers that say what they follow", func(t *testing.T) { testEachRealChange(t, true) })
	t.Run("answers that do not", func(t *testing.T) { testEachRealChange(t, false) })
}

func testEachRealChange(t *testing.T, saying bool) {
	r := newRig(t)
	r.run(r.deps(&shelf{}))
	publish := r.publish
	if saying {
		publish = r.publishSaying
	}
	now := time.Now()
	failure := func() {
		r.jobs++
		r.store(wire.FailedEvent(number, wire.Job{Seq: r.jobs, Time: now}, wire.NewProblem(number, &ruc.Error{Code: ruc.Blocked}), ruc.FuenteReplica, now))
	}
	var want []string
	say := func(a ruc.Answer, changed string) {
		seq := publish(a)
		if changed != "" {
			want = append(want, fmt.Sprintf("%s %d %s", a.RUC, seq, changed))
		}
	}
	say(foundAt(number, "UNO", now), "")                                               // the first
	say(foundAt(second, "OTRO", now), "")                                              // another number's first
	say(foundAt(number, "UNO", now.Add(time.Hour)), "")                                // a refresh
	say(ruc.Found(number, ruc.Record{RazonSocial: "UNO"}, now, "replica", "http"), "") // by another engine
	failure()
	say(foundAt(number, "UNO", now), "")
	failure()
	say(foundAt(number, "DOS", now), "razonSocial")
	say(foundAt(number, "UNO", now), "razonSocial") // and back
	say(missingAt(number, now), "encontrado")
	say(missingAt(number, now), "")
	say(foundAt(number, "UNO", now), "encontrado")
	say(foundAt(number, "VENCIDO", now.Add(-30*day)), "razonSocial") // not stored in the cache, but an event
	say(foundAt(second, "OTRO", now), "")
	r.publishBody(number, strings.Replace(string(encode(t, foundAt(number, "MAL", now))), `"activo":false`, `"activo":fals`, 1))
	say(foundAt(number, "VENCIDO", now), "") // what cannot be read says of no change
	for i := range 12 {                      // more than is read at once
		say(foundAt(number, ruc.Text(fmt.Sprint("VEZ ", i/2)), now), map[int]string{0: "razonSocial"}[i%2])
	}
	r.settled()
	var got []string
	for _, c := range r.changes() {
		got = append(got, fmt.Sprintf("%s %d %s", c.RUC, c.Answer, c.Cambios[0].Campo))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, not %q", got, want)
	}
}

func (r *rig) publishBody(n ruc.Number, body string) {
	r.t.Helper()
	r.jobs++
	r.store(wire.ResolvedEvent(n, wire.Job{Seq: r.jobs, Time: time.Now()}, []byte(body), ruc.FuenteReplica, time.Now()))
}

// 1,000 real changes among 10,000 refreshes that find nothing new, with two cachewriters
// of which one dies with events in hand, acknowledgements that are late, and then the
// whole stream once more, with ids that the server has forgotten.
func TestChanges_OncePerRealChange(t *testing.T) {
	changed, unchanged := 100, 1000
	if *full {
		changed, unchanged = 1000, 10_000
	}
	numbers := storetest.Numbers(changed)
	now := time.Now()
	per := unchanged / changed // refreshes of each number
	const perChange = 1
	var answers []body
	byVersion := make([][]body, per+1+perChange)
	for v := range byVersion {
		name := "ANTES"
		if v > per/2 {
			name = "DESPUÉS"
		}
		byVersion[v] = bodies(t, numbers, name, now.Add(time.Duration(v)*time.Minute))
		for _, i := range rand.Perm(changed) {
			answers = append(answers, byVersion[v][i])
		}
	}

	r := newRig(t)
	r.provision(time.Second)
	stream, err := r.js.Stream(t.Context(), wire.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.Duplicates = 100 * time.Millisecond
	if _, err := r.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	r.publishAll(answers)

	s := &shelf{}
	died := make(chan struct{})
	first := r.deps(nil)
	var writes atomic.Int64
	first.Store = putFunc(func(ctx context.Context, entries []store.Entry) error {
		err := s.Put(ctx, entries)
		if writes.Add(1) == 2 { // before its changes are stored
			first.NATS.Close()
			close(died)
		}
		return err
	})
	var late atomic.Int64
	slow := putFunc(func(ctx context.Context, entries []store.Entry) error {
		select {
		case <-died:
		case <-ctx.Done():
		}
		if late.Add(1) == 2 { // it is not asked to wait: a store's error gives all of them back
			return errors.New("connection refused")
		}
		return s.Put(ctx, entries)
	})
	stopFirst := r.run(first)
	second := r.deps(slow)
	stopSecond := r.run(second)
	<-died
	stopFirst()
	third := r.deps(slow)
	stopThird := r.run(third)
	r.settledWithin(time.Minute)
	info, err := r.state()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d deliveries of %d answers", info.Delivered.Consumer, len(answers))
	if info.Delivered.Consumer <= uint64(len(answers)) {
		t.Error("nothing was delivered again")
	}
	check := func(when string) {
		t.Helper()
		seen := map[string]int{}
		for _, c := range r.changes() {
			seen[c.RUC.String()]++
			if got := string(c.Cambios[0].Antes) + string(c.Cambios[0].Despues); got != `"ANTES""DESPUÉS"` {
				t.Errorf("%s: %s", when, got)
			}
		}
		if len(seen) != changed {
			t.Errorf("%s: %d numbers have changes", when, len(seen))
		}
		for n, count := range seen {
			if count != 1 {
				t.Errorf("%s: %d changes of %s", when, count, n)
			}
		}
	}
	check("with redeliveries")

	stopSecond()
	stopThird()
	if err := r.js.DeleteConsumer(t.Context(), wire.StreamEvents, wire.ConsumerCachewriter); err != nil {
		t.Fatal(err)
	}
	p := wire.Provisioner{JS: r.js, Source: ruc.FuenteReplica}
	if err := p.Cachewriter(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.run(r.deps(s))
	r.run(r.deps(s))
	r.settledWithin(time.Minute)
	check("the whole stream once more")
}

// One cachewriter is slow with a change while another stores those after it.
func TestChanges_OutOfOrder(t *testing.T) {
	r := newRig(t)
	s := &shelf{}
	holding, goOn := make(chan struct{}), make(chan struct{})
	hold := sync.OnceFunc(func() { close(holding); <-goOn })
	r.publishFirst(foundAt(number, "CERO", time.Now()))
	r.run(r.deps(putFunc(func(ctx context.Context, entries []store.Entry) error {
		hold()
		return s.Put(ctx, entries)
	})))
	late := r.publish(foundAt(number, "UNO", time.Now()))
	<-holding
	r.run(r.deps(s))
	want := map[uint64]bool{late: true}
	eventually(t, "the other stores a later change", func() bool {
		want[r.publish(foundAt(number, ruc.Text(fmt.Sprint("VEZ ", len(want))), time.Now()))] = true
		return len(r.changes()) > 0
	})
	close(goOn)
	r.settled()
	got := map[uint64]bool{}
	for _, c := range r.changes() {
		if got[c.Answer] {
			t.Errorf("that of %d twice", c.Answer)
		}
		got[c.Answer] = true
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, not %v", got, want)
	}
}

// publishFirst stores an answer before there is a cachewriter.
func (r *rig) publishFirst(a ruc.Answer) {
	r.t.Helper()
	r.provision(10 * time.Second)
	r.publish(a)
}

// An answer is not acknowledged before its change is stored.
func TestChanges_NotLostWhenTheStreamDoesNotTakeThem(t *testing.T) {
	r := newRig(t)
	r.publishFirst(foundAt(number, "ANTES", time.Now()))
	r.publish(foundAt(number, "DESPUÉS", time.Now()))
	stream, err := r.js.Stream(t.Context(), wire.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	limit := func(size int32) {
		config := stream.CachedInfo().Config
		config.MaxMsgSize = size
		if _, err := r.js.UpdateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
	}
	limit(1000)
	s := &shelf{}
	r.run(r.deps(s))
	eventually(t, "the answer comes again", func() bool { return r.delivered() > 2 })
	if info, err := r.state(); err != nil || info.AckFloor.Stream >= r.last {
		t.Errorf("acknowledged up to %d (%v)", info.AckFloor.Stream, err)
	}
	limit(2 * wire.MaxAnswerBytes)
	r.settled()
	if got := r.changes(); len(got) != 1 || got[0].Answer != r.last {
		t.Errorf("%d changes", len(got))
	}
}

// The store is away: what waits in the stream changes nothing until it is back.
func TestChanges_AfterTheStoreWasAway(t *testing.T) {
	r := newRig(t)
	r.publishFirst(foundAt(number, "ANTES", time.Now()))
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
	r.publish(foundAt(number, "DESPUÉS", time.Now()))
	eventually(t, "it fails", func() bool { return metric(t, deps, "ruc_cache_write_failures_total") > 2 })
	if n := len(r.changes()); n != 0 {
		t.Errorf("%d changes of what is not stored", n)
	}
	down.Store(false)
	r.settled()
	if n := len(r.changes()); n != 1 {
		t.Errorf("%d changes", n)
	}
}

// An answer that the store refuses for ever was given all the same.
func TestChanges_OfWhatTheStoreRefuses(t *testing.T) {
	r := newRig(t)
	r.publishFirst(foundAt(number, "ANTES", time.Now()))
	r.run(r.deps(putFunc(func(context.Context, []store.Entry) error { return store.ErrRefused })))
	r.publish(foundAt(number, "DESPUÉS", time.Now()))
	r.settled()
	if n, letters := len(r.changes()), len(r.letters()); n != 1 || letters != 2 {
		t.Errorf("%d changes, %d letters", n, letters)
	}
}

// A number is forgotten while its change is in hand: nothing of it may come back.
func TestChanges_NothingOfAForgottenNumber(t *testing.T) {
	r := newRig(t)
	r.publishFirst(foundAt(number, "ANTES", time.Now()))
	holding, goOn := make(chan struct{}), make(chan struct{})
	hold := sync.OnceFunc(func() { close(holding); <-goOn })
	r.run(r.deps(putFunc(func(context.Context, []store.Entry) error { hold(); return nil })))
	r.publish(foundAt(number, "DESPUÉS", time.Now()))
	<-holding
	forgotten := make(chan error, 1)
	go func() { forgotten <- wire.Forget(context.WithoutCancel(t.Context()), r.js, number) }()
	eventually(t, "it is purged", func() bool {
		_, ok, err := wire.NewestAnswer(t.Context(), r.nc, number)
		return err == nil && !ok
	})
	close(goOn)
	if err := <-forgotten; err != nil {
		t.Error(err)
	}
	if n := len(r.changes()); n != 0 {
		t.Errorf("%d changes are left", n)
	}
}
