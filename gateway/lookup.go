package gateway

import (
	"context"
	"errors"
	"time"

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
)

// found is what a lookup brings: an answer, found or not, and how old it is.
type found struct {
	*held
	layer layer
	fresh ruc.Freshness
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
	policy  ruc.Policy
	timeout time.Duration
	now     func() time.Time
	metrics *metrics
	log     zerolog.Logger
}

// memory returns a fresh answer of the L1. It is the whole hit path: no context,
// no I/O, no allocation but the result.
func (l *lookups) memory(n ruc.Number) (found, bool) {
	h, ok := l.l1.get(n)
	if !ok {
		return found{}, false
	}
	f := l.policy.Freshness(h.found, h.obtained, l.now())
	if f.State != ruc.Fresh {
		return found{}, false
	}
	return found{h, layerMemory, f}, true
}

// lookup answers a caller who waits at most until ctx's deadline, and never
// longer than REQUEST_TIMEOUT. Errors are *ruc.Error. Whatever is no hit of the memory
// leaves one line in the log.
func (l *lookups) lookup(ctx context.Context, n ruc.Number, t wire.Trace) (found, error) {
	start := l.now()
	f, err := l.find(ctx, n, t)
	took := l.now().Sub(start)
	line := l.log.Info()
	switch code := ruc.CodeOf(err); {
	case err != nil:
		l.metrics.failed(code, took)
		if code == ruc.Internal {
			line = l.log.Error()
		}
		line = line.Err(err).Str("code", string(code))
	default:
		l.metrics.answered(f.layer, f.found, took)
		if f.layer == layerMemory {
			return f, nil
		}
		line = line.Str("layer", string(f.layer)).Bool("found", f.found)
	}
	line.Str("ruc", n.Masked()).Dur("took", took).Str("req", t.Request).Msg("lookup")
	return f, err
}

func (l *lookups) find(ctx context.Context, n ruc.Number, t wire.Trace) (found, error) {
	if f, ok := l.memory(n); ok {
		return f, nil
	}
	if f, ok := l.stored(ctx, n); ok {
		return f, nil
	}
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	h, joined, err := l.resolve.resolve(ctx, n, t)
	if err != nil {
		return found{}, err
	}
	f := found{h, layerVisit, l.policy.Freshness(h.found, h.obtained, l.now())}
	if joined {
		f.layer = layerJoined
	}
	return f, nil
}

// stored returns a fresh answer of the store and fills the L1 with it. A store
// that fails or is slow costs its budget and a log line, never the lookup.
func (l *lookups) stored(ctx context.Context, n ruc.Number) (found, bool) {
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
	return found{h, layer(l.store.Kind()), f}, true
}
