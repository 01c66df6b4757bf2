package gateway

import (
	"context"
	"time"

	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// refreshRest is how long no refresh is tried after one that failed: the answer is
// still fresh, and a SUNAT that is away is not asked for every hit.
const refreshRest = 30 * time.Second

// refresher visits a number again before its answer goes stale, when somebody asks for
// it in the last part of its life. One at a time: refreshes are never urgent.
type refresher struct {
	at      float64 // share of an answer's life after which it is refreshed; 0 = never
	wanted  chan ruc.Number
	resolve *resolver
	timeout time.Duration
	log     zerolog.Logger
}

// consider notes a hit. It never waits: while a refresh is under way the next hit of
// this number will do.
func (r *refresher) consider(n ruc.Number, f found) {
	if r.at == 0 || !f.found || float64(f.fresh.Age) < r.at*float64(f.fresh.Lifetime) {
		return
	}
	select {
	case r.wanted <- n:
	default:
	}
}

// run refreshes until ctx ends.
func (r *refresher) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case n := <-r.wanted:
			if err := r.refresh(ctx, n); err != nil && ctx.Err() == nil {
				r.log.Info().Err(err).Str("code", string(ruc.CodeOf(err))).Str("ruc", n.Masked()).Msg("an answer could not be refreshed yet")
				rest := time.NewTimer(refreshRest)
				select {
				case <-ctx.Done():
				case <-rest.C:
				}
				rest.Stop()
			}
		}
	}
}

func (r *refresher) refresh(ctx context.Context, n ruc.Number) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	t := wire.NewTrace("", "")
	p, err := r.resolve.enter(n, t, true)
	if err != nil {
		return err
	}
	defer p.leave()
	if _, err = p.wait(ctx); err == nil {
		r.log.Info().Str("ruc", n.Masked()).Str("req", t.Request).Msg("an answer was refreshed")
	}
	return err
}
