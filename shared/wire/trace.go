package wire

import (
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
)

// The headers that follow a lookup from service to service, spelled alike over HTTP.
const (
	HeaderRequestID   = "X-Request-Id"
	HeaderTraceparent = "Traceparent" // W3C Trace Context
)

// headerTraceparent is the same in messages, whose names keep their case.
const headerTraceparent = "traceparent"

// Trace names one lookup in the logs of every service that has a part in it. A visit
// that several lookups share has the trace of the first.
type Trace struct {
	Request string // the asker's own id, or one made here
	Parent  string // the asker's traceparent; "" where there was none
}

const (
	maxRequestIDLen = 128
	traceparentLen  = 55 // 00-<32 hex>-<16 hex>-<2 hex>
)

// NewTrace takes what an asker sent, as far as it is sane, and makes a request id
// where it is not. The strings are copies.
func NewTrace(request, parent string) Trace {
	t := Trace{Request: strings.Clone(request)}
	if !saneID(request) {
		t.Request = nuid.Next()
	}
	if len(parent) == traceparentLen && strings.Trim(parent, "0123456789abcdef-") == "" {
		t.Parent = strings.Clone(parent)
	}
	return t
}

// ReadTrace is NewTrace for a message's headers.
func ReadTrace(h nats.Header) Trace {
	return NewTrace(h.Get(HeaderRequestID), h.Get(headerTraceparent))
}

// Set puts the trace into a message's headers.
func (t Trace) Set(h nats.Header) {
	if t.Request != "" {
		h.Set(HeaderRequestID, t.Request)
	}
	if t.Parent != "" {
		h.Set(headerTraceparent, t.Parent)
	}
}

func saneID(id string) bool {
	if id == "" || len(id) > maxRequestIDLen {
		return false
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return true
}
