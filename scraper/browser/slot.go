package browser

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/rucflow/rucflow/scraper/sunat"
	"github.com/rucflow/rucflow/shared/ruc"
)

// job is a visit on its way to a slot.
type job struct {
	ctx    context.Context
	number ruc.Number
	gate   func(context.Context) (left func(), err error)
	reply  chan outcome // has room for the one outcome
}

type outcome struct {
	page sunat.Page
	err  error
}

// slot is a goroutine that owns one tab at a time. See state for its life.
type slot struct {
	g     *generation
	b     *Browser
	index int
	state state
	// retry spaces attempts to bring back a form that does not come: 1 s to 30 s, out
	// of regard for a site in trouble. A visit that finds no parked slot tries at once.
	retry *backoff.ExponentialBackOff
	// replacing is set while this slot replaces a worn tab.
	replacing bool
}

func newSlot(g *generation, index int) *slot {
	return &slot{g: g, b: g.b, index: index, retry: &backoff.ExponentialBackOff{
		InitialInterval:     time.Second,
		RandomizationFactor: 0.2,
		Multiplier:          2,
		MaxInterval:         30 * time.Second,
	}}
}

// set changes the slot's state on the board.
func (s *slot) set(to state) {
	s.b.board.move(s.state, to)
	s.state = to
	if to == stateParked {
		s.g.hasParked()
		if s.replacing {
			s.replacing = false
			s.g.replaced()
		}
	}
}

// Verdicts of a tab that is given up, besides the words of sunat.Cause.
const (
	verdictKeep      = ""
	verdictWorn      = "worn"
	verdictCancelled = "cancelled"
	verdictForm      = "form"
	verdictOpen      = "open"
	verdictEnd       = "end" // of the slot, not of the tab
)

// run opens tabs and serves from them until the generation ends.
func (s *slot) run() {
	defer s.set(stateNone)
	s.set(stateCold)
	var rest time.Duration
	var old *tab // given up, but open until the next one is: it may be the browser's last
	closeOld := func() {
		if old != nil {
			old.close()
		}
	}
	defer closeOld()
	for !s.over() {
		s.set(stateOpening)
		t, err := s.g.openTab(s.b.now())
		if err != nil {
			if s.over() {
				return
			}
			s.b.log.Warn().Err(err).Int("slot", s.index).Msg("tab did not open")
			s.b.obs.SlotDiscarded(verdictOpen)
			s.set(stateCold)
			s.g.tabFailed()
			s.wait(100 * time.Millisecond)
			continue
		}
		s.g.opened.Store(true)
		closeOld()
		old = t
		var verdict string
		verdict, rest = s.serve(t, rest)
		s.set(stateDiscarding)
		if maySpin(verdict) {
			t.crash()
		}
		if verdict != verdictEnd {
			s.b.log.Debug().Str("cause", verdict).Int("slot", s.index).Int("uses", t.uses).Msg("tab discarded")
			s.b.obs.SlotDiscarded(verdict)
		}
	}
}

// maySpin reports whether a tab given up for this reason may have a renderer that spins.
// A tab whose load failed has none, and must not be crashed: all tabs that show
// Chromium's error page share one renderer, so its crash would end theirs too.
func maySpin(verdict string) bool {
	switch verdict {
	case verdictWorn, verdictEnd, string(sunat.CauseReset), string(sunat.CauseNetwork):
		return false
	default:
		return true
	}
}

// over reports whether the slot has nothing left to do.
func (s *slot) over() bool {
	select {
	case <-s.g.idle.Done():
		return true
	default:
		return false
	}
}

// wait pauses unless the slot ends.
func (s *slot) wait(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.g.idle.Done():
	}
}

// serve keeps t parked and does visits on it until it must be given up. It returns why,
// and how long the next tab should wait before it asks for the form; rest is that wait
// for this one.
func (s *slot) serve(t *tab, rest time.Duration) (verdict string, nextRest time.Duration) {
	for {
		if rest == 0 {
			s.set(stateWarming)
			if verdict, rest = s.warm(t); verdict != verdictKeep {
				return verdict, rest
			}
		}
		jobs, alarm := s.b.jobs, s.b.cfg.IdleReload
		if rest > 0 {
			s.set(stateCold)
			jobs, alarm = s.b.coldJobs, rest
		} else {
			s.set(stateParked)
		}
		if verdict = s.stand(t, jobs, alarm); verdict != verdictKeep {
			return verdict, 0
		}
		rest = 0
	}
}

// stand waits for something to do: a job, the alarm, the end. It returns verdictKeep when
// the tab should be brought to the form again.
func (s *slot) stand(t *tab, jobs <-chan *job, alarm time.Duration) string {
	timer := time.NewTimer(alarm)
	defer timer.Stop()
	for {
		select {
		case j := <-jobs:
			return s.visit(t, j)
		case <-timer.C:
			if s.state != stateParked {
				return verdictKeep
			}
			// A stale session is of no use, and an idle service leaves SUNAT alone.
			if err := t.leave(s.g.idle); err != nil {
				return verdictForm
			}
			t.forget()
			s.set(stateLeft)
			jobs = s.b.coldJobs
		case e := <-t.events:
			if e.payload != "" && s.state == stateParked {
				return verdictKeep // the page went somewhere by itself
			}
		case <-t.life.Done():
			return s.ended(t)
		case <-s.g.idle.Done():
			return verdictEnd
		}
	}
}

// ended says why the tab's life is over.
func (s *slot) ended(t *tab) string {
	if t.chrome.lost() {
		return verdictEnd
	}
	return string(sunat.CauseCrash)
}

// warm brings t to the form. A rest above zero says that it did not come and when to try
// again; a verdict, that the tab is no good.
func (s *slot) warm(t *tab) (verdict string, rest time.Duration) {
	p, err := t.load(s.g.idle, s.b.cfg.URL)
	switch {
	case s.g.idle.Err() != nil:
		return verdictEnd, 0
	case t.life.Err() != nil:
		return s.ended(t), 0
	case err == nil && p == nil:
		s.retry.Reset()
		if t.uses-t.collectedAt >= s.b.cfg.CollectEvery && s.b.waiting.Load() == 0 {
			if err := t.collect(s.g.idle); err != nil {
				s.b.log.Debug().Err(err).Int("slot", s.index).Msg("garbage was not collected")
			}
		}
		return verdictKeep, 0
	}
	rest = s.retry.NextBackOff()
	log := s.b.log.Warn().Int("slot", s.index).Dur("again_in", rest)
	if p != nil {
		log.Int("status", p.Status).Str("url", p.URL).Msg("another page came instead of the form")
		return verdictKeep, rest
	}
	err = classify(s.g.idle, err, t)
	log.Err(err).Msg("form did not come")
	if causeOf(err) == string(sunat.CauseReset) || causeOf(err) == string(sunat.CauseNetwork) {
		return verdictKeep, rest
	}
	s.g.suspect()
	return verdictForm, rest
}

// visit does j on t and answers it. The verdict is about the tab.
func (s *slot) visit(t *tab, j *job) string {
	parked := s.state == stateParked
	s.set(stateBusy)
	s.g.countVisit()
	began := s.b.now()
	p, err := s.attempt(t, j, parked)
	var shut *gateError
	if errors.As(err, &shut) && t.life.Err() == nil {
		j.reply <- outcome{err: shut.err}
		return verdictKeep
	}
	err = classify(j.ctx, err, t)
	j.reply <- outcome{page: p, err: err}

	log := s.b.log.Debug()
	if err != nil {
		log = s.b.log.Info().Err(err).Str("cause", causeOf(err))
	}
	log.Str("ruc", j.number.Masked()).Int("slot", s.index).Bool("parked", parked).
		Int("status", p.Status).Dur("took", s.b.now().Sub(began)).Msg("visit")

	switch {
	case err == nil:
		return s.wear(t)
	case t.chrome.lost():
		return verdictEnd
	case causeOf(err) == string(sunat.CauseDialog):
		return s.wear(t) // the form works; it said so
	case causeOf(err) == string(sunat.CauseSilent):
		s.g.suspect()
	}
	return causeOf(err)
}

// gateError carries an error of the caller's gate past classify.
type gateError struct{ err error }

func (e *gateError) Error() string { return e.err.Error() }
func (e *gateError) Unwrap() error { return e.err }

// attempt is the visit itself: the form's load where it is not parked, the gate, the
// query.
func (s *slot) attempt(t *tab, j *job, parked bool) (sunat.Page, error) {
	if !parked {
		instead, err := s.loadFor(t, j)
		if err != nil {
			return sunat.Page{}, err
		}
		if instead != nil {
			return *instead, nil
		}
	}
	left := func() {}
	if j.gate != nil {
		// The wait is the caller's; only the end of the tab cuts it short.
		ctx, cancel := t.alive(j.ctx)
		defer cancel()
		give, err := j.gate(ctx)
		if err != nil {
			return sunat.Page{}, &gateError{err}
		}
		left = sync.OnceFunc(give)
		defer left() // also when the query never leaves
	}
	ctx, cancel := t.bound(j.ctx, s.b.cfg.AttemptTimeout)
	defer cancel()
	return t.submit(ctx, j.number, left)
}

func (s *slot) loadFor(t *tab, j *job) (*sunat.Page, error) {
	ctx, cancel := t.bound(j.ctx, s.b.cfg.AttemptTimeout)
	defer cancel()
	return t.load(ctx, s.b.cfg.URL)
}

// wear says whether t has served long enough to be replaced now.
func (s *slot) wear(t *tab) string {
	if t.uses < s.b.cfg.UsesPerTab && s.b.now().Sub(t.opened) < s.b.cfg.TabMaxAge {
		return verdictKeep
	}
	if !s.replacing && s.g.mayReplace(t.uses >= 2*s.b.cfg.UsesPerTab) {
		s.replacing = true
		return verdictWorn
	}
	return verdictKeep
}
