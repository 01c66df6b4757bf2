package gateway

import (
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/wire"
)

// follower keeps the L1 in step with the events and ends flights by them.
type follower struct {
	l1      *l1
	resolve *resolver
	metrics *metrics
	log     zerolog.Logger
}

// listen subscribes to stored events until stop.
func (f *follower) listen(nc *nats.Conn) (stop func(), err error) {
	resolved, err := nc.Subscribe(wire.SubjectResolved, f.onResolved)
	if err != nil {
		return nil, fmt.Errorf("gateway.follower: %w", err)
	}
	failed, err := nc.Subscribe(wire.SubjectFailed, f.onFailed)
	if err != nil {
		return nil, fmt.Errorf("gateway.follower: %w", err)
	}
	invalidated, err := nc.Subscribe(wire.SubjectInvalidated, f.onInvalidated)
	if err != nil {
		return nil, fmt.Errorf("gateway.follower: %w", err)
	}
	return func() {
		_ = resolved.Unsubscribe() // all fail only on a closed connection
		_ = failed.Unsubscribe()
		_ = invalidated.Unsubscribe()
	}, nil
}

func (f *follower) onInvalidated(m *nats.Msg) {
	notice, err := wire.ParseInvalidated(m.Data)
	if err != nil {
		f.log.Warn().Err(err).Msg("a notice of an invalidation could not be read")
		return
	}
	f.metrics.invalidations.Inc()
	f.l1.drop(notice)
}

func (f *follower) onResolved(m *nats.Msg) {
	e, err := wire.ParseEvent(m)
	if err != nil {
		f.log.Warn().Err(err).Msg("an event could not be read")
		return
	}
	h, err := newHeld(e.Body, e.Prefix, e.Seq)
	if err != nil {
		f.log.Warn().Err(err).Str("ruc", e.RUC.Masked()).Msg("an event could not be read")
		return
	}
	f.l1.put(e.RUC, h)
	// An event that comes late says nothing to a flight begun since it went stale.
	if fresh, ok := f.resolve.memory(e.RUC); ok {
		f.resolve.answered(e.RUC, fresh)
	}
}

func (f *follower) onFailed(m *nats.Msg) {
	e, err := wire.ParseEvent(m)
	if err != nil {
		f.log.Warn().Err(err).Msg("an event could not be read")
		return
	}
	var p wire.Problem
	if err := json.Unmarshal(e.Body, &p); err != nil {
		f.log.Warn().Err(err).Str("ruc", e.RUC.Masked()).Msg("an event could not be read")
		return
	}
	f.resolve.failed(e.RUC, p.Err())
}

// gap follows a loss of messages: what is held may have been overtaken unheard.
func (f *follower) gap() { f.l1.clear() }
