package ruc

import (
	"strings"
	"testing"
)

func TestPattern_SelectsByDigitsAndAsterisks(t *testing.T) {
	n := MustParse("20131312955")
	for text, want := range map[string]bool{
		"20131312955": true, "2013*": true, "*955": true, "*": true, "**": true, "2*3*5": true, "20131312955*": true,
		"20131312956": false, "2014*": false, "2013": false, "*956": false, "": false,
	} {
		p, err := ParsePattern(text)
		if (err != nil) != (text == "") {
			t.Errorf("%q: %v", text, err)
		}
		if got := p.Matches(n); got != want {
			t.Errorf("%q matches: %v", text, got)
		}
		if got := p.Everything(); got != (text == "*" || text == "**") {
			t.Errorf("%q is everything: %v", text, got)
		}
	}
}

func TestPattern_MasksWhatSinglesOutAPerson(t *testing.T) {
	for text, want := range map[string]string{
		"*": "*", "10*": "10*", "2013131295*": "2013131295*", "10401234*": "10…", "*40123456*": "*4…", "104012*": "104012*",
	} {
		if got := MustParsePattern(text).Masked(); got != want {
			t.Errorf("%s is shown as %s", text, got)
		}
	}
}

func TestParsePattern_RefusesEverythingElse(t *testing.T) {
	for _, text := range []string{"", "abc", "2?1", "[0-9]*", "20 1*", `2\*`, "201313129555", strings.Repeat("1", 1<<10), "２*", "-1*", "٢٠*", "sunat:*", "2010 *"} {
		if p, err := ParsePattern(text); CodeOf(err) != BadBody || p.Matches(MustParse("20131312955")) {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	// As many asterisks as one likes are one.
	if p, err := ParsePattern(strings.Repeat("*", 1<<16)); err != nil || p.String() != "*" {
		t.Errorf("many asterisks: %.20q, %v", p, err)
	}
}
