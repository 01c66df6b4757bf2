package gateway

import (
	"bytes"
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
	feed    *feed
	tail    *tail
	metrics *metrics
	log     zerolog.Logger
}

// listen subscribes to stored events until stop.
func (f *follower) listen(nc *nats.Conn) (stop func(), err error) {
	var subs []*nats.Subscription
	stop = func() {
		for _, s := range subs {
			_ = s.Unsubscribe() // fails only on a closed connection, which has none
		}
	}
	for subject, handle := range map[string]nats.MsgHandler{
		wire.SubjectResolved:    f.onResolved,
		wire.SubjectFailed:      f.onFailed,
		wire.SubjectChanged:     f.onChanged,
		wire.SubjectInvalidated: f.onInvalidated,
		wire.SubjectProgress:    f.onProgress,
	} {
		s, err := nc.Subscribe(subject, handle)
		if err != nil {
			stop()
			return nil, fmt.Errorf("gateway.follower: %w", err)
		}
		subs = append(subs, s)
	}
	return stop, nil
}

func (f *follower) onProgress(m *nats.Msg) {
	p, err := wire.ParseProgress(m)
	if err != nil {
		f.log.Warn().Err(err).Msg("a message of progress could not be read")
		return
	}
	f.feed.progress(p)
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
	// A copy: the body that came shares its memory with the message's headers, a third more.
	h, err := newHeld(bytes.Clone(e.Body), e.Prefix, e.Seq)
	if err != nil {
		f.log.Warn().Err(err).Str("ruc", e.RUC.Masked()).Msg("an event could not be read")
		return
	}
	f.l1.put(e.RUC, h)
	f.tail.hear(stored{eventResolved, e.RUC, e.Seq, e.Stored, h.body})
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
	f.tail.hear(stored{eventFailed, e.RUC, e.Seq, e.Stored, e.Body})
	f.resolve.failed(e.RUC, p.Err())
}

func (f *follower) onChanged(m *nats.Msg) {
	e, err := parseStored(m)
	if err != nil {
		f.log.Warn().Err(err).Msg("an event could not be read")
		return
	}
	f.tail.hear(e)
}

// gap follows a loss of messages: what is held may have been overtaken unheard.
func (f *follower) gap() {
	f.l1.clear()
	f.tail.gap()
}
