package cachewriter

import (
	"errors"
	"time"

	"github.com/rucflow/rucflow/shared/service"
)

// Config is what a cachewriter is told by its environment.
type Config struct {
	service.Lifetimes
	EventsMaxAge time.Duration `env:"EVENTS_MAX_AGE" envDefault:"1080h" help:"how long events are kept in the stream"`
}

// Check validates the settings; the error names the variable.
func (c Config) Check() error {
	if err := c.Lifetimes.Check(); err != nil {
		return err
	}
	if c.EventsMaxAge < c.CacheTTL+c.Grace {
		return errors.New("EVENTS_MAX_AGE: at least CACHE_TTL + CACHE_GRACE, for the stream is what stale answers come from")
	}
	return nil
}
