package scraper

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/scraper/sunat"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// clockError is how far off the server's time may be taken for, half of the way
// there and back.
const clockError = 20 * time.Millisecond

var refused = sunat.Page{Status: 403}

// pausing sets the pause, and a lease of about silentPause.
func pausing(d time.Duration) func(*Config) {
	return func(c *Config) { c.Pause, c.Attempts, c.AttemptTimeout = d, 1, 100*time.Millisecond }
}

// refuses is a visit that SUNAT refuses.
func refuses(context.Context, ruc.Number, int) (sunat.Page, error) { return refused, nil }

// key reads what the key holds, and returns nil where there is no pause.
func (r *rig) key() *wire.Pause {
	r.t.Helper()
	kv, err := r.js.KeyValue(r.t.Context(), wire.BucketState)
	if err != nil {
		r.t.Fatal(err)
	}
	e, err := kv.Get(r.t.Context(), wire.KeyPause)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil
	}
	if err != nil {
		r.t.Fatal(err)
	}
	p, err := wire.ParsePause(e.Value())
	if err != nil {
		r.t.Fatal(err)
	}
	return &p
}

// rest puts a pause as another scraper does.
func (r *rig) rest(p wire.Pause) {
	r.t.Helper()
	kv, err := r.js.KeyValue(r.t.Context(), wire.BucketState)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := kv.Put(r.t.Context(), wire.KeyPause, p.Encode()); err != nil {
		r.t.Fatal(err)
	}
}

// changes follows the key; deletions are nil. Probes are left out: the bucket holds no
// history, so an entry that is replaced at once may not be seen.
func (r *rig) changes() (seen func() []*wire.Pause) {
	r.t.Helper()
	kv, err := r.js.KeyValue(r.t.Context(), wire.BucketState)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w, err := kv.Watch(ctx, wire.KeyPause, jetstream.UpdatesOnly())
	if err != nil {
		r.t.Fatal(err)
	}
	var mu sync.Mutex
	var all []*wire.Pause
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for e := range w.Updates() {
			var p *wire.Pause
			if e.Operation() == jetstream.KeyValuePut {
				v, err := wire.ParsePause(e.Value())
				if err != nil {
					r.t.Error(err)
				}
				if v.Probe != "" {
					continue
				}
				p = &v
			}
			mu.Lock()
			all = append(all, p)
			mu.Unlock()
		}
	}()
	r.t.Cleanup(func() {
		_ = w.Stop() // closes the channel, also of a connection that is gone
		cancel()
		<-ended
	})
	return func() []*wire.Pause {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

// value reads a metric without labels.
func value(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// Four visits are in flight when SUNAT begins to refuse. From then on there is one
// visit at the end of each pause, whatever the number of callers and scrapers.
func TestPause_OneProbeAtTheEndOfEachPause(t *testing.T) {
	t.Parallel()
	const pause, inFlight, refusals = 100 * time.Millisecond, 4, 3
	r := newRig(t, pausing(pause), func(c *Config) { c.MaxConcurrent = inFlight })
	e := &fakeEngine{}
	var posts atomic.Int64
	together := make(chan struct{})
	e.visit = func(ctx context.Context, n ruc.Number, a int) (sunat.Page, error) {
		switch post := posts.Add(1); {
		case post == inFlight:
			close(together)
			return refused, nil
		case post < inFlight:
			_, err := until(together)(ctx, n, a)
			return refused, err
		case post <= inFlight+refusals:
			return refused, nil
		}
		return shown(n), nil
	}
	for range 3 {
		r.run(e)
	}
	seen := r.changes()
	var waiting []<-chan reply
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	all := numbers(2000)
	for deadline := time.After(patience); !over(seen()); {
		select {
		case <-deadline:
			t.Fatalf("still paused: %+v", r.key())
		case <-tick.C:
			waiting = append(waiting, r.ask(all[len(waiting)], patience))
		}
	}
	var took []time.Duration
	for _, c := range waiting {
		a := <-c
		var err *ruc.Error
		if a.err == nil {
			continue
		}
		if !errors.As(a.err, &err) || err.Code != ruc.Blocked || err.RetryAfter <= 0 {
			t.Errorf("%#v", a.err)
		}
		took = append(took, a.took)
	}
	slices.Sort(took)
	if len(took) < 50 || took[len(took)/2] > 50*time.Millisecond {
		t.Errorf("%d callers refused, half of them within %v", len(took), took[len(took)/2])
	}

	want := []*wire.Pause{
		{For: pause, N: 1}, {For: 2 * pause, N: 2}, {For: 4 * pause, N: 3}, {For: 8 * pause, N: 4}, nil,
	}
	if diff := cmp.Diff(want, seen()); diff != "" {
		t.Errorf("the key (-want +got):\n%s", diff)
	}
	slices.SortFunc(e.posts, time.Time.Compare)
	for i, least := range []time.Duration{pause, 2 * pause, 4 * pause, 8 * pause} {
		probe := inFlight + i
		if gap := e.posts[probe].Sub(e.posts[probe-1]); gap < least-clockError {
			t.Errorf("probe %d %v after the visit before it, in a pause of %v", i+1, gap, least)
		}
	}
	failed := 0
	for _, event := range r.stored() {
		if event.Failed {
			failed++
		}
	}
	if failed != inFlight+refusals {
		t.Errorf("%d failures stored of %d visits refused", failed, inFlight+refusals)
	}
}

// over tells whether the key was deleted last.
func over(seen []*wire.Pause) bool { return len(seen) > 0 && seen[len(seen)-1] == nil }

func TestPause_RefusesAtOnceAndStoresNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, pausing(time.Minute))
	reg := prometheus.NewRegistry()
	e := &fakeEngine{visit: refuses}
	r.runOn(r.connect("scraper"), reg, e)
	r.run(e)
	told := func(a reply) {
		t.Helper()
		var err *ruc.Error
		if !errors.As(a.err, &err) || err.Code != ruc.Blocked || err.RetryAfter < 50*time.Second || err.RetryAfter > time.Minute {
			t.Errorf("%#v", a.err)
		}
	}
	if left := value(t, reg, "ruc_pause_seconds_left"); left != 0 {
		t.Errorf("%v s left before it began", left)
	}
	told(r.asked(number, patience))
	eventually(t, "it is seen by both", func() bool { return value(t, reg, "ruc_pause_seconds_left") > 0 })
	eventually(t, "the job is gone", func() bool { return r.queued() == 0 })
	var took []time.Duration
	for _, n := range numbers(100) {
		a := r.asked(n, patience)
		told(a)
		took = append(took, a.took)
	}
	slices.Sort(took)
	if took[50] > 50*time.Millisecond {
		t.Errorf("half of them within %v", took[50])
	}
	if left := value(t, reg, "ruc_pause_seconds_left"); left < 50 || left > 60 {
		t.Errorf("%v s left", left)
	}
	if len(r.stored()) != 1 || r.queued() != 0 || len(e.posts) != 1 {
		t.Errorf("%d events, %d jobs, %d visits", len(r.stored()), r.queued(), len(e.posts))
	}
}

// SUNAT may refuse its form too, and then no scraper has a tab: callers are told why all
// the same, until the pause is over.
func TestPause_IsToldWithoutATab(t *testing.T) {
	t.Parallel()
	r := newRig(t, pausing(time.Minute))
	e := &fakeEngine{}
	r.run(e)
	e.down.Store(true)
	eventually(t, "the front withdraws", func() bool { return r.scrapers() == 0 })
	r.rest(wire.Pause{For: time.Minute, N: 1})
	eventually(t, "the front is back", func() bool { return r.scrapers() == 1 })
	for began := time.Now(); time.Since(began) < 3*downCheck; <-time.After(downCheck / 5) {
		if a := r.asked(number, patience); ruc.CodeOf(a.err) != ruc.Blocked {
			t.Errorf("%+v", a)
		}
	}
	r.rest(wire.Pause{N: 1})
	eventually(t, "the front withdraws again", func() bool { return r.scrapers() == 0 })
	e.down.Store(false)
	eventually(t, "the front is back", func() bool { return r.scrapers() == 1 })
	if a := r.asked(number, patience); a.err != nil {
		t.Error(a.err)
	}
}

// Jobs that were queued when the pause began are dropped, and their callers told.
func TestPause_DropsWhatIsQueued(t *testing.T) {
	t.Parallel()
	r := newRig(t, pausing(time.Minute), func(c *Config) { c.MaxConcurrent = 1 })
	release := make(chan struct{})
	e := &fakeEngine{visit: func(ctx context.Context, n ruc.Number, a int) (sunat.Page, error) {
		_, err := until(release)(ctx, n, a)
		return refused, err
	}}
	r.run(e)
	waiting := []<-chan reply{r.ask(number, patience)}
	eventually(t, "the visit began", func() bool { return e.visits(number) == 1 })
	waiting = append(waiting, r.ask(second, patience), r.ask(third, patience))
	eventually(t, "the others are queued", func() bool { return r.queued() == 3 })
	close(release)
	for _, c := range waiting {
		var err *ruc.Error
		if a := <-c; !errors.As(a.err, &err) || err.Code != ruc.Blocked || err.RetryAfter < 50*time.Second {
			t.Errorf("%#v", a.err)
		}
	}
	eventually(t, "the queue is empty", func() bool { return r.queued() == 0 })
	if len(e.posts) != 1 || len(r.stored()) != 1 {
		t.Errorf("%d visits, %d events", len(e.posts), len(r.stored()))
	}
}

// A visit that waits for its turn when another is refused is not made.
func TestPause_HoldsWhoWaitsForItsTurn(t *testing.T) {
	t.Parallel()
	r := newRig(t, pausing(time.Minute), func(c *Config) { c.Pace = 200 * time.Millisecond })
	r.ackWaitOf(wire.StreamTurn, wire.ConsumerTurn, patience)
	turn := r.take(wire.StreamTurn, wire.ConsumerTurn)
	e := &fakeEngine{visit: refuses}
	reg := prometheus.NewRegistry()
	r.runOn(r.connect("scraper"), reg, e)
	waiting := []<-chan reply{r.ask(number, patience), r.ask(second, patience)}
	eventually(t, "both slots wait", func() bool {
		c, err := r.js.Consumer(t.Context(), wire.StreamVisits, wire.ConsumerSlots)
		return err == nil && c.CachedInfo().NumAckPending == 2
	})
	r.rest(wire.Pause{For: time.Minute, N: 1})
	eventually(t, "the pause is seen", func() bool { return value(t, reg, "ruc_pause_seconds_left") > 0 })
	if err := turn.Nak(); err != nil {
		t.Fatal(err)
	}
	for _, c := range waiting {
		if a := <-c; ruc.CodeOf(a.err) != ruc.Blocked {
			t.Error(a.err)
		}
	}
	if len(e.posts) != 0 || len(r.stored()) != 0 {
		t.Errorf("%d visits, %d events", len(e.posts), len(r.stored()))
	}
}

// A scraper that is the probe loses its connection in the middle of the visit.
func TestPause_DeadProbeIsFollowedByAnother(t *testing.T) {
	t.Parallel()
	r := newRig(t, pausing(time.Minute))
	r.wait = 100 * time.Millisecond
	r.ackWait(500 * time.Millisecond)
	r.rest(wire.Pause{N: 3}) // which has run out
	dying := &fakeEngine{visit: takes(time.Minute)}
	nc := r.connect("scraper")
	r.runOn(nc, prometheus.NewRegistry(), dying)
	r.ask(number, time.Second)
	eventually(t, "the probe's visit began", func() bool { return dying.visits(number) == 1 })
	probed := r.key()
	nc.Close()
	e := &fakeEngine{}
	r.run(e)
	if a := r.asked(second, patience); ruc.CodeOf(a.err) != ruc.Blocked || a.took > time.Second {
		t.Errorf("%v after %v", a.err, a.took)
	}
	eventually(t, "an answer", func() bool { return r.asked(second, patience).err == nil })
	if probed == nil || probed.N != 3 || probed.Probe == "" {
		t.Fatalf("the probe's entry: %+v", probed)
	}
	if gap := e.posts[0].Sub(dying.posts[0]); gap < probed.For-100*time.Millisecond {
		t.Errorf("the next probe after %v of %v", gap, probed.For)
	}
	if p := r.key(); p != nil {
		t.Errorf("the key: %+v", p)
	}
}

func TestPause_GoodProbeServesWhatIsQueued(t *testing.T) {
	t.Parallel()
	r := newRig(t, pausing(time.Minute), func(c *Config) { c.MaxConcurrent = 1 })
	r.rest(wire.Pause{N: 2}) // which has run out
	seen := r.changes()
	for _, n := range []ruc.Number{number, nobody, third} {
		r.put(n, patience)
	}
	e := &fakeEngine{}
	r.run(e)
	eventually(t, "the queue is empty", func() bool { return r.queued() == 0 })
	if events := r.stored(); len(events) != 3 || len(e.posts) != 3 {
		t.Errorf("%d events of %d visits", len(events), len(e.posts))
	}
	if diff := cmp.Diff([]*wire.Pause{nil}, seen()); diff != "" {
		t.Errorf("the key (-want +got):\n%s", diff)
	}
	if a := r.asked(second, patience); a.err != nil {
		t.Error(a.err)
	}
}

func TestPause_OffHeedsAndWritesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	want := wire.Pause{For: time.Hour, N: 1}
	r.rest(want)
	e := &fakeEngine{visit: func(_ context.Context, n ruc.Number, attempt int) (sunat.Page, error) {
		if attempt == 1 {
			return refused, nil
		}
		return shown(n), nil
	}}
	r.run(e)
	var err *ruc.Error
	if a := r.asked(number, patience); !errors.As(a.err, &err) || err.Code != ruc.Blocked || err.RetryAfter != 5*time.Minute {
		t.Errorf("%#v", a.err)
	}
	eventually(t, "the job is gone", func() bool { return r.queued() == 0 })
	if a := r.asked(number, patience); a.err != nil {
		t.Error(a.err)
	}
	if got := r.key(); got == nil || *got != want {
		t.Errorf("the key: %+v", got)
	}
}

func TestPause_IsKeptByWhoStartsInItAndByARestartOfNATS(t *testing.T) {
	t.Parallel()
	r := newRig(t, pausing(time.Minute))
	r.rest(wire.Pause{For: time.Hour, N: 1})
	e := &fakeEngine{}
	r.run(e)
	if a := r.asked(number, patience); ruc.CodeOf(a.err) != ruc.Blocked {
		t.Error(a.err)
	}
	r.restartBus()
	eventually(t, "the scraper is connected again", func() bool { return r.scrapers() == 1 })
	r.run(e)
	for _, n := range numbers(20) { // some of each scraper
		if a := r.asked(n, patience); ruc.CodeOf(a.err) != ruc.Blocked {
			t.Error(a.err)
		}
	}
	if len(e.posts) != 0 {
		t.Errorf("%d visits", len(e.posts))
	}
	// The watch is alive after the restart.
	kv, err := r.js.KeyValue(t.Context(), wire.BucketState)
	if err == nil {
		err = kv.Delete(t.Context(), wire.KeyPause)
	}
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "visits are made again", func() bool { return r.asked(number, patience).err == nil })
}

func TestPause_TwoScrapersOpenItOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, pausing(time.Minute), func(c *Config) { c.Slots = 1 })
	seen := r.changes()
	both := make(chan struct{})
	var visits atomic.Int64
	visit := func(ctx context.Context, n ruc.Number, a int) (sunat.Page, error) {
		if visits.Add(1) == 2 {
			close(both)
		}
		_, err := until(both)(ctx, n, a)
		return refused, err
	}
	one, two := prometheus.NewRegistry(), prometheus.NewRegistry()
	r.runOn(r.connect("scraper"), one, &fakeEngine{visit: visit})
	r.runOn(r.connect("scraper"), two, &fakeEngine{visit: visit})
	waiting := []<-chan reply{r.ask(number, patience), r.ask(second, patience)}
	for _, c := range waiting {
		if a := <-c; ruc.CodeOf(a.err) != ruc.Blocked {
			t.Error(a.err)
		}
	}
	eventually(t, "the queue is empty", func() bool { return r.queued() == 0 })
	if diff := cmp.Diff([]*wire.Pause{{For: time.Minute, N: 1}}, seen()); diff != "" {
		t.Errorf("the key (-want +got):\n%s", diff)
	}
	if n := value(t, one, "ruc_pauses_total") + value(t, two, "ruc_pauses_total"); n != 1 {
		t.Errorf("%v pauses counted", n)
	}
}

func TestPause_MissingBucketIsNoCondition(t *testing.T) {
	t.Parallel()
	r := newRig(t, pausing(time.Minute))
	if err := r.js.DeleteKeyValue(t.Context(), wire.BucketState); err != nil {
		t.Fatal(err)
	}
	r.bare = true
	e := &fakeEngine{visit: func(_ context.Context, n ruc.Number, attempt int) (sunat.Page, error) {
		if n == number && attempt == 1 {
			return refused, nil
		}
		return shown(n), nil
	}}
	r.run(e)
	if a := r.asked(second, patience); a.err != nil {
		t.Error(a.err)
	}
	if a := r.asked(number, patience); ruc.CodeOf(a.err) != ruc.Blocked {
		t.Error(a.err)
	}
	eventually(t, "the job is gone", func() bool { return r.queued() == 0 })
	if a := r.asked(number, patience); a.err != nil {
		t.Error(a.err)
	}
}

// rested returns a pause whose key has run out after two refusals.
func (r *rig) rested() *pause {
	r.t.Helper()
	r.rest(wire.Pause{N: 2})
	clock := wire.NewClock(time.Now)
	watch := wire.NewPauseWatch(r.nc, r.js, clock, func(err error) { r.t.Errorf("reported: %v", err) })
	p := newPause(r.cfg, watch, 0, func() {}, zerolog.Nop())
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { p.run(ctx) })
	r.t.Cleanup(func() { cancel(); wg.Wait() })
	p.read(ctx)
	return p
}

func TestPause_WhatComesOfAProbe(t *testing.T) {
	t.Parallel()
	blocked := &ruc.Error{Code: ruc.Blocked}
	cut, cancel := context.WithCancel(context.Background())
	cancel()
	whole := context.Background()
	untouched := &wire.Pause{For: lease(1, 100*time.Millisecond, 0), N: 2, Probe: "somebody"}
	for name, tc := range map[string]struct {
		ctx     context.Context
		outcome error
		want    *wire.Pause
	}{
		"answer":              {whole, nil, nil},
		"refused":             {whole, blocked, &wire.Pause{For: 4 * time.Minute, N: 3}},
		"refused, stopping":   {cut, blocked, &wire.Pause{For: 4 * time.Minute, N: 3}},
		"unavailable":         {whole, &ruc.Error{Code: ruc.Unavailable}, untouched},
		"changed":             {whole, &ruc.Error{Code: ruc.Changed}, untouched},
		"somebody's answer":   {whole, errStored, &wire.Pause{N: 2}},
		"cut short":           {cut, context.Canceled, &wire.Pause{N: 2}},
		"overtaken by others": {whole, errPaused, untouched},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, pausing(time.Minute))
			p := r.rested()
			leave, err := p.enter(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.enter(t.Context()); !errors.Is(err, errPaused) {
				t.Errorf("a second probe: %v", err)
			}
			if _, err := p.check(leave); err != nil {
				t.Error(err)
			}
			p.ended(tc.ctx, leave, tc.outcome)
			got := r.key()
			if got != nil && got.Probe != "" {
				got.Probe = "somebody"
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("the key (-want +got):\n%s", diff)
			}
		})
	}
}

// What a visit met that began before the key changed says nothing about now.
func TestPause_LateRefusalsDoNotCount(t *testing.T) {
	t.Parallel()
	r := newRig(t, pausing(time.Minute))
	p := r.rested()
	probe, err := p.enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	blocked := &ruc.Error{Code: ruc.Blocked}
	p.ended(t.Context(), pass{}, blocked) // began before the pause
	p.ended(t.Context(), probe, nil)
	open, err := p.enter(t.Context())
	if err != nil || open.refused != 0 {
		t.Fatalf("%+v, %v", open, err)
	}
	p.ended(t.Context(), probe, blocked) // of a probe that was overtaken
	if got := r.key(); got != nil {
		t.Errorf("the key: %+v", got)
	}
	p.ended(t.Context(), open, blocked)
	if diff := cmp.Diff(&wire.Pause{For: time.Minute, N: 1}, r.key()); diff != "" {
		t.Errorf("the key (-want +got):\n%s", diff)
	}
	if _, err := p.check(open); !errors.Is(err, errPaused) {
		t.Errorf("who waits for its turn: %v", err)
	}
}

func TestPause_Lengths(t *testing.T) {
	t.Parallel()
	p := &pause{first: 5 * time.Minute}
	for refused, want := range map[int]time.Duration{
		1: 5 * time.Minute, 2: 10 * time.Minute, 4: 40 * time.Minute, 5: time.Hour, 1 << 40: time.Hour,
	} {
		if got := p.length(refused); got != want {
			t.Errorf("after %d refusals %v", refused, got)
		}
	}
	if got := lease(3, 15*time.Second, 1100*time.Millisecond); got != 50300*time.Millisecond {
		t.Errorf("a probe has %v", got)
	}
}
