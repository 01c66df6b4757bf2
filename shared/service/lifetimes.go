package service

import (
	"errors"
	"time"

	"github.com/rucflow/rucflow/shared/ruc"
)

// Lifetimes says how long answers live. Gateways and cachewriters have the same.
type Lifetimes struct {
	CacheTTL    time.Duration `env:"CACHE_TTL" envDefault:"168h" help:"how long a record is fresh"`
	NegativeTTL time.Duration `env:"CACHE_NEGATIVE_TTL" envDefault:"1h" help:"how long a not-found answer is fresh"`
	Grace       time.Duration `env:"CACHE_GRACE" envDefault:"720h" help:"how long an answer may be served stale after that"`
}

// Check validates the settings; the error names the variable.
func (l Lifetimes) Check() error {
	if l.CacheTTL <= 0 {
		return errors.New("CACHE_TTL: more than 0")
	}
	return nil
}

// Policy is what the settings mean for an answer.
func (l Lifetimes) Policy() ruc.Policy {
	return ruc.Policy{TTL: l.CacheTTL, NegativeTTL: l.NegativeTTL, Grace: l.Grace}
}
