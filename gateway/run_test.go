package gateway_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/rucflow/rucflow/gateway"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/wire"
)

// Serial, so that every goroutine it sees is its own.
func TestRun_LeavesNoGoroutine(t *testing.T) {
	r := start(t)
	r.scraper(r.resolves)
	before := goleak.IgnoreCurrent() // those of the gateway, too
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	again := gateway.Config{
		RequestTimeout: time.Second, MaxPending: 1, L1TTL: time.Minute, MemoryBytes: 1 << 20, Lifetimes: service.Lifetimes{CacheTTL: day},
	}
	ctx, cancel := context.WithCancel(t.Context())
	ln := listen(t)
	ended := make(chan error, 1)
	go func() {
		ended <- gateway.Run(ctx, again, gateway.Deps{
			NATS: r.mine, Store: noStore{}, HTTP: ln, Log: zerolog.Nop(), Now: time.Now,
			Registry: prometheus.NewRegistry(), ShutdownTimeout: patience,
		})
	}()
	r.url = "http://" + ln.Addr().String()
	r.get("/v1/ruc/" + number.String())
	r.get("/v1/ruc/" + number.String())
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	r.web.CloseIdleConnections()
	goleak.VerifyNone(t, append(leftByFasthttp(), before)...)
}

func TestRun_AnswersWhatIsInHandBeforeItStops(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]func(*rig) (answered func() bool){
		"over HTTP": func(r *rig) func() bool {
			got := r.begin(number)
			return func() bool { return (<-got).StatusCode == http.StatusOK }
		},
		"over NATS": func(r *rig) func() bool {
			got := make(chan *nats.Msg, 1)
			go func() { got <- r.ask(number.String()) }()
			return func() bool { return (<-got).Header.Get(wire.HeaderError) == "" }
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t)
			release := make(chan struct{})
			free := sync.OnceFunc(func() { close(release) })
			defer free()
			fleet := r.scraper(func(req micro.Request, n ruc.Number) {
				<-release
				r.resolves(req, n)
			})
			answered := ask(r)
			r.waitAsked(fleet, 1)
			ended := make(chan error, 1)
			go func() { ended <- r.stop() }()
			eventually(t, "no further requests are taken", func() bool {
				_, err := r.nc.Request(wire.SubjectLookup, nil, patience)
				return errors.Is(err, nats.ErrNoResponders)
			})
			select {
			case err := <-ended:
				t.Errorf("Run returned %v with a request in hand", err)
				return
			case <-time.After(300 * time.Millisecond):
			}
			free()
			if !answered() {
				t.Error("the request in hand was not answered")
			}
			if err := <-ended; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
}

func TestRun_CutsOffWhatTakesTooLong(t *testing.T) {
	t.Parallel()
	r := start(t, func(_ *gateway.Config, d *gateway.Deps) { d.ShutdownTimeout = 200 * time.Millisecond })
	fleet := r.scraper(silent)
	bus := make(chan *nats.Msg, 1)
	if _, err := r.nc.ChanSubscribe("answer", bus); err != nil {
		t.Fatal(err)
	}
	if err := r.nc.PublishRequest(wire.SubjectLookup, "answer", []byte(number.String())); err != nil {
		t.Fatal(err)
	}
	r.waitAsked(fleet, 1)
	began := time.Now()
	if err := r.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("took %v", took)
	}
	select {
	case m := <-bus:
		if m.Header.Get(wire.HeaderError) != string(ruc.Unavailable) {
			t.Errorf("%v %s", m.Header, m.Data)
		}
	case <-time.After(patience):
		t.Error("the caller was left without a word")
	}
}

func TestRun_ToldToStopBeforeItServes(t *testing.T) {
	t.Parallel()
	r := start(t)
	for range 20 {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("told to"))
		ended := make(chan error, 1)
		go func() {
			ended <- gateway.Run(ctx, gateway.Config{RequestTimeout: time.Second, MaxPending: 1, L1TTL: time.Minute, MemoryBytes: 1 << 20, Lifetimes: service.Lifetimes{CacheTTL: day}}, gateway.Deps{
				NATS: r.mine, Store: noStore{}, HTTP: listen(t), Log: zerolog.Nop(), Now: time.Now,
				Registry: prometheus.NewRegistry(), ShutdownTimeout: patience,
			})
		}()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Fatal("Run does not end")
		}
	}
}

func TestRun_FailsWhenItCannotListen(t *testing.T) {
	t.Parallel()
	r := start(t)
	ln := listen(t)
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := gateway.Run(ctx, gateway.Config{RequestTimeout: time.Second, MaxPending: 1, L1TTL: time.Minute, MemoryBytes: 1 << 20, Lifetimes: service.Lifetimes{CacheTTL: day}}, gateway.Deps{
		NATS: r.mine, Store: noStore{}, HTTP: ln, Log: zerolog.Nop(), Now: time.Now,
		Registry: prometheus.NewRegistry(), ShutdownTimeout: time.Second,
	})
	if err == nil || ctx.Err() != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestConfig_CheckNamesTheVariable(t *testing.T) {
	good := gateway.Config{RequestTimeout: 1, MaxPending: 1, L1TTL: 1, MemoryBytes: 1, Lifetimes: service.Lifetimes{CacheTTL: 1}}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*gateway.Config){
		"REQUEST_TIMEOUT: more than 0":    func(c *gateway.Config) { c.RequestTimeout = 0 },
		"MAX_PENDING: at least 1":         func(c *gateway.Config) { c.MaxPending = 0 },
		"L1_TTL: more than 0":             func(c *gateway.Config) { c.L1TTL = 0 },
		"CACHE_MEMORY_BYTES: more than 0": func(c *gateway.Config) { c.MemoryBytes = 0 },
		"CACHE_TTL: more than 0":          func(c *gateway.Config) { c.CacheTTL = 0 },
	} {
		c := good
		change(&c)
		if err := c.Check(); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
