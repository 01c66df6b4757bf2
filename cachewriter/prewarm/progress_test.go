package prewarm

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDisplay_LinesNowAndThen(t *testing.T) {
	var out strings.Builder
	d := newDisplay(&out, false, 10)
	d.show(counts{}, 0)
	d.show(counts{held: 4, invalid: 2}, 20*time.Second)
	d.show(counts{held: 5, invalid: 2}, 30*time.Second)
	d.show(counts{held: 5, fetched: 1, missing: 1, invalid: 2}, 50*time.Second)
	d.say("waits for NATS")
	d.show(counts{held: 5, fetched: 1, missing: 1, failed: 1, invalid: 2}, 60*time.Second)
	d.end()
	want := `5 of 10: 5 held already, 0 fetched, 0 not registered, 0 failed, 2 invalid lines
waits for NATS
8 of 10: 5 held already, 1 fetched, 1 not registered, 1 failed, 2 invalid lines; at most 40s left
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDisplay_BarOnATerminal(t *testing.T) {
	var out strings.Builder
	d := newDisplay(&out, true, 10)
	d.show(counts{held: 4, fetched: 1}, 3*time.Second)
	if s := out.String(); !strings.Contains(s, "█") || !strings.Contains(s, "(5/10)") || !strings.Contains(s, "4 held, 1 fetched, 0 not registered, 0 failed; at most 15s left") || strings.Contains(s, "\n") {
		t.Errorf("%q", s)
	}
	d.say("waits for NATS")
	if line, rest, _ := strings.Cut(out.String(), "\n"); !strings.HasSuffix(line, "\rwaits for NATS") || strings.Contains(rest, "\n") {
		t.Errorf("%q, %q", line, rest)
	}
	d.end()
	if s := out.String(); !strings.HasSuffix(s, "\r") {
		t.Errorf("it stays: %q", s)
	}
}
