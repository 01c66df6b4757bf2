package ruc

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Code says why there is no answer. The set is closed; the same word stands on
// the wire, in metrics, in logs and in the problem document.
type Code string

// The codes. NotFound is the one that is an answer rather than an error: it is
// used to label outcomes and problem documents, never to fill an Error that
// leaves the scraper.
const (
	NotFound     Code = "not-found"    // SUNAT says that the number does not exist
	Invalid      Code = "invalid"      // not 11 digits, or wrong check digit
	Overloaded   Code = "overloaded"   // the queue is full, or the wait would pass the deadline
	Timeout      Code = "timeout"      // the deadline passed
	Unavailable  Code = "unavailable"  // nobody could be asked, or SUNAT failed in a way that passes
	Blocked      Code = "blocked"      // SUNAT refuses us; the fleet rests
	Changed      Code = "changed"      // a page by no rule we know
	NotHeld      Code = "not-held"     // only-if-cached and nothing held
	NoRoute      Code = "no-route"     // no such route
	Method       Code = "method"       // the route has no such method
	TooLarge     Code = "too-large"    // body, path or headers beyond the bound
	MediaType    Code = "media-type"   // the body's type is not understood
	BadBody      Code = "bad-body"     // the body cannot be read
	RateLimited  Code = "rate-limited" // the client asks too much
	Unauthorized Code = "unauthorized" // no or wrong credentials
	Forbidden    Code = "forbidden"    // the credentials do not suffice
	Internal     Code = "internal"     // our bug
)

// Codes lists every Code, in the order above.
func Codes() []Code {
	return []Code{
		NotFound, Invalid, Overloaded, Timeout, Unavailable, Blocked, Changed, NotHeld,
		NoRoute, Method, TooLarge, MediaType, BadBody, RateLimited, Unauthorized, Forbidden, Internal,
	}
}

// Known reports whether c is of the closed set.
func (c Code) Known() bool {
	for _, k := range Codes() {
		if c == k {
			return true
		}
	}
	return false
}

// Retryable reports whether the client may ask again later with a hope of
// another outcome.
func (c Code) Retryable() bool {
	switch c {
	case Overloaded, Timeout, Unavailable, Blocked, Changed, RateLimited:
		return true
	default:
		return false
	}
}

// Error is the absence of an answer, with its code and a Spanish sentence for
// the person who asked. Err is the cause in English, for logs only; it is never
// sent to a client.
type Error struct {
	Code       Code
	Detail     string        // Spanish, complete sentence; empty where the code says enough
	RetryAfter time.Duration // when to ask again; 0 where unknown
	Attempts   int           // visits made, 0 where none
	Err        error
}

// Error returns the code and the cause, for logs. It leaves Detail out, which may
// name the number, and a person's number does not belong in a log.
func (e *Error) Error() string {
	if e.Err == nil {
		return string(e.Code)
	}
	return fmt.Sprintf("%s: %v", e.Code, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// CodeOf returns the code that err carries: its own, Timeout for a passed
// deadline, Internal for everything else. It returns "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Code
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout
	default:
		return Internal
	}
}
