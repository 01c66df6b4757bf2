package wire_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// past stores answers of that name and returns their events.
type past struct {
	t    testing.TB
	nc   *nats.Conn
	js   jetstream.JetStream
	jobs uint64
}

func newPast(t *testing.T) *past {
	t.Helper()
	nc, js := server(t)
	if err := provision(t.Context(), wire.Provisioner{JS: js}, 1, ruc.FuenteReplica); err != nil {
		t.Fatal(err)
	}
	return &past{t: t, nc: nc, js: js}
}

func (p *past) put(n ruc.Number, name string) wire.Event {
	p.t.Helper()
	a := ruc.Found(n, ruc.Record{RazonSocial: ruc.Text(name)}, at, ruc.FuenteReplica, ruc.MotorChrome)
	return p.putBody(n, encode(p.t, a))
}

func (p *past) putBody(n ruc.Number, body []byte) wire.Event {
	p.t.Helper()
	p.jobs++
	ack, err := p.js.PublishMsg(p.t.Context(), wire.ResolvedEvent(n, wire.Job{Seq: p.jobs, Time: at}, body, ruc.FuenteReplica, at))
	if err != nil {
		p.t.Fatal(err)
	}
	e := wire.Event{RUC: n, Seq: ack.Sequence, Body: body}
	e.Prefix, _ = wire.ReadPrefix(body)
	return e
}

func (p *past) before(answers ...wire.Event) []wire.Predecessor {
	ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
	defer cancel()
	return wire.Before(ctx, p.nc, answers)
}

func (p *past) purge(subject string, opts ...jetstream.StreamPurgeOpt) {
	p.t.Helper()
	s, err := p.js.Stream(p.t.Context(), wire.StreamEvents)
	if err == nil {
		err = s.Purge(p.t.Context(), append(opts, jetstream.WithPurgeSubject(subject))...)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

func TestBefore(t *testing.T) {
	p := newPast(t)
	other := ruc.MustParse("20100055237")
	first := p.put(number, "UNO")
	if b := p.before(first)[0]; b.OK || b.Err != nil {
		t.Errorf("before the stream's first message: %+v", b)
	}
	answers := []wire.Event{first}
	var others []wire.Event
	for i := range 30 { // far more than are read at once
		answers = append(answers, p.put(number, fmt.Sprint(i)))
		if i%3 == 0 {
			others = append(others, p.put(other, fmt.Sprint(i)))
		}
		if i == 3 || i == 20 {
			p.putBody(number, []byte(`{"no":"answer"}`)) // is passed over
		}
	}
	for i, b := range p.before(answers...) {
		switch {
		case b.Err != nil, b.OK != (i > 0):
			t.Errorf("%d: %+v", i, b)
		case b.OK && (b.Event.Seq != answers[i-1].Seq || b.Event.Prefix.Huella != answers[i-1].Prefix.Huella):
			t.Errorf("%d: %d is before %d", i, b.Event.Seq, answers[i].Seq)
		}
	}
	for i, b := range p.before(others...) {
		if b.Err != nil || b.OK != (i > 0) || b.OK && b.Event.Seq != others[i-1].Seq {
			t.Errorf("%d: %+v", i, b)
		}
	}
	// The oldest ones are too old.
	p.purge(wire.ResolvedSubject(number), jetstream.WithPurgeSequence(answers[20].Seq))
	for i, b := range p.before(answers...) {
		switch {
		case i < 20 && !errors.Is(b.Err, wire.ErrNotHeld), i == 20 && (b.OK || b.Err != nil), i > 20 && (!b.OK || b.Event.Seq != answers[i-1].Seq):
			t.Errorf("%d: %+v", i, b)
		}
	}
	p.purge(wire.ResolvedSubject(number))
	if b := p.before(answers[30])[0]; !errors.Is(b.Err, wire.ErrNotHeld) {
		t.Errorf("of what was purged: %+v", b)
	}
}

func TestBefore_TellsWhatIsNotKnown(t *testing.T) {
	p := newPast(t)
	e := p.put(number, "UNO")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if b := wire.Before(ctx, p.nc, []wire.Event{e}); !errors.Is(b[0].Err, context.Canceled) {
		t.Errorf("%+v", b)
	}
	p.nc.Close()
	if b := wire.Before(t.Context(), p.nc, []wire.Event{e}); !errors.Is(b[0].Err, wire.ErrNotConnected) {
		t.Errorf("%+v", b)
	}
}

func TestHistory(t *testing.T) {
	p := newPast(t)
	read := func(most uint64) (seqs []uint64, whole bool) {
		t.Helper()
		whole, err := wire.History(t.Context(), p.nc, number, most, func(e wire.Event) { seqs = append(seqs, e.Seq) })
		if err != nil {
			t.Fatal(err)
		}
		return seqs, whole
	}
	if got, whole := read(10); len(got) != 0 || !whole {
		t.Errorf("of a number that was never asked for: %v, %v", got, whole)
	}
	var want []uint64
	for i := range 600 { // more than two pages
		want = append(want, p.put(number, fmt.Sprint(i)).Seq)
		if i%2 == 0 {
			p.put(ruc.MustParse("20100055237"), "OTRO")
		}
	}
	if got, whole := read(600); !slices.Equal(got, want) || !whole {
		t.Errorf("%d of %d, %v", len(got), len(want), whole)
	}
	p.putBody(number, []byte(`{"no":"answer"}`))
	for _, most := range []uint64{601, 5000} {
		if got, whole := read(most); !slices.Equal(got, want) || !whole {
			t.Errorf("at most %d: %d of %d, %v", most, len(got), len(want), whole)
		}
	}
	for _, most := range []uint64{2, 3, 10, 256, 300, 599, 600} {
		got, whole := read(most)
		if whole || uint64(len(got)) > most || uint64(len(got)) < most/2-1 || !slices.Equal(got, want[len(want)-len(got):]) {
			t.Errorf("at most %d: %d, %v", most, len(got), whole)
		}
	}
}

var lots = flag.Int("answers", 5000, "answers in the stream of BenchmarkBefore")

// BenchmarkBefore reads the answers before those of whole batches, in a stream of many.
func BenchmarkBefore(b *testing.B) {
	for _, versions := range []int{1, 2, 5, 12} {
		b.Run(fmt.Sprint(versions, " of each"), func(b *testing.B) {
			nc, js := server(b)
			if err := provision(b.Context(), wire.Provisioner{JS: js}, 1, ruc.FuenteReplica); err != nil {
				b.Fatal(err)
			}
			p := &past{t: b, nc: nc, js: js}
			filler := ruc.Record{RazonSocial: "X", Avisos: slices.Repeat([]string{"UN AVISO CUALQUIERA DE SUNAT"}, 50)}
			var last []wire.Event
			numbers := *lots / versions
			for v := range versions {
				for i := range numbers {
					n := ruc.FromPrefix(fmt.Sprintf("20%08d", i))
					body := encode(b, ruc.Found(n, filler, at, ruc.FuenteReplica, ruc.MotorChrome))
					p.jobs++
					f, err := js.PublishMsgAsync(wire.ResolvedEvent(n, wire.Job{Seq: p.jobs, Time: at}, body, ruc.FuenteReplica, at))
					if err != nil {
						b.Fatal(err)
					}
					if v == versions-1 {
						ack := <-f.Ok()
						last = append(last, wire.Event{RUC: n, Seq: ack.Sequence, Body: body})
					}
				}
			}
			const batch = 250
			b.ResetTimer()
			for i := 0; b.Loop(); i++ {
				from := i * batch % (len(last) - batch)
				for _, before := range wire.Before(b.Context(), nc, last[from:from+batch]) {
					if before.Err != nil || before.OK != (versions > 1) {
						b.Fatalf("%+v", before)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/batch, "µs/answer")
		})
	}
}
