package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/rucflow/rucflow/shared/ruc"
)

// MaxAnswerBytes bounds an encoded answer. Real ones are about 2 KB; what is
// larger is not an answer.
const MaxAnswerBytes = 64 << 10

// Prefix is what every encoded answer begins with. Reading it costs no JSON
// decoding, which keeps the hit path at a few microseconds.
type Prefix struct {
	RUC        ruc.Number
	Found      bool
	ObtainedAt time.Time
	Huella     string // a copy, safe to keep
}

// The fixed text between the four leading fields, as ruc.Answer.Encode writes it.
var (
	prefixRUC      = []byte(`{"ruc":"`)
	prefixFound    = []byte(`","encontrado":`)
	prefixObtained = []byte(`,"obtenidoEn":"`)
	prefixHuella   = []byte(`","huella":"`)
	prefixEnd      = []byte(`",`)
)

// ReadPrefix reads the four leading fields of an encoded answer. It accepts only
// the form that ruc.Answer.Encode writes, and refuses whole values that do not
// end as an object; it does not decode the rest.
func ReadPrefix(b []byte) (Prefix, error) {
	var p Prefix
	rest, ok := bytes.CutPrefix(b, prefixRUC)
	if !ok || len(rest) < ruc.Digits {
		return Prefix{}, errPrefix("ruc")
	}
	n, err := ruc.Parse(string(rest[:ruc.Digits]))
	if err != nil {
		return Prefix{}, errPrefix("ruc")
	}
	p.RUC = n
	if rest, ok = bytes.CutPrefix(rest[ruc.Digits:], prefixFound); !ok {
		return Prefix{}, errPrefix("encontrado")
	}
	if after, found := bytes.CutPrefix(rest, []byte("true")); found {
		p.Found, rest = true, after
	} else if rest, ok = bytes.CutPrefix(rest, []byte("false")); !ok {
		return Prefix{}, errPrefix("encontrado")
	}
	if rest, ok = bytes.CutPrefix(rest, prefixObtained); !ok {
		return Prefix{}, errPrefix("obtenidoEn")
	}
	end := bytes.IndexByte(rest, '"')
	if end < 0 || end > len(time.RFC3339Nano) {
		return Prefix{}, errPrefix("obtenidoEn")
	}
	if p.ObtainedAt, err = time.Parse(time.RFC3339Nano, string(rest[:end])); err != nil {
		return Prefix{}, errPrefix("obtenidoEn")
	}
	rest, ok = bytes.CutPrefix(rest[end:], prefixHuella)
	if !ok || len(rest) < ruc.HuellaLen || !isHex(rest[:ruc.HuellaLen]) {
		return Prefix{}, errPrefix("huella")
	}
	p.Huella = string(rest[:ruc.HuellaLen])
	if !bytes.HasPrefix(rest[ruc.HuellaLen:], prefixEnd) || b[len(b)-1] != '}' {
		return Prefix{}, errPrefix("huella")
	}
	return p, nil
}

func errPrefix(field string) error {
	return fmt.Errorf("wire.ReadPrefix: not an encoded answer: field %s", field)
}

func isHex(b []byte) bool {
	for _, c := range b {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// maxRequestBytes bounds a request's payload: a number, or an object around it.
const maxRequestBytes = 256

// ParseRequest reads the payload of a request: the number, bare or as
// {"ruc":"…"}, with white space around it. Errors have code ruc.Invalid,
// ruc.BadBody or ruc.TooLarge.
func ParseRequest(b []byte) (ruc.Number, error) {
	if len(b) > maxRequestBytes {
		return ruc.Number{}, &ruc.Error{Code: ruc.TooLarge, Detail: "La solicitud es demasiado grande."}
	}
	b = bytes.TrimSpace(b)
	if len(b) == 0 || b[0] != '{' {
		return ruc.Parse(string(b))
	}
	var req struct {
		RUC string `json:"ruc"`
	}
	if err := json.Unmarshal(b, &req); err != nil {
		return ruc.Number{}, &ruc.Error{
			Code:   ruc.BadBody,
			Detail: `La solicitud no se entiende. Envíe el RUC solo o como {"ruc":"20131312955"}.`,
			Err:    err,
		}
	}
	return ruc.Parse(req.RUC)
}
