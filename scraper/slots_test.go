package scraper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/scraper/sunat"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

func caused(c sunat.Cause) func(ruc.Number) (sunat.Page, error) {
	return func(ruc.Number) (sunat.Page, error) {
		return sunat.Page{}, &sunat.VisitError{Cause: c, Err: errors.New("fake")}
	}
}

func brings(p sunat.Page) func(ruc.Number) (sunat.Page, error) {
	return func(ruc.Number) (sunat.Page, error) { return p, nil }
}

func TestSlot_TriesAgainByCause(t *testing.T) {
	t.Parallel()
	const (
		unavailable = "No es posible consultar a SUNAT en este momento. Intente de nuevo en unos minutos."
		blocked     = "SUNAT rechaza temporalmente las consultas. Intente de nuevo en unos minutos."
		changed     = "La página de SUNAT no tiene el formato esperado."
		internal    = "Ocurrió un error interno. El problema quedó registrado."
		failed      = "No se pudo obtener información del RUC 20131312955 después de "
		three       = failed + "3 intentos. Último error: "
		two         = failed + "2 intentos. Último error: "
		one         = failed + "1 intento. Último error: "
	)
	type try = func(ruc.Number) (sunat.Page, error)
	good := func(n ruc.Number) (sunat.Page, error) { return shown(n), nil }
	var (
		down, strange = brings(sunat.Page{Status: 500}), brings(page("<title>Hola</title><footer>?</footer>"))
		forbidden     = brings(sunat.Page{Status: 403})
		another       = brings(shown(second))
		silent, reset = caused(sunat.CauseSilent), caused(sunat.CauseReset)
		crash, dialog = caused(sunat.CauseCrash), caused(sunat.CauseDialog)
	)
	for name, tc := range map[string]struct {
		tries  []try // the last one repeats
		visits int
		code   ruc.Code // "" = found
		detail string
		least  time.Duration
	}{
		"error pages":               {[]try{down}, 3, ruc.Unavailable, three + unavailable, 200 * time.Millisecond},
		"crashes":                   {[]try{crash}, 3, ruc.Unavailable, three + unavailable, 0},
		"two error pages":           {[]try{down, down, good}, 3, "", "", 200 * time.Millisecond},
		"one crash":                 {[]try{crash, good}, 2, "", "", 0},
		"strange pages":             {[]try{strange}, 2, ruc.Changed, two + changed, 0},
		"one strange page":          {[]try{strange, good}, 2, "", "", 0},
		"another taxpayer's page":   {[]try{another}, 2, ruc.Changed, two + changed, 0},
		"refused":                   {[]try{forbidden}, 1, ruc.Blocked, one + blocked, 0},
		"error page, then refused":  {[]try{down, forbidden}, 2, ruc.Blocked, two + blocked, 0},
		"dialog":                    {[]try{dialog}, 1, ruc.Internal, one + internal, 0},
		"silent twice":              {[]try{silent}, 2, ruc.Blocked, two + blocked, silentPause},
		"silent, then reset":        {[]try{silent, reset}, 2, ruc.Blocked, two + blocked, silentPause},
		"silent once":               {[]try{silent, good}, 2, "", "", silentPause},
		"silent, but not in a row":  {[]try{silent, crash, silent}, 3, ruc.Unavailable, three + unavailable, silentPause},
		"an engine's unknown error": {[]try{func(ruc.Number) (sunat.Page, error) { return sunat.Page{}, errors.New("?") }}, 1, ruc.Internal, one + internal, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			e := &fakeEngine{visit: func(_ context.Context, n ruc.Number, attempt int) (sunat.Page, error) {
				return tc.tries[min(attempt, len(tc.tries))-1](n)
			}}
			r.run(e)
			got := r.asked(number, patience)
			if e.visits(number) != tc.visits || got.took < tc.least {
				t.Errorf("%d visits in %v", e.visits(number), got.took)
			}
			events := r.stored()
			if len(events) != 1 || events[0].Failed != (tc.code != "") {
				t.Fatalf("%d events", len(events))
			}
			if tc.code == "" {
				if got.err != nil || !got.Prefix.Found {
					t.Error(got.err)
				}
				return
			}
			var err *ruc.Error
			if !errors.As(got.err, &err) || err.Code != tc.code || err.Detail != tc.detail || err.Attempts != tc.visits {
				t.Errorf("%#v", got.err)
			}
			if body := string(events[0].Body); !strings.Contains(body, `"motor":"chrome"`) || !strings.Contains(body, `"code":"`+string(tc.code)+`"`) {
				t.Errorf("stored: %s", body)
			}
			eventually(t, "the job is gone", func() bool { return r.queued() == 0 })
		})
	}
}

func TestSlot_PausesForTheSiteAlone(t *testing.T) {
	s := &slots{cfg: Config{Attempts: 3}}
	for cause, rests := range map[sunat.Cause]bool{sunat.CauseCrash: false, sunat.CauseLost: false, sunat.CauseNetwork: true} {
		pause, again := s.again(fmt.Errorf("visit: %w", &sunat.VisitError{Cause: cause}), 2, 0)
		if !again || rests != (pause >= retryPauseMin && pause < retryPauseMax) || !rests && pause != 0 {
			t.Errorf("%s: after the second attempt another one: %t, in %v", cause, again, pause)
		}
	}
}

func TestSlot_FailureIsTriedAfreshByTheNextCaller(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	e := &fakeEngine{visit: func(_ context.Context, n ruc.Number, attempt int) (sunat.Page, error) {
		if attempt == 1 {
			return sunat.Page{Status: 403}, nil
		}
		return shown(n), nil
	}}
	r.run(e)
	if a := r.asked(number, patience); ruc.CodeOf(a.err) != ruc.Blocked {
		t.Fatal(a.err)
	}
	eventually(t, "the job is gone", func() bool { return r.queued() == 0 })
	if a := r.asked(number, patience); a.err != nil || e.visits(number) != 2 {
		t.Errorf("%v, %d visits", a.err, e.visits(number))
	}
}

// Whoever hears the event may rely on the job being gone soon, whoever sees the job
// gone on the event being there.
func TestSlot_StoresTheEventBeforeItAcknowledgesTheJob(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(&fakeEngine{})
	heard := r.hear(wire.SubjectResolved, "$JS.ACK."+wire.StreamVisits+".>")
	if a := r.asked(number, patience); a.err != nil {
		t.Fatal(a.err)
	}
	var order []string
	for len(order) < 2 {
		m := next(t, heard)
		if m.Subject != wire.SubjectResolved {
			m.Subject = string(m.Data)
		}
		order = append(order, m.Subject)
	}
	if want := []string{wire.SubjectResolved, "+ACK"}; !slices.Equal(order, want) {
		t.Errorf("%q", order)
	}
}

func TestSlot_DropsAJobThatNobodyAwaits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	notices := r.hear(wire.SubjectDropped)
	r.put(number, time.Millisecond)
	r.take(wire.StreamVisits, wire.ConsumerSlots).Nak() //nolint:errcheck // seen below
	e := &fakeEngine{}
	r.run(e)
	if m := next(t, notices); string(m.Data) != `{"ruc":"20131312955","reason":"expired"}` {
		t.Errorf("%s", m.Data)
	}
	if r.queued() != 0 || e.visits(number) != 0 || len(r.stored()) != 0 {
		t.Errorf("%d jobs, %d visits, %d events", r.queued(), e.visits(number), len(r.stored()))
	}
}

func TestSlot_SkipsAJobWhoseEventIsStored(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	notices := r.hear(wire.SubjectDropped)
	r.put(number, patience)
	r.answerElsewhere(number)
	e := &fakeEngine{}
	r.run(e)
	if m := next(t, notices); string(m.Data) != `{"ruc":"20131312955","reason":"stored"}` {
		t.Errorf("%s", m.Data)
	}
	if r.queued() != 0 || e.visits(number) != 0 {
		t.Errorf("%d jobs, %d visits", r.queued(), e.visits(number))
	}
}

// answerElsewhere stores an answer as another scraper's slot does.
func (r *rig) answerElsewhere(n ruc.Number) {
	r.t.Helper()
	body, err := ruc.Found(n, ruc.Record{}, time.Now(), ruc.FuenteReplica, ruc.MotorChrome).Encode()
	if err != nil {
		r.t.Fatal(err)
	}
	m := wire.ResolvedEvent(n, wire.Job{Seq: 77, Time: time.Now()}, body, ruc.FuenteReplica, time.Now())
	if _, err := r.js.PublishMsg(r.t.Context(), m); err != nil {
		r.t.Fatal(err)
	}
}

// The turn may be long in coming, and somebody else's event may come before it.
func TestSlot_LooksAgainOnceItHasTheTurn(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.Pace = time.Minute })
	turn := r.take(wire.StreamTurn, wire.ConsumerTurn)
	e := &fakeEngine{}
	r.run(e)
	got := r.ask(number, patience)
	eventually(t, "a slot has the job", func() bool {
		c, err := r.js.Consumer(t.Context(), wire.StreamVisits, wire.ConsumerSlots)
		return err == nil && c.CachedInfo().NumAckPending == 1
	})
	r.answerElsewhere(number)
	if a := <-got; a.err != nil || a.Seq != 1 {
		t.Errorf("event %d, %v", a.Seq, a.err)
	}
	if err := turn.Nak(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the job is gone", func() bool { return r.queued() == 0 })
	if n := e.visits(number); n != 0 {
		t.Errorf("%d visits", n)
	}
}

// Giving the job back each time would count as the death of so many slots.
func TestSlot_KeepsItsJobWhileItCannotLook(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	e := &fakeEngine{}
	r.run(e)
	if err := r.js.DeleteStream(t.Context(), wire.StreamEvents); err != nil {
		t.Fatal(err)
	}
	looks := make(chan *nats.Msg, 64)
	broken, err := r.nc.Subscribe("$JS.API.DIRECT.GET.>", func(m *nats.Msg) {
		looks <- m
		if err := m.RespondMsg(&nats.Msg{Header: nats.Header{"Status": {"500"}}}); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	heard := r.hear(wire.SubjectResolved, wire.SubjectFailed)
	r.put(number, patience)
	for range r.cfg.Attempts + 2 {
		next(t, looks)
	}
	if err := broken.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	if err := provision(t.Context(), r.js, r.cfg, Deps{Log: zerolog.Nop(), Provision: true}); err != nil {
		t.Fatal(err)
	}
	if m := next(t, heard); m.Subject != wire.SubjectResolved || e.visits(number) != 1 {
		t.Errorf("%s %s, %d visits", m.Subject, m.Data, e.visits(number))
	}
}

func TestSlot_TakesOverFromADeadOne(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.ackWait(500 * time.Millisecond)
	r.put(number, patience)
	r.take(wire.StreamVisits, wire.ConsumerSlots) // and dies
	e := &fakeEngine{}
	r.run(e)
	if a := r.asked(number, patience); a.err != nil || e.visits(number) != 1 {
		t.Errorf("%v, %d visits", a.err, e.visits(number))
	}
}

func TestSlot_TwoDeliveriesOfOneJobStoreOneEvent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.ackWait(300 * time.Millisecond) // shorter than SlotHeartbeat: as if the slot were frozen
	e := &fakeEngine{}
	e.visit = func(ctx context.Context, n ruc.Number, _ int) (sunat.Page, error) {
		for e.visits(n) < 2 {
			if err := sleep(ctx, time.Millisecond); err != nil {
				return sunat.Page{}, err
			}
		}
		return shown(n), nil
	}
	r.run(e)
	if a := r.asked(number, patience); a.err != nil {
		t.Error(a.err)
	}
	eventually(t, "the job is gone", func() bool { return r.queued() == 0 })
	if events := r.stored(); len(events) != 1 {
		t.Errorf("%d events of %d visits", len(events), e.visits(number))
	}
}

func TestSlot_GivesUpAJobThatKillsItsSlots(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.put(number, patience)
	for range r.cfg.Attempts {
		if err := r.take(wire.StreamVisits, wire.ConsumerSlots).Nak(); err != nil {
			t.Fatal(err)
		}
	}
	heard := r.hear(wire.SubjectFailed)
	e := &fakeEngine{}
	r.run(e)
	m := next(t, heard)
	for _, want := range []string{`"code":"unavailable"`, `"intentos":3`, `después de 3 intentos. Último error: `} {
		if !strings.Contains(string(m.Data), want) {
			t.Errorf("no %s in %s", want, m.Data)
		}
	}
	eventually(t, "the job is gone", func() bool { return r.queued() == 0 })
	if n := e.visits(number); n != 0 {
		t.Errorf("%d visits", n)
	}
	if a := r.asked(number, patience); a.err != nil { // tried afresh
		t.Error(a.err)
	}
}

func TestSlot_DiscardsAJobThatNamesNoNumber(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if _, err := r.js.Publish(t.Context(), "ruc.visit.abc", nil); err != nil {
		t.Fatal(err)
	}
	r.run(&fakeEngine{})
	eventually(t, "the job is gone", func() bool { return r.queued() == 0 })
}

// One job being in flight for longer than AckWait is no death: the slot says so.
func TestSlot_KeepsItsJobDuringALongVisit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.ackWait(wire.SlotHeartbeat + time.Second)
	e := &fakeEngine{visit: takes(wire.SlotHeartbeat + 1500*time.Millisecond)}
	r.run(e)
	if a := r.asked(number, patience); a.err != nil || e.visits(number) != 1 {
		t.Errorf("%v, %d visits", a.err, e.visits(number))
	}
}

func TestTurn_IsKeptUntilThePOSTHasLeft(t *testing.T) {
	t.Parallel()
	// Longer than the turn's AckWait, after which that of a dead process comes back.
	const send = 1500 * time.Millisecond
	r := newRig(t, func(c *Config) { c.Slots, c.MaxConcurrent, c.Pace = 2, 2, 100*time.Millisecond })
	e := &fakeEngine{send: send}
	r.run(e)
	one, other := r.ask(numbers(2)[0], 3*patience), r.ask(numbers(2)[1], 3*patience)
	for _, a := range []reply{<-one, <-other} {
		if a.err != nil {
			t.Fatal(a.err)
		}
	}
	// The second one gets the turn when the first POST has left.
	if gap := e.posts[len(e.posts)-1].Sub(e.posts[0]); len(e.posts) != 2 || gap < send {
		t.Errorf("%d POSTs, %v apart", len(e.posts), gap)
	}
}

func TestTurn_PacesTheWholeFleet(t *testing.T) {
	t.Parallel()
	const pace = 200 * time.Millisecond
	r := newRig(t, func(c *Config) { c.Slots, c.MaxConcurrent, c.Pace = 4, 4, pace })
	e := &fakeEngine{visit: takes(500 * time.Millisecond)}
	r.run(e)
	r.run(e)
	r.askAll(numbers(8))
	slices.SortFunc(e.posts, time.Time.Compare)
	for i := 1; i < len(e.posts); i++ {
		if gap := e.posts[i].Sub(e.posts[i-1]); gap < pace-10*time.Millisecond {
			t.Errorf("two POSTs within %v", gap)
		}
	}
	if e.peak < 2 {
		t.Error("the pace made the visits wait for each other")
	}
}

func TestTurn_OffMeansAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.Slots, c.MaxConcurrent = 4, 4 })
	together := make(chan struct{})
	e := &fakeEngine{}
	e.visit = func(ctx context.Context, n ruc.Number, a int) (sunat.Page, error) {
		e.mu.Lock()
		if e.running == 4 {
			close(together)
		}
		e.mu.Unlock()
		return until(together)(ctx, n, a)
	}
	r.run(e)
	r.askAll(numbers(4))
}

func TestSlots_NeverExceedTheFleetsLimit(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.Slots, c.MaxConcurrent = 4, 3 })
	e := &fakeEngine{visit: takes(30 * time.Millisecond)}
	r.run(e)
	r.run(e)
	all := numbers(24)
	r.askAll(all)
	if e.peak != 3 {
		t.Errorf("%d visits at one time", e.peak)
	}
	for _, n := range all {
		if e.visits(n) != 1 {
			t.Errorf("%s: %d visits", n, e.visits(n))
		}
	}
}

// askAll asks for each number once and waits for the answers.
func (r *rig) askAll(all []ruc.Number) {
	r.t.Helper()
	var waiting []<-chan reply
	for _, n := range all {
		waiting = append(waiting, r.ask(n, 2*patience))
	}
	for i, c := range waiting {
		if a := <-c; a.err != nil {
			r.t.Errorf("%s: %v", all[i], a.err)
		}
	}
}
