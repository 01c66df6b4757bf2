package wire_test

import (
	"strings"
	"testing"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

func TestInvalidated_ReadsWhatItWrites(t *testing.T) {
	n, other := ruc.MustParse("20131312955"), ruc.MustParse("20100055237")
	for text, notice := range map[string]wire.Invalidated{
		`{"ruc":"20131312955"}`: {RUC: n},
		`{"patron":"2013*"}`:    {Pattern: ruc.MustParsePattern("2013*")},
	} {
		if got := string(notice.Encode()); got != text {
			t.Errorf("%s encodes as %s", text, got)
		}
		got, err := wire.ParseInvalidated([]byte(text))
		if err != nil || got != notice || !got.Matches(n) || got.Matches(other) {
			t.Errorf("%s reads as %v, %v", text, got, err)
		}
	}
}

func TestParseInvalidated_RefusesEverythingElse(t *testing.T) {
	for _, text := range []string{
		"", "null", "{}", `{"ruc":"20131312955","patron":"*"}`, `{"ruc":"20131312954"}`, `{"patron":"a"}`, `"*"`,
		`{"patron":"*","todo":true}`, `{"ruc":20131312955}`, `{"patron":"` + strings.Repeat("*", 1<<10) + `"}`,
	} {
		if got, err := wire.ParseInvalidated([]byte(text)); err == nil || got != (wire.Invalidated{}) {
			t.Errorf("%.40s: %v, %v", text, got, err)
		}
	}
}
