package scraper

import (
	"context"
	"errors"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/scraper/browser"
	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/scraper/sunat"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
)

// ended is how a visit ended: the cause where no page came, else the code of the page; ""
// is an answer.
func ended(p sunat.Page, err error, n ruc.Number) string {
	var v *sunat.VisitError
	if errors.As(err, &v) {
		return string(v.Cause)
	}
	if err == nil {
		_, err = sunat.Parse(p, n)
	}
	if err == nil {
		return ""
	}
	return string(codeOf(err))
}

// site is a replica on the loopback.
func site(t *testing.T) (*replica.Server, service.Site) {
	t.Helper()
	s := replica.New(replica.Config{}, time.Now)
	server := httptest.NewServer(s)
	t.Cleanup(func() { s.Close(); server.CloseClientConnections(); server.Close() })
	return s, service.Site{URL: server.URL + replica.FormPath}
}

// startEngine runs an engine until the test ends.
func startEngine(t *testing.T, cfg Config) engine {
	t.Helper()
	cfg.Slots, cfg.ChromePath, cfg.ChromeSandbox = 1, os.Getenv("CHROME_PATH"), "auto"
	e, err := newEngine(cfg, Deps{Log: zerolog.Nop(), Now: time.Now}, browser.Observe{Slots: func(int, int, int) {}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return e
}

// TestEngines_EndVisitsAlike: each fault of the site means the same to every engine, and visits
// go on after them.
func TestEngines_EndVisitsAlike(t *testing.T) {
	const answer = ""
	silent, reset := string(sunat.CauseSilent), string(sunat.CauseReset)
	blocked, unavailable, changed := string(ruc.Blocked), string(ruc.Unavailable), string(ruc.Changed)
	faults := []struct {
		fault replica.Fault
		want  string
	}{
		{fault: replica.Fault{Kind: replica.FaultSlow, DelayMs: 200}, want: answer},
		{fault: replica.Fault{Kind: replica.FaultAlert}, want: answer},
		{fault: replica.Fault{Kind: replica.FaultAlertLoad}, want: answer},
		{fault: replica.Fault{Kind: replica.FaultPopup}, want: answer},
		{fault: replica.Fault{Kind: replica.FaultHalf}, want: unavailable},
		{fault: replica.Fault{Kind: replica.FaultOtherRUC}, want: changed},
		{fault: replica.Fault{Kind: replica.FaultNotFoundOther}, want: changed},
		{fault: replica.Fault{Kind: replica.FaultRename}, want: changed},
		{fault: replica.Fault{Kind: replica.FaultError}, want: unavailable},
		{fault: replica.Fault{Kind: replica.FaultWAF}, want: blocked},
		{fault: replica.Fault{Kind: replica.FaultEmpty}, want: unavailable},
		{fault: replica.Fault{Kind: replica.FaultBounce}, want: unavailable},
		{fault: replica.Fault{Kind: "401"}, want: unavailable},
		{fault: replica.Fault{Kind: "403"}, want: blocked},
		{fault: replica.Fault{Kind: "429"}, want: blocked},
		{fault: replica.Fault{Kind: "500"}, want: unavailable},
		{fault: replica.Fault{Kind: "502"}, want: unavailable},
		{fault: replica.Fault{Kind: "503"}, want: unavailable},
		{fault: replica.Fault{Kind: "504"}, want: unavailable},
		{fault: replica.Fault{Kind: replica.FaultReset}, want: reset},
		{fault: replica.Fault{Kind: replica.FaultHang}, want: silent},
		{fault: replica.Fault{Kind: replica.FaultHalfOpen}, want: silent},
		{fault: replica.Fault{Kind: replica.FaultLoop}, want: answer},
	}
	n := ruc.MustParse("20131312955")
	for _, motor := range engines {
		t.Run(motor, func(t *testing.T) {
			t.Parallel()
			fake, at := site(t)
			try := func(e engine, fault replica.Fault, want string) (took time.Duration) {
				if err := e.WaitReady(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := fake.SetFault(fault); err != nil {
					t.Fatal(err)
				}
				defer fake.ClearFaults()
				began := time.Now()
				p, err := e.Visit(t.Context(), n, nil)
				if got := ended(p, err, n); got != want {
					t.Errorf("%s ended as %q, want %q: %v", fault.Kind, got, want, err)
				}
				return time.Since(began)
			}
			patient := startEngine(t, Config{Site: at, Engine: motor, AttemptTimeout: patience})
			const attempt = time.Second
			hasty := startEngine(t, Config{Site: at, Engine: motor, AttemptTimeout: attempt})
			for _, tt := range faults {
				if tt.want != silent {
					try(patient, tt.fault, tt.want)
				} else if took := try(hasty, tt.fault, tt.want); took < attempt {
					t.Errorf("%s ended after %v", tt.fault.Kind, took)
				}
			}
			try(patient, replica.Fault{Kind: replica.FaultSlow, DelayMs: 1}, answer)
		})
	}
}
