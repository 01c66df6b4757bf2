package wire

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/rucflow/rucflow/shared/ruc"
)

// Stage is how far a job has come.
type Stage string

// The stages of a job.
const (
	StageQueued   Stage = "queued"   // it waits for a slot
	StageVisiting Stage = "visiting" // a slot has it
)

// Progress says how far the visit of a number has come, to whoever waits for it. It is a
// core message on ruc.progress.<ruc>: nothing may rest on its arrival. A waiting front
// repeats it every two seconds. As JSON it is {"ruc":"20131312955","job":7,"stage":"queued","position":3}
// or {"ruc":"20131312955","job":7,"stage":"visiting","attempt":2,"attempts":3}.
type Progress struct {
	RUC ruc.Number `json:"ruc"`
	// Job is the job's sequence in RUC_VISITS. A front may say that a job waits when a slot
	// has just taken it; see After.
	Job   uint64 `json:"job"`
	Stage Stage  `json:"stage"`
	// Position is the job's place in the queue, 1 = next.
	Position int `json:"position,omitempty"`
	// Attempt is the number of the attempt under way, of Attempts at most.
	Attempt  int `json:"attempt,omitempty"`
	Attempts int `json:"attempts,omitempty"`
}

// After reports whether p is news to who has heard last of its number: jobs come one after
// the other, and one that was being visited waits no more.
func (p Progress) After(last Progress) bool {
	return p.Job > last.Job || p.Job == last.Job && (p.Stage != StageQueued || last.Stage == StageQueued)
}

// Encode returns p as JSON.
func (p Progress) Encode() []byte {
	b, err := json.Marshal(p)
	if err != nil {
		// A number, a word and three integers: nothing that can fail to encode.
		panic(fmt.Sprintf("wire.Progress.Encode: %v", err))
	}
	return b
}

// Message is the message that says p.
func (p Progress) Message() *nats.Msg {
	m := nats.NewMsg(progressPrefix + p.RUC.String())
	m.Data = p.Encode()
	return m
}

// ParseProgress checks a message on ruc.progress.<ruc>, which others than a scraper may
// have written.
func ParseProgress(m *nats.Msg) (p Progress, err error) {
	if len(m.Data) > maxRequestBytes {
		return Progress{}, fmt.Errorf("wire.ParseProgress: %d bytes", len(m.Data))
	}
	n, err := NumberOf(m.Subject)
	if err != nil {
		return Progress{}, fmt.Errorf("wire.ParseProgress: the subject: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(m.Data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		return Progress{}, fmt.Errorf("wire.ParseProgress: %w", err)
	}
	queued := p.Stage == StageQueued && p.Position >= 1 && p.Attempt == 0 && p.Attempts == 0
	visiting := p.Stage == StageVisiting && p.Position == 0 && 1 <= p.Attempt && p.Attempt <= p.Attempts
	if p.RUC != n || p.Job == 0 || !queued && !visiting {
		return Progress{}, fmt.Errorf("wire.ParseProgress: inconsistent: %s", m.Data)
	}
	return p, nil
}
