package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/shared/ruc"
)

// TypeChanged is the CloudEvents type of a change.
const TypeChanged = "pe.ruc.changed.v1"

// MaxChangedBytes bounds an encoded change: what the stream takes of a message, less
// room for its headers.
const MaxChangedBytes = 2*MaxAnswerBytes - 4<<10

// Changed is the body of ruc.changed.<ruc>: an answer says something else than the one
// that the stream held before it.
type Changed struct {
	RUC ruc.Number `json:"ruc"`
	// Antes and Despues are the two whole answers, found or not, as they are in their
	// events. They are null, and Cambios has names without values, where all together
	// would be larger than MaxChangedBytes; real ones are about 4 KB.
	Antes   json.RawMessage `json:"antes"`
	Despues json.RawMessage `json:"despues"`
	Cambios []ruc.Change    `json:"cambios"` // of ruc.Changes, at least one
}

// Compare returns the change that after is to before, the answer before it; ok is false
// where both say the same of the taxpayer. Equal huellas cost no decoding. The error
// means that one of the two is no answer beyond its fixed fields.
func Compare(before, after Event) (c Changed, ok bool, err error) {
	if before.Prefix.Huella == after.Prefix.Huella {
		return Changed{}, false, nil
	}
	var was, is ruc.Answer
	if err := json.Unmarshal(before.Body, &was); err != nil {
		return Changed{}, false, fmt.Errorf("wire.Compare: the answer before: %w", err)
	}
	if err := json.Unmarshal(after.Body, &is); err != nil {
		return Changed{}, false, fmt.Errorf("wire.Compare: %w", err)
	}
	fields, err := ruc.Changes(was, is)
	if err != nil || len(fields) == 0 {
		return Changed{}, false, err
	}
	return Changed{RUC: after.RUC, Antes: before.Body, Despues: after.Body, Cambios: fields}, true, nil
}

// Encode returns the change as one line of JSON of at most MaxChangedBytes.
func (c Changed) Encode() ([]byte, error) {
	b, err := c.encode()
	if err != nil || len(b) <= MaxChangedBytes {
		return b, err
	}
	short := Changed{RUC: c.RUC}
	for _, field := range c.Cambios {
		short.Cambios = append(short.Cambios, ruc.Change{Campo: field.Campo})
	}
	return short.encode()
}

func (c Changed) encode() ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(c); err != nil {
		return nil, fmt.Errorf("wire.Changed.Encode: %w", err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// ChangedID is the id of the change that the answer of that sequence brought. Every
// cachewriter and every delivery gives the same one.
func ChangedID(n ruc.Number, seq uint64) string {
	return "changed:" + n.String() + ":" + strconv.FormatUint(seq, 10)
}

// ChangedEvent is the event that carries the encoded change brought by the answer of
// that sequence, of whose headers h it takes the trace.
func ChangedEvent(n ruc.Number, seq uint64, body []byte, h nats.Header, source string, at time.Time) *nats.Msg {
	m := nats.NewMsg(ChangedSubject(n))
	m.Data = body
	m.Header.Set(HeaderSeq, strconv.FormatUint(seq, 10))
	if h.Get(HeaderRequestID) != "" {
		ReadTrace(h).Set(m.Header)
	}
	describe(m, ChangedID(n, seq), TypeChanged, "application/json", "/rucflow/cachewriter/"+source, n, at)
	return m
}

// ChangedNotice is a change as a subscriber or a direct get sees it.
type ChangedNotice struct {
	Changed
	Seq    uint64    // stream sequence in RUC_EVENTS
	Answer uint64    // that of the answer that brought it
	Stored time.Time // the server's time of storing
}

// ErrBadChange marks a message that is no change of ours.
var ErrBadChange = errors.New("wire.ParseChanged: not a valid change")

// ParseChanged checks a message on ruc.changed (republished), or read from the stream by
// a direct get, as ParseEvent does with answers.
func ParseChanged(m *nats.Msg) (ChangedNotice, error) {
	fail := func(what string) (ChangedNotice, error) {
		return ChangedNotice{}, fmt.Errorf("%w: %s", ErrBadChange, what)
	}
	kind, tail, _ := cutLast(StoredSubject(m))
	n, err := ruc.Parse(tail)
	if kind != SubjectChanged || err != nil {
		return fail("subject")
	}
	c := ChangedNotice{Seq: Sequence(m.Header.Get, headerSequence), Answer: Sequence(m.Header.Get, HeaderSeq)}
	if c.Seq == 0 || c.Answer == 0 {
		return fail("sequence")
	}
	if c.Stored, err = time.Parse(time.RFC3339Nano, m.Header.Get(headerTimeStamp)); err != nil {
		return fail(headerTimeStamp)
	}
	if len(m.Data) > MaxChangedBytes {
		return fail(fmt.Sprintf("%d bytes", len(m.Data)))
	}
	if err := json.Unmarshal(m.Data, &c.Changed); err != nil {
		return ChangedNotice{}, fmt.Errorf("%w: %w", ErrBadChange, err)
	}
	if c.RUC != n {
		return fail("subject and body name different numbers")
	}
	if len(c.Cambios) == 0 {
		return fail("no field has changed")
	}
	if isNull(c.Antes) && isNull(c.Despues) {
		return c, nil
	}
	for _, answer := range []json.RawMessage{c.Antes, c.Despues} {
		if p, err := ReadPrefix(answer); err != nil || p.RUC != n {
			return fail("the answers")
		}
	}
	return c, nil
}

func isNull(b json.RawMessage) bool { return len(b) == 0 || string(b) == "null" }

// putChangeTries bounds the tries to store a change while others store changes of the
// same number.
const putChangeTries = 8

// PutChange stores m, the change that the answer of that sequence brought, unless the
// stream has it already; stored says which. However often it is called for one answer,
// by whom and when, the stream holds one change. It needs the rights to store
// ruc.changed.* and to $JS.API.DIRECT.GET.RUC_EVENTS.
//
// The id alone would not do, for the server remembers ids for ten minutes only. So it
// is looked whether the change is there, and it is stored on condition that no other
// change of the number was stored since that look. So each can list those before it.
func PutChange(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, n ruc.Number, seq uint64, m *nats.Msg) (stored bool, err error) {
	for range putChangeTries {
		newest, there, err := lastChange(ctx, nc, n, seq)
		if err != nil || there {
			return false, err
		}
		m.Header.Del(headerChanges)
		if len(newest.answers) > 0 {
			m.Header.Set(headerChanges, joined(newest.answers))
		}
		ack, err := js.PublishMsg(ctx, m, jetstream.WithExpectLastSequencePerSubject(newest.seq), jetstream.WithRetryAttempts(0))
		if err == nil {
			return !ack.Duplicate, nil
		}
		if _, overtaken := JobThere(err); !overtaken {
			return false, fmt.Errorf("wire.PutChange: %w", err)
		}
	}
	return false, fmt.Errorf("wire.PutChange: overtaken %d times", putChangeTries)
}

// newestChange is what the newest change of a number says of those up to it.
type newestChange struct {
	seq uint64 // its own; 0 = there is none
	// answers are those that brought it and the changes before it, the newest change
	// first, at most listedChanges.
	answers []uint64
}

const (
	// listedChanges is how many changes before it a change lists, in headerChanges. By
	// that the newest one says by itself whether one of the last is there: to look for it
	// in the stream is slow, for the server goes through all messages between.
	listedChanges = 32
	// changesPage is how many changes are read at a time where that does not do.
	changesPage = 64
)

// lastChange returns n's newest change, and whether that of the answer of that sequence
// is there.
func lastChange(ctx context.Context, nc *nats.Conn, n ruc.Number, answer uint64) (newest newestChange, there bool, err error) {
	subject, id := ChangedSubject(n), ChangedID(n, answer)
	m, ok, err := getOne(ctx, nc, directGet{LastFor: subject})
	if err != nil || !ok {
		return newestChange{}, false, err
	}
	newest.seq = Sequence(m.Header.Get, headerSequence)
	newest.answers = []uint64{Sequence(m.Header.Get, HeaderSeq)}
	for word := range strings.SplitSeq(m.Header.Get(headerChanges), " ") {
		if seq, err := strconv.ParseUint(word, 10, 64); err == nil {
			newest.answers = append(newest.answers, seq)
		}
	}
	whole := len(newest.answers) <= listedChanges
	newest.answers = newest.answers[:min(len(newest.answers), listedChanges)]
	if there = slices.Contains(newest.answers, answer); there || whole || newest.seq < answer {
		return newest, there, nil // what an answer brings is stored after it
	}
	for from := answer + 1; ; {
		count := 0
		err := getAll(ctx, nc, []directGet{{Seq: from, NextFor: subject, Batch: changesPage}}, func(_ int, m *nats.Msg) {
			count++
			from = Sequence(m.Header.Get, headerSequence) + 1
			there = there || m.Header.Get(nats.MsgIdHdr) == id
		})
		if err != nil || there || count < changesPage {
			return newest, there, err
		}
	}
}

func joined(seqs []uint64) string {
	var b []byte
	for i, seq := range seqs {
		if i > 0 {
			b = append(b, ' ')
		}
		b = strconv.AppendUint(b, seq, 10)
	}
	return string(b)
}
