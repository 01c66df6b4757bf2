package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

const (
	// tellTimeout bounds the wait for the NATS server to have taken a notice.
	tellTimeout = 2 * time.Second
	// deleteTimeout bounds a deletion, of a pattern over a million keys too.
	deleteTimeout = 2 * time.Minute
	// forgetTimeout bounds the purging of one number from the streams.
	forgetTimeout   = 20 * time.Second
	invalidateRetry = 5 * time.Second
)

// eraser is the store as invalidations use it.
type eraser interface {
	Delete(ctx context.Context, n ruc.Number) error
	DeletePattern(ctx context.Context, pattern ruc.Pattern, dryRun bool) (n int, err error)
}

// invalidations make answers be forgotten: in the store, then in the memory of every
// gateway. In this order, for a gateway that dropped its copy first could read it from
// the store again.
type invalidations struct {
	ctx   context.Context // of all deletions: they end before the store is closed
	store eraser
	nc    *nats.Conn
	js    jetstream.JetStream
	l1    *l1
}

// one forgets n. Errors: ruc.Unavailable.
func (i *invalidations) one(n ruc.Number) error {
	ctx, cancel := context.WithTimeout(i.ctx, deleteTimeout)
	defer cancel()
	if err := i.store.Delete(ctx, n); err != nil {
		return notDeleted(err)
	}
	return i.tell(ctx, wire.Invalidated{RUC: n})
}

// history forgets n in the streams too. First there, or a cachewriter could store an
// answer again. Errors: ruc.Unavailable.
func (i *invalidations) history(n ruc.Number) error {
	ctx, cancel := context.WithTimeout(i.ctx, forgetTimeout)
	defer cancel()
	if err := wire.Forget(ctx, i.js, n); err != nil {
		return &ruc.Error{
			Code: ruc.Unavailable,
			Detail: "No se pudo borrar todo el historial. Repita la operación en unos segundos; si persiste, compruebe que el " +
				"usuario de NATS del gateway pueda borrar de los flujos, o use rucflow forget.",
			RetryAfter: invalidateRetry,
			Err:        fmt.Errorf("gateway.invalidations: %w", err),
		}
	}
	return i.one(n)
}

// pattern forgets every number that p matches, or only counts those in the store.
// Errors: ruc.Unavailable.
func (i *invalidations) pattern(p ruc.Pattern, dryRun bool) (count int, err error) {
	ctx, cancel := context.WithTimeout(i.ctx, deleteTimeout)
	defer cancel()
	count, err = i.store.DeletePattern(ctx, p, dryRun)
	if err != nil {
		err = notDeleted(err)
	}
	if dryRun || err != nil && count == 0 {
		return count, err
	}
	// Also after a part: what was deleted is forgotten everywhere.
	return count, errors.Join(err, i.tell(ctx, wire.Invalidated{Pattern: p}))
}

// tell drops this process's copies and makes the others drop theirs.
func (i *invalidations) tell(ctx context.Context, notice wire.Invalidated) error {
	i.l1.drop(notice)
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	err := i.nc.Publish(wire.SubjectInvalidated, notice.Encode())
	if err == nil {
		err = i.nc.FlushWithContext(ctx)
	}
	if err != nil {
		return &ruc.Error{
			Code:       ruc.Unavailable,
			Detail:     "Se borró de la caché, pero no se pudo avisar a los demás servidores. Repita la operación en unos segundos.",
			RetryAfter: invalidateRetry,
			Err:        fmt.Errorf("gateway.invalidations: %w", err),
		}
	}
	return nil
}

func notDeleted(err error) error {
	return &ruc.Error{
		Code:       ruc.Unavailable,
		Detail:     "No se pudo borrar de la caché. Repita la operación en unos segundos.",
		RetryAfter: invalidateRetry,
		Err:        fmt.Errorf("gateway.invalidations: %w", err),
	}
}
