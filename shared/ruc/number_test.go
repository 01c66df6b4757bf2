package ruc_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/rucflow/rucflow/shared/ruc"
)

func TestParse_Accepts(t *testing.T) {
	// 20100070970 exercises 10→0, 20131380951 11→1; SUNAT's form restricts no prefix.
	for _, s := range []string{
		"20131312955", "20100070970", "20100047218", "20100017491", "20212331377", "20573215045",
		"20100055237", "20990000019", "20131380951", "20000000001", "20123456786",
	} {
		n, err := ruc.Parse(s)
		if err != nil || n.String() != s {
			t.Errorf("Parse(%q) = %v, %v", s, n, err)
		}
	}
}

func TestParse_Refuses(t *testing.T) {
	const format = "11 dígitos"
	tests := map[string]string{
		"":                         format,
		"2013131295":               format,
		"201313129555":             format,
		"2013131295a":              format,
		" 20131312955":             format,
		"20131312955\n":            format,
		"-0131312955":              format,
		"%00":                      format,
		"２０１３１３１２９５５":              format, // full-width digits
		"٢٠١٣١٣١٢٩٥٥":              format, // Arabic digits
		strings.Repeat("2", 1<<20): format,
		"20123456789":              "debería ser 6",
		"20607105615":              "debería ser 9",
		"20100113774":              "debería ser 6",
		"20267367146":              "debería ser 1",
	}
	for in, want := range tests {
		n, err := ruc.Parse(in)
		var e *ruc.Error
		if !errors.As(err, &e) || e.Code != ruc.Invalid || !strings.Contains(e.Detail, want) || !n.IsZero() {
			t.Errorf("Parse(%.20q) = %v, %v; want invalid with %q", in, n, err, want)
		}
	}
}

func TestNumber_Masked(t *testing.T) {
	for in, want := range map[string]string{
		"20131312955":                         "20131312955",
		ruc.FromPrefix("1012345678").String(): "10*******" + ruc.FromPrefix("1012345678").String()[9:],
		ruc.FromPrefix("1512345678").String(): "15*******" + ruc.FromPrefix("1512345678").String()[9:],
	} {
		if got := ruc.MustParse(in).Masked(); got != want {
			t.Errorf("Masked(%s) = %s, want %s", in, got, want)
		}
	}
	if got := (ruc.Number{}).Masked(); got != "" {
		t.Errorf("the zero Number shows as %q", got)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"20131312955", "20123456789", "", "２0131312955", "99999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ruc.Parse(s)
		if err != nil {
			if ruc.CodeOf(err) != ruc.Invalid || !n.IsZero() {
				t.Errorf("Parse(%q) = %v, %v", s, n, err)
			}
			return
		}
		if n.String() != s || ruc.FromPrefix(s[:10]) != n {
			t.Errorf("Parse(%q) = %v", s, n)
		}
		b, err := n.MarshalText()
		var back ruc.Number
		if err != nil || back.UnmarshalText(b) != nil || back != n {
			t.Errorf("%q does not survive its text form", s)
		}
		// A wrong check digit is always noticed.
		wrong := s[:10] + string('0'+(s[10]-'0'+1)%10)
		if _, err := ruc.Parse(wrong); err == nil {
			t.Errorf("%q and %q are both valid", s, wrong)
		}
	})
}
