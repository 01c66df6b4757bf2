package replica

import (
	"maps"
	"sync"
	"time"

	"github.com/rucflow/rucflow/shared/ruc"
)

// maxCountedRUCs bounds the numbers that visits are counted for, one by one.
const maxCountedRUCs = 100_000

// Stats is what was asked of the site since its start or the last reset.
type Stats struct {
	// Forms counts the search forms asked for, Posts the POSTs that arrived.
	Forms int `json:"forms"`
	Posts int `json:"posts"`
	// Visits counts, at their arrival, the POSTs with accion=consPorRuc by the
	// eleven digits asked. Beyond 100,000 numbers, those of new ones go to Uncounted.
	Visits    map[string]int `json:"visits"`
	Uncounted int            `json:"uncounted"`
	// MaxConcurrent is the largest number of POSTs in progress at one time.
	MaxConcurrent int `json:"maxConcurrent"`
	// MinGapMs is the smallest time between the arrivals of two POSTs, in
	// milliseconds; null with fewer than two.
	MinGapMs *float64 `json:"minGapMs"`
	// Blocked counts the requests refused by the rate rule.
	Blocked int `json:"blocked"`
}

// counters are the live Stats. They are safe for concurrent use.
type counters struct {
	mu       sync.Mutex
	stats    Stats
	inFlight int
	lastPost time.Time
}

func (c *counters) form() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Forms++
}

func (c *counters) block() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Blocked++
}

// post counts an arrived POST; the caller calls the returned function when it has
// been answered.
func (c *counters) post(at time.Time) (done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Posts++
	c.inFlight++
	c.stats.MaxConcurrent = max(c.stats.MaxConcurrent, c.inFlight)
	if !c.lastPost.IsZero() {
		gap := float64(at.Sub(c.lastPost)) / float64(time.Millisecond)
		if c.stats.MinGapMs == nil || gap < *c.stats.MinGapMs {
			c.stats.MinGapMs = &gap
		}
	}
	c.lastPost = at
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.inFlight--
	}
}

// visit counts a query for a number. What is not eleven digits is not counted.
func (c *counters) visit(asked string) {
	if !elevenDigits(asked) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.stats.Visits[asked]; !known && len(c.stats.Visits) >= maxCountedRUCs {
		c.stats.Uncounted++
		return
	}
	if c.stats.Visits == nil {
		c.stats.Visits = map[string]int{}
	}
	c.stats.Visits[asked]++
}

func (c *counters) snapshot() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Visits = maps.Clone(s.Visits)
	if s.Visits == nil {
		s.Visits = map[string]int{}
	}
	return s
}

// reset forgets everything but the POSTs in progress, which count on.
func (c *counters) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats = Stats{MaxConcurrent: c.inFlight}
	c.lastPost = time.Time{}
}

func elevenDigits(s string) bool {
	if len(s) != ruc.Digits {
		return false
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}
