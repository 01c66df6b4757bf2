package replica

import (
	"math/rand/v2"
	"strings"
	"time"

	"github.com/rucflow/rucflow/shared/ruc"
)

// Taxpayer is one invented taxpayer: a number, the truth about it, and how its
// page words that truth. The zero Taxpayer is not usable; Lookup, Cases and
// Generate make them. Its lists are shared between copies and must not be changed.
type Taxpayer struct {
	Number ruc.Number
	// Record is what a correct parser must return for the page of Render, but for
	// FechaConsultaSunat, which is nil until a page is rendered (see Expected).
	Record ruc.Record

	shape shape
}

// shape is how a page words and breaks what the record says. It never changes
// what a correct parser reads; the zero shape is today's page.
type shape struct {
	labels map[label]string // other wordings of the labels, as HTML

	document     string // the number printed beside tipoDocumento
	documentName string // the name printed under it
	profession   string // value of the row "Profesión u Oficio:" of older pages

	address        string // printed address where the record's has no parts; "" is "-"
	noteParagraph  bool   // advice as a second paragraph instead of after a <br>
	noticeAfterRuc bool   // notices between the first row and Tipo Contribuyente
	breakNuevoRus  bool   // the Nuevo RUS line after a <br>
	plainCondition bool   // the condition without line ends and tabs around it
	wordCIIU       bool   // "CIIU 75113" instead of the bare code
	noElectronic   bool   // no row "Sistema de Emisión Electrónica"
	annexes        bool   // a tenth button, for branches
}

// Expected returns the record that a correct parser reads off Render(t, at): t's
// record with the minute of at, in Lima's time, as the time of the consultation.
func (t Taxpayer) Expected(at time.Time) ruc.Record {
	r := t.Record
	minute := at.In(ruc.Lima).Truncate(time.Minute)
	r.FechaConsultaSunat = &minute
	return r
}

// Numbers that ask for nobody; knownNumber is the exception to its prefix.
const (
	unregistered  = "20000000001"
	unknownPrefix = "2099"
	knownNumber   = "20990000019"
)

// Lookup returns the taxpayer with number n and whether there is one. Every valid
// number has one, always the same, but for 20000000001 and those that begin with
// 2099, which serve to ask for nobody (20990000019 exists). Numbers of Cases
// return their case; the others are invented from the number alone.
func Lookup(n ruc.Number) (Taxpayer, bool) {
	s := n.String()
	if n.IsZero() || s == unregistered || strings.HasPrefix(s, unknownPrefix) && s != knownNumber {
		return Taxpayer{}, false
	}
	if t, ok := casesByNumber()[n]; ok {
		return t, true
	}
	return invent(n, rand.New(rand.NewPCG(seedOf(s), 0))), true
}

// seedOf folds the digits of a number into a seed.
func seedOf(digits string) uint64 {
	var seed uint64
	for _, d := range []byte(digits) {
		seed = seed*10 + uint64(d-'0')
	}
	return seed
}

// personPrefixes are the prefixes of natural persons; 20 is the one of entities.
var personPrefixes = []string{"10", "15", "16", "17"}

// Generate returns a random taxpayer, the same for the same seed. Beyond what
// Lookup invents it covers the older wordings of the labels, every placing of
// notices and advice, and addresses that cannot be split. Its number is valid but
// need not be found by Lookup.
func Generate(seed uint64) Taxpayer {
	rng := rand.New(rand.NewPCG(seed, 1))
	prefix := "20"
	if chance(rng, 30) {
		prefix = pick(rng, personPrefixes)
	}
	t := invent(ruc.FromPrefix(prefix+digits(rng, 8)), rng)
	t.shape.labels = olderLabels(rng)
	t.shape.noteParagraph = chance(rng, 50)
	t.shape.noticeAfterRuc = chance(rng, 50)
	t.shape.breakNuevoRus = chance(rng, 50)
	t.shape.plainCondition = chance(rng, 50)
	t.shape.wordCIIU = chance(rng, 50)
	if !t.Number.Entity() && chance(rng, 30) {
		t.shape.profession = pick(rng, []string{"PROFESION U OCUPACION NO ESPECIFICADA", "INGENIERO", "-"})
	}
	return t
}

// chance is true in percent of a hundred draws.
func chance(rng *rand.Rand, percent int) bool { return rng.IntN(100) < percent }

func pick[T any](rng *rand.Rand, from []T) T { return from[rng.IntN(len(from))] }

func digits(rng *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('0' + rng.IntN(10))
	}
	return string(b)
}
