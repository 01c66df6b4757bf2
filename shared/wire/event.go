package wire

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/shared/ruc"
)

// The CloudEvents types of the stored events.
const (
	TypeResolved = "pe.ruc.resolved.v1"
	TypeFailed   = "pe.ruc.failed.v1"
)

// Job identifies one job of the work queue.
type Job struct {
	Seq  uint64    // stream sequence in RUC_VISITS
	Time time.Time // when the stream stored it
}

// EventID is the id of the event that ends a job: <ruc>-<job sequence>-<job time>.
// Two deliveries of one job give one id, so the stream stores one event. The
// time is part of it because sequences begin anew when a stream is recreated.
func (j Job) EventID(n ruc.Number) string {
	return fmt.Sprintf("%s-%d-%d", n, j.Seq, j.Time.UnixNano())
}

// ResolvedEvent is the event that carries an encoded answer.
func ResolvedEvent(n ruc.Number, j Job, body []byte, source string, at time.Time) *nats.Msg {
	return event(ResolvedSubject(n), TypeResolved, "application/json", n, j, body, source, at)
}

// FailedEvent is the event that carries the problem of a visit that failed.
func FailedEvent(n ruc.Number, j Job, p Problem, source string, at time.Time) *nats.Msg {
	return event(FailedSubject(n), TypeFailed, ProblemType, n, j, p.Encode(), source, at)
}

func event(subject, ceType, contentType string, n ruc.Number, j Job, body []byte, source string, at time.Time) *nats.Msg {
	m := nats.NewMsg(subject)
	m.Data = body
	m.Header.Set(HeaderJob, strconv.FormatUint(j.Seq, 10))
	describe(m, j.EventID(n), ceType, contentType, "/rucflow/scraper/"+source, n, at)
	return m
}

// describe sets the headers that every event has.
func describe(m *nats.Msg, id, ceType, contentType, ceSource string, n ruc.Number, at time.Time) {
	m.Header.Set(nats.MsgIdHdr, id)
	m.Header.Set(headerCEVersion, "1.0")
	m.Header.Set(headerCEID, id)
	m.Header.Set(headerCEType, ceType)
	m.Header.Set(headerCESource, ceSource)
	m.Header.Set(headerCESubject, n.String())
	m.Header.Set(headerCETime, at.UTC().Format(time.RFC3339Nano))
	m.Header.Set(headerContentType, contentType)
}

// Attributes are what an event says of itself, as CloudEvents names it; "" where it does not.
type Attributes struct {
	ID, Type, Source, Subject, Time, ContentType string
	TraceParent                                  string // of the lookup that began it
}

// AttributesOf reads them from a message's headers.
func AttributesOf(m *nats.Msg) Attributes {
	return Attributes{
		ID: m.Header.Get(headerCEID), Type: m.Header.Get(headerCEType), Source: m.Header.Get(headerCESource),
		Subject: m.Header.Get(headerCESubject), Time: m.Header.Get(headerCETime), ContentType: m.Header.Get(headerContentType),
		TraceParent: m.Header.Get(headerTraceparent),
	}
}

// Event is one stored event, as a subscriber, a consumer or a direct get sees it.
type Event struct {
	RUC    ruc.Number
	Failed bool      // ruc.failed rather than ruc.resolved
	Seq    uint64    // stream sequence in RUC_EVENTS
	Stored time.Time // the server's time of storing
	Job    uint64    // sequence of the job that it ended, 0 where unknown
	Body   []byte    // the encoded answer, or the problem document
	Prefix Prefix    // of the answer; zero for a failed one

	before string // headerBefore
}

// KindOf is the bare subject of a stored event that was republished, or read by a direct
// get: SubjectResolved, SubjectFailed, SubjectChanged. Others than ours may have stored it
// under another one.
func KindOf(m *nats.Msg) string {
	kind, _, _ := cutLast(StoredSubject(m))
	return kind
}

// StoredSubject is the subject that a message of a stream was stored under.
func StoredSubject(m *nats.Msg) string {
	return cmp.Or(m.Header.Get(headerSubject), m.Subject)
}

// ErrBadEvent marks a message that is no event of ours: a dead letter, for the
// DeadReason that the error also wraps.
var ErrBadEvent = errors.New("wire.ParseEvent: not a valid event")

// ParseEvent checks a message on ruc.resolved, ruc.failed (republished), or read
// from the stream by a direct get. Anybody with the right to publish could have
// written it, so subject, size and fixed fields are all checked.
func ParseEvent(m *nats.Msg) (Event, error) {
	stored, err := time.Parse(time.RFC3339Nano, m.Header.Get(headerTimeStamp))
	if err != nil {
		return Event{}, fmt.Errorf("%w: %w: %s", ErrBadEvent, DeadBadSubject, headerTimeStamp)
	}
	return parseEvent(StoredSubject(m), m.Header, m.Data, Sequence(m.Header.Get, headerSequence), stored)
}

// ParseConsumed checks a message that a JetStream consumer delivered.
func ParseConsumed(m jetstream.Msg) (Event, error) {
	meta, err := m.Metadata()
	if err != nil {
		return Event{}, fmt.Errorf("%w: %w: %w", ErrBadEvent, DeadBadSubject, err)
	}
	return parseEvent(m.Subject(), m.Headers(), m.Data(), meta.Sequence.Stream, meta.Timestamp)
}

func parseEvent(subject string, h nats.Header, body []byte, seq uint64, stored time.Time) (Event, error) {
	kind, tail, ok := cutLast(subject)
	if !ok || (kind != SubjectResolved && kind != SubjectFailed) || seq == 0 {
		return Event{}, fmt.Errorf("%w: %w: subject or sequence", ErrBadEvent, DeadBadSubject)
	}
	n, err := ruc.Parse(tail)
	if err != nil {
		return Event{}, fmt.Errorf("%w: %w: number in subject", ErrBadEvent, DeadBadSubject)
	}
	if len(body) > MaxAnswerBytes {
		return Event{}, fmt.Errorf("%w: %w: %d bytes", ErrBadEvent, DeadTooLarge, len(body))
	}
	e := Event{
		RUC: n, Failed: kind == SubjectFailed, Seq: seq, Stored: stored,
		Job: Sequence(h.Get, HeaderJob), Body: body, before: h.Get(headerBefore),
	}
	if e.Failed {
		return e, nil
	}
	if e.Prefix, err = ReadPrefix(body); err != nil {
		return Event{}, fmt.Errorf("%w: %w: %w", ErrBadEvent, DeadNoAnswer, err)
	}
	if e.Prefix.RUC != n {
		return Event{}, fmt.Errorf("%w: %w: subject and body name different numbers", ErrBadEvent, DeadOtherNumber)
	}
	return e, nil
}

func cutLast(subject string) (head, tail string, ok bool) {
	i := strings.LastIndexByte(subject, '.')
	if i < 0 {
		return "", "", false
	}
	return subject[:i], subject[i+1:], true
}
