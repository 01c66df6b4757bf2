package gateway

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/rucflow/rucflow/shared/ruc"
)

// wish is what an asker's Cache-Control says (RFC 9111, section 5.2.1), and what is granted
// of it. The zero wish takes what is fresh, and what is stale where nothing else can be had.
type wish struct {
	anew     bool          // no-cache: nothing that is held will do
	limited  bool          // max-age was given
	maxAge   time.Duration // what is older will not do
	maxStale time.Duration // what has been stale for no longer will do
	heldOnly bool          // only-if-cached: no visit
	foreign  bool          // a page of another site asks: no visit, also none behind
}

// parseWish reads the header. What it does not know it ignores, as the RFC asks.
func parseWish(header string) (w wish) {
	if header == "" {
		return w
	}
	for directive := range strings.SplitSeq(header, ",") {
		name, value, given := strings.Cut(strings.TrimSpace(directive), "=")
		switch strings.ToLower(name) {
		case "no-cache":
			w.anew = true
		case "max-age":
			// One that cannot be read counts as zero (section 4.2.1).
			w.limited, w.maxAge = true, seconds(value)
		case "max-stale":
			w.maxStale = math.MaxInt64
			if given {
				w.maxStale = seconds(value)
			}
		case "only-if-cached":
			w.heldOnly = true
		}
	}
	return w
}

func seconds(s string) time.Duration {
	n, err := strconv.ParseUint(strings.Trim(s, `"`), 10, 32)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
}

// takes reports whether something held of that freshness will do.
func (w wish) takes(f ruc.Freshness) bool {
	switch {
	case w.anew, w.limited && f.Age > w.maxAge:
		return false
	case f.State == ruc.Stale:
		return -f.Left <= w.maxStale && w.maxStale > 0
	default:
		return f.State == ruc.Fresh
	}
}

// strict reports whether something held must not stand in for a visit.
func (w wish) strict() bool { return w.anew || w.limited }

// settlesFor reports whether something held will do when no visit can be had.
func (w wish) settlesFor(f ruc.Freshness) bool {
	return w.takes(f) || !w.strict() && f.State != ruc.Expired
}
