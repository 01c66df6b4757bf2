package wire_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

func TestStoreAnswer_SaysWhatItFollows(t *testing.T) {
	nc, js := server(t)
	if err := provision(t.Context(), wire.Provisioner{JS: js}, 1, ruc.FuenteReplica); err != nil {
		t.Fatal(err)
	}
	heard, err := nc.SubscribeSync(wire.SubjectResolved)
	if err != nil {
		t.Fatal(err)
	}
	other := ruc.Found(number, ruc.Record{RazonSocial: "OTRA"}, at, ruc.FuenteSunat, ruc.MotorChrome)
	jobs := uint64(0)
	store := func(a ruc.Answer) *nats.Msg {
		jobs++
		m := wire.ResolvedEvent(number, wire.Job{Seq: jobs, Time: at}, encode(t, a), ruc.FuenteSunat, at)
		if ack, err := wire.StoreAnswer(t.Context(), nc, js, number, m); err != nil || ack.Duplicate {
			t.Fatalf("%v, %+v", err, ack)
		}
		return m
	}
	expect := func(what string, nothingNew bool) {
		t.Helper()
		m, err := heard.NextMsg(10 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if e, err := wire.ParseEvent(m); err != nil || e.SaysNothingNew() != nothingNew {
			t.Errorf("%s: %v, says that there is nothing new: %v; %v", what, err, e.SaysNothingNew(), m.Header)
		}
	}
	store(found)
	expect("the first", true)
	store(found)
	expect("the same again", true)
	store(other)
	expect("another", false)
	again := store(other)
	expect("the same as that", true)
	ack, err := wire.StoreAnswer(t.Context(), nc, js, number, again)
	if err != nil || !ack.Duplicate {
		t.Errorf("stored twice: %v, %+v", err, ack)
	}

	// What somebody else has stored is none, and hides what was before it.
	if _, err := js.Publish(t.Context(), wire.ResolvedSubject(number), []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if _, err := heard.NextMsg(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	store(other)
	expect("after what is no answer", false)

	plain := wire.ResolvedEvent(number, wire.Job{Seq: 100, Time: at}, encode(t, other), ruc.FuenteSunat, at)
	if _, err := js.PublishMsg(t.Context(), plain); err != nil {
		t.Fatal(err)
	}
	expect("of a scraper that says nothing", false)
}
