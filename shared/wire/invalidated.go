package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/rucflow/rucflow/shared/ruc"
)

// Invalidated is the notice on ruc.invalidated: answers were deleted from the store,
// and whoever keeps copies drops them. As JSON it is {"ruc":"20131312955"} or
// {"patron":"2010*"}. It is a core message: who lost the connection, or messages, drops
// everything.
type Invalidated struct {
	RUC     ruc.Number  // the zero Number where Pattern says which
	Pattern ruc.Pattern // the zero Pattern where RUC does
}

type invalidatedJSON struct {
	RUC    string `json:"ruc,omitempty"`
	Patron string `json:"patron,omitempty"`
}

// Encode returns the notice as JSON.
func (i Invalidated) Encode() []byte {
	b, err := json.Marshal(invalidatedJSON{RUC: i.RUC.String(), Patron: i.Pattern.String()})
	if err != nil {
		// Two strings: nothing that can fail to encode.
		panic(fmt.Sprintf("wire.Invalidated.Encode: %v", err))
	}
	return b
}

// Matches reports whether the notice is about n.
func (i Invalidated) Matches(n ruc.Number) bool {
	return !i.RUC.IsZero() && i.RUC == n || i.Pattern.Matches(n)
}

// ParseInvalidated reads a notice, which names either a number or a pattern.
func ParseInvalidated(b []byte) (i Invalidated, err error) {
	if len(b) > maxRequestBytes {
		return Invalidated{}, fmt.Errorf("wire.ParseInvalidated: %d bytes", len(b))
	}
	var in invalidatedJSON
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil {
		return Invalidated{}, fmt.Errorf("wire.ParseInvalidated: %w", err)
	}
	switch {
	case (in.RUC == "") == (in.Patron == ""):
		return Invalidated{}, errors.New("wire.ParseInvalidated: neither a number nor a pattern, or both")
	case in.RUC != "":
		i.RUC, err = ruc.Parse(in.RUC)
	default:
		i.Pattern, err = ruc.ParsePattern(in.Patron)
	}
	if err != nil {
		return Invalidated{}, fmt.Errorf("wire.ParseInvalidated: %w", err)
	}
	return i, nil
}
