package ruc

import "time"

// State is what time did to an answer.
type State int

// The states of an answer, in the order in which it passes through them.
const (
	Fresh   State = iota // served as it is
	Stale                // served only when SUNAT cannot be asked
	Expired              // not served
)

func (s State) String() string {
	switch s {
	case Fresh:
		return "fresh"
	case Stale:
		return "stale"
	default:
		return "expired"
	}
}

// Policy says how long answers live.
type Policy struct {
	TTL         time.Duration // how long a found answer is fresh (CACHE_TTL)
	NegativeTTL time.Duration // how long a not-found answer is fresh (CACHE_NEGATIVE_TTL)
	Grace       time.Duration // how long an answer may be served stale after that (CACHE_GRACE)
}

// Freshness is the age of one answer, measured once.
type Freshness struct {
	State    State
	Age      time.Duration // never negative
	Lifetime time.Duration // the whole time for which such an answer is fresh
	Left     time.Duration // Lifetime − Age; negative once it is over
}

// Freshness judges an answer obtained at a time. It is the only place that
// compares times of answers. A time in the future (another machine's clock) counts
// as an age of zero.
func (p Policy) Freshness(found bool, obtained, now time.Time) Freshness {
	f := Freshness{Age: max(0, now.Sub(obtained)), Lifetime: p.TTL}
	if !found {
		f.Lifetime = p.NegativeTTL
	}
	f.Left = f.Lifetime - f.Age
	switch {
	case f.Left > 0:
		f.State = Fresh
	case f.Left > -p.Grace:
		f.State = Stale
	default:
		f.State = Expired
	}
	return f
}
