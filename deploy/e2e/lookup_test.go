package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nats-io/nats.go"

	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

var sunat = ruc.MustParse("20131312955")

func TestLookup_MissThenHitThenHitAfterARestart(t *testing.T) {
	data := t.TempDir()
	r := start(t, data)
	status, h, first := r.lookup(sunat)
	a := r.answer(sunat, status, first)
	if got := h.Get("Cache-Status"); got != "rucflow; fwd=miss; stored" {
		t.Errorf("first: Cache-Status %q", got)
	}
	if a.Fuente != ruc.FuenteReplica || a.Motor != ruc.MotorChrome {
		t.Errorf("fuente %q, motor %q", a.Fuente, a.Motor)
	}
	_, h, second := r.get("/v1/ruc/20131312955")
	if second != first || !strings.HasPrefix(h.Get("Cache-Status"), "rucflow; hit; ttl=6047") || !strings.HasSuffix(h.Get("Cache-Status"), "detail=memory") {
		t.Errorf("second: Cache-Status %q, same body %v", h.Get("Cache-Status"), second == first)
	}
	if h.Get("ETag") != `W/"`+a.Huella+`"` || h.Get("Cache-Control") != "private, max-age=604800" || h.Get("Age") == "" || h.Get("Last-Modified") == "" {
		t.Errorf("second: headers %v", h)
	}
	if n := r.visits(sunat); n != 1 {
		t.Errorf("%d visits", n)
	}
	r.stop()
	if left := r.browserProcesses(""); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
	if entries, err := os.ReadDir(r.tmp); err != nil || len(entries) > 0 {
		t.Errorf("temporary entries left: %v, %v", entries, err)
	}

	r = start(t, data)
	status, h, third := r.lookup(sunat)
	if status != http.StatusOK || third != first || !strings.HasSuffix(h.Get("Cache-Status"), "detail=file") {
		t.Errorf("after a restart: %d, Cache-Status %q, same body %v", status, h.Get("Cache-Status"), third == first)
	}
	if n := r.visits(sunat); n != 0 {
		t.Errorf("%d visits after the restart", n)
	}
}

func TestLookup_EveryCaseOfTheReplicaThroughChromium(t *testing.T) {
	everyCase(t, start(t, t.TempDir()))
}

func everyCase(t *testing.T, r *rig) {
	for _, c := range replica.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			r := &rig{Addrs: r.Addrs, t: t}
			status, _, body := r.lookup(c.Number)
			a := r.answer(c.Number, status, body)
			if a.Record == nil {
				return
			}
			if a.FechaConsultaSunat == nil || time.Since(*a.FechaConsultaSunat).Abs() > 2*time.Minute {
				t.Errorf("fechaConsultaSunat %v", a.FechaConsultaSunat)
			}
			if diff := cmp.Diff(c.Taxpayer.Record, *a.Record, cmpopts.IgnoreFields(ruc.Record{}, "FechaConsultaSunat")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestLookup_NotFoundIsKept(t *testing.T) {
	notFoundIsKept(t, start(t, t.TempDir()))
}

func notFoundIsKept(t *testing.T, r *rig) {
	for _, n := range []ruc.Number{ruc.MustParse("20000000001"), ruc.FromPrefix("2099123456")} {
		for _, detail := range []string{"stored", "detail=memory"} {
			status, h, body := r.lookup(n)
			p := r.problem(h, status, body)
			if p.Code != ruc.NotFound || status != http.StatusNotFound || h.Get("Cache-Control") != "private, max-age=3600" || !strings.HasSuffix(h.Get("Cache-Status"), detail) {
				t.Errorf("%s: %d %q %v", n, status, p.Code, h)
			}
		}
		if v := r.visits(n); v != 1 {
			t.Errorf("%s: %d visits", n, v)
		}
	}
}

func TestNATS_RequestsEventsAndDiscovery(t *testing.T) {
	natsSpeaks(t, start(t, t.TempDir()))
}

func natsSpeaks(t *testing.T, r *rig) {
	nc := r.connect()
	events, err := nc.SubscribeSync(wire.SubjectResolved)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(subject, payload string) *nats.Msg {
		t.Helper()
		m, err := nc.Request(subject, []byte(payload), 20*time.Second)
		if err != nil {
			t.Fatalf("%s %s: %v", subject, payload, err)
		}
		return m
	}
	n := fresh(3)
	resolved := ask(wire.SubjectResolve, n.String())
	looked := ask(wire.SubjectLookup, `{"ruc":"`+n.String()+`"}`)
	_, _, body := r.lookup(n)
	event, err := events.NextMsg(5 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]string{"ruc.resolve": string(resolved.Data), "ruc.lookup": string(looked.Data), "ruc.resolved": string(event.Data)} {
		if got != body {
			t.Errorf("%s brought other bytes than HTTP:\n%s\n%s", name, got, body)
		}
	}
	for name, want := range map[string]string{"ce-type": "pe.ruc.resolved.v1", "ce-subject": n.String(), "ce-specversion": "1.0", "ce-id": event.Header.Get("Nats-Msg-Id")} {
		if got := event.Header.Get(name); got != want || got == "" {
			t.Errorf("event header %s = %q, want %q", name, got, want)
		}
	}
	for payload, code := range map[string]ruc.Code{"20000000001": ruc.NotFound, "20123456789": ruc.Invalid, "x": ruc.Invalid} {
		for _, subject := range []string{wire.SubjectLookup, wire.SubjectResolve} {
			m := ask(subject, payload)
			var p wire.Problem
			if err := json.Unmarshal(m.Data, &p); err != nil || m.Header.Get(wire.HeaderError) != string(code) || p.Code != code || m.Header.Get(wire.HeaderErrorCode) == "" {
				t.Errorf("%s %s: %v %v %s", subject, payload, err, m.Header, m.Data)
			}
		}
	}
	nc = r.connectAs("admin") // discovery is not for clients
	for _, name := range []string{wire.GatewayService, wire.ScraperService} {
		for _, verb := range []string{"PING", "INFO", "STATS"} {
			if m := ask("$SRV."+verb+"."+name, ""); !strings.Contains(string(m.Data), `"name":"`+name+`"`) {
				t.Errorf("$SRV.%s.%s: %s", verb, name, m.Data)
			}
		}
	}
}

// callers is how many ask for one cold number at a time.
const callers = 200

func TestOneVisit_ForManyHTTPCallers(t *testing.T) {
	r := start(t, t.TempDir())
	r.fault(replica.Fault{Kind: replica.FaultSlow, DelayMs: 300})
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			status, _, body := r.lookup(sunat)
			r.answer(sunat, status, body)
		})
	}
	wg.Wait()
	if n := r.visits(sunat); n != 1 {
		t.Errorf("%d visits", n)
	}
}

func TestOneVisit_ForManyNATSCallers(t *testing.T) {
	r := start(t, t.TempDir())
	r.fault(replica.Fault{Kind: replica.FaultSlow, DelayMs: 300})
	resolveMany(t, r, sunat, func(int) time.Duration { return 0 })
	if n := r.visits(sunat); n != 1 {
		t.Errorf("%d visits", n)
	}
}

func TestOneVisit_ForCallersAroundTheAck(t *testing.T) {
	oneVisitAroundTheAck(t, start(t, t.TempDir()))
}

func oneVisitAroundTheAck(t *testing.T, r *rig) {
	defer r.clear()
	r.fault(replica.Fault{Kind: replica.FaultSlow, DelayMs: 400})
	// The first asks at 0; the visit ends at about 0.5 s; the others come evenly over
	// the second around that.
	first, other := fresh(2), fresh(1)
	resolveMany(t, r, first, func(i int) time.Duration { return time.Duration(i) * time.Second / callers })
	if n := r.visits(first); n != 1 {
		t.Errorf("%d visits straight through ruc.resolve", n)
	}
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			<-time.After(time.Duration(i) * time.Second / callers)
			status, _, body := r.lookup(other)
			r.answer(other, status, body)
		})
	}
	wg.Wait()
	if n := r.visits(other); n != 1 {
		t.Errorf("%d visits over HTTP", n)
	}
}

// resolveMany asks ruc.resolve from many callers, each after its own pause.
func resolveMany(t *testing.T, r *rig, n ruc.Number, after func(i int) time.Duration) {
	t.Helper()
	nc := r.connect()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			<-time.After(after(i))
			m, err := nc.RequestWithContext(ctx, wire.SubjectResolve, []byte(n.String()))
			if err != nil {
				t.Errorf("caller %d: %v", i, err)
				return
			}
			if reply, err := wire.ReadReply(n, m); err != nil || !reply.Prefix.Found {
				t.Errorf("caller %d: %v: %s", i, err, m.Data)
			}
		})
	}
	wg.Wait()
}
