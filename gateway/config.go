package gateway

import (
	"errors"
	"time"

	"github.com/rucflow/rucflow/shared/service"
)

// BallastBytes are for the main function of a gateway to hold. They are never touched and
// so take no memory, but count as heap: the collector waits until about as much garbage is
// there, which for a heap of a few MiB without them is dozens of times a second.
const BallastBytes = 32 << 20

// Config is what a gateway is told by its environment.
type Config struct {
	RequestTimeout time.Duration `env:"REQUEST_TIMEOUT" envDefault:"45s" help:"how long one lookup may take"`
	MaxPending     int           `env:"MAX_PENDING" envDefault:"256" help:"numbers being resolved at one time; one more is refused"`
	L1TTL          time.Duration `env:"L1_TTL" envDefault:"10m" help:"how long an answer lives in this process's memory"`
	MemoryBytes    service.Bytes `env:"CACHE_MEMORY_BYTES" envDefault:"64MiB" help:"bound of this process's memory cache"`
	AdminToken     string        `env:"ADMIN_TOKEN" secret:"true" help:"token of the admin routes; without one they are refused"`
	APIKeysFile    string        `env:"API_KEYS_FILE" help:"path of the API keys, a line for each: name, SHA-256, quota; lookups want one of them then"`
	RateLimit      string        `env:"RATE_LIMIT" help:"lookups of one client, by its key or address, in this process: 10/s, also /m, /h, /d; off by default"`
	TrustedProxies string        `env:"TRUSTED_PROXIES" help:"addresses and networks whose X-Forwarded-For is believed, separated by commas"`
	AllowedHosts   string        `env:"ALLOWED_HOSTS" help:"hosts that may be asked for, *.example.com too, separated by commas; any by default"`
	CORSOrigins    string        `env:"CORS_ORIGINS" help:"origins whose pages may ask, separated by commas, or *; none by default"`
	StaleAfter     time.Duration `env:"STALE_AFTER" envDefault:"10s" help:"how long a visit may take before the last answer is served instead, stale though it be; 0 = any time"`
	RefreshAt      float64       `env:"CACHE_REFRESH_AT" envDefault:"0.9" help:"share of a record's life after which a lookup has it refreshed behind; 0 = never"`
	service.Lifetimes
}

// Check validates the settings; the error names the variable.
func (c Config) Check() error {
	switch {
	case c.RequestTimeout <= 0:
		return errors.New("REQUEST_TIMEOUT: more than 0")
	case c.MaxPending < 1:
		return errors.New("MAX_PENDING: at least 1")
	case c.L1TTL <= 0:
		return errors.New("L1_TTL: more than 0")
	case c.RefreshAt < 0 || c.RefreshAt >= 1:
		return errors.New("CACHE_REFRESH_AT: from 0 to less than 1")
	case c.MemoryBytes <= 0:
		return errors.New("CACHE_MEMORY_BYTES: more than 0")
	}
	if _, err := c.rules(); err != nil {
		return err
	}
	return c.Lifetimes.Check()
}
