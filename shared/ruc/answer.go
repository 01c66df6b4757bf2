package ruc

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// The sources that an answer may name, and the engines that may have fetched it.
const (
	FuenteSunat   = "sunat"   // the host is sunat.gob.pe or below it
	FuenteReplica = "replica" // any other host: invented data

	MotorChrome = "chrome" // the real form, the real button
	MotorFetch  = "fetch"  // the form's POST from inside the open page
	MotorHTTP   = "http"   // plain requests
)

// SourceOf names the source behind a host name: FuenteSunat only for
// sunat.gob.pe and its subdomains, so that invented data never passes for real.
func SourceOf(host string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "sunat.gob.pe" || strings.HasSuffix(host, ".sunat.gob.pe") {
		return FuenteSunat
	}
	return FuenteReplica
}

// Answer is what SUNAT says of one number: found with its record, or not found.
// Both are facts and both are stored. Its encoding begins with the four fixed
// fields, in this order; wire.ReadPrefix depends on it.
type Answer struct {
	RUC        Number    `json:"ruc"`
	Encontrado bool      `json:"encontrado"`
	ObtenidoEn time.Time `json:"obtenidoEn"` // UTC, when SUNAT gave the page
	Huella     string    `json:"huella"`     // HuellaLen lower-case hex digits
	// Record is nil when the number was not found.
	*Record
	Fuente string `json:"fuente"` // sunat, replica
	Motor  string `json:"motor"`  // chrome, fetch, http
}

// HuellaLen is the length of a huella in characters (128 bits in hex).
const HuellaLen = 32

// Found makes the answer that carries a record. It fills the huella.
func Found(n Number, r Record, at time.Time, fuente, motor string) Answer {
	r = r.withLists()
	return Answer{RUC: n, Encontrado: true, Record: &r, Fuente: fuente, Motor: motor}.seal(at)
}

// Missing makes the answer that SUNAT does not know n. It fills the huella.
func Missing(n Number, at time.Time, fuente, motor string) Answer {
	return Answer{RUC: n, Fuente: fuente, Motor: motor}.seal(at)
}

// seal fixes the time, to the millisecond in UTC, and the huella.
func (a Answer) seal(at time.Time) Answer {
	a.ObtenidoEn = at.UTC().Truncate(time.Millisecond)
	a.Huella = a.huella()
	return a
}

// huella hashes the material fields: all but the two times, the source and the
// engine. Two answers with the same huella say the same of the taxpayer.
func (a Answer) huella() string {
	a.ObtenidoEn, a.Huella, a.Fuente, a.Motor = time.Time{}, "", "", ""
	if a.Record != nil {
		r := *a.Record
		r.FechaConsultaSunat = nil
		a.Record = &r
	}
	b, err := a.Encode()
	if err != nil {
		// Every field is a plain value; only the zero Number cannot be encoded.
		panic(fmt.Sprintf("ruc.Answer.huella: %v", err))
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:HuellaLen/2])
}

// Encode returns the answer as one line of JSON without HTML escaping. These
// bytes are the event, the stored value and the body of a 200.
func (a Answer) Encode() ([]byte, error) {
	b, err := marshalPlain(a)
	if err != nil {
		return nil, fmt.Errorf("ruc.Answer.Encode: %w", err)
	}
	return b, nil
}
