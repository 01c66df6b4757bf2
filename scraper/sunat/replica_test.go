package sunat_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/scraper/sunat"
	"github.com/rucflow/rucflow/shared/ruc"
)

// shownAt is when the pages of these tests were "consulted".
var shownAt = time.Date(2026, 3, 9, 23, 59, 30, 0, time.UTC)

// holds checks that the page made from a taxpayer reads as that taxpayer.
func holds(t *testing.T, p replica.Taxpayer) {
	t.Helper()
	page := sunat.Page{Status: 200, HTML: sunat.Decode(replica.Render(p, shownAt))}
	got, err := sunat.Parse(page, p.Number)
	if err != nil || !got.Found {
		t.Fatalf("%s: Parse = %v, %v", p.Number, got.Found, err)
	}
	if len(got.Unknown) > 0 {
		t.Errorf("%s: unknown labels: %q", p.Number, got.Unknown)
	}
	if diff := cmp.Diff(p.Expected(shownAt), got.Record); diff != "" {
		t.Errorf("%s (-want +got):\n%s", p.Number, diff)
	}
}

func TestParse_ReadsTheReplicasCases(t *testing.T) {
	for _, c := range replica.Cases() {
		t.Run(c.Name, func(t *testing.T) { holds(t, c.Taxpayer) })
	}
}

func TestParse_ReadsEveryGeneratedTaxpayer(t *testing.T) {
	t.Parallel()
	for seed := range uint64(generated) {
		holds(t, replica.Generate(seed))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func TestParse_ReadsEveryInventedTaxpayer(t *testing.T) {
	for i := range 500 {
		n := ruc.FromPrefix("20" + time.Unix(int64(i)*7919, 0).UTC().Format("05040215"))
		if p, ok := replica.Lookup(n); ok {
			holds(t, p)
		}
	}
}
