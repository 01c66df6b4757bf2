package scraper

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
)

func TestRun_AnswersWhatIsInHandBeforeItStops(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.MaxConcurrent = 1 })
	release := make(chan struct{})
	e := &fakeEngine{visit: until(release)}
	stop := r.run(e)
	inFlight := r.ask(number, patience)
	eventually(t, "the visit began", func() bool { return e.visits(number) == 1 })
	queued := r.ask(second, patience)
	eventually(t, "the other is queued", func() bool { return r.queued() == 2 })
	stopped := make(chan struct{})
	go func() { defer close(stopped); stop() }()
	eventually(t, "no further requests are taken", func() bool { return r.scrapers() == 0 })
	close(release)
	for _, c := range []<-chan reply{inFlight, queued} {
		if a := <-c; a.err != nil {
			t.Error(a.err)
		}
	}
	<-stopped
}

// What takes too long is cut off: its callers are told, and its job goes to another
// scraper at once rather than after AckWait.
func TestRun_GivesBackTheJobThatItCutsOff(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.wait = 200 * time.Millisecond
	stuck := &fakeEngine{visit: takes(time.Minute)}
	stop := r.run(stuck)
	got := r.ask(number, patience)
	eventually(t, "the visit began", func() bool { return stuck.visits(number) == 1 })
	stop()
	if a := <-got; ruc.CodeOf(a.err) != ruc.Unavailable {
		t.Error(a.err)
	}
	e := &fakeEngine{}
	r.run(e)
	if a := r.asked(number, patience); a.err != nil || a.took > 3*time.Second || e.visits(number) != 1 {
		t.Errorf("%v after %v, %d visits", a.err, a.took, e.visits(number))
	}
	if events := r.stored(); len(events) != 1 {
		t.Errorf("%d events", len(events))
	}
}

func TestRun_ToldToStopBeforeItWorks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("signal received"))
	err := Run(ctx, r.cfg, Deps{
		NATS: r.nc, Log: zerolog.Nop(), Now: time.Now, Registry: prometheus.NewRegistry(),
		Provision: true, ShutdownTimeout: patience, engine: &fakeEngine{},
	})
	if err != nil {
		t.Error(err)
	}
}

// brokenEngine ends by itself.
type brokenEngine struct{ fakeEngine }

func (*brokenEngine) Run(context.Context) error { return errors.New("no Chromium") }

func TestRun_FailsWithItsEngine(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := Run(ctx, r.cfg, Deps{
		NATS: r.nc, Log: zerolog.Nop(), Now: time.Now, Registry: prometheus.NewRegistry(),
		Provision: true, ShutdownTimeout: patience, engine: &brokenEngine{},
	})
	if err == nil || !strings.Contains(err.Error(), "no Chromium") {
		t.Errorf("Run: %v", err)
	}
}

func TestRun_RefusesAStreamOfAnotherSource(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cfg := r.cfg
	cfg.URL = "https://e-consultaruc.sunat.gob.pe/"
	err := Run(t.Context(), cfg, Deps{
		NATS: r.nc, Log: zerolog.Nop(), Now: time.Now, Registry: prometheus.NewRegistry(),
		Provision: true, ShutdownTimeout: patience, engine: &fakeEngine{},
	})
	if err == nil || !strings.Contains(err.Error(), "another NATS server") {
		t.Errorf("Run: %v", err)
	}
}

func TestConfig_CheckNamesTheVariable(t *testing.T) {
	t.Parallel()
	good := Config{
		Site: service.Site{URL: "https://e-consultaruc.sunat.gob.pe/x"}, Engine: ruc.MotorChrome, Slots: 1, MaxConcurrent: 1, Attempts: 1,
		AttemptTimeout: 1, Queue: 1, EventsMaxAge: 1,
	}
	if err := good.Check(); err != nil || good.Source() != ruc.FuenteSunat {
		t.Errorf("%v, %s", err, good.Source())
	}
	for want, change := range map[string]func(*Config){
		"SUNAT_URL":             func(c *Config) { c.URL = "e-consultaruc.sunat.gob.pe" },
		"SUNAT_ENGINE":          func(c *Config) { c.Engine = "lynx" },
		"SUNAT_SLOTS":           func(c *Config) { c.Slots = 0 },
		"SUNAT_MAX_CONCURRENT":  func(c *Config) { c.MaxConcurrent = 0 },
		"SUNAT_PAUSE":           func(c *Config) { c.Pause = 2 * time.Hour },
		"SUNAT_ATTEMPTS":        func(c *Config) { c.Attempts = 0 },
		"SUNAT_ATTEMPT_TIMEOUT": func(c *Config) { c.AttemptTimeout = 0 },
		"SUNAT_QUEUE":           func(c *Config) { c.Queue = 0 },
		"EVENTS_MAX_AGE":        func(c *Config) { c.EventsMaxAge = 0 },
	} {
		c := good
		change(&c)
		if err := c.Check(); err == nil || !strings.HasPrefix(err.Error(), want+":") {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}

func TestConfig_CheckNamesTheEngines(t *testing.T) {
	t.Parallel()
	c := Config{Site: service.Site{URL: "https://e-consultaruc.sunat.gob.pe/x"}, Slots: 1, MaxConcurrent: 1, Attempts: 1, AttemptTimeout: 1, Queue: 1, EventsMaxAge: 1}
	for _, c.Engine = range []string{ruc.MotorChrome, ruc.MotorFetch, ruc.MotorHTTP} {
		if err := c.Check(); err != nil {
			t.Errorf("%s: %v", c.Engine, err)
		}
	}
	c.Engine = "Chrome"
	const want = `SUNAT_ENGINE: "Chrome" is not an engine; there are: chrome, fetch, http`
	if err := c.Check(); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// A server that lost its storage comes back without streams; nobody has to restart the
// scrapers.
func TestRun_StreamsAreMadeAnew(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(&fakeEngine{})
	if a := r.asked(number, patience); a.err != nil {
		t.Fatal(a.err)
	}
	addr := strings.TrimPrefix(r.bus.URL(), "nats://")
	r.bus.Stop()
	if err := os.RemoveAll(r.dir); err != nil {
		t.Fatal(err)
	}
	r.startBus(addr)
	eventually(t, "a lookup is answered again", func() bool { return r.asked(second, patience).err == nil })
	if events := r.stored(); len(events) != 1 || events[0].RUC != second {
		t.Errorf("stored: %+v", events)
	}
	eventually(t, "the queue is empty", func() bool { return r.queued() == 0 })
}
