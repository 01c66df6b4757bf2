package prewarm

import (
	"cmp"
	"context"
	"os"
	"time"

	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/wire"
)

const (
	// listLook is how often the file of a watched list is looked at.
	listLook = time.Second
	// A number that is still due after it was asked for is asked for again after this
	// share of its answer's life, within these bounds: it failed, or a gateway with another
	// clock or another CACHE_TTL takes what it holds for young enough.
	againShare         = 20
	minAgain, maxAgain = time.Second, 10 * time.Minute
)

// watcher keeps the numbers of a list fresh: each is asked for anew when its answer has
// lived the share of its life that CACHE_REFRESH_AT says.
type watcher struct {
	*asker
	path, column string
	policy       ruc.Policy
	refreshAt    float64
	metrics      *metrics
	log          zerolog.Logger

	read    os.FileInfo // of the file as it was read last
	missing bool        // it was not there when it was looked for last
	due     []dueNumber
}

// dueNumber is a number and when it is to be asked for.
type dueNumber struct {
	n  ruc.Number
	at time.Time
}

// run works until ctx ends.
func (w *watcher) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := w.reload(); err != nil {
			w.log.Error().Err(err).Int("numbers", len(w.due)).Msg("the list cannot be read; the one before stays in force")
		}
		next, late := w.next()
		w.metrics.overdue.Set(max(0, late.Seconds()))
		if next == nil || late < 0 {
			_ = sleep(ctx, listLook) // when it is cut short the loop ends
			continue
		}
		next.at = w.refresh(ctx, next.n)
	}
}

// next returns what is to be asked for first and how late that is; nil where there is
// nothing. The whole list is looked at, which for 100,000 numbers takes a thousandth of a visit.
func (w *watcher) next() (first *dueNumber, late time.Duration) {
	for i := range w.due {
		if first == nil || w.due[i].at.Before(first.at) {
			first = &w.due[i]
		}
	}
	if first == nil {
		return nil, 0
	}
	return first, w.now().Sub(first.at)
}

// reload reads the list when its file has changed. Numbers that were there keep their
// time. A list that cannot be read, of which the error is returned once, leaves the one
// before in force.
func (w *watcher) reload() error {
	info, err := os.Stat(w.path)
	if err != nil {
		if w.missing {
			return nil
		}
		w.missing = true
		return err
	}
	if !w.missing && w.read != nil && os.SameFile(info, w.read) && info.ModTime().Equal(w.read.ModTime()) && info.Size() == w.read.Size() {
		return nil
	}
	w.missing = false
	w.read = info
	l, err := readFile(w.path, w.column, nil)
	if err != nil {
		return err
	}
	w.take(l)
	return nil
}

func (w *watcher) take(l list) {
	for _, b := range l.invalid {
		w.log.Warn().Int("line", b.line).Str("reason", service.MaskNumbers(b.reason)).Msg("a line of the list is invalid")
	}
	before := map[ruc.Number]time.Time{}
	for _, d := range w.due {
		before[d.n] = d.at
	}
	w.due = make([]dueNumber, len(l.numbers))
	for i, n := range l.numbers {
		at, known := before[n]
		if !known {
			at = w.now()
		}
		w.due[i] = dueNumber{n, at}
	}
	w.metrics.numbers.Set(float64(len(l.numbers)))
	w.metrics.invalid.Set(float64(len(l.invalid)))
	w.log.Info().Int("numbers", len(l.numbers)).Int("again", l.again).Int("invalid", len(l.invalid)).Msg("the list was read")
}

// refresh sees to it that n's answer is young enough, and returns when to look again.
func (w *watcher) refresh(ctx context.Context, n ruc.Number) time.Time {
	r, ok, err := w.held(ctx, n)
	if err == nil && ok {
		if left := w.left(r); left > 0 {
			w.metrics.held.Inc()
			return w.now().Add(left)
		}
	}
	bound := w.bound(w.policy.TTL)
	if ok {
		bound = w.bound(w.lifetime(r))
	}
	if err == nil {
		r, err = w.fetch(ctx, n, bound)
	}
	switch {
	case ctx.Err() != nil:
		return w.now()
	case err != nil:
		w.metrics.failed.Inc()
		w.log.Warn().Err(err).Str("code", string(ruc.CodeOf(err))).Str("ruc", n.Masked()).Msg("an answer could not be fetched yet")
		return w.now().Add(again(bound))
	case r.Prefix.Found:
		w.metrics.fetched.Inc()
	default:
		w.metrics.missing.Inc()
	}
	w.log.Info().Str("ruc", n.Masked()).Bool("found", r.Prefix.Found).Msg("an answer was fetched")
	return w.now().Add(max(w.left(r), again(bound)))
}

// lifetime is how long such an answer is fresh. Where not-found answers are not kept at
// all, they are asked for as often as others.
func (w *watcher) lifetime(r wire.Reply) time.Duration {
	return cmp.Or(w.policy.Freshness(r.Prefix.Found, r.Prefix.ObtainedAt, w.now()).Lifetime, w.policy.TTL)
}

// bound is the age that an answer with this lifetime may reach, in whole seconds, as
// Cache-Control has it.
func (w *watcher) bound(lifetime time.Duration) time.Duration {
	return max(time.Duration(w.refreshAt*float64(lifetime)).Truncate(time.Second), time.Second)
}

// left is the time until an answer is to be fetched again.
func (w *watcher) left(r wire.Reply) time.Duration {
	f := w.policy.Freshness(r.Prefix.Found, r.Prefix.ObtainedAt, w.now())
	return w.bound(w.lifetime(r)) - f.Age
}

func again(bound time.Duration) time.Duration {
	return min(max(bound/againShare, minAgain), maxAgain)
}
