package wire_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// consumed stores messages in RUC_EVENTS and returns them as the cachewriter's
// consumer delivers them.
func consumed(t *testing.T, js jetstream.JetStream, messages ...*nats.Msg) []jetstream.Msg {
	t.Helper()
	if err := provision(t.Context(), wire.Provisioner{JS: js}, 1, ruc.FuenteReplica); err != nil {
		t.Fatal(err)
	}
	c, err := js.Consumer(t.Context(), wire.StreamEvents, wire.ConsumerCachewriter)
	if err != nil {
		t.Fatal(err)
	}
	var all []jetstream.Msg
	for _, m := range messages {
		if _, err := js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		d, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, d)
	}
	return all
}

// bury stores m's dead letter and returns it as the stream holds it.
func bury(t *testing.T, js jetstream.JetStream, m jetstream.Msg) (wire.Letter, *jetstream.PubAck) {
	t.Helper()
	ack, err := js.PublishMsg(t.Context(), wire.DeadLetter("audit", wire.DeadNoAnswer, m))
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), wire.StreamDead)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := s.GetMsg(t.Context(), ack.Sequence)
	if err != nil {
		t.Fatal(err)
	}
	l, err := wire.ParseDeadLetter(&nats.Msg{Subject: stored.Subject, Header: stored.Header, Data: stored.Data})
	if err != nil {
		t.Fatal(err)
	}
	return l, ack
}

func TestDeadLetter_HoldsTheMessageAndIsStoredOnce(t *testing.T) {
	_, js := server(t)
	m := nats.NewMsg(wire.ResolvedSubject(number))
	m.Data = []byte("<html>ñ")
	m.Header = nats.Header{
		nats.MsgIdHdr: {"a"}, nats.ExpectedStreamHdr: {wire.StreamEvents}, nats.ExpectedLastSeqHdr: {"0"},
		"Ruc-Dead-Seq": {"77"}, "Original-x": {"y"}, "ce-id": {"1", "2"},
	}
	d := consumed(t, js, m)[0]
	meta, err := d.Metadata()
	if err != nil {
		t.Fatal(err)
	}
	want := wire.Letter{
		Consumer: "audit", Reason: wire.DeadNoAnswer, Subject: m.Subject, Stream: wire.StreamEvents,
		Seq: meta.Sequence.Stream, Stored: meta.Timestamp, Header: m.Header, Body: m.Data,
	}
	for i := range 2 {
		got, ack := bury(t, js, d)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if ack.Duplicate != (i == 1) || ack.Sequence != 1 || ack.Stream != wire.StreamDead {
			t.Errorf("letter %d: %+v", i, ack)
		}
	}
}

// What a stream of events takes, its dead letters take too: a letter that is
// refused would come again for ever.
func TestDeadLetter_OfTheLargestMessageIsStored(t *testing.T) {
	_, js := server(t)
	headers := func(line string, bytes int) nats.Header {
		h := nats.Header{}
		for i := 0; i*(len(line)+len(": \r\n")) < bytes; i++ {
			h.Add(line, "")
		}
		return h
	}
	const headerMax, margin = 64 << 10, 64
	for name, m := range map[string]*nats.Msg{
		"one body":     {Data: make([]byte, 2*wire.MaxAnswerBytes)},
		"tiny headers": {Header: headers("a", headerMax-margin), Data: make([]byte, 2*wire.MaxAnswerBytes-headerMax)},
		"one header":   {Header: nats.Header{"a": {strings.Repeat("x", headerMax-margin)}}, Data: make([]byte, 2*wire.MaxAnswerBytes-headerMax)},
	} {
		t.Run(name, func(t *testing.T) {
			m.Subject = wire.ResolvedSubject(number)
			l, _ := bury(t, js, consumed(t, js, m)[0])
			if len(l.Body) != len(m.Data) {
				t.Errorf("%d of %d bytes", len(l.Body), len(m.Data))
			}
		})
	}
}

// fakeMsg is a message with headers that nats.go reads from others and does not
// send.
type fakeMsg struct {
	jetstream.Msg
	header nats.Header
}

func (fakeMsg) Subject() string                           { return wire.ResolvedSubject(number) }
func (fakeMsg) Data() []byte                              { return nil }
func (fakeMsg) Metadata() (*jetstream.MsgMetadata, error) { return nil, jetstream.ErrNotJSMessage }
func (f fakeMsg) Headers() nats.Header                    { return f.header }

func TestDeadLetter_LeavesOutWhatCannotBeSent(t *testing.T) {
	nc, _ := server(t)
	names := nats.Header{"bueno": {"1"}}
	for c := range 256 {
		names[fmt.Sprintf("x%cy", rune(c))] = []string{"1"}
	}
	for _, header := range []nats.Header{names, nil, {"grande": {strings.Repeat("x", 60<<10), "chico"}}} {
		m := wire.DeadLetter("audit", wire.DeadRefused, fakeMsg{header: header})
		if err := nc.PublishMsg(m); err != nil {
			t.Errorf("a letter cannot be sent: %v", err)
		}
		l, err := wire.ParseDeadLetter(m)
		if err != nil || l.Seq != 0 || !l.Stored.IsZero() {
			t.Errorf("%+v, %v", l, err)
		}
		kept, lines := 0, 0
		for name, values := range header {
			lines += len(values)
			kept += len(l.Header[name])
		}
		dropped := m.Header.Get("Ruc-Dead-Dropped")
		if (lines == kept) != (dropped == "") || dropped != "" && dropped != fmt.Sprint(lines-kept) {
			t.Errorf("kept %d of %d lines, Ruc-Dead-Dropped %q", kept, lines, dropped)
		}
		if header != nil && kept == 0 {
			t.Error("nothing was kept")
		}
	}
}

func TestParseDeadLetter_RefusesWhatIsNone(t *testing.T) {
	good := func() *nats.Msg { return wire.DeadLetter("audit", wire.DeadRefused, fakeMsg{}) }
	for name, spoil := range map[string]func(*nats.Msg){
		"another subject": func(m *nats.Msg) { m.Subject = wire.ResolvedSubject(number) },
		"no reason":       func(m *nats.Msg) { m.Header.Del("Ruc-Dead-Reason") },
		"another reason":  func(m *nats.Msg) { m.Header.Set("Ruc-Dead-Reason", "porque sí") },
		"no time":         func(m *nats.Msg) { m.Header.Set("Ruc-Dead-Stored", "ayer") },
	} {
		m := good()
		spoil(m)
		if l, err := wire.ParseDeadLetter(m); err == nil {
			t.Errorf("%s: %+v", name, l)
		}
	}
	if _, err := wire.ParseDeadLetter(good()); err != nil {
		t.Error(err)
	}
}

func TestReasonOf(t *testing.T) {
	good := encode(t, found)
	for reason, m := range map[wire.DeadReason]*nats.Msg{
		wire.DeadOtherNumber: republished("ruc.resolved.20100055237", good),
		wire.DeadBadSubject:  republished("ruc.resolved.20123456789", good),
		wire.DeadNoAnswer:    republished("ruc.resolved.20131312955", []byte("{}")),
		wire.DeadTooLarge:    republished("ruc.resolved.20131312955", make([]byte, wire.MaxAnswerBytes+1)),
	} {
		_, err := wire.ParseEvent(m)
		if got := wire.ReasonOf(err); got != reason || !errors.Is(err, wire.ErrBadEvent) || strings.Contains(err.Error(), "2010005") {
			t.Errorf("%s: %v", reason, err)
		}
	}
}
