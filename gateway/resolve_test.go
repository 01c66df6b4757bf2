package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/gateway"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// begin starts a lookup and returns where its response will be.
func (r *rig) begin(n ruc.Number) <-chan response {
	got := make(chan response, 1)
	go func() { got <- r.get("/v1/ruc/" + n.String()) }()
	return got
}

func (r *rig) waitAsked(f *fleet, times int64) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("the scraper is asked %d times", times), func() bool { return f.asked.Load() >= times })
}

func TestResolve_AsksWithTheTimeLeft(t *testing.T) {
	t.Parallel()
	waits := make(chan time.Duration, 1)
	r := start(t, func(c *gateway.Config, _ *gateway.Deps) { c.RequestTimeout = 3 * time.Second })
	r.clock.advance(-time.Hour) // no clock but its own may matter
	r.scraper(func(req micro.Request, n ruc.Number) {
		waits <- wire.Wait(req.Headers().Get)
		r.resolves(req, n)
	})
	r.get("/v1/ruc/" + number.String())
	if wait := <-waits; wait > 3*time.Second || wait < 2*time.Second {
		t.Errorf("the scraper was told to take %v", wait)
	}
}

// A lookup that is no hit is one line of the log here, and can be followed elsewhere.
func TestResolve_PassesTheTraceOnAndLogsOneLine(t *testing.T) {
	t.Parallel()
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	person := ruc.FromPrefix("1040123456") // whose digits 3 to 10 are a national id
	var log bytes.Buffer
	r := start(t, func(_ *gateway.Config, d *gateway.Deps) { d.Log = zerolog.New(zerolog.SyncWriter(&log)) })
	r.scraper(func(req micro.Request, n ruc.Number) {
		if h := req.Headers(); h.Get("X-Request-Id") != "mine-1" || h.Get("traceparent") != parent {
			t.Errorf("the scraper got %v", h)
		}
		if n == person {
			r.refuses(req, n, &ruc.Error{Code: ruc.Changed})
			return
		}
		r.resolves(req, n)
	})
	trace := []string{"X-Request-Id", "mine-1", "Traceparent", parent}
	for range 2 { // the second is a hit
		r.get("/v1/ruc/"+number.String(), trace...)
	}
	r.get("/v1/ruc/"+person.String(), trace...)
	m := nats.NewMsg(wire.SubjectLookup)
	m.Data = []byte(second.String())
	m.Header.Set("X-Request-Id", "mine-1")
	m.Header.Set("traceparent", parent)
	if _, err := r.nc.RequestMsg(m, patience); err != nil {
		t.Fatal(err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(log.String()) {
		var l struct{ Message, Ruc, Req, Layer, Code string }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		if l.Req != "" {
			got = append(got, strings.Join([]string{l.Message, l.Ruc, l.Req, l.Layer, l.Code}, " "))
		}
	}
	want := []string{"lookup 20131312955 mine-1 visit ", "lookup " + person.Masked() + " mine-1  changed", "lookup 20100055237 mine-1 visit "}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	if strings.Contains(log.String(), person.String()[2:10]) {
		t.Error("the log holds a national id")
	}
}

func TestResolve_EventEndsTheWait(t *testing.T) {
	t.Parallel()
	r := start(t)
	fleet := r.scraper(silent)
	for name, tc := range map[string]struct {
		n       ruc.Number
		publish func(ruc.Number)
		status  int
		want    string
	}{
		"found":     {number, func(n ruc.Number) { r.publish(r.found(n)) }, http.StatusOK, `"razonSocial":"EJEMPLO & HIJOS S.A.C."`},
		"not found": {second, func(n ruc.Number) { r.publish(missingAt(n, r.clock.now())) }, http.StatusNotFound, `"code":"not-found"`},
		"failed": {third, func(n ruc.Number) {
			r.publishFailure(n, &ruc.Error{Code: ruc.Changed, Detail: "No se pudo.", Attempts: 2})
		}, http.StatusBadGateway, `"detail":"No se pudo."`},
	} {
		t.Run(name, func(t *testing.T) {
			asked := fleet.asked.Load()
			got := r.begin(tc.n)
			r.waitAsked(fleet, asked+1)
			tc.publish(tc.n)
			if a := <-got; a.StatusCode != tc.status || !strings.Contains(a.body, tc.want) {
				t.Errorf("%d %s", a.StatusCode, a.body)
			}
		})
	}
}

func TestResolve_ErrorsKeepTheirCode(t *testing.T) {
	r := start(t)
	sent := &ruc.Error{}
	r.scraper(func(req micro.Request, n ruc.Number) { r.refuses(req, n, sent) })
	for code, status := range map[ruc.Code]int{
		ruc.Overloaded: 503, ruc.Timeout: 504, ruc.Unavailable: 503, ruc.Blocked: 503, ruc.Changed: 502, ruc.Internal: 500,
	} {
		t.Run(string(code), func(t *testing.T) {
			*sent = ruc.Error{Code: code, Detail: "Detalle de la prueba.", RetryAfter: 6500 * time.Millisecond, Attempts: 3, Err: errors.New("secret")}
			got := r.get("/v1/ruc/" + number.String())
			p := got.problem(t)
			if got.StatusCode != status || p.Code != code || p.RUC != number.String() || p.Detail != "Detalle de la prueba." || p.Attempts != 3 {
				t.Errorf("%d %s", got.StatusCode, got.body)
			}
			if p.RetryAfter != 7 || strings.Contains(got.body, "secret") {
				t.Errorf("%s", got.body)
			}
		})
	}
}

func TestResolve_ErrorIsNotKept(t *testing.T) {
	r := start(t)
	refuse := true
	fleet := r.scraper(func(req micro.Request, n ruc.Number) {
		if refuse {
			r.refuses(req, n, &ruc.Error{Code: ruc.Unavailable})
			return
		}
		r.resolves(req, n)
	})
	if got := r.get("/v1/ruc/" + number.String()); got.StatusCode != http.StatusServiceUnavailable {
		t.Fatalf("%d %s", got.StatusCode, got.body)
	}
	refuse = false
	if got := r.get("/v1/ruc/" + number.String()); got.StatusCode != http.StatusOK || fleet.asked.Load() != 2 {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
}

func TestResolve_ReplyThatNamesAnotherNumberIsRefused(t *testing.T) {
	r := start(t)
	r.scraper(func(req micro.Request, _ ruc.Number) { r.respond(req, r.found(second), 1) })
	for range 2 {
		if p := r.get("/v1/ruc/" + number.String()).problem(t); p.Code != ruc.Internal {
			t.Errorf("%+v", p)
		}
	}
}

func TestResolve_NobodyAnswers(t *testing.T) {
	t.Parallel()
	r := start(t)
	began := time.Now()
	p := r.get("/v1/ruc/" + number.String()).problem(t)
	// A scraper that restarts gets 200 ms.
	if took := time.Since(began); took < 200*time.Millisecond || took > 2*time.Second {
		t.Errorf("took %v", took)
	}
	if p.Code != ruc.Unavailable || p.RetryAfter == 0 {
		t.Errorf("%+v", p)
	}
}

func TestResolve_ScraperThatRestartsIsWaitedFor(t *testing.T) {
	t.Parallel()
	looked := make(chan struct{})
	r := start(t, func(_ *gateway.Config, d *gateway.Deps) {
		d.Store = storeFunc(func(context.Context, ruc.Number) ([]byte, bool, error) {
			close(looked)
			return nil, false, nil
		})
	})
	nc := r.connect("scraper")
	got := r.begin(number)
	<-looked // a moment before the scrapers are asked
	r.scraperOn(nc, r.resolves)
	if a := <-got; a.StatusCode != http.StatusOK {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

func TestResolve_AsksAgainWhenNothingComes(t *testing.T) {
	t.Parallel()
	r := start(t)
	var fleet *fleet
	ready := make(chan struct{})
	fleet = r.scraper(func(req micro.Request, n ruc.Number) {
		<-ready
		if fleet.asked.Load() > 1 { // the first is lost
			r.resolves(req, n)
		}
	})
	close(ready)
	began := time.Now()
	got := r.get("/v1/ruc/" + number.String())
	if took := time.Since(began); got.StatusCode != http.StatusOK || fleet.asked.Load() != 2 || took < 4*time.Second {
		t.Errorf("%d after %v, asked %d times", got.StatusCode, took, fleet.asked.Load())
	}
}

func TestResolve_TimesOut(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *gateway.Config, _ *gateway.Deps) { c.RequestTimeout = 300 * time.Millisecond })
	r.scraper(silent)
	began := time.Now()
	got := r.get("/v1/ruc/" + number.String())
	if p := got.problem(t); got.StatusCode != http.StatusGatewayTimeout || p.Code != ruc.Timeout || !p.Retryable {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
	if took := time.Since(began); took < 300*time.Millisecond || took > 2*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestResolve_RefusesBeyondMaxPending(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *gateway.Config, _ *gateway.Deps) { c.MaxPending = 2 })
	release := make(chan struct{})
	free := sync.OnceFunc(func() { close(release) })
	defer free()
	fleet := r.scraper(func(req micro.Request, n ruc.Number) {
		<-release
		r.resolves(req, n)
	})
	one, two := r.begin(number), r.begin(second)
	r.waitAsked(fleet, 2)
	got := r.get("/v1/ruc/" + third.String())
	if p := got.problem(t); got.StatusCode != http.StatusServiceUnavailable || p.Code != ruc.Overloaded || p.RetryAfter != 2 {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
	joiner := r.begin(number) // shares, and so costs nothing
	free()
	for _, c := range []<-chan response{one, two, joiner} {
		if a := <-c; a.StatusCode != http.StatusOK {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
	}
	if a := r.get("/v1/ruc/" + third.String()); a.StatusCode != http.StatusOK {
		t.Errorf("once there is room: %d %s", a.StatusCode, a.body)
	}
}

// natsIs waits until /health says so.
func (r *rig) natsIs(state string) {
	r.t.Helper()
	eventually(r.t, "NATS is "+state, func() bool { return strings.Contains(r.get("/health").body, `"nats":"`+state+`"`) })
}

func TestNATSGone_MemoryServesAndTheRestIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	r := start(t)
	a := r.found(number)
	r.publish(a)
	r.holds(a)
	back := r.stopBus()
	defer back() // stopped once more by the rig
	r.natsIs("disconnected")
	// The gateway dates the loss when it hears of it, so the first lookups may wait.
	r.web.Timeout = 500 * time.Millisecond
	eventually(t, "a lookup is refused at once", func() bool {
		r.clock.advance(6 * time.Second)
		res, err := r.web.Get(r.url + "/v1/ruc/" + second.String())
		if err != nil {
			return false
		}
		p := read(t, res).problem(t)
		return p.Code == ruc.Unavailable && p.RetryAfter > 0
	})
	for range 3 { // not by a wait that ended
		if p := r.get("/v1/ruc/" + third.String()).problem(t); p.Code != ruc.Unavailable {
			t.Errorf("%+v", p)
		}
	}
	if got := r.get("/v1/ruc/" + number.String()); got.StatusCode != http.StatusOK || got.Header.Get("ETag") != etag(a) {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
	if got := r.get("/readyz"); got.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("/readyz: %d", got.StatusCode)
	}
}

func TestNATSGone_LookupUnderWayEndsAfterFiveSeconds(t *testing.T) {
	t.Parallel()
	r := start(t)
	fleet := r.scraper(silent)
	got := r.begin(number)
	r.waitAsked(fleet, 1)
	began := time.Now()
	back := r.stopBus()
	defer back()
	if p := (<-got).problem(t); p.Code != ruc.Unavailable {
		t.Errorf("%+v", p)
	}
	if took := time.Since(began); took < 4*time.Second || took > 8*time.Second {
		t.Errorf("took %v", took)
	}
}

// The second asking may reach a scraper that sees no room for a job which the first one
// has on the queue already.
func TestMiss_RefusalOfALaterAskingIsNotTheAnswer(t *testing.T) {
	t.Parallel()
	r := start(t)
	a := r.found(number)
	var fleet *fleet
	ready := make(chan struct{})
	fleet = r.scraper(func(req micro.Request, n ruc.Number) {
		<-ready
		if fleet.asked.Load() > 1 {
			r.refuses(req, n, &ruc.Error{Code: ruc.Overloaded, RetryAfter: time.Minute})
			time.AfterFunc(200*time.Millisecond, func() { r.publish(a) })
		}
	})
	close(ready)
	got := r.get("/v1/ruc/" + number.String())
	if got.StatusCode != http.StatusOK || fleet.asked.Load() < 2 {
		t.Errorf("%d %s, asked %d times", got.StatusCode, got.body, fleet.asked.Load())
	}
}

func TestNATSBack_LookupUnderWayIsAskedAgain(t *testing.T) {
	t.Parallel()
	r := start(t)
	var fleet *fleet
	ready := make(chan struct{})
	fleet = r.scraper(func(req micro.Request, n ruc.Number) {
		<-ready
		if fleet.asked.Load() > 1 { // the first died with the server
			r.respond(req, r.found(n), 1)
		}
	})
	close(ready)
	got := r.begin(number)
	r.waitAsked(fleet, 1)
	began := time.Now()
	r.stopBus()()
	if a := <-got; a.StatusCode != http.StatusOK {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("took %v: not asked at the reconnect", took)
	}
}

func TestNATSBack_MemoryIsForgotten(t *testing.T) {
	t.Parallel()
	r := start(t)
	a := r.found(number)
	r.publish(a)
	r.holds(a)
	back := r.stopBus()
	r.natsIs("disconnected")
	if got := r.get("/v1/ruc/" + number.String()); !strings.HasSuffix(got.Header.Get("Cache-Status"), "detail=memory") {
		t.Errorf("while NATS is away: %d %v", got.StatusCode, got.Header)
	}
	back()
	r.natsIs("connected")
	newer := foundAt(number, "MIENTRAS TANTO", r.clock.now()) // its event was missed
	r.scraper(func(req micro.Request, _ ruc.Number) { r.respond(req, newer, 2) })
	eventually(t, "the answer from before the gap is gone", func() bool {
		return r.get("/v1/ruc/"+number.String()).Header.Get("ETag") == etag(newer)
	})
	if got := r.get("/readyz"); got.StatusCode != http.StatusOK {
		t.Errorf("/readyz: %d", got.StatusCode)
	}
}
