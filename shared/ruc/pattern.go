package ruc

import (
	"errors"
	"path"
	"strings"
)

// Pattern selects numbers by their text: digits and asterisks, of which each stands
// for any digits or none. The zero Pattern selects nothing.
type Pattern struct{ text string }

var errPattern = errors.New("a pattern of numbers has digits and asterisks only")

// ParsePattern reads a pattern such as 2010*. Runs of asterisks become one, so that
// matching takes no longer than the pattern suggests. The error is an *Error with
// code BadBody and a Spanish detail.
func ParsePattern(s string) (Pattern, error) {
	for strings.Contains(s, "**") {
		s = strings.ReplaceAll(s, "**", "*")
	}
	digits := len(s) - strings.Count(s, "*")
	if s == "" || digits > Digits || strings.Trim(s, "0123456789*") != "" {
		return Pattern{}, &Error{
			Code:   BadBody,
			Detail: "El patrón solo puede tener dígitos (hasta 11) y asteriscos; por ejemplo, 2010* abarca todos los RUC que empiezan con 2010.",
			Err:    errPattern,
		}
	}
	return Pattern{s}, nil
}

// MustParsePattern is ParsePattern for patterns known to be valid; it panics otherwise.
func MustParsePattern(s string) Pattern {
	p, err := ParsePattern(s)
	if err != nil {
		panic("ruc.MustParsePattern: " + s)
	}
	return p
}

// String returns the pattern in the form in which it is matched.
func (p Pattern) String() string { return p.text }

// Masked returns the pattern for logs: whole unless it could single out a natural
// person, of which only the beginning is shown.
func (p Pattern) Masked() string {
	const telling = 6 // more digits than that are few people
	if strings.HasPrefix(p.text, "20") || len(p.text)-strings.Count(p.text, "*") <= telling {
		return p.text
	}
	return p.text[:2] + "…"
}

// Everything reports whether p selects every number by saying nothing about any.
func (p Pattern) Everything() bool { return p.text == "*" }

// Matches reports whether p selects n.
func (p Pattern) Matches(n Number) bool {
	ok, err := path.Match(p.text, n.String())
	return ok && err == nil
}
