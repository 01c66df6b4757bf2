package cachewriter_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rucflow/rucflow/cachewriter"
	"github.com/rucflow/rucflow/shared/ruc"
)

func TestRun_EndsWithoutErrorWhenTold(t *testing.T) {
	r := newRig(t)
	for name, end := range map[string]func(context.Context) (context.Context, func()){
		"cancelled": func(ctx context.Context) (context.Context, func()) {
			ctx, cancel := context.WithCancel(ctx)
			return ctx, cancel
		},
		"with a cause": func(ctx context.Context) (context.Context, func()) {
			ctx, cancel := context.WithCancelCause(ctx)
			return ctx, func() { cancel(errors.New("signal received")) }
		},
		"past a deadline": func(ctx context.Context) (context.Context, func()) {
			return context.WithTimeout(ctx, 50*time.Millisecond)
		},
	} {
		for _, when := range []string{"before", "later"} {
			t.Run(name+" "+when, func(t *testing.T) {
				ctx, stop := end(t.Context())
				if when == "before" {
					stop()
				}
				ended := make(chan error, 1)
				go func() { ended <- cachewriter.Run(ctx, settings, r.deps(&shelf{})) }()
				if when == "later" {
					eventually(t, "the consumer is there", func() bool { _, err := r.state(); return err == nil })
					if name != "past a deadline" {
						stop()
					}
				}
				select {
				case err := <-ended:
					if err != nil {
						t.Errorf("Run: %v", err)
					}
				case <-time.After(patience):
					t.Error("Run does not end")
				}
				stop()
			})
		}
	}
}

func TestRun_RefusesAStreamOfAnotherSource(t *testing.T) {
	r := newRig(t)
	r.run(r.deps(&shelf{}))
	deps := r.deps(&shelf{})
	deps.Source = ruc.FuenteSunat
	if err := cachewriter.Run(t.Context(), settings, deps); err == nil || !strings.Contains(err.Error(), "another NATS server") {
		t.Errorf("Run: %v", err)
	}
}

func TestRun_CreatesNothingUnlessTold(t *testing.T) {
	r := newRig(t)
	deps := r.deps(&shelf{})
	deps.Provision = false
	if err := cachewriter.Run(t.Context(), settings, deps); err == nil {
		t.Error("ran without a consumer")
	}
	if _, err := r.state(); err == nil {
		t.Error("a consumer was made")
	}
}

func TestRun_ServesOps(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	deps := r.deps(&shelf{})
	deps.Ops = ln
	r.run(deps)
	for _, path := range []string{"/livez", "/readyz", "/metrics"} {
		res, err := http.Get("http://" + ln.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestRun_FailsWithItsOpsListener(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	r := newRig(t)
	deps := r.deps(&shelf{})
	deps.Ops = ln
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := cachewriter.Run(ctx, settings, deps); err == nil || ctx.Err() != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestConfig_CheckNamesTheVariable(t *testing.T) {
	if err := settings.Check(); err != nil {
		t.Error(err)
	}
	short := settings
	short.EventsMaxAge = 36 * day
	none := settings
	none.CacheTTL = 0
	for want, c := range map[string]cachewriter.Config{"EVENTS_MAX_AGE": short, "CACHE_TTL": none} {
		if err := c.Check(); err == nil || !strings.HasPrefix(err.Error(), want+":") {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}
