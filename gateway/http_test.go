package gateway_test

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/micro"

	"github.com/rucflow/rucflow/gateway"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

const wrongFormat = "El formato del RUC no es válido. Debe tener 11 dígitos."

func TestHTTP_RefusesWhatIsNoNumber(t *testing.T) {
	r := start(t)
	fleet := r.scraper(r.resolves)
	for path, detail := range map[string]string{
		"abcdefghijk":    wrongFormat,
		"2013131295":     wrongFormat,
		"201313129550":   wrongFormat,
		"2013131295O":    wrongFormat,
		"20131312955%00": wrongFormat,
		"2013131295%00":  wrongFormat,
		"%00":            wrongFormat,
		"+20131312955":   wrongFormat,
		"20131312955%20": wrongFormat,
		"-2013131295":    wrongFormat,
		"%EF%BC%92%EF%BC%90%EF%BC%91%EF%BC%93%EF%BC%91%EF%BC%93%EF%BC%91%EF%BC%92%EF%BC%99%EF%BC%95%EF%BC%95": wrongFormat, // full width
		"%D9%A2%D9%A0%D9%A1%D9%A3%D9%A1%D9%A3%D9%A1%D9%A2%D9%A9%D9%A5%D9%A5":                                  wrongFormat, // Arabic
		"20123456789":                 "El RUC 20123456789 no es válido: el dígito de verificación es 9 y debería ser 6.",
		strings.Repeat("9", 8<<10):    wrongFormat,
		"20131312955;DROP":            wrongFormat,
		"..%2F..%2Fetc%2Fpasswd":      wrongFormat,
		"20131312955%0d%0aX-Evil:%20": wrongFormat,
	} {
		for _, route := range []string{"/obtener-ruc/", "/v1/ruc/"} {
			got := r.get(route + path)
			p := got.problem(t)
			if got.StatusCode != http.StatusBadRequest || p.Code != ruc.Invalid || p.Detail != detail || p.Retryable || p.RUC != "" {
				t.Errorf("%.60s: %d %s", path, got.StatusCode, got.body)
			}
		}
	}
	if n := fleet.asked.Load(); n != 0 {
		t.Errorf("the scraper was asked %d times", n)
	}
}

func TestHTTP_Refuses(t *testing.T) {
	r := start(t)
	const large = 1 << 20
	for name, tc := range map[string]struct {
		request string
		status  int
		code    ruc.Code
		detail  string
		allow   string
	}{
		"unknown route":   {"GET /ruc HTTP/1.1\r\nHost: x\r\n\r\n", 404, ruc.NoRoute, "La ruta solicitada no existe.", ""},
		"no number":       {"GET /v1/ruc/ HTTP/1.1\r\nHost: x\r\n\r\n", 404, ruc.NoRoute, "La ruta solicitada no existe.", ""},
		"wrong method":    {"PUT /v1/ruc/20131312955 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405, ruc.Method, "La ruta no admite este método HTTP.", "GET, HEAD, DELETE"},
		"huge path":       {"GET /v1/ruc/" + strings.Repeat("1", large) + " HTTP/1.1\r\nHost: x\r\n\r\n", 431, ruc.TooLarge, "La solicitud supera el tamaño permitido.", ""},
		"huge header":     {"GET /v1/ruc/20131312955 HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("1", large) + "\r\n\r\n", 431, ruc.TooLarge, "La solicitud supera el tamaño permitido.", ""},
		"huge body":       {"POST /v1/ruc/lote HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\n" + strings.Repeat("1", large), 413, ruc.TooLarge, "La solicitud supera el tamaño permitido.", ""},
		"huge chunk":      {"POST /v1/ruc/lote HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n100000\r\n" + strings.Repeat("1", large) + "\r\n0\r\n\r\n", 413, ruc.TooLarge, "La solicitud supera el tamaño permitido.", ""},
		"no HTTP at all":  {"hello\r\n\r\n", 400, ruc.BadBody, "La solicitud HTTP no se entiende.", ""},
		"impossible size": {"POST /v1/ruc/lote HTTP/1.1\r\nHost: x\r\nContent-Length: -7\r\n\r\n", 400, ruc.BadBody, "La solicitud HTTP no se entiende.", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := r.raw(tc.request)
			p := got.problem(t)
			if got.StatusCode != tc.status || p.Code != tc.code || p.Detail != tc.detail {
				t.Errorf("%d %s", got.StatusCode, got.body)
			}
			if allow := got.Header.Get("Allow"); allow != tc.allow {
				t.Errorf("Allow %q", allow)
			}
		})
	}
}

func TestHTTP_RequestID(t *testing.T) {
	r := start(t)
	a := r.found(number)
	r.publish(a)
	r.holds(a)
	for name, tc := range map[string]struct {
		sent string
		kept bool
	}{
		"sane":           {"abc-123/é"[:7], true},
		"longest":        {strings.Repeat("x", 128), true},
		"too long":       {strings.Repeat("x", 129), false},
		"with a blank":   {"a b", false},
		"with a tab":     {"a\tb", false},
		"not ASCII":      {"año", false},
		"with an escape": {"a\x7fb", false},
	} {
		t.Run(name, func(t *testing.T) {
			for path, status := range map[string]int{"/v1/ruc/" + number.String(): 200, "/v1/ruc/7": 400, "/nada": 404} {
				got := r.raw("GET " + path + " HTTP/1.1\r\nHost: x\r\nX-Request-Id: " + tc.sent + "\r\n\r\n")
				id := got.Header.Get("X-Request-Id")
				if got.StatusCode != status || id == "" || (id == tc.sent) != tc.kept {
					t.Errorf("%s: %d, sent %q, got %q", path, got.StatusCode, tc.sent, id)
				}
			}
		})
	}
	one, two := r.get("/nada").problem(t), r.get("/nada").problem(t)
	if one.RequestID == two.RequestID {
		t.Errorf("two requests, one id: %s", one.RequestID)
	}
}

func TestHTTP_Health(t *testing.T) {
	r := start(t, func(_ *gateway.Config, d *gateway.Deps) { d.Store = noStore{} })
	want := `{"status":"degraded","redis":"not configured","nats":"connected","scrapers":0,"cache":"memory","sunat":"ok","hitRate":null,"queue":null}`
	got := r.get("/health")
	if diff := cmp.Diff(want, got.body); diff != "" || got.StatusCode != http.StatusOK || got.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %v (-want +got):\n%s", got.StatusCode, got.Header, diff)
	}
	r.scraper(func(req micro.Request, n ruc.Number) { r.resolves(req, n) })
	want = `{"status":"healthy","redis":"not configured","nats":"connected","scrapers":1,"cache":"memory","sunat":"ok","hitRate":null,"queue":null}`
	eventually(t, want, func() bool { return r.get("/health").body == want })
}

func TestHTTP_HealthShowsThePause(t *testing.T) {
	r := start(t)
	r.scraper(func(req micro.Request, n ruc.Number) { r.resolves(req, n) })
	healthy := `{"status":"healthy","redis":"not configured","nats":"connected","scrapers":1,"cache":"memory","sunat":"ok","hitRate":null,"queue":null}`
	shows := func(want string) {
		t.Helper()
		eventually(t, want, func() bool {
			got := r.get("/health")
			return got.StatusCode == http.StatusOK && got.body == want
		})
	}
	shows(healthy)
	// The first scraper of a fleet may come after the gateway, and the bucket with it.
	p := wire.Provisioner{JS: r.js, Warn: func(what, field, _, _ string) { t.Errorf("differs: %s %s", what, field) }}
	if err := p.State(t.Context()); err != nil {
		t.Fatal(err)
	}
	scraper := wire.NewPauseWatch(r.nc, r.js, wire.NewClock(time.Now), func(err error) { t.Errorf("reported: %v", err) })
	s, won, err := scraper.Replace(t.Context(), 0, wire.Pause{For: time.Hour, N: 1})
	if err != nil || !won {
		t.Fatalf("%v, %v", won, err)
	}
	var got struct {
		Status, SUNAT string
		PauseSeconds  int
	}
	eventually(t, "the pause is seen", func() bool {
		b := r.get("/health")
		if err := json.Unmarshal([]byte(b.body), &got); err != nil || b.StatusCode != http.StatusOK {
			t.Fatalf("%d %s: %v", b.StatusCode, b.body, err)
		}
		return got.SUNAT == "paused"
	})
	if got.Status != "degraded" || got.PauseSeconds < 3500 || got.PauseSeconds > 3600 {
		t.Errorf("%+v", got)
	}
	if won, err := scraper.Clear(t.Context(), s.Revision); err != nil || !won {
		t.Fatalf("%v, %v", won, err)
	}
	shows(healthy)
}

func TestHTTP_Ops(t *testing.T) {
	ops := listen(t)
	r := start(t, func(_ *gateway.Config, d *gateway.Deps) { d.Ops = ops })
	a := r.found(number)
	r.scraper(func(req micro.Request, _ ruc.Number) { r.reply(req, a) })
	for range 3 {
		r.get("/v1/ruc/" + number.String())
	}
	r.url = "http://" + ops.Addr().String()
	got := r.get("/metrics").body
	for _, want := range []string{
		`ruc_lookup_duration_seconds_count{layer="visit",outcome="found"} 1`,
		`ruc_lookup_duration_seconds_count{layer="memory",outcome="found"} 2`,
		"ruc_store_failures_total 0",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if strings.Contains(got, number.String()) {
		t.Error("a metric names a taxpayer")
	}
	for _, path := range []string{"/livez", "/readyz"} {
		if got := r.get(path); got.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", path, got.StatusCode)
		}
	}
}

// Who sends a byte now and then has as long as anybody else.
func TestHTTP_CutsOffSlowClients(t *testing.T) {
	t.Parallel()
	r := start(t)
	var wg sync.WaitGroup
	defer wg.Wait()
	for name, tc := range map[string]struct{ begin, more, want string }{
		"headers that do not end":  {"GET /livez HTTP/1.1\r\nHost: x\r\nX", "x", "HTTP/1.1 408 "},
		"nothing but line breaks":  {"", "\r\n", ""},
		"a body that does not end": {"POST /v1/cache/invalidar HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n", "{", "HTTP/1.1 408 "},
		"chunks without end":       {"POST /v1/cache/invalidar HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\n{\r\n", "HTTP/1.1 408 "},
		"a second request":         {"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\nX", "x", "HTTP/1.1 200 "},
		"a large body":             {"POST /v1/cache/invalidar HTTP/1.1\r\nHost: x\r\nContent-Length: 600000\r\n\r\n" + strings.Repeat("x", 70_000), "x", "HTTP/1.1 408 "},
	} {
		wg.Go(func() {
			conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			began := time.Now()
			_ = conn.SetDeadline(began.Add(3 * patience))
			stop := make(chan struct{})
			defer close(stop)
			wg.Go(func() {
				tick := time.NewTicker(50 * time.Millisecond)
				defer tick.Stop()
				_, err := io.WriteString(conn, tc.begin)
				for err == nil {
					select {
					case <-stop:
						return
					case <-tick.C:
						_, err = io.WriteString(conn, tc.more)
					}
				}
			})
			got, err := io.ReadAll(conn) // it may end with a reset
			if took := time.Since(began); took > 2*patience || !strings.HasPrefix(string(got), tc.want) || tc.want == "" && len(got) > 0 {
				t.Errorf("%s: after %v, %v: %.300q", name, took, err, got)
			}
		})
	}
}

// What follows a body that cannot be read could be the rest of it.
func TestHTTP_RestOfABrokenBodyIsNoRequest(t *testing.T) {
	r := start(t)
	for _, body := range []string{
		"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
		"Transfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n",
		"Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("10000\r\n"+strings.Repeat("x", 0x10000)+"\r\n", 2) + "zz\r\n",
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(conn, "POST /v1/cache/invalidar HTTP/1.1\r\nHost: x\r\n"+body+"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Error(err)
		}
		got, err := io.ReadAll(conn)
		if strings.Count(string(got), "HTTP/1.1 ") != 1 || !strings.HasPrefix(string(got), "HTTP/1.1 400 ") {
			t.Errorf("%.60q: %v, %q", body, err, got)
		}
		_ = conn.Close()
	}
}
