//go:build linux

package bench

import (
	"math"
	"testing"
)

func TestSoak(t *testing.T) {
	s := Soak{Visits: 10_000, PerSecond: 6, Grown: []Growth{
		{What: "gateway: heap", Memory: true, Before: 2 * mib, After: 2.5 * mib, Held: true},
		{What: "scraper: heap", Memory: true, Before: 4 * mib, After: 3 * mib, Held: true},
		{What: "gateway: goroutines", Before: 51, After: 50, Held: true},
		{What: "temporary entries", Before: 4, After: 6, Held: true},
	}}
	f := s.figures()
	for name, tc := range map[string]struct{ got, want float64 }{
		"visits":            {of(allVisits, soakVisits)(f), 10_000},
		"rate":              {of(allVisits, perSecond)(f), 6},
		"growth of one":     {of("scraper: heap", grownPercent)(f), -25},
		"before":            {of("gateway: heap", mibBefore)(f), 2},
		"after":             {of("temporary entries", countAfter)(f), 6},
		"growth of memory":  {highest(grownPercent)(f), 25},
		"growth of a count": {highest(grownCount)(f), 2},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: %v, not %v", name, tc.got, tc.want)
		}
	}
	if !s.held() {
		t.Error("all was held")
	}
	s.Grown[3].Held = false
	if s.held() {
		t.Error("one was not held")
	}
	if got := highest(grownPercent)(nil); !math.IsNaN(got) {
		t.Errorf("of none: %v", got)
	}
	if got := s.Grown[2].More(); got != 0 {
		t.Errorf("fewer count as %v more", got)
	}
}
