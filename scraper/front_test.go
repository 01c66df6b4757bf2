package scraper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/scraper/sunat"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

func TestFront_CallersOfOneNumberShareOneVisit(t *testing.T) {
	t.Parallel()
	const callers = 200
	r := newRig(t)
	release := make(chan struct{})
	e := &fakeEngine{visit: until(release)}
	r.run(e)
	r.run(e) // two scrapers, whose fronts share the callers
	var waiting []<-chan reply
	for range callers {
		waiting = append(waiting, r.ask(number, patience))
	}
	eventually(t, "the visit began", func() bool { return e.visits(number) > 0 })
	close(release)
	for _, c := range waiting {
		if a := <-c; a.err != nil || a.Seq != 1 {
			t.Fatalf("event %d, %v", a.Seq, a.err)
		}
	}
	if n := e.visits(number); n != 1 {
		t.Errorf("%d visits", n)
	}
}

// Callers come all the time: before the job is put, while it is in flight, between
// the event and the ack, after it. An answer younger than two seconds is the visit
// that they ask for; later, a new one is made.
func TestFront_OneVisitAroundTheAck(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	e := &fakeEngine{visit: takes(200 * time.Millisecond)}
	r.run(e)
	var waiting []<-chan reply
	eventually(t, "a second visit", func() bool {
		waiting = append(waiting, r.ask(number, patience))
		return e.visits(number) == 2
	})
	again := e.posts[1]
	bySeq := map[uint64]int{}
	for _, c := range waiting {
		a := <-c
		if a.err != nil {
			t.Fatal(a.err)
		}
		bySeq[a.Seq]++
	}
	if bySeq[1] < 100 || bySeq[1]+bySeq[2] != len(waiting) {
		t.Errorf("replies by event: %v", bySeq)
	}
	events := r.stored()
	if len(events) != 2 {
		t.Fatalf("%d events", len(events))
	}
	if age := again.Sub(events[0].Stored); age < recent-50*time.Millisecond {
		t.Errorf("visited again when the answer was %v old", age)
	}
}

// A failure is stored and its job not yet acknowledged: who comes now has seen the
// failure before it waits, and nothing more would ever come.
func TestFront_AnswersWithTheFailureOfTheJobItJoins(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.put(number, patience)
	job, err := readJob(r.take(wire.StreamVisits, wire.ConsumerSlots)) // and keeps it
	if err != nil {
		t.Fatal(err)
	}
	failure := wire.NewProblem(number, &ruc.Error{Code: ruc.Changed, Detail: "De la prueba."})
	if _, err := r.js.PublishMsg(t.Context(), wire.FailedEvent(number, job.Job, failure, ruc.FuenteReplica, time.Now())); err != nil {
		t.Fatal(err)
	}
	e := &fakeEngine{}
	r.run(e)
	got := r.asked(number, patience)
	if ruc.CodeOf(got.err) != ruc.Changed || got.took > time.Second || e.visits(number) != 0 {
		t.Errorf("%v after %v, %d visits", got.err, got.took, e.visits(number))
	}
}

// The asker's trace goes with the job into the event.
func TestFront_PassesTheTraceOn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(&fakeEngine{})
	heard := r.hear(wire.SubjectResolved)
	sent := wire.NewTrace("the-asker-1", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	m := nats.NewMsg(wire.SubjectResolve)
	m.Data = []byte(number.String())
	sent.Set(m.Header)
	if _, err := r.nc.RequestMsg(m, patience); err != nil {
		t.Fatal(err)
	}
	if got := wire.ReadTrace((<-heard).Header); got != sent {
		t.Errorf("the event has %+v", got)
	}
}

func TestFront_RepliesWhatWasStored(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(&fakeEngine{})
	for _, n := range []ruc.Number{number, nobody} {
		got := r.asked(n, patience)
		if got.err != nil {
			t.Fatal(got.err)
		}
		events := r.stored()
		last := events[len(events)-1]
		if string(got.Body) != string(last.Body) || last.RUC != n || last.Failed {
			t.Errorf("replied %s\nstored  %s", got.Body, last.Body)
		}
		if got.Prefix.Found != (n == number) {
			t.Errorf("found: %v", got.Prefix.Found)
		}
	}
	eventually(t, "no job is left", func() bool { return r.queued() == 0 })
}

func TestFront_RecordIsTheTaxpayers(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.Slots, c.MaxConcurrent = 4, 4 })
	r.run(&fakeEngine{})
	for _, c := range replica.Cases() {
		got := r.asked(c.Number, patience)
		var a ruc.Answer
		if err := json.Unmarshal(got.Body, &a); got.err != nil || err != nil {
			t.Fatalf("%s: %v, %v", c.Name, got.err, err)
		}
		want := c.Taxpayer.Expected(a.ObtenidoEn)
		want.FechaConsultaSunat, a.FechaConsultaSunat = nil, nil // the minute may have turned
		if diff := cmp.Diff(&want, a.Record); diff != "" || a.Fuente != ruc.FuenteReplica || a.Motor != ruc.MotorChrome {
			t.Errorf("%s: %s %s (-want +got):\n%s", c.Name, a.Fuente, a.Motor, diff)
		}
	}
}

func TestFront_RefusesWhatIsNoNumber(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(&fakeEngine{})
	for payload, code := range map[string]ruc.Code{"": ruc.Invalid, "20123456789": ruc.Invalid, "{": ruc.BadBody, strings.Repeat(" ", 300): ruc.TooLarge} {
		m, err := r.nc.Request(wire.SubjectResolve, []byte(payload), patience)
		if err != nil || m.Header.Get(wire.HeaderError) != string(code) {
			t.Errorf("%.20q: %v, %v", payload, m, err)
		}
	}
	if events := r.stored(); len(events) > 0 {
		t.Errorf("stored: %+v", events)
	}
}

func TestFront_FullQueueRefusesAtOnceButNeverAJoiner(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.Queue, c.MaxConcurrent = 2, 1 })
	release := make(chan struct{})
	e := &fakeEngine{visit: until(release)}
	r.run(e)
	inFlight := r.ask(number, patience)
	eventually(t, "the visit began", func() bool { return e.visits(number) == 1 })
	queued := r.ask(second, patience)
	eventually(t, "the queue is full", func() bool { return r.queued() == 2 })
	var refusal *ruc.Error
	got := r.asked(third, patience)
	if !errors.As(got.err, &refusal) || refusal.Code != ruc.Overloaded || refusal.RetryAfter == 0 || got.took > time.Second {
		t.Errorf("%v after %v", got.err, got.took)
	}
	r.run(e) // a front that has no flight of these numbers
	var joined []<-chan reply
	for range 10 {
		joined = append(joined, r.ask(number, patience), r.ask(second, patience))
	}
	close(release)
	for _, c := range append(joined, inFlight, queued) {
		if a := <-c; a.err != nil {
			t.Error(a.err)
		}
	}
	if e.visits(number) != 1 || e.visits(second) != 1 || e.visits(third) != 0 {
		t.Errorf("visits: %v", e.tries)
	}
	if events := r.stored(); len(events) != 2 {
		t.Errorf("%d events; a refusal is not stored", len(events))
	}
}

// What would be answered too late is refused at once, with when to come back.
func TestFront_RefusesWhatItsQueueWouldMakeLate(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.Slots, c.MaxConcurrent, c.Pace = 1, 1, 500*time.Millisecond })
	release := make(chan struct{})
	e := &fakeEngine{visit: func(ctx context.Context, n ruc.Number, attempt int) (sunat.Page, error) {
		if n == number {
			return until(release)(ctx, n, attempt)
		}
		return shown(n), nil
	}}
	r.run(e)
	for i := range knownVisits { // until then nobody knows how long visits take
		if a := r.asked(ruc.FromPrefix(fmt.Sprintf("204000000%d", i)), patience); a.err != nil {
			t.Fatal(a.err)
		}
	}
	held := r.ask(number, time.Minute)
	eventually(t, "the fleet is busy", func() bool { return e.visits(number) == 1 })
	var queued []<-chan reply
	for i := range 5 {
		queued = append(queued, r.ask(ruc.FromPrefix(fmt.Sprintf("204000001%d", i)), time.Minute))
	}
	eventually(t, "the queue", func() bool { return r.queued() == 6 })
	<-time.After(backlogAge) // what is known of the queue may be so old
	var refusal *ruc.Error
	got := r.asked(second, 2*time.Second) // six before it, half a second each
	if !errors.As(got.err, &refusal) || refusal.Code != ruc.Overloaded || refusal.RetryAfter < 3*time.Second || got.took > time.Second {
		t.Errorf("%+v after %v", refusal, got.took)
	}
	patient := r.ask(third, time.Minute)
	close(release)
	for _, c := range append(queued, held, patient) {
		if a := <-c; a.err != nil {
			t.Error(a.err)
		}
	}
}

func TestFront_TimesOut(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	release := make(chan struct{})
	defer close(release)
	r.run(&fakeEngine{visit: until(release)})
	got := r.asked(number, 300*time.Millisecond)
	if ruc.CodeOf(got.err) != ruc.Timeout || got.took < 300*time.Millisecond || got.took > 2*time.Second {
		t.Errorf("%v after %v", got.err, got.took)
	}
}

// The job carries the wait of the caller who put it; one who joined waits longer.
func TestFront_PutsTheJobOfALiveCallerAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.MaxConcurrent = 1 })
	release := make(chan struct{})
	e := &fakeEngine{visit: until(release)}
	r.run(e)
	before := r.ask(number, patience)
	eventually(t, "the fleet is busy", func() bool { return e.visits(number) == 1 })
	hasty := r.ask(second, 300*time.Millisecond)
	eventually(t, "the job is queued", func() bool { return r.queued() == 2 })
	patient := r.ask(second, patience)
	notices := r.hear(wire.SubjectDropped)
	if a := <-hasty; ruc.CodeOf(a.err) != ruc.Timeout {
		t.Errorf("the hasty caller: %v", a.err)
	}
	close(release)
	if a := <-before; a.err != nil {
		t.Error(a.err)
	}
	if a := <-patient; a.err != nil || e.visits(second) != 1 {
		t.Errorf("the patient caller: %v, %d visits", a.err, e.visits(second))
	}
	if m := next(t, notices); string(m.Data) != `{"ruc":"20100055237","reason":"expired"}` {
		t.Errorf("%s", m.Data)
	}
}

func TestFront_AnswersBlockedWhileTheFleetRests(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	e := &fakeEngine{visit: takes(time.Minute)}
	r.wait = 100 * time.Millisecond
	r.run(e)
	got := r.ask(number, patience)
	eventually(t, "the job is there", func() bool { return e.visits(number) == 1 })
	if err := r.nc.Publish(wire.SubjectDropped, []byte(`{"ruc":"20131312955","reason":"blocked"}`)); err != nil {
		t.Fatal(err)
	}
	if a := <-got; ruc.CodeOf(a.err) != ruc.Blocked {
		t.Error(a.err)
	}
}

func TestFront_LeavesRequestsToOthersWhileNoTabIsWarm(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	e := &fakeEngine{}
	r.run(e)
	e.down.Store(true)
	eventually(t, "the front withdraws", func() bool { return r.scrapers() == 0 })
	if _, err := r.nc.Request(wire.SubjectResolve, number.AppendTo(nil), patience); err == nil {
		t.Error("a request was taken")
	}
	e.down.Store(false)
	eventually(t, "the front is back", func() bool { return r.scrapers() == 1 })
	if a := r.asked(number, patience); a.err != nil {
		t.Error(a.err)
	}
}

func TestFront_VisitOutlivesAServerRestart(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.Pace = 100 * time.Millisecond })
	release := make(chan struct{})
	e := &fakeEngine{visit: until(release)}
	r.run(e)
	heard := r.hear(wire.SubjectResolved)
	r.ask(number, patience)
	eventually(t, "the visit began", func() bool { return e.visits(number) == 1 })
	r.restartBus()
	eventually(t, "the scraper is connected again", func() bool { return r.scrapers() == 1 })
	close(release)
	// The request may have died with the server; asking again shares the visit.
	if a := r.asked(number, patience); a.err != nil {
		t.Error(a.err)
	}
	if n := e.visits(number); n > 2 {
		t.Errorf("%d visits", n)
	}
	if events := r.stored(); len(events) != 1 || len(heard) == 0 {
		t.Errorf("%d events, %d heard", len(events), len(heard))
	}
	eventually(t, "the queue is empty", func() bool { return r.queued() == 0 })
}
