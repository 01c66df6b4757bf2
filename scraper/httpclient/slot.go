package httpclient

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/rucflow/rucflow/scraper/dispatch"
	"github.com/rucflow/rucflow/scraper/sunat"
)

// slot is a goroutine that owns one session at a time. See dispatch.State for its life.
type slot struct {
	c     *Client
	index int
	state dispatch.State
	// idle bounds what the slot does while nobody waits for it, life everything: it ends
	// after idle, when the visit in hand has had its time.
	idle, life context.Context
	retry      *backoff.ExponentialBackOff
	session    *session // nil without a form
}

func newSlot(idle, life context.Context, c *Client, index int) *slot {
	return &slot{c: c, index: index, idle: idle, life: life, retry: dispatch.FormBackOff()}
}

// set changes the slot's state on the board.
func (s *slot) set(to dispatch.State) {
	s.c.board.Move(s.state, to)
	s.state = to
}

// run keeps a session and does visits in it until the slot's end.
func (s *slot) run() {
	defer s.set(dispatch.StateNone)
	for s.idle.Err() == nil {
		jobs, alarm := s.c.board.Jobs(), s.c.cfg.IdleReload
		if s.session == nil {
			s.set(dispatch.StateWarming)
			alarm = s.warm()
		}
		if s.session == nil {
			s.set(dispatch.StateCold)
			jobs = s.c.board.ColdJobs()
		} else {
			s.set(dispatch.StateParked)
		}
		s.stand(jobs, alarm)
	}
}

// stand waits for something to do: a job, the alarm, the end.
func (s *slot) stand(jobs <-chan *dispatch.Job, alarm time.Duration) {
	timer := time.NewTimer(alarm)
	defer timer.Stop()
	for {
		select {
		case j := <-jobs:
			s.visit(j)
			return
		case <-timer.C:
			if s.session == nil {
				return
			}
			// A stale session is of no use, and an idle service leaves SUNAT alone.
			s.session = nil
			s.set(dispatch.StateLeft)
			jobs = s.c.board.ColdJobs()
		case <-s.idle.Done():
			return
		}
	}
}

// warm gets the form. It returns how long the session may wait for a visit, or without
// one, when to try again.
func (s *slot) warm() (alarm time.Duration) {
	instead, err := s.open(s.idle)
	if err == nil {
		s.retry.Reset()
		return s.c.cfg.IdleReload
	}
	alarm = s.retry.NextBackOff()
	if s.idle.Err() == nil {
		s.c.log.Warn().Err(err).Int("status", instead.Status).Str("url", instead.URL).
			Int("slot", s.index).Dur("again_in", alarm).Msg("form did not come")
	}
	return alarm
}

// open begins a session, see Client.open.
func (s *slot) open(ctx context.Context) (instead sunat.Page, err error) {
	ctx, cancel := s.bound(ctx, min(s.c.cfg.AttemptTimeout, dispatch.FormWait))
	defer cancel()
	s.session, instead, err = s.c.open(ctx)
	return instead, err
}

// visit does j and answers it.
func (s *slot) visit(j *dispatch.Job) {
	parked := s.state == dispatch.StateParked
	s.set(dispatch.StateBusy)
	began := s.c.now()
	p, err := s.attempt(j)
	var shut *dispatch.ShutError
	if errors.As(err, &shut) {
		j.Reply(p, err)
		return // the session is as it was
	}
	err = s.classify(j.Ctx, err)
	p = p.For(j.Number)
	j.Reply(p, err)

	log := s.c.log.Debug()
	if err != nil {
		log = s.c.log.Info().Err(err)
	}
	log.Str("ruc", j.Number.Masked()).Int("slot", s.index).Bool("parked", parked).
		Int("status", p.Status).Dur("took", s.c.now().Sub(began)).Msg("visit")
	if err != nil || sunat.SessionLost(p, j.Number) {
		s.session = nil
	}
}

// attempt is the visit itself: the form where there is none, the gate, the query.
func (s *slot) attempt(j *dispatch.Job) (sunat.Page, error) {
	if s.session == nil {
		if instead, err := s.open(j.Ctx); err != nil {
			return instead, err
		}
	}
	left, err := j.Enter(j.Ctx)
	if err != nil {
		return sunat.Page{}, err
	}
	defer left() // also when the query never leaves
	ctx, cancel := s.bound(j.Ctx, s.c.cfg.AttemptTimeout)
	defer cancel()
	return s.session.ask(ctx, j.Number, left)
}

// bound returns ctx with a limit, ending with the slot's life as well.
func (s *slot) bound(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	stop := context.AfterFunc(s.life, cancel)
	return ctx, func() { stop(); cancel() }
}
