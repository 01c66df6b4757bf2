package prewarm

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
)

// once is the Config for a list on standard input.
func once() Config {
	cfg := settings
	cfg.File = "-"
	return cfg
}

var took = regexp.MustCompile(` in [0-9.µms]+s?:`)

// summary is what a run printed, without the time it took.
func (r *running) summary() string {
	return strings.TrimSpace(took.ReplaceAllString(r.out.String(), ":"))
}

func TestFill_FetchesWhatIsNotHeld(t *testing.T) {
	f := newFleet(t, takes(time.Millisecond))
	numbers, text := numbersOf(prewarmed, 4)
	f.missing[numbers[2]] = true
	f.ask(numbers[0])
	r := f.start(once(), text+"20123456789\n"+text)
	err := r.wait()
	if err == nil || errors.Is(err, service.ErrUsage) || err.Error() != "0 numbers failed, 1 lines are invalid" {
		t.Error(err)
	}
	if want := "4 of 4 numbers: 1 held already, 2 fetched, 1 not registered, 0 failed, 1 invalid lines"; r.summary() != want {
		t.Errorf("%q, want %q", r.summary(), want)
	}
	if want := `line 5: "20123456789": El RUC 20123456789 no es válido: el dígito de verificación es 9 y debería ser 6.` + "\n"; r.err.String() != want {
		t.Errorf("%q, want %q", r.err, want)
	}
	for _, n := range numbers {
		if v := f.visits(is(n)); v != 1 {
			t.Errorf("%s: %d visits", n, v)
		}
	}
	r = f.start(once(), text)
	if err := r.wait(); err != nil || !strings.Contains(r.summary(), "4 held already, 0 fetched") || f.visits(of(prewarmed)) != 4 {
		t.Errorf("again: %v, %s", err, r.summary())
	}
}

// TestFill_AsksAgainAndGivesUp: what may pass is tried again, the fleet's pause is waited
// out, and a number that fails for good does not keep the others from their answers.
func TestFill_AsksAgainAndGivesUp(t *testing.T) {
	for name, tc := range map[string]struct {
		refusal  error
		times    int // how often it is given before there is an answer
		asked    int
		failure  string
		longWait bool
	}{
		"overloaded for a while":  {&ruc.Error{Code: ruc.Overloaded}, maxTries - 1, maxTries, "", false},
		"unavailable for a while": {&ruc.Error{Code: ruc.Unavailable}, 2, 3, "", false},
		"it says when":            {&ruc.Error{Code: ruc.Overloaded, RetryAfter: time.Second}, 1, 2, "", true},
		"unavailable":             {&ruc.Error{Code: ruc.Unavailable}, 100, maxTries, "unavailable: No es posible", false},
		"paused for long":         {&ruc.Error{Code: ruc.Blocked}, 2 * maxTries, 2*maxTries + 1, "", false},
		"changed":                 {&ruc.Error{Code: ruc.Changed}, 100, 1, "changed: La página", false},
		"internal":                {&ruc.Error{Code: ruc.Internal}, 100, 1, "internal: ", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, takes(time.Millisecond))
			numbers, text := numbersOf(prewarmed, 2)
			f.refuse = func(n ruc.Number, asked int) error {
				if n == numbers[0] && asked <= tc.times {
					return tc.refusal
				}
				return nil
			}
			begun := time.Now()
			r := f.start(once(), text)
			err := r.wait()
			want := "2 of 2 numbers: 0 held already, 2 fetched, 0 not registered, 0 failed, 0 invalid lines"
			if tc.failure != "" {
				want = "2 of 2 numbers: 0 held already, 1 fetched, 0 not registered, 1 failed, 0 invalid lines"
			}
			if r.summary() != want || (err != nil) != (tc.failure != "") {
				t.Errorf("%v, %q, want %q", err, r.summary(), want)
			}
			if tc.failure != "" && !strings.Contains(r.err.String(), numbers[0].String()+": "+tc.failure) {
				t.Errorf("it said %q", r.err)
			}
			if f.asked[numbers[0]] != tc.asked || f.asked[numbers[1]] != 1 {
				t.Errorf("asked %d and %d times, want %d and 1", f.asked[numbers[0]], f.asked[numbers[1]], tc.asked)
			}
			if waited := time.Since(begun); tc.longWait && waited < time.Second {
				t.Errorf("it waited %v", waited)
			}
		})
	}
}

func TestFill_WaitsForTheGatewayAndForNATS(t *testing.T) {
	t.Parallel()
	f := newFleet(t, takes(5*time.Millisecond))
	_, text := numbersOf(prewarmed, 4)
	if err := f.svc.Stop(); err != nil {
		t.Fatal(err)
	}
	r := f.start(once(), text)
	eventually(t, "it waits for a gateway", func() bool { return strings.Contains(r.err.String(), "waits for a gateway\n") })
	addr := strings.TrimPrefix(f.bus.URL(), "nats://")
	f.bus.Stop()
	eventually(t, "it waits for NATS", func() bool { return strings.Contains(r.err.String(), "waits for NATS\n") })
	f.startBus(addr)
	eventually(t, "the connection is back", f.nc.IsConnected)
	f.startGateway()
	if err := r.wait(); err != nil || !strings.Contains(r.summary(), "4 fetched") || f.visits(of(prewarmed)) != 4 {
		t.Errorf("%v, %s, %d visits", err, r.summary(), f.visits(of(prewarmed)))
	}
	if said := r.err.String(); strings.Count(said, "waits for a gateway") > 2 {
		t.Errorf("it repeats itself: %s", said)
	}
}

func TestFill_KeepsItsHours(t *testing.T) {
	f := newFleet(t, takes(time.Millisecond))
	numbers, text := numbersOf(prewarmed, 2)
	f.ask(numbers[0])
	cfg := once()
	hour := time.Now().In(lima).Hour()
	cfg.Hours = Hours{from: (hour + 2) % hoursPerDay, to: (hour + 3) % hoursPerDay}
	r := f.start(cfg, text)
	eventually(t, "it waits for its hours", func() bool {
		return r.err.String() == fmt.Sprintf("waits for %d:00 in Lima\n", cfg.Hours.from)
	})
	begun := time.Now()
	r.stop()
	if took := time.Since(begun); took > hoursLook/2 {
		t.Errorf("it took %v to stop", took)
	}
	if want := "1 of 2 numbers: 1 held already, 0 fetched, 0 not registered, 0 failed, 0 invalid lines"; r.summary() != want || f.visits(is(numbers[1])) != 0 {
		t.Errorf("%q, want %q", r.summary(), want)
	}
	cfg.Hours = Hours{from: hour, to: (hour + 2) % hoursPerDay}
	if r = f.start(cfg, text); r.wait() != nil || f.visits(is(numbers[1])) != 1 {
		t.Errorf("within its hours: %s", r.summary())
	}
}

// TestFill_GoesOnWhereItStopped: however often it is ended, what was fetched is not
// fetched again, but for the one under way at most.
func TestFill_GoesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	f := newFleet(t, takes(10*time.Millisecond))
	const count, kills = 12, 3
	numbers, text := numbersOf(prewarmed, count)
	for i := range kills {
		r := f.start(once(), text)
		eventually(t, "some are fetched", func() bool { return f.visits(of(prewarmed)) >= (i+1)*count/(kills+1) })
		r.stop()
		if !strings.Contains(r.summary(), fmt.Sprintf(" of %d numbers: ", count)) {
			t.Errorf("told to stop it said %q", r.out)
		}
	}
	r := f.start(once(), text)
	if err := r.wait(); err != nil || !strings.Contains(r.summary(), "0 failed") || strings.HasPrefix(r.summary(), "12 of 12 numbers: 0 held") {
		t.Errorf("%v, %s", err, r.summary())
	}
	if v := f.visits(of(prewarmed)); v > count+kills {
		t.Errorf("%d visits for %d numbers and %d kills", v, count, kills)
	}
	for _, n := range numbers {
		if v := f.visits(is(n)); v < 1 || v > 2 {
			t.Errorf("%s: %d visits", n, v)
		}
	}
}

func TestFill_SaysWhatIsWrongAtOnce(t *testing.T) {
	f := newFleet(t, takes(0))
	for name, tc := range map[string]struct {
		file, watch string
		usage       bool
	}{
		"nothing given":   {"", "", true},
		"both":            {"-", "x", true},
		"no such file":    {filepath.Join(t.TempDir(), "x"), "", false},
		"nothing to keep": {"", filepath.Join(t.TempDir(), "x"), false},
	} {
		cfg := settings
		cfg.File, cfg.Watch = tc.file, tc.watch
		if err := f.start(cfg, "").wait(); err == nil || errors.Is(err, service.ErrUsage) != tc.usage {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := f.js.DeleteStream(t.Context(), "RUC_VISITS"); err != nil {
		t.Fatal(err)
	}
	if err := f.start(once(), first).wait(); err == nil || !strings.Contains(err.Error(), "start a scraper") {
		t.Error(err)
	}
}

// queued is what an interactive caller met.
type queued struct {
	ahead   int           // prewarm's jobs waiting or in flight when his was put
	between int           // visits of prewarm that ran before his own
	waited  time.Duration // from put to ended
}

// met reads of the steps what each interactive caller met, and how long the queue had been
// idle before each of prewarm's jobs, in the order of their putting.
func met(t *testing.T, steps []step) (callers []queued, idle []time.Duration) {
	t.Helper()
	open := map[ruc.Number]bool{} // put and not ended
	var last time.Time            // when the queue became empty
	for i, s := range steps {
		switch s.what {
		case "ended":
			if delete(open, s.n); len(open) == 0 {
				last = s.at
			}
			continue
		case "put":
		default:
			continue
		}
		if of(prewarmed)(s.n) {
			if len(open) > 0 { // put in the moment after the last look
				idle = append(idle, 0)
			} else {
				idle = append(idle, s.at.Sub(last))
			}
			open[s.n] = true
			continue
		}
		var q queued
		for n := range open {
			if of(prewarmed)(n) {
				q.ahead++
			}
		}
		open[s.n] = true
		for _, later := range steps[i+1:] {
			if later.what == "ended" && of(prewarmed)(later.n) {
				q.between++
			}
			if later.what == "ended" && later.n == s.n {
				q.waited = later.at.Sub(s.at)
				break
			}
		}
		callers = append(callers, q)
	}
	return callers, idle
}

// TestFill_LetsOthersGoFirst: beside a prewarm, who asks waits for the rest of one visit
// more than he would without, and never for two.
func TestFill_LetsOthersGoFirst(t *testing.T) {
	t.Parallel()
	count, visit, cfg := 20, func() time.Duration { return between(10*time.Millisecond, 30*time.Millisecond) }, once()
	think := func() time.Duration { return rand.N(160 * time.Millisecond) }
	if *full {
		count, visit = 300, func() time.Duration { return between(100*time.Millisecond, 300*time.Millisecond) }
		think = func() time.Duration { return rand.N(2 * time.Second) }
		cfg.IdleMin, cfg.IdleMax = time.Millisecond, time.Minute // the rule alone: twice the median
	}
	f := newFleet(t, visit)
	const alone = 15
	var without []time.Duration
	for i := range alone {
		without = append(without, f.ask(number(interactive, i)))
	}
	_, text := numbersOf(prewarmed, count)
	before := len(f.history())
	r := f.start(cfg, text)
	begun := time.Now()
	var with []time.Duration
	var err error
	for i := alone; ; i++ {
		select {
		case err = <-r.ended:
		case <-time.After(think()):
			with = append(with, f.ask(number(interactive, i)))
			continue
		}
		break
	}
	if err != nil || !strings.Contains(r.summary(), fmt.Sprintf(" %d fetched", count)) || f.visits(of(prewarmed)) != count {
		t.Errorf("%v, %s, %d visits", err, r.summary(), f.visits(of(prewarmed)))
	}
	callers, idle := met(t, f.history()[before:])
	met := 0
	for _, q := range callers {
		if q.ahead > 1 || q.between > 1 {
			t.Errorf("a caller met %+v", q)
		}
		met += q.between
	}
	if len(callers) == 0 || len(callers) != len(with) || len(idle) != count {
		t.Errorf("%d callers, %d answers, %d jobs", len(callers), len(with), len(idle))
	}
	beside := len(slices.DeleteFunc(slices.Clone(idle), func(d time.Duration) bool { return d > 0 }))
	slices.Sort(idle)
	slices.Sort(without)
	slices.Sort(with)
	ms := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	t.Logf("%d numbers in %v; alone: p50 %v, max %v of %d; beside it: p50 %v, max %v of %d, of whom %d met a visit; the queue was idle before its jobs: p50 %v; %d came in the moment between its look and its job",
		count, ms(time.Since(begun)), ms(without[alone/2]), ms(without[alone-1]), alone,
		ms(with[len(with)/2]), ms(with[len(with)-1]), len(with), met, ms(idle[count/2]), beside)
}

// TestFill_WaitsUntilOthersHaveBeenServed: while others ask one after the other it asks for
// nothing, and begins when the queue has been idle for its rest.
func TestFill_WaitsUntilOthersHaveBeenServed(t *testing.T) {
	t.Parallel()
	f := newFleet(t, takes(5*time.Millisecond))
	cfg := once()
	cfg.IdleMin, cfg.IdleMax = 300*time.Millisecond, 300*time.Millisecond
	r := &running{}
	var others sync.WaitGroup
	for who := range 3 {
		others.Go(func() {
			// The first asks all the time, the others now and then.
			for i := range 25 {
				f.ask(number(interactive, 1000*who+i))
				_ = sleep(t.Context(), rand.N(time.Duration(1+30*who)*time.Millisecond))
			}
		})
		if who == 0 {
			eventually(t, "others ask", func() bool { return f.visits(of(interactive)) > 0 })
			_, text := numbersOf(prewarmed, 1)
			r = f.start(cfg, text)
		}
	}
	others.Wait()
	if v := f.visits(of(prewarmed)); v != 0 {
		t.Errorf("%d visits meanwhile", v)
	}
	if err := r.wait(); err != nil {
		t.Error(err)
	}
	if _, idle := met(t, f.history()); len(idle) != 1 || idle[0] < cfg.IdleMin {
		t.Errorf("the queue was idle for %v", idle)
	}
}

// TestFill_WaitsForLongVisits: one in flight and those behind it count, however long ago
// the slot was given its job.
func TestFill_WaitsForLongVisits(t *testing.T) {
	t.Parallel()
	f := newFleet(t, takes(200*time.Millisecond))
	cfg := once()
	cfg.IdleMin, cfg.IdleMax = 50*time.Millisecond, 50*time.Millisecond
	var others sync.WaitGroup
	for i := range 2 {
		others.Go(func() { f.ask(number(interactive, i)) })
	}
	eventually(t, "others wait", func() bool { return len(f.history()) == 3 && f.visits(of(interactive)) == 1 })
	_, text := numbersOf(prewarmed, 1)
	if err := f.start(cfg, text).wait(); err != nil {
		t.Error(err)
	}
	others.Wait()
	if _, idle := met(t, f.history()); len(idle) != 1 || idle[0] < cfg.IdleMin {
		t.Errorf("the queue was idle for %v", idle)
	}
}

// TestFill_NoticesWhatCameAndWent: short visits between two looks are seen by how far the
// slots have got.
func TestFill_NoticesWhatCameAndWent(t *testing.T) {
	t.Parallel()
	f := newFleet(t, takes(0))
	cfg := once()
	cfg.IdleMin, cfg.IdleMax = 400*time.Millisecond, 400*time.Millisecond
	_, text := numbersOf(prewarmed, 1)
	r := f.start(cfg, text)
	for i := range 6 {
		f.ask(number(interactive, i))
		_ = sleep(t.Context(), 90*time.Millisecond)
	}
	if err := r.wait(); err != nil {
		t.Error(err)
	}
	if _, idle := met(t, f.history()); len(idle) != 1 || idle[0] < cfg.IdleMin {
		t.Errorf("the queue was idle for %v", idle)
	}
}

func TestQueue_RestIsTwiceTheMedian(t *testing.T) {
	q := &queue{min: time.Second, max: time.Minute}
	if got := q.rest(); got != restVisits*assumedVisit {
		t.Errorf("before a visit was seen: %v", got)
	}
	for _, tc := range []struct {
		visit time.Duration
		want  time.Duration
	}{{10 * time.Millisecond, time.Second}, {3 * time.Second, 6 * time.Second}, {40 * time.Second, time.Minute}} {
		q.visited(time.Hour) // one of many
		for range recentVisits - 1 {
			q.visited(tc.visit)
		}
		if got := q.rest(); got != tc.want || len(q.visits) != recentVisits {
			t.Errorf("visits of %v: %v, want %v", tc.visit, got, tc.want)
		}
	}
}

// TestFill_LearnsFromOthersVisits: beside somebody who never leaves the queue alone for as
// long as two visits are assumed to take, it begins once it has seen how long they take.
func TestFill_LearnsFromOthersVisits(t *testing.T) {
	t.Parallel()
	f := newFleet(t, takes(20*time.Millisecond))
	cfg := once()
	cfg.IdleMin, cfg.IdleMax = time.Millisecond, time.Minute
	_, text := numbersOf(prewarmed, 1)
	r := f.start(cfg, text)
	for i := 0; ; i++ {
		select {
		case err := <-r.ended:
			if err != nil {
				t.Error(err)
			}
			return
		case <-time.After(restVisits * assumedVisit / 4):
			f.ask(number(interactive, i))
		}
		if i == 15 {
			t.Fatal("it never begins")
		}
	}
}

// TestSight: what is seen of others' visits is the time in which the queue was busy, over
// the jobs that slots were given in it.
func TestSight(t *testing.T) {
	type look struct {
		pending, inFlight int
		given             uint64
		idle              bool
		visit             time.Duration // in looks, once it is idle
	}
	for name, looks := range map[string][]look{
		"nothing":                  {{}, {idle: true}, {idle: true}},
		"one visit of two looks":   {{}, {inFlight: 1, given: 1}, {inFlight: 1, given: 1}, {given: 1}, {given: 1, idle: true, visit: 3}, {given: 1, idle: true}},
		"one came and went":        {{given: 5}, {given: 6}, {given: 6, idle: true, visit: 1}},
		"one after the other":      {{}, {pending: 1, inFlight: 1, given: 1}, {inFlight: 1, given: 2}, {given: 2}, {given: 2, idle: true, visit: 1}},
		"it was under way already": {{inFlight: 1, given: 1}, {inFlight: 1, given: 1}, {given: 1}, {given: 1, idle: true}},
		"the stream is a new one":  {{given: 9}, {given: 1}, {given: 1, idle: true}},
	} {
		var s sight
		const pause = time.Second
		now := time.Now()
		for i, l := range looks {
			now = now.Add(pause)
			info := &jetstream.ConsumerInfo{NumPending: uint64(l.pending), NumAckPending: l.inFlight, Delivered: jetstream.SequenceInfo{Stream: l.given}}
			if got := s.idle(info, now); got != l.idle {
				t.Errorf("%s, look %d: idle %v", name, i, got)
			}
			if l.idle {
				if got := s.visit(); got.Truncate(pause) != l.visit*pause {
					t.Errorf("%s, look %d: a visit of %v, want %d looks", name, i, got, l.visit)
				}
			}
		}
	}
}
