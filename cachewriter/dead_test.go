package cachewriter_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/store"
	"github.com/rucflow/rucflow/shared/wire"
)

func TestWriter_WhatIsNoEventBecomesADeadLetter(t *testing.T) {
	r := newRig(t)
	s := &shelf{}
	stop := r.run(r.deps(s))
	stop() // so that all that follows is one batch
	good := string(encode(t, foundAt(number, "X", time.Now())))
	unusable := []struct {
		subject, body string
		reason        wire.DeadReason
	}{
		{wire.ResolvedSubject(number), "<html>", wire.DeadNoAnswer},
		{wire.ResolvedSubject(number), `{"otro":"formato"}`, wire.DeadNoAnswer},
		{wire.ResolvedSubject(number), "", wire.DeadNoAnswer},
		{wire.SubjectResolved + ".abc", good, wire.DeadBadSubject},
		{wire.SubjectResolved + ".20123456789", good, wire.DeadBadSubject},
		{wire.ResolvedSubject(second), good, wire.DeadOtherNumber},
		{wire.ResolvedSubject(number), good[:len(good)-1] + strings.Repeat(" ", wire.MaxAnswerBytes) + "}", wire.DeadTooLarge},
	}
	first := r.publish(foundAt(number, "BIEN", time.Now()))
	seqs := make([]uint64, len(unusable))
	for i, u := range unusable {
		m := nats.NewMsg(u.subject)
		m.Data = []byte(u.body)
		// Each of these would keep the letter out of its stream if it acted there.
		m.Header.Set(nats.MsgIdHdr, fmt.Sprintf("suyo-%d", i))
		m.Header.Set(nats.ExpectedStreamHdr, wire.StreamEvents)
		m.Header.Set("Ruc-Dead-Reason", "inventado")
		m.Header.Add("traceparent", "00-1")
		m.Header.Add("traceparent", "00-2")
		seqs[i] = r.store(m)
	}
	last := r.publish(foundAt(second, "BIEN", time.Now()))
	deps := r.deps(s)
	r.run(deps)
	r.settled()
	if got := s.all(); len(got) != 2 || got[0].Version.Seq != first || got[1].Version.Seq != last {
		t.Errorf("stored %d entries", len(got))
	}
	letters := r.letters()
	if len(letters) != len(unusable) {
		t.Fatalf("%d letters for %d messages", len(letters), len(unusable))
	}
	reasons := map[wire.DeadReason]float64{}
	for i, u := range unusable {
		l := letters[i]
		reasons[u.reason]++
		if l.Consumer != wire.ConsumerCachewriter || l.Reason != u.reason || l.Subject != u.subject || l.Stream != wire.StreamEvents || l.Seq != seqs[i] {
			t.Errorf("%d: %+v", i, l)
		}
		if string(l.Body) != u.body || time.Since(l.Stored) > time.Minute {
			t.Errorf("%d: %d bytes stored at %v", i, len(l.Body), l.Stored)
		}
		if h := l.Header; h.Get(nats.MsgIdHdr) != fmt.Sprintf("suyo-%d", i) || h.Get("Ruc-Dead-Reason") != "inventado" || len(h["traceparent"]) != 2 {
			t.Errorf("%d: headers %v", i, h)
		}
	}
	for _, reason := range wire.DeadReasons {
		if got := metric(t, deps, "ruc_dead_letters_total", string(reason)); got != reasons[reason] {
			t.Errorf("%v letters counted as %s, not %v", got, reason, reasons[reason])
		}
	}
}

func TestWriter_WhatTheStoreRefusesBecomesADeadLetter(t *testing.T) {
	r := newRig(t)
	s := &shelf{}
	deps := r.deps(putFunc(func(ctx context.Context, entries []store.Entry) error {
		failed := map[int]error{}
		var rest []store.Entry
		for i, e := range entries {
			if e.RUC == number {
				failed[i] = fmt.Errorf("no: %w", store.ErrRefused)
			} else {
				rest = append(rest, e)
			}
		}
		if err := s.Put(ctx, rest); err != nil || len(failed) == 0 {
			return err
		}
		return &store.PutError{Failed: failed, Of: len(entries)}
	}))
	r.run(deps)
	refused := r.publish(foundAt(number, "X", time.Now()))
	r.publish(foundAt(second, "X", time.Now()))
	r.settled()
	if got := s.all(); len(got) != 1 || got[0].RUC != second {
		t.Errorf("stored %d entries", len(got))
	}
	if got := r.letters(); len(got) != 1 || got[0].Seq != refused || got[0].Reason != wire.DeadRefused {
		t.Errorf("letters: %+v", got)
	}
}

// Two writers pass the message to and fro until the stream is there, and neither
// loses it.
func TestTwoWriters_ADeadLetterWaitsForItsStream(t *testing.T) {
	r := newRig(t)
	s := &shelf{}
	for range 2 {
		r.run(r.deps(s))
	}
	if err := r.js.DeleteStream(t.Context(), wire.StreamDead); err != nil {
		t.Fatal(err)
	}
	r.store(&nats.Msg{Subject: wire.ResolvedSubject(number), Data: []byte("<html>")})
	good := r.publish(foundAt(second, "X", time.Now()))
	eventually(t, "the event beside it is stored", func() bool { return s.count() == 1 })
	eventually(t, "the message comes again", func() bool { return r.delivered() > good })
	if info, err := r.state(); err != nil || info.AckFloor.Stream != 0 {
		t.Errorf("acknowledged up to %d although there is no letter (%v)", info.AckFloor.Stream, err)
	}
	if err := (wire.Provisioner{JS: r.js}).Dead(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.settled()
	if got := r.letters(); len(got) != 1 || got[0].Seq != 1 || string(got[0].Body) != "<html>" {
		t.Errorf("letters: %+v", got)
	}
}

// A writer that dies between storing a letter and terminating its message leaves
// the message to others.
func TestTwoWriters_OneLetterForAMessageThatComesAgain(t *testing.T) {
	r := newRig(t)
	r.provision(200 * time.Millisecond)
	r.store(&nats.Msg{Subject: wire.ResolvedSubject(number), Data: []byte("<html>")})
	died, err := r.js.Consumer(t.Context(), wire.StreamEvents, wire.ConsumerCachewriter)
	if err != nil {
		t.Fatal(err)
	}
	m, err := died.Next()
	if err != nil {
		t.Fatal(err)
	}
	r.store(wire.DeadLetter(wire.ConsumerCachewriter, wire.DeadNoAnswer, m))
	one, other := r.deps(&shelf{}), r.deps(&shelf{})
	r.run(one)
	r.run(other)
	r.publish(foundAt(second, "X", time.Now()))
	r.settled()
	if n := len(r.letters()); n != 1 || r.delivered() < 3 {
		t.Errorf("%d letters after %d deliveries", n, r.delivered())
	}
	for _, deps := range []float64{metric(t, one, "ruc_dead_letters_total"), metric(t, other, "ruc_dead_letters_total")} {
		if deps != 0 {
			t.Errorf("the same letter was counted %v times more", deps)
		}
	}
}

// One entry that fails by itself is tried again and holds up nobody.
func TestWriter_WhatTheStoreDidNotTakeComesAgain(t *testing.T) {
	r := newRig(t)
	s := &shelf{}
	var refused atomic.Bool
	stop := r.run(r.deps(s))
	stop() // so that what follows is one batch, or two on a busy machine
	stubborn := ruc.FromPrefix("2000000002")
	for i := range 5 {
		r.publish(foundAt(ruc.FromPrefix(fmt.Sprintf("20%08d", i)), "X", time.Now()))
	}
	deps := r.deps(putFunc(func(ctx context.Context, entries []store.Entry) error {
		i := slices.IndexFunc(entries, func(e store.Entry) bool { return e.RUC == stubborn })
		if i < 0 || refused.Swap(true) {
			return s.Put(ctx, entries)
		}
		others := slices.Delete(slices.Clone(entries), i, i+1)
		return errors.Join(s.Put(ctx, others), &store.PutError{Failed: map[int]error{i: errors.New("try later")}, Of: len(entries)})
	}))
	r.run(deps)
	eventually(t, "the others are acknowledged", func() bool {
		info, err := r.state()
		return err == nil && info.NumAckPending == 1 && info.AckFloor.Stream == 2
	})
	r.settled()
	if s.count() != 5 || len(s.all()) != 5 || len(r.letters()) != 0 {
		t.Errorf("stored %d events in %d entries, %d letters", s.count(), len(s.all()), len(r.letters()))
	}
	if got := metric(t, deps, "ruc_cache_write_failures_total"); got != 1 {
		t.Errorf("%v failures counted", got)
	}
}
