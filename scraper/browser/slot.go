package browser

import (
	"errors"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/rucflow/rucflow/scraper/dispatch"
	"github.com/rucflow/rucflow/scraper/sunat"
)

// slot is a goroutine that owns one tab at a time. See dispatch.State for its life.
type slot struct {
	g     *generation
	b     *Browser
	index int
	state dispatch.State
	retry *backoff.ExponentialBackOff
	// replacing is set while this slot replaces a worn tab.
	replacing bool
	// turn gives up the turn that this slot has taken to open a tab; nil without one.
	turn func()
}

func newSlot(g *generation, index int) *slot {
	return &slot{g: g, b: g.b, index: index, retry: dispatch.FormBackOff()}
}

// set changes the slot's state on the board.
func (s *slot) set(to dispatch.State) {
	s.b.board.Move(s.state, to)
	s.state = to
	if s.turn != nil && to != dispatch.StateOpening && to != dispatch.StateWarming {
		s.turn()
		s.turn = nil
	}
	if to == dispatch.StateParked {
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
	defer s.set(dispatch.StateNone)
	s.set(dispatch.StateCold)
	var rest time.Duration
	var old *tab // given up, but open until the next one is: it may be the browser's last
	closeOld := func() {
		if old != nil {
			old.close()
		}
	}
	defer closeOld()
	for !s.over() {
		s.set(dispatch.StateOpening)
		s.turn = s.g.takeTurn()
		t, err := s.g.openTab(s.b.now())
		if err != nil {
			if s.over() {
				return
			}
			s.b.log.Warn().Err(err).Int("slot", s.index).Msg("tab did not open")
			s.b.obs.SlotDiscarded(verdictOpen)
			s.set(dispatch.StateCold)
			s.g.tabFailed()
			s.wait(100 * time.Millisecond)
			continue
		}
		s.g.opened.Store(true)
		closeOld()
		old = t
		var verdict string
		verdict, rest = s.serve(t, rest)
		s.set(dispatch.StateDiscarding)
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
			s.set(dispatch.StateWarming)
			if !t.stays {
				if verdict, rest = s.warm(t); verdict != verdictKeep {
					return verdict, rest
				}
			}
			t.stays = false
		}
		jobs, alarm := s.b.board.Jobs(), s.b.cfg.IdleReload
		if rest > 0 {
			s.set(dispatch.StateCold)
			jobs, alarm = s.b.board.ColdJobs(), rest
		} else {
			s.collect(t)
			s.set(dispatch.StateParked)
		}
		if verdict = s.stand(t, jobs, alarm); verdict != verdictKeep {
			return verdict, 0
		}
		rest = 0
	}
}

// stand waits for something to do: a job, the alarm, the end. It returns verdictKeep when
// the tab should be brought to the form again.
func (s *slot) stand(t *tab, jobs <-chan *dispatch.Job, alarm time.Duration) string {
	timer := time.NewTimer(alarm)
	defer timer.Stop()
	for {
		select {
		case j := <-jobs:
			return s.visit(t, j)
		case <-timer.C:
			if s.state != dispatch.StateParked {
				return verdictKeep
			}
			// A stale session is of no use, and an idle service leaves SUNAT alone.
			if err := t.leave(s.g.idle); err != nil {
				return verdictForm
			}
			t.forget()
			s.set(dispatch.StateLeft)
			jobs = s.b.board.ColdJobs()
		case e := <-t.events:
			if e.payload != "" && s.state == dispatch.StateParked {
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

// collect forces a garbage collection where one is due and nobody waits.
func (s *slot) collect(t *tab) {
	if t.uses-t.collectedAt < s.b.cfg.CollectEvery || s.b.board.Waiting() > 0 {
		return
	}
	if err := t.collect(s.g.idle); err != nil {
		s.b.log.Debug().Err(err).Int("slot", s.index).Msg("garbage was not collected")
	}
}

// visit does j on t and answers it. The verdict is about the tab.
func (s *slot) visit(t *tab, j *dispatch.Job) string {
	parked := s.state == dispatch.StateParked
	s.set(dispatch.StateBusy)
	s.g.countVisit()
	began := s.b.now()
	p, err := s.attempt(t, j, parked)
	var shut *dispatch.ShutError
	if errors.As(err, &shut) && t.life.Err() == nil {
		j.Reply(p, err)
		t.stays = s.b.cfg.Fetch
		return verdictKeep
	}
	err = classify(j.Ctx, err, t)
	p = p.For(j.Number)
	j.Reply(p, err)

	log := s.b.log.Debug()
	if err != nil {
		log = s.b.log.Info().Err(err).Str("cause", causeOf(err))
	}
	log.Str("ruc", j.Number.Masked()).Int("slot", s.index).Bool("parked", parked).
		Int("status", p.Status).Dur("took", s.b.now().Sub(began)).Msg("visit")

	switch {
	case err == nil:
		t.stays = s.b.cfg.Fetch && !sunat.SessionLost(p, j.Number)
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

// attempt is the visit itself: the form's load where it is not parked, the gate, the
// query.
func (s *slot) attempt(t *tab, j *dispatch.Job, parked bool) (sunat.Page, error) {
	if !parked {
		instead, err := s.loadFor(t, j)
		if err != nil {
			return sunat.Page{}, err
		}
		if instead != nil {
			return *instead, nil
		}
	}
	left, err := s.enter(t, j)
	if err != nil {
		return sunat.Page{}, err
	}
	defer left() // also when the query never leaves
	ctx, cancel := t.bound(j.Ctx, s.b.cfg.AttemptTimeout)
	defer cancel()
	return t.submit(ctx, j.Number, left)
}

// enter passes the gate. The wait is the caller's; only the end of the tab cuts it short.
func (s *slot) enter(t *tab, j *dispatch.Job) (left func(), err error) {
	ctx, cancel := t.alive(j.Ctx)
	defer cancel()
	return j.Enter(ctx)
}

func (s *slot) loadFor(t *tab, j *dispatch.Job) (*sunat.Page, error) {
	ctx, cancel := t.bound(j.Ctx, s.b.cfg.AttemptTimeout)
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
