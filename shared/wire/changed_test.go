package wire_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

func answerOf(t *testing.T, a ruc.Answer, seq uint64) wire.Event {
	t.Helper()
	body := encode(t, a)
	p, err := wire.ReadPrefix(body)
	if err != nil {
		t.Fatal(err)
	}
	return wire.Event{RUC: a.RUC, Seq: seq, Body: body, Prefix: p}
}

func named(name ruc.Text) ruc.Answer {
	return ruc.Found(number, ruc.Record{RazonSocial: name}, at, ruc.FuenteReplica, ruc.MotorChrome)
}

// changedOf is the message of a change, as the stream republishes it.
func changedOf(t *testing.T, before, after ruc.Answer, seq uint64) *nats.Msg {
	t.Helper()
	c, ok, err := wire.Compare(answerOf(t, before, seq-1), answerOf(t, after, seq))
	if err != nil || !ok {
		t.Fatalf("%v, %v", ok, err)
	}
	body, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	m := wire.ChangedEvent(number, seq, body, nats.Header{}, ruc.FuenteReplica, at)
	m.Subject = wire.SubjectChanged
	m.Header.Set("Nats-Subject", wire.ChangedSubject(number))
	m.Header.Set("Nats-Sequence", "13")
	m.Header.Set("Nats-Time-Stamp", at.Format(time.RFC3339Nano))
	return m
}

func TestCompare(t *testing.T) {
	newer := ruc.Found(number, ruc.Record{RazonSocial: "UNO"}, at.Add(time.Hour), ruc.FuenteSunat, ruc.MotorHTTP)
	if c, ok, err := wire.Compare(answerOf(t, named("UNO"), 1), answerOf(t, newer, 2)); ok || err != nil {
		t.Errorf("a refresh: %+v, %v", c, err)
	}
	// Of a version that knew fewer fields.
	older := answerOf(t, named("UNO"), 1)
	older.Body = bytes.Replace(older.Body, []byte(`"ubigeo":null,`), nil, 1)
	older.Prefix.Huella = strings.Repeat("0", 32)
	if c, ok, err := wire.Compare(older, answerOf(t, newer, 2)); ok || err != nil {
		t.Errorf("a field more, which is null: %+v, %v", c, err)
	}
	broken := older
	broken.Body = bytes.Replace(older.Body, []byte(`false`), []byte(`fals`), 1)
	for _, pair := range [][2]wire.Event{{broken, answerOf(t, newer, 2)}, {answerOf(t, newer, 2), broken}} {
		if _, ok, err := wire.Compare(pair[0], pair[1]); ok || err == nil {
			t.Errorf("compared what cannot be read: %v, %v", ok, err)
		}
	}
}

func TestParseChanged(t *testing.T) {
	good := func() *nats.Msg { return changedOf(t, named("A & B"), named("C"), 12) }
	c, err := wire.ParseChanged(good())
	if err != nil || c.RUC != number || c.Answer != 12 || c.Seq != 13 || !c.Stored.Equal(at) {
		t.Fatalf("%+v, %v", c, err)
	}
	if string(c.Antes) != string(encode(t, named("A & B"))) || string(c.Despues) != string(encode(t, named("C"))) || len(c.Cambios) != 1 {
		t.Errorf("%s", good().Data)
	}
	for name, spoil := range map[string]func(m *nats.Msg){
		"another kind":   func(m *nats.Msg) { m.Header.Set("Nats-Subject", wire.ResolvedSubject(number)) },
		"no number":      func(m *nats.Msg) { m.Header.Set("Nats-Subject", "ruc.changed.x") },
		"no subject":     func(m *nats.Msg) { m.Header.Del("Nats-Subject") },
		"another number": func(m *nats.Msg) { m.Header.Set("Nats-Subject", "ruc.changed.20100055237") },
		"no sequence":    func(m *nats.Msg) { m.Header.Del("Nats-Sequence") },
		"no answer's":    func(m *nats.Msg) { m.Header.Del("Ruc-Seq") },
		"no time":        func(m *nats.Msg) { m.Header.Del("Nats-Time-Stamp") },
		"no JSON":        func(m *nats.Msg) { m.Data = m.Data[1:] },
		"no changes":     func(m *nats.Msg) { m.Data = []byte(`{"ruc":"20131312955","antes":null,"despues":null,"cambios":[]}`) },
		"one answer":     func(m *nats.Msg) { m.Data = bytes.Replace(m.Data, encode(t, named("C")), []byte("null"), 1) },
		"an answer's number": func(m *nats.Msg) {
			m.Data = bytes.Replace(m.Data, []byte(`"antes":{"ruc":"20131312955"`), []byte(`"antes":{"ruc":"20100055237"`), 1)
		},
		"an answer of no use": func(m *nats.Msg) { m.Data = bytes.Replace(m.Data, encode(t, named("C")), []byte("{}"), 1) },
		"too large":           func(m *nats.Msg) { m.Data = append(m.Data, bytes.Repeat([]byte(" "), wire.MaxChangedBytes)...) },
	} {
		m := good()
		spoil(m)
		if c, err := wire.ParseChanged(m); !errors.Is(err, wire.ErrBadChange) {
			t.Errorf("%s: %v, %+v", name, err, c)
		}
	}
}

// A change is never larger than what the stream takes.
func TestChanged_TooLargeForItsValues(t *testing.T) {
	wide := func(word string) ruc.Answer {
		return ruc.Found(number, ruc.Record{RazonSocial: ruc.Text(word), Avisos: slices.Repeat([]string{word}, 9000)}, at, ruc.FuenteReplica, ruc.MotorChrome)
	}
	m := changedOf(t, wide("AAAA"), wide("BBBB"), 12)
	c, err := wire.ParseChanged(m)
	if err != nil || len(m.Data) > 200 {
		t.Fatalf("%v, %d bytes", err, len(m.Data))
	}
	if want := `{"ruc":"20131312955","antes":null,"despues":null,"cambios":[{"campo":"razonSocial"},{"campo":"avisos"}]}`; string(m.Data) != want || len(c.Cambios) != 2 {
		t.Errorf("%s", m.Data)
	}
}

func TestPutChange_OnceHoweverOftenAndInWhateverOrder(t *testing.T) {
	p := newPast(t)
	s, err := p.js.Stream(t.Context(), wire.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	config := s.CachedInfo().Config
	config.Duplicates = 100 * time.Millisecond // the least that the server takes
	if _, err := p.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	var answers []wire.Event
	for range 100 { // more than are read at once
		answers = append(answers, p.put(number, "X"))
	}
	put := func(e wire.Event) bool {
		t.Helper()
		stored, err := wire.PutChange(t.Context(), p.nc, p.js, number, e.Seq, wire.ChangedEvent(number, e.Seq, []byte(`{}`), nats.Header{}, ruc.FuenteReplica, at))
		if err != nil {
			t.Fatal(err)
		}
		return stored
	}
	for _, e := range slices.Backward(answers) {
		if !put(e) {
			t.Errorf("that of %d was not stored", e.Seq)
		}
	}
	// Until the server has forgotten the ids, of which the last is the youngest.
	young := wire.ChangedEvent(ruc.MustParse("20100055237"), 1, []byte(`{}`), nats.Header{}, ruc.FuenteReplica, at)
	for stored := false; !stored; {
		if _, err := p.js.PublishMsg(t.Context(), young); err != nil {
			t.Fatal(err)
		}
		forgotten := time.After(2 * config.Duplicates)
		<-forgotten
		ack, err := p.js.PublishMsg(t.Context(), young)
		if err != nil {
			t.Fatal(err)
		}
		stored = !ack.Duplicate
	}
	for _, e := range answers {
		if put(e) {
			t.Errorf("that of %d was stored twice", e.Seq)
		}
	}
	info, err := s.Info(t.Context(), jetstream.WithSubjectFilter(wire.ChangedSubject(number)))
	if err != nil || info.State.Subjects[wire.ChangedSubject(number)] != 100 {
		t.Errorf("%v, %v", info.State.Subjects, err)
	}
}

func TestPutChange_ByManyAtOnce(t *testing.T) {
	p := newPast(t)
	var answers []wire.Event
	for range 6 {
		answers = append(answers, p.put(number, "X"))
	}
	type result struct {
		stored bool
		err    error
	}
	results := make(chan result)
	for _, e := range slices.Concat(answers, answers) {
		go func() {
			m := wire.ChangedEvent(number, e.Seq, []byte(`{}`), nats.Header{}, ruc.FuenteReplica, at)
			stored, err := wire.PutChange(t.Context(), p.nc, p.js, number, e.Seq, m)
			results <- result{stored, err}
		}()
	}
	stored := 0
	for range 2 * len(answers) {
		r := <-results
		if r.err != nil && !strings.Contains(r.err.Error(), "overtaken") {
			t.Error(r.err)
		}
		if r.stored {
			stored++
		}
	}
	if stored != len(answers) {
		t.Errorf("%d stored", stored)
	}
}

func TestChanged_IsOneLineOfReadableJSON(t *testing.T) {
	m := changedOf(t, named("A & B"), named("<C>"), 12)
	if bytes.ContainsAny(m.Data, "\n") || !bytes.Contains(m.Data, []byte("A & B")) || !bytes.Contains(m.Data, []byte("<C>")) || !json.Valid(m.Data) {
		t.Errorf("%s", m.Data)
	}
}
