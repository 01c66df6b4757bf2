package ruc

import (
	"fmt"
	"strings"
)

// Digits is the length of a RUC number.
const Digits = 11

// Number is a valid RUC number: 11 ASCII digits of which the last is the check
// digit. It is a value (comparable, usable as a map key) and owns its bytes, so
// it never aliases a request buffer. The zero Number is not valid; Parse is the
// only way to a valid one. The prefix is not restricted: SUNAT's own form does
// not restrict it either.
type Number struct{ digits [Digits]byte }

// Parse checks s and returns it as a Number. The error is always an *Error with
// code Invalid, whose Spanish detail says what is wrong and, when only the check
// digit is, which digit was expected. Parse accepts nothing but 11 ASCII digits:
// no blanks, no separators, no digits of other scripts.
func Parse(s string) (Number, error) {
	var n Number
	if len(s) != Digits {
		return Number{}, invalidFormat()
	}
	for i := range Digits {
		if s[i] < '0' || s[i] > '9' {
			return Number{}, invalidFormat()
		}
		n.digits[i] = s[i]
	}
	if want := n.checkDigit(); n.digits[Digits-1] != want {
		return Number{}, &Error{
			Code: Invalid,
			Detail: fmt.Sprintf("El RUC %s no es válido: el dígito de verificación es %c y debería ser %c.",
				s, n.digits[Digits-1], want),
		}
	}
	return n, nil
}

// MustParse is Parse for numbers written in the source; it panics on a bad one.
func MustParse(s string) Number {
	n, err := Parse(s)
	if err != nil {
		panic(err)
	}
	return n
}

func invalidFormat() error {
	return &Error{Code: Invalid, Detail: "El formato del RUC no es válido. Debe tener 11 dígitos."}
}

// checkWeights multiply the first ten digits (script of SUNAT's search form,
// function valruc).
var checkWeights = [Digits - 1]int{5, 4, 3, 2, 7, 6, 5, 4, 3, 2}

func (n Number) checkDigit() byte {
	sum := 0
	for i, w := range checkWeights {
		sum += w * int(n.digits[i]-'0')
	}
	d := 11 - sum%11
	if d >= 10 {
		d -= 10
	}
	return byte('0' + d)
}

// FromPrefix completes the first ten digits of a number with its check digit.
// It panics unless prefix is ten ASCII digits; it serves generators and tests.
func FromPrefix(prefix string) Number {
	if len(prefix) != Digits-1 || strings.Trim(prefix, "0123456789") != "" {
		panic(fmt.Sprintf("ruc.FromPrefix: %q is not ten digits", prefix))
	}
	var n Number
	copy(n.digits[:], prefix)
	n.digits[Digits-1] = n.checkDigit()
	return n
}

// IsZero reports whether n is the zero Number, which names nobody.
func (n Number) IsZero() bool { return n == Number{} }

// String returns the 11 digits. Logs use Masked instead.
func (n Number) String() string {
	if n.IsZero() {
		return ""
	}
	return string(n.digits[:])
}

// AppendTo appends the 11 digits to b.
func (n Number) AppendTo(b []byte) []byte { return append(b, n.digits[:]...) }

// Entity reports whether n belongs to a legal entity (prefix 20); every other
// prefix belongs to a natural person and may contain a national id.
func (n Number) Entity() bool { return n.digits[0] == '2' && n.digits[1] == '0' }

// Masked returns n for logs: whole for an entity, all but the prefix and the
// last two digits starred for a natural person (digits 3 to 10 of a RUC that
// begins with 10 are the DNI).
func (n Number) Masked() string {
	if n.Entity() || n.IsZero() {
		return n.String()
	}
	return string(n.digits[:2]) + "*******" + string(n.digits[9:])
}

// MarshalText implements encoding.TextMarshaler.
func (n Number) MarshalText() ([]byte, error) {
	if n.IsZero() {
		return nil, fmt.Errorf("ruc.Number.MarshalText: the zero Number has no text")
	}
	return n.AppendTo(nil), nil
}

// UnmarshalText implements encoding.TextUnmarshaler; it refuses what Parse refuses.
func (n *Number) UnmarshalText(b []byte) error {
	parsed, err := Parse(string(b))
	if err != nil {
		return err
	}
	*n = parsed
	return nil
}
