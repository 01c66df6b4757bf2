package gateway

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// Beyond loggedHits a second, one hit of the store in hitsPerLine leaves a line.
func TestLookup_LogsFewOfManyHits(t *testing.T) {
	n := ruc.MustParse("20131312955")
	var lines bytes.Buffer
	look := storedHits(t, zerolog.New(&lines), storedAnswer(t, n)).lookups
	const asked = 10 * loggedHits
	began := time.Now()
	for range asked {
		if f, err := look.lookup(t.Context(), n, wire.Trace{}, wish{}, asker{}); err != nil || f.layer != "redis" {
			t.Fatal(f.layer, err)
		}
	}
	seconds := int(time.Since(began)/time.Second) + 2 // begun
	if got := strings.Count(lines.String(), "lookup"); got < loggedHits || got > seconds*loggedHits+asked/hitsPerLine {
		t.Errorf("%d hits left %d lines", asked, got)
	}
}
