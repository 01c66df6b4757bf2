package scraper

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rucflow/rucflow/scraper/browser"
	"github.com/rucflow/rucflow/scraper/httpclient"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/wire"
)

// Config is what a scraper is told by its environment.
type Config struct {
	service.Site
	Engine         string        `env:"SUNAT_ENGINE" envDefault:"chrome" help:"how pages are got: chrome (the form and its button), fetch (the form's query sent from inside the open page) or http (plain requests, without Chromium)"`
	Slots          int           `env:"SUNAT_SLOTS" envDefault:"2" help:"warm tabs of this process; with http, sessions"`
	MaxConcurrent  int           `env:"SUNAT_MAX_CONCURRENT" envDefault:"1" help:"visits at one time in the whole fleet"`
	Pace           time.Duration `env:"SUNAT_PACE" envDefault:"1.1s" help:"time between two queries of the whole fleet; 0 = off"`
	Pause          time.Duration `env:"SUNAT_PAUSE" envDefault:"5m" help:"rest of the whole fleet after SUNAT refused, doubling to 1h; 0 = off"`
	Attempts       int           `env:"SUNAT_ATTEMPTS" envDefault:"3" help:"tries of one visit, and deliveries of one job"`
	AttemptTimeout time.Duration `env:"SUNAT_ATTEMPT_TIMEOUT" envDefault:"15s" help:"how long one try may take"`
	Queue          int           `env:"SUNAT_QUEUE" envDefault:"64" help:"visits waiting in the whole fleet; one more is refused"`
	UserAgent      string        `env:"SUNAT_USER_AGENT" help:"user agent sent to SUNAT; Chromium's own by default, with http rucflow's"`
	ChromePath     string        `env:"CHROME_PATH" help:"Chromium's executable; searched by default"`
	ChromeSandbox  string        `env:"CHROME_SANDBOX" envDefault:"auto" help:"on, off or auto (off only as root)"`
	ChromeFlags    []string      `env:"CHROME_FLAGS" envSeparator:" " help:"further flags for Chromium, separated by blanks"`
	ChangedDir     string        `env:"SUNAT_CHANGED_DIR" help:"folder for the structure, without texts, of pages that nobody could read, kept 7 days; ./data/changed by default, in the all-in-one DATA_DIR/changed"`
	EventsMaxAge   time.Duration `env:"EVENTS_MAX_AGE" envDefault:"1080h" help:"how long events are kept in the stream"`
}

var engines = []string{ruc.MotorChrome, ruc.MotorFetch, ruc.MotorHTTP}

// UsesChromium reports whether the engine is one that drives a browser.
func (c Config) UsesChromium() bool { return c.Engine != ruc.MotorHTTP }

// Check validates the settings; the error names the variable.
func (c Config) Check() error {
	if err := c.Site.Check(); err != nil {
		return err
	}
	switch {
	case !slices.Contains(engines, c.Engine):
		return fmt.Errorf("SUNAT_ENGINE: %q is not an engine; there are: %s", c.Engine, strings.Join(engines, ", "))
	case c.Slots < 1 || c.Slots > browser.MaxSlots:
		return fmt.Errorf("SUNAT_SLOTS: %d is not between 1 and %d", c.Slots, browser.MaxSlots)
	case c.MaxConcurrent < 1:
		return errors.New("SUNAT_MAX_CONCURRENT: at least 1")
	case c.Pause < 0 || c.Pause > wire.MaxPause:
		return fmt.Errorf("SUNAT_PAUSE: %v is not between 0 and %v", c.Pause, wire.MaxPause)
	case c.Attempts < 1:
		return errors.New("SUNAT_ATTEMPTS: at least 1")
	case c.AttemptTimeout <= 0:
		return errors.New("SUNAT_ATTEMPT_TIMEOUT: more than 0")
	case c.Queue < 1:
		return errors.New("SUNAT_QUEUE: at least 1")
	case c.EventsMaxAge <= 0:
		return errors.New("EVENTS_MAX_AGE: more than 0")
	}
	return nil
}

// browser is what the settings mean for Chromium.
func (c Config) browser() browser.Config {
	return browser.Config{
		URL:            c.URL,
		Fetch:          c.Engine == ruc.MotorFetch,
		Slots:          c.Slots,
		AttemptTimeout: c.AttemptTimeout,
		ChromePath:     c.ChromePath,
		Sandbox:        c.ChromeSandbox,
		Flags:          c.ChromeFlags,
		UserAgent:      c.UserAgent,
	}
}

// http is what the settings mean for plain requests.
func (c Config) http() httpclient.Config {
	return httpclient.Config{URL: c.URL, Slots: c.Slots, AttemptTimeout: c.AttemptTimeout, UserAgent: c.ownAgent()}
}

// ownAgent is who asks, where no browser does.
func (c Config) ownAgent() string { return cmp.Or(c.UserAgent, "rucflow/"+service.Version) }
