package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rucflow/rucflow/shared/wire"
)

// record is one line: a CloudEvent in its JSON form (CloudEvents 1.0, JSON event format),
// with where the event stands in the stream as extensions.
type record struct {
	Seq    uint64    `json:"seq"`    // in RUC_EVENTS
	Stored time.Time `json:"stored"` // the NATS server's time of storing

	SpecVersion     string          `json:"specversion"`
	ID              string          `json:"id"`
	Type            string          `json:"type"`
	Source          string          `json:"source"`
	Subject         string          `json:"subject,omitempty"`
	Time            string          `json:"time,omitempty"`
	DataContentType string          `json:"datacontenttype,omitempty"`
	TraceParent     string          `json:"traceparent,omitempty"`
	Data            json.RawMessage `json:"data,omitempty"`
	DataBase64      []byte          `json:"data_base64,omitempty"` // of what is no JSON
}

const (
	specVersion = "1.0"
	// What a message that is no CloudEvent says of itself, for each must have them.
	unknownType   = "pe.ruc.unknown"
	unknownSource = "/nats/" + wire.StreamEvents
)

// encode returns a stored message as one line, with its end. Whatever was stored has one.
func encode(m *nats.Msg) []byte {
	at := wire.PlaceOf(m)
	a := wire.AttributesOf(m)
	r := record{
		Seq: at.Seq, Stored: at.Stored, SpecVersion: specVersion,
		ID: a.ID, Type: a.Type, Source: a.Source, Subject: a.Subject, Time: a.Time,
		DataContentType: a.ContentType, TraceParent: a.TraceParent,
	}
	if r.ID == "" || r.Type == "" || r.Source == "" {
		r.ID, r.Type, r.Source = strconv.FormatUint(at.Seq, 10), unknownType, unknownSource
		r.Subject = wire.StoredSubject(m)
	}
	switch {
	case len(m.Data) == 0:
	case json.Valid(m.Data):
		r.Data = m.Data
	default:
		r.DataBase64 = m.Data
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		// Texts, numbers, a time of the server's and JSON that is valid: nothing that can fail.
		panic(fmt.Sprintf("audit.encode: %v", err))
	}
	return b.Bytes()
}

// position is how far a log has come.
type position struct {
	Seq    uint64    `json:"seq"` // of the last event in it; 0 = none
	Stored time.Time `json:"stored"`
}

// decode reads the position from a line.
func decode(line []byte) (position, error) {
	var p position
	if err := json.Unmarshal(line, &p); err != nil {
		return position{}, err
	}
	if p.Seq == 0 || p.Stored.IsZero() {
		return position{}, fmt.Errorf("no seq or no stored")
	}
	return p, nil
}
