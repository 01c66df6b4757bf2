package cachewriter

import (
	"errors"
	"time"

	"github.com/rucflow/rucflow/shared/ruc"
)

// Config is what a cachewriter is told by its environment.
type Config struct {
	CacheTTL     time.Duration `env:"CACHE_TTL" envDefault:"168h" help:"how long a record is fresh"`
	NegativeTTL  time.Duration `env:"CACHE_NEGATIVE_TTL" envDefault:"1h" help:"how long a not-found answer is fresh"`
	Grace        time.Duration `env:"CACHE_GRACE" envDefault:"720h" help:"how long an answer may be served stale after that"`
	EventsMaxAge time.Duration `env:"EVENTS_MAX_AGE" envDefault:"1080h" help:"how long events are kept in the stream"`
}

// Check validates the settings; the error names the variable.
func (c Config) Check() error {
	switch {
	case c.CacheTTL <= 0:
		return errors.New("CACHE_TTL: more than 0")
	case c.EventsMaxAge < c.CacheTTL+c.Grace:
		return errors.New("EVENTS_MAX_AGE: at least CACHE_TTL + CACHE_GRACE, for the stream is what stale answers come from")
	}
	return nil
}

func (c Config) policy() ruc.Policy {
	return ruc.Policy{TTL: c.CacheTTL, NegativeTTL: c.NegativeTTL, Grace: c.Grace}
}
