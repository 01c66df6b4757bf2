package wire_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

func TestReadAnswers_ReadsAllInTheirOrder(t *testing.T) {
	nc, js := server(t)
	if err := provision(t.Context(), wire.Provisioner{JS: js}, 1, ruc.FuenteReplica); err != nil {
		t.Fatal(err)
	}
	read := func(since time.Time) (seqs []uint64, bad, pages int) {
		t.Helper()
		err := wire.ReadAnswers(t.Context(), nc, since, func(p wire.AnswerPage) error {
			for _, e := range p.Events {
				seqs = append(seqs, e.Seq)
			}
			bad, pages = bad+p.Bad, pages+1
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return seqs, bad, pages
	}
	if seqs, bad, pages := read(time.Time{}); len(seqs)+bad+pages != 0 {
		t.Errorf("an empty stream: %d, %d bad, %d pages", seqs, bad, pages)
	}
	n := ruc.MustParse("20131312955")
	body, err := ruc.Missing(n, time.Now(), ruc.FuenteReplica, ruc.MotorHTTP).Encode()
	if err != nil {
		t.Fatal(err)
	}
	const count = 5500 // more than a page
	for i := range count {
		m := wire.ResolvedEvent(n, wire.Job{Seq: uint64(i + 1), Time: time.Now()}, body, ruc.FuenteReplica, time.Now())
		switch i % 100 {
		case 10:
			m.Data = []byte("{}")
		case 20: // is no answer, and is passed by
			m = wire.FailedEvent(n, wire.Job{Seq: uint64(i + 1), Time: time.Now()}, wire.NewProblem(n, &ruc.Error{Code: ruc.Blocked}), ruc.FuenteReplica, time.Now())
		}
		if _, err := js.PublishMsgAsync(m); err != nil {
			t.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	seqs, bad, pages := read(time.Time{})
	if len(seqs) != count*98/100 || bad != count/100 || pages != 2 || !slices.IsSorted(seqs) || seqs[0] != 1 || seqs[len(seqs)-1] != count {
		t.Errorf("%d answers, %d bad, %d pages", len(seqs), bad, pages)
	}
	s, err := js.Stream(t.Context(), wire.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.GetMsg(t.Context(), count-5)
	if err != nil {
		t.Fatal(err)
	}
	if seqs, _, _ := read(m.Time); !slices.Equal(seqs, []uint64{count - 5, count - 4, count - 3, count - 2, count - 1, count}) {
		t.Errorf("since then: %d", seqs)
	}
	if seqs, _, pages := read(time.Now().Add(time.Hour)); len(seqs)+pages != 0 {
		t.Errorf("since the future: %d", seqs)
	}
}

func TestReadAnswers_SaysWhatIsWrong(t *testing.T) {
	nc, js := server(t)
	none := func(wire.AnswerPage) error { return nil }
	if err := wire.ReadAnswers(t.Context(), nc, time.Time{}, none); err == nil || !strings.Contains(err.Error(), "RUC_EVENTS: there is no such stream") {
		t.Errorf("%v", err)
	}
	if err := provision(t.Context(), wire.Provisioner{JS: js}, 1, ruc.FuenteReplica); err != nil {
		t.Fatal(err)
	}
	if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: wire.ResolvedSubject(ruc.MustParse("20131312955")), Data: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	if err := wire.ReadAnswers(t.Context(), nc, time.Time{}, func(wire.AnswerPage) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("%v", err)
	}
	ctx, stop := context.WithCancelCause(t.Context())
	stop(enough)
	if err := wire.ReadAnswers(ctx, nc, time.Time{}, none); !errors.Is(err, enough) {
		t.Errorf("%v", err)
	}
}

func TestReadLetters_GivesEventsBack(t *testing.T) {
	nc, js := server(t)
	n := ruc.MustParse("20131312955")
	body, err := ruc.Missing(n, time.Now(), ruc.FuenteReplica, ruc.MotorHTTP).Encode()
	if err != nil {
		t.Fatal(err)
	}
	event := wire.ResolvedEvent(n, wire.Job{Seq: 7, Time: time.Now()}, body, ruc.FuenteReplica, time.Now())
	messages := consumed(t, js, event, &nats.Msg{Subject: wire.ResolvedSubject(n), Data: []byte("{}")})
	for _, m := range messages {
		bury(t, js, m)
	}
	if _, err := js.Publish(t.Context(), wire.DeadSubject("audit"), []byte("x")); err != nil {
		t.Fatal(err)
	}
	type read struct {
		at  wire.Place
		l   wire.Letter
		bad error
	}
	var all []read
	err = wire.ReadLetters(t.Context(), nc, func(at wire.Place, l wire.Letter, bad error) error {
		all = append(all, read{at, l, bad})
		return nil
	})
	if err != nil || len(all) != 3 {
		t.Fatalf("%v, %d letters", err, len(all))
	}
	for i, r := range all {
		if r.at.Seq != uint64(i+1) || r.at.Stored.IsZero() || (r.bad != nil) != (i == 2) {
			t.Errorf("%d: %+v, %v", i, r.at, r.bad)
		}
	}
	want, err := wire.ParseConsumed(messages[0])
	if err != nil {
		t.Fatal(err)
	}
	got, err := all[0].l.Event()
	if err != nil || got.RUC != n || got.Seq != want.Seq || !got.Stored.Equal(want.Stored) || got.Job != 7 || got.Prefix != want.Prefix {
		t.Errorf("%v: %+v, want %+v", err, got, want)
	}
	if _, err := all[1].l.Event(); !errors.Is(err, wire.ErrBadEvent) || wire.ReasonOf(err) != wire.DeadNoAnswer {
		t.Errorf("%v", err)
	}
	if l := all[2].l; l.Subject != "ruc.dead.audit" || string(l.Body) != "x" {
		t.Errorf("%+v", l)
	}
}

func TestReadEvents_ReadsEveryKindFromThere(t *testing.T) {
	nc, js := server(t)
	if last, err := wire.LastEvent(t.Context(), nc); err == nil {
		t.Errorf("without a stream: %+v", last)
	}
	if err := provision(t.Context(), wire.Provisioner{JS: js}, 1, ruc.FuenteReplica); err != nil {
		t.Fatal(err)
	}
	if last, err := wire.LastEvent(t.Context(), nc); err != nil || last.Seq != 0 {
		t.Errorf("an empty stream: %+v, %v", last, err)
	}
	heard, err := nc.SubscribeSync(wire.SubjectChanged)
	if err != nil {
		t.Fatal(err)
	}
	const count = 2500 // more than two pages
	for i := range count {
		job := wire.Job{Seq: uint64(i + 1), Time: time.Now()}
		m := wire.ResolvedEvent(number, job, encode(t, absent), ruc.FuenteReplica, at)
		switch i % 3 {
		case 1:
			m = wire.FailedEvent(number, job, wire.NewProblem(number, &ruc.Error{Code: ruc.Blocked}), ruc.FuenteReplica, at)
		case 2:
			m = wire.ChangedEvent(number, uint64(i+1), []byte("{}"), nil, ruc.FuenteReplica, at)
		}
		if _, err := js.PublishMsgAsync(m); err != nil {
			t.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	republished, err := heard.NextMsg(10 * time.Second)
	if err != nil || wire.KindOf(republished) != wire.SubjectChanged || wire.PlaceOf(republished).Seq != 3 {
		t.Errorf("%v: %+v", err, republished)
	}
	kinds := []string{wire.SubjectResolved, wire.SubjectFailed, wire.SubjectChanged}
	next, pages := uint64(5), 0
	err = wire.ReadEvents(t.Context(), nc, next, func(page []*nats.Msg) error {
		pages++
		for _, m := range page {
			if got := wire.PlaceOf(m); got.Seq != next || got.Stored.IsZero() || wire.KindOf(m) != kinds[(next-1)%3] {
				t.Fatalf("%+v %s, want %d", got, wire.KindOf(m), next)
			}
			next++
		}
		return nil
	})
	if err != nil || next != count+1 || pages != 3 {
		t.Errorf("%v, %d, %d pages", err, next, pages)
	}
	if last, err := wire.LastEvent(t.Context(), nc); err != nil || last.Seq != count {
		t.Errorf("%+v, %v", last, err)
	}
	if err := wire.ReadEvents(t.Context(), nc, next, func([]*nats.Msg) error { return errors.New("there is nothing") }); err != nil {
		t.Error(err)
	}
}
