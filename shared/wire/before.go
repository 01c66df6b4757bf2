package wire

import (
	"context"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/shared/ruc"
)

// headerBefore of an answer is what stood before it in the stream: the sequence of the
// answer and its huella, or 0 where it is the first of its number. Where it is missing,
// that must be looked for.
const headerBefore = "Ruc-Before"

// StoreAnswer stores m, an event made by ResolvedEvent, and has it say what it follows. The
// stream vouches for that: it takes m on condition that nothing came between. Where
// something did, m is stored without a word of it. It needs the right to
// $JS.API.DIRECT.GET.RUC_EVENTS.ruc.resolved.*.
func StoreAnswer(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, n ruc.Number, m *nats.Msg) (*jetstream.PubAck, error) {
	before, _, err := NewestAnswer(ctx, nc, n)
	if err != nil {
		return nil, err
	}
	m.Header.Set(headerBefore, strings.TrimSpace(strconv.FormatUint(before.Seq, 10)+" "+before.Prefix.Huella))
	ack, err := js.PublishMsg(ctx, m, jetstream.WithExpectLastSequencePerSubject(before.Seq), jetstream.WithRetryAttempts(0))
	if _, overtaken := JobThere(err); !overtaken {
		return ack, err
	}
	m.Header.Del(headerBefore)
	m.Header.Del(jetstream.ExpectedLastSubjSeqHeader)
	return js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0))
}

// SaysNothingNew reports whether an answer's event says itself that it is no change: it is
// the first of its number, or what stands before it says the same of the taxpayer.
func (e Event) SaysNothingNew() bool {
	seq, huella, _ := strings.Cut(e.before, " ")
	return seq == "0" || huella != "" && huella == e.Prefix.Huella
}
