package wire

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// DeadReason says why a message is a dead letter: the value of Ruc-Dead-Reason and
// a metric's label. It is an error, so that others can wrap it (ReasonOf).
type DeadReason string

// The reasons, a closed set.
const (
	DeadBadSubject  DeadReason = "bad-subject"   // the subject names no kind or no number of ours
	DeadTooLarge    DeadReason = "too-large"     // more than MaxAnswerBytes
	DeadNoAnswer    DeadReason = "not-an-answer" // the body is no encoded answer
	DeadOtherNumber DeadReason = "other-number"  // subject and body name different numbers
	DeadRefused     DeadReason = "store-refused" // the store will never take it
)

// DeadReasons are all reasons.
var DeadReasons = []DeadReason{DeadBadSubject, DeadTooLarge, DeadNoAnswer, DeadOtherNumber, DeadRefused}

// Error returns the reason's word.
func (r DeadReason) Error() string { return string(r) }

// ReasonOf returns the reason that an ErrBadEvent wraps.
func ReasonOf(err error) DeadReason {
	reason := DeadNoAnswer
	errors.As(err, &reason)
	return reason
}

// originalHeaderBytes bounds what a letter keeps of a message's headers. A stream
// takes 64 KiB of them, and each one grows by its new name.
const originalHeaderBytes = 32 << 10

// DeadLetter is the message that consumer stores in RUC_DEAD in place of m, which
// it cannot use. Its id is the same at every delivery of m.
func DeadLetter(consumer string, reason DeadReason, m jetstream.Msg) *nats.Msg {
	l := nats.NewMsg(DeadSubject(consumer))
	l.Data = m.Data()
	l.Header.Set(headerDeadReason, string(reason))
	l.Header.Set(headerDeadSubject, m.Subject())
	if meta, err := m.Metadata(); err == nil { // every message of a stream has it
		// The time belongs to the id because sequences begin anew when a stream is
		// recreated.
		l.Header.Set(nats.MsgIdHdr, fmt.Sprintf("dead:%s:%d-%d", consumer, meta.Sequence.Stream, meta.Timestamp.UnixNano()))
		l.Header.Set(headerDeadStream, meta.Stream)
		l.Header.Set(headerDeadSeq, strconv.FormatUint(meta.Sequence.Stream, 10))
		l.Header.Set(headerDeadStored, meta.Timestamp.UTC().Format(time.RFC3339Nano))
	}
	if dropped := keepOriginal(l.Header, m.Headers()); dropped > 0 {
		l.Header.Set(headerDeadDropped, strconv.Itoa(dropped))
	}
	return l
}

// keepOriginal copies headers under their new names, as far as they have room and
// can be sent, and returns how many lines it left out. Sorted, so that every
// delivery of a message gives the same letter.
func keepOriginal(into, original nats.Header) (dropped int) {
	size := 0
	for _, name := range slices.Sorted(maps.Keys(original)) {
		for _, value := range original[name] {
			line := len(originalPrefix) + len(name) + len(value) + len(": \r\n")
			if size+line > originalHeaderBytes || !sendable(name) {
				dropped++
				continue
			}
			size += line
			into.Add(originalPrefix+name, value)
		}
	}
	return dropped
}

// sendable reports whether nats.go sends a header of this name. It reads more than
// that, and fails the whole message at one that it does not send.
func sendable(name string) bool {
	return !strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune("\"()/,:;<=>?@[\\]{}", r)
	})
}

// Letter is a dead letter, read back.
type Letter struct {
	Consumer string // who could not use the message
	Reason   DeadReason
	Subject  string      // of the message, like all that follows
	Stream   string      // "" where unknown, as Seq and Stored are zero
	Seq      uint64      // its stream sequence
	Stored   time.Time   // the stream's time of it
	Header   nats.Header // under their own names
	Body     []byte
}

// ParseDeadLetter reads what DeadLetter made.
func ParseDeadLetter(m *nats.Msg) (Letter, error) {
	consumer, ok := strings.CutPrefix(m.Subject, deadPrefix)
	if !ok {
		return Letter{}, errors.New("wire.ParseDeadLetter: not a subject of dead letters")
	}
	l := Letter{
		Consumer: consumer,
		Reason:   DeadReason(m.Header.Get(headerDeadReason)),
		Subject:  m.Header.Get(headerDeadSubject),
		Stream:   m.Header.Get(headerDeadStream),
		Seq:      Sequence(m.Header.Get, headerDeadSeq),
		Header:   nats.Header{},
		Body:     m.Data,
	}
	if !slices.Contains(DeadReasons, l.Reason) {
		return Letter{}, fmt.Errorf("wire.ParseDeadLetter: %s is none that is known", headerDeadReason)
	}
	if stored := m.Header.Get(headerDeadStored); stored != "" {
		var err error
		if l.Stored, err = time.Parse(time.RFC3339Nano, stored); err != nil {
			return Letter{}, fmt.Errorf("wire.ParseDeadLetter: %s is no time", headerDeadStored)
		}
	}
	for name, values := range m.Header {
		if original, ok := strings.CutPrefix(name, originalPrefix); ok {
			l.Header[original] = values
		}
	}
	return l, nil
}

// Event is the event that the letter's message was, if it is one by now: what ParseConsumed
// says of it. The sequence is that of the stream as it was then.
func (l Letter) Event() (Event, error) {
	return parseEvent(l.Subject, l.Header, l.Body, l.Seq, l.Stored)
}
