package gateway

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/store"
	"github.com/rucflow/rucflow/shared/wire"
)

// layer says where an answer came from: the detail of Cache-Status and a metric
// label.
type layer string

// The layers, nearest first. The store's layer is its own Kind.
const (
	layerMemory layer = "memory" // this process's L1
	layerVisit  layer = "visit"  // SUNAT was asked for this lookup
	layerJoined layer = "joined" // SUNAT was being asked for another lookup
	layerStream layer = "stream" // the last event, still fresh: the store had lost it
	layerStale  layer = "stale"  // the last event, no longer fresh: SUNAT could not be asked
)

// found is what a lookup brings: an answer, found or not, and how old it is.
type found struct {
	*held
	layer layer
	fresh ruc.Freshness
	begun bool // a visit was begun and goes on behind
}

// answers is the store as the gateway uses it.
type answers interface {
	Kind() string
	// Get returns within a budget of its own (Redis: 40 ms by default), for a lookup
	// goes on without a store that is slow.
	Get(ctx context.Context, n ruc.Number) (value []byte, ok bool, err error)
}

// lookups answers lookups: memory, then the store, then one flight per number to
// the scrapers.
type lookups struct {
	l1      *l1
	store   answers
	resolve *resolver
	refresh *refresher
	nc      *nats.Conn // for the last event, where nothing else is to be had
	policy  ruc.Policy
	timeout time.Duration
	// staleAfter is how long a lookup waits for a visit before the last answer, stale
	// though it be, is served; 0 = as long as the visit takes.
	staleAfter time.Duration
	now        func() time.Time
	metrics    *metrics
	log        zerolog.Logger
	hits       zerolog.Logger // of the store; sampled, for they are many
}

// sampledHits logs a store's hits: all of them up to loggedHits per second, and one in
// hitsPerLine of those beyond.
func sampledHits(log zerolog.Logger) zerolog.Logger {
	return log.Sample(&zerolog.BurstSampler{
		Burst: loggedHits, Period: time.Second, NextSampler: &zerolog.BasicSampler{N: hitsPerLine},
	})
}

const (
	loggedHits  = 100
	hitsPerLine = 100
)

// memory returns an answer of the L1 that will do. It is the whole hit path: no
// context, no I/O, no allocation but the result.
func (l *lookups) memory(n ruc.Number, w wish, now time.Time) (found, bool) {
	h, ok := l.l1.get(n)
	if !ok {
		return found{}, false
	}
	f := l.policy.Freshness(h.found, h.obtained, now)
	if !w.takes(f) {
		return found{}, false
	}
	hit := found{held: h, layer: layerMemory, fresh: f}
	if f.State == ruc.Stale {
		hit.layer = layerStale
	}
	if !w.foreign {
		l.refresh.consider(n, hit)
	}
	return hit, true
}

// lookup answers a caller who waits at most until ctx's deadline, and never
// longer than REQUEST_TIMEOUT; a visit counts on the asker's quota. Errors are *ruc.Error.
// Whatever is no hit of the memory leaves one line in the log.
func (l *lookups) lookup(ctx context.Context, n ruc.Number, t wire.Trace, w wish, who asker) (found, error) {
	start := l.now()
	f, err := l.find(ctx, n, t, w, who)
	took := l.now().Sub(start)
	var line *zerolog.Event
	switch code := ruc.CodeOf(err); {
	case err != nil:
		l.metrics.failed(code, took)
		level := zerolog.InfoLevel
		if code == ruc.Internal {
			level = zerolog.ErrorLevel
		}
		line = l.log.WithLevel(level).Err(err).Str("code", string(code))
	case f.layer == layerMemory:
		l.metrics.answered(f.layer, f.found, took)
		return f, nil
	default:
		l.metrics.answered(f.layer, f.found, took)
		log := &l.log
		if f.layer == layer(l.store.Kind()) {
			log = &l.hits
		}
		line = log.Info().Str("layer", string(f.layer)).Bool("found", f.found)
	}
	if who.key != "" {
		line = line.Str("key", who.key)
	}
	line.Str("ruc", n.Masked()).Dur("took", took).Str("req", t.Request).Msg("lookup")
	return f, err
}

func (l *lookups) find(ctx context.Context, n ruc.Number, t wire.Trace, w wish, who asker) (found, error) {
	if f, ok := l.held(ctx, n, w); ok {
		return f, nil
	}
	if w.heldOnly || w.foreign || w.maxStale > 0 {
		if f, ok := l.last(n); ok && w.takes(f.fresh) {
			return f, nil
		}
	}
	if w.heldOnly {
		return found{}, &ruc.Error{Code: ruc.NotHeld}
	}
	if w.foreign {
		l.metrics.refuse(refusedSite)
		return found{}, &ruc.Error{Code: ruc.Forbidden, Detail: "Una página de otro sitio no puede causar una consulta a SUNAT, y este RUC no está guardado. El administrador puede permitir el sitio en CORS_ORIGINS."}
	}
	undo, err := who.quota.spend(l.now())
	if err != nil {
		l.metrics.refuse(refusedQuota)
		return found{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	f, err := l.visit(ctx, n, t, w)
	if err != nil && !visited(err) {
		undo()
	}
	if err == nil || !coverable(ruc.CodeOf(err)) {
		return f, err
	}
	if last, ok := l.last(n); ok && w.settlesFor(last.fresh) {
		return last, nil
	}
	return f, err
}

// held returns an answer of the memory or the store that will do.
func (l *lookups) held(ctx context.Context, n ruc.Number, w wish) (found, bool) {
	if f, ok := l.memory(n, w, l.now()); ok {
		return f, true
	}
	return l.stored(ctx, n, w)
}

// atHand is lookup where held does, and counts as one then.
func (l *lookups) atHand(ctx context.Context, n ruc.Number, w wish) (found, bool) {
	start := l.now()
	f, ok := l.held(ctx, n, w)
	if ok {
		l.metrics.answered(f.layer, f.found, l.now().Sub(start))
	}
	return f, ok
}

// coverable reports whether a failure means that SUNAT could not be asked, so that what
// it said before may do. What it has just said is never covered up.
func coverable(code ruc.Code) bool {
	return code == ruc.Unavailable || code == ruc.Blocked || code == ruc.Overloaded || code == ruc.Timeout
}

// visited reports whether a lookup that failed has cost a visit. One whose time passed
// counts: its visit is waiting, is being made or was, and its answer is kept.
func visited(err error) bool {
	var e *ruc.Error
	return errors.As(err, &e) && (e.Code == ruc.Timeout || e.Attempts > 0)
}

// visit has SUNAT asked. When that takes longer than STALE_AFTER and there is an answer
// from before, that one is returned, and the visit goes on.
func (l *lookups) visit(ctx context.Context, n ruc.Number, t wire.Trace, w wish) (found, error) {
	p, err := l.resolve.enter(n, t, w.strict())
	if err != nil {
		return found{}, err
	}
	defer p.leave()
	joined := p.joined
	h, err := l.waitOrLast(ctx, p, n, w)
	if err != nil {
		return found{}, err
	}
	if h.layer != "" {
		return h, nil
	}
	h.fresh, h.layer = l.policy.Freshness(h.found, h.obtained, l.now()), layerVisit
	if joined {
		h.layer = layerJoined
	}
	return h, nil
}

// waitOrLast returns the flight's answer, without a layer, or the last one with its own.
func (l *lookups) waitOrLast(ctx context.Context, p *place, n ruc.Number, w wish) (found, error) {
	// Again, for the question may have failed on a machine with too much to do.
	for l.staleAfter > 0 && !w.strict() {
		early, cancel := context.WithTimeout(ctx, l.staleAfter)
		h, err := p.wait(early)
		inTime := early.Err() == nil
		cancel()
		if inTime || ctx.Err() != nil || ruc.CodeOf(err) != ruc.Timeout {
			return found{held: h}, err
		}
		if last, ok := l.last(n); ok && w.settlesFor(last.fresh) {
			last.begun = true
			return last, nil
		}
	}
	h, err := p.wait(ctx)
	return found{held: h}, err
}

// lastTimeout bounds the question for the last event, which takes 0.1 ms as a rule.
const lastTimeout = 250 * time.Millisecond

// last returns the last answer that the stream of events holds, if it has not expired.
// It has a time of its own, for that of the lookup may be over.
func (l *lookups) last(n ruc.Number) (found, bool) {
	if !l.nc.IsConnected() {
		return found{}, false // the question would wait in a buffer
	}
	ctx, cancel := context.WithTimeout(context.Background(), lastTimeout)
	defer cancel()
	e, ok, err := wire.NewestAnswer(ctx, l.nc, n)
	if err != nil {
		l.log.Warn().Err(err).Str("ruc", n.Masked()).Msg("the last event could not be read")
	}
	if err != nil || !ok {
		return found{}, false
	}
	h, err := newHeld(e.Body, e.Prefix, e.Seq)
	if err != nil {
		l.log.Warn().Err(err).Str("ruc", n.Masked()).Msg("an event could not be read")
		return found{}, false
	}
	f := found{held: h, layer: layerStream, fresh: l.policy.Freshness(h.found, h.obtained, l.now())}
	if f.fresh.State == ruc.Stale {
		f.layer = layerStale
	}
	return f, f.fresh.State != ruc.Expired
}

// stored returns an answer of the store that will do and fills the L1 with it. A store
// that fails or is slow costs its budget and a log line, never the lookup.
func (l *lookups) stored(ctx context.Context, n ruc.Number, w wish) (found, bool) {
	if w.anew {
		return found{}, false
	}
	mark := l.l1.dropped()
	value, ok, err := l.store.Get(ctx, n)
	if err != nil {
		l.metrics.store.Inc()
		if !errors.Is(err, store.ErrResting) { // which was logged when the rest began
			l.log.Warn().Err(err).Str("ruc", n.Masked()).Msg("the store could not be read; the lookup goes on without it")
		}
		return found{}, false
	}
	if !ok {
		return found{}, false
	}
	p, err := wire.ReadPrefix(value)
	if err == nil && p.RUC != n {
		err = errOtherNumber
	}
	var h *held
	if err == nil {
		h, err = newHeld(value, p, 0)
	}
	if err != nil {
		l.metrics.store.Inc()
		l.log.Error().Err(err).Str("ruc", n.Masked()).Msg("a stored value is not an answer to this number")
		return found{}, false
	}
	f := l.policy.Freshness(h.found, h.obtained, l.now())
	if f.State != ruc.Fresh {
		return found{}, false
	}
	l.l1.fill(n, h, mark)
	hit := found{held: h, layer: layer(l.store.Kind()), fresh: f}
	if !w.foreign {
		l.refresh.consider(n, hit)
	}
	return hit, w.takes(f)
}
