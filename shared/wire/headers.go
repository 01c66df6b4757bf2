package wire

import (
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

// Header names. nats.go matches them by exact case, so they are spelled here
// and nowhere else.
const (
	HeaderWait  = "Ruc-Wait"  // milliseconds that the asker still waits
	HeaderAfter = "Ruc-After" // newest event sequence that the front had seen
	HeaderJob   = "Ruc-Job"   // stream sequence of the job that an event ends
	HeaderSeq   = "Ruc-Seq"   // stream sequence of the answer that a reply repeats, or that brought a change

	HeaderCacheControl = "Cache-Control" // of a request on ruc.lookup, as over HTTP

	HeaderErrorCode = "Nats-Service-Error-Code" // HTTP status
	HeaderError     = "Nats-Service-Error"      // ruc.Code

	// headerChanges of a change are the answers that brought the changes before it, the
	// newest first; see listedChanges.
	headerChanges = "Ruc-Changes"

	headerDeadReason  = "Ruc-Dead-Reason"  // a DeadReason
	headerDeadSubject = "Ruc-Dead-Subject" // where the message came from
	headerDeadStream  = "Ruc-Dead-Stream"
	headerDeadSeq     = "Ruc-Dead-Seq"
	headerDeadStored  = "Ruc-Dead-Stored"  // the stream's time of it, RFC 3339
	headerDeadDropped = "Ruc-Dead-Dropped" // how many of its header lines are missing
	// originalPrefix stands before every header that the message itself had.
	originalPrefix = "Original-"

	headerSequence  = "Nats-Sequence"
	headerTimeStamp = "Nats-Time-Stamp"
	headerSubject   = "Nats-Subject"
	headerStatus    = "Status"

	headerContentType = "Content-Type"
	headerCEID        = "ce-id"
	headerCEType      = "ce-type"
	headerCESource    = "ce-source"
	headerCESubject   = "ce-subject"
	headerCETime      = "ce-time"
	headerCEVersion   = "ce-specversion"
)

// DefaultWait is how long an asker that does not say so is taken to wait.
const DefaultWait = 30 * time.Second

// maxWait bounds Ruc-Wait: beyond it a caller is better served by asking again.
const maxWait = 10 * time.Minute

// SetWait writes how long the asker waits, rounded up to a millisecond.
func SetWait(h nats.Header, wait time.Duration) {
	h.Set(HeaderWait, strconv.FormatInt(max(1, int64((wait+time.Millisecond-1)/time.Millisecond)), 10))
}

// Wait reads Ruc-Wait. Absent or unreadable means DefaultWait; the result lies
// between a millisecond and ten minutes.
func Wait(get func(string) string) time.Duration {
	ms, err := strconv.ParseInt(get(HeaderWait), 10, 64)
	if err != nil {
		return DefaultWait
	}
	return time.Duration(min(max(ms, 1), maxWait.Milliseconds())) * time.Millisecond
}

// Sequence reads a header that holds a stream sequence; 0 where it is absent or
// unreadable, which is never the sequence of a message.
func Sequence(get func(string) string, name string) uint64 {
	seq, err := strconv.ParseUint(get(name), 10, 64)
	if err != nil {
		return 0
	}
	return seq
}
