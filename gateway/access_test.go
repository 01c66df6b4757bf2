package gateway_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/micro"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/gateway"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/wire"
)

var path = "/v1/ruc/" + number.String()

// setting is a change of the gateway's settings.
func setting(f func(*gateway.Config)) func(*gateway.Config, *gateway.Deps) {
	return func(c *gateway.Config, _ *gateway.Deps) { f(c) }
}

// buffer is a log that a test reads.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// lines returns the lines with that message.
func (b *buffer) lines(message string) (lines []string) {
	for line := range strings.Lines(b.String()) {
		if strings.Contains(line, `"message":"`+message+`"`) {
			lines = append(lines, line)
		}
	}
	return lines
}

// keys writes a file of API keys and returns its path and the keys by name.
func keys(t *testing.T, quotas ...string) (file string, byName map[string]string) {
	t.Helper()
	file, byName = filepath.Join(t.TempDir(), "keys"), map[string]string{}
	var lines []string
	for i := 0; i < len(quotas); i += 2 {
		key, line, err := gateway.NewKey(quotas[i], quotas[i+1])
		if err != nil {
			t.Fatal(err)
		}
		byName[quotas[i]] = key
		lines = append(lines, line)
	}
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, byName
}

// refusals checks the counters of the gateway's registry.
func refusals(t *testing.T, reg *prometheus.Registry, want map[string]float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "ruc_refusals_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			got[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
		}
	}
	all := map[string]float64{"key": 0, "rate": 0, "quota": 0, "host": 0, "site": 0}
	for reason, n := range want {
		all[reason] = n
	}
	if diff := cmp.Diff(all, got); diff != "" {
		t.Errorf("refusals (-want +got):\n%s", diff)
	}
}

func TestAccess_LookupsWantAKey(t *testing.T) {
	file, key := keys(t, "facturacion", "-", "otro", "10/d")
	// Somebody took the hash of nothing for one.
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = fmt.Fprintf(f, "\nnadie %x -", sha256.Sum256(nil))
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	log, reg := &buffer{}, prometheus.NewRegistry()
	r := start(t, func(c *gateway.Config, d *gateway.Deps) {
		c.APIKeysFile, c.AdminToken = file, adminToken
		d.Log, d.Registry = zerolog.New(log), reg
	})
	r.scraper(r.resolves)
	refused := 0.0
	for name, header := range map[string][]string{
		"none":             nil,
		"admin token":      authorized,
		"unknown":          {"X-API-Key", "rucflow_" + strings.Repeat("A", 43)},
		"empty":            {"X-API-Key", ""},
		"a name":           {"Authorization", "Bearer facturacion"},
		"other scheme":     {"Authorization", "Basic " + key["facturacion"]},
		"without a scheme": {"Authorization", key["facturacion"]},
		"a part":           {"X-API-Key", key["facturacion"][:50]},
		"more":             {"X-API-Key", key["facturacion"] + "x"},
		"two keys":         {"X-API-Key", key["facturacion"] + "," + key["otro"]},
	} {
		for _, p := range []string{path, "/obtener-ruc/" + number.String(), "/v1/ruc/7"} {
			got := r.get(p, header...)
			if p := got.problem(t); p.Code != ruc.Unauthorized || got.StatusCode != http.StatusUnauthorized || got.Header.Get("WWW-Authenticate") != `Bearer realm="rucflow"` {
				t.Errorf("%s: %d %v %s", name, got.StatusCode, got.Header, got.body)
			}
			refused++
		}
	}
	if got := r.get(path + "?key=" + key["otro"]); got.StatusCode != http.StatusUnauthorized {
		t.Errorf("a key in the address: %d", got.StatusCode)
	}
	for i, header := range [][]string{
		{"X-API-Key", key["facturacion"]},
		{"Authorization", "Bearer " + key["facturacion"]},
		{"authorization", "bearer " + key["otro"]},
		{"X-API-Key", key["otro"], "Authorization", "Basic eDp5"},
	} {
		if got := r.get(path, header...); got.StatusCode != http.StatusOK {
			t.Errorf("%d: %d %s", i, got.StatusCode, got.body)
		}
	}
	for _, p := range []string{"/health", "/livez", "/readyz"} {
		if got := r.get(p); got.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", p, got.StatusCode)
		}
	}
	// The admin routes want their token and nothing else.
	if got := r.do(http.MethodDelete, path, "", "X-API-Key", key["facturacion"]); got.StatusCode != http.StatusUnauthorized {
		t.Errorf("DELETE with a key: %d", got.StatusCode)
	}
	if got := r.do(http.MethodDelete, path, "", authorized...); got.StatusCode != http.StatusNoContent {
		t.Errorf("DELETE with the token: %d", got.StatusCode)
	}
	refusals(t, reg, map[string]float64{"key": refused + 1})

	if lines := log.lines("lookup"); len(lines) != 1 || !strings.Contains(lines[0], `"key":"facturacion"`) {
		t.Errorf("logged %q", lines)
	}
	all := log.String()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(b))
	for _, secret := range []string{key["facturacion"][8:30], key["otro"][8:30], fields[1], fields[4], adminToken} {
		if strings.Contains(all, secret) {
			t.Errorf("the log tells %s", secret)
		}
	}
}

func TestAccess_KeysAreFollowedWhileItRuns(t *testing.T) {
	t.Parallel()
	file, key := keys(t, "antes", "-")
	r := start(t, setting(func(c *gateway.Config) { c.APIKeysFile = file }))
	r.publish(r.found(number))
	other, later := keys(t, "despues", "-")
	b, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	if got := r.get("/v1/ruc/7", "X-API-Key", later["despues"]); got.StatusCode != http.StatusUnauthorized {
		t.Errorf("before: %d", got.StatusCode)
	}
	if err := os.WriteFile(file, append(b, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new key is taken", func() bool {
		return r.get("/v1/ruc/7", "X-API-Key", later["despues"]).StatusCode == http.StatusBadRequest
	})
	if got := r.get("/v1/ruc/7", "X-API-Key", key["antes"]); got.StatusCode != http.StatusUnauthorized {
		t.Errorf("the old key: %d", got.StatusCode)
	}
}

func TestAccess_FaultyKeysStopTheStart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(file, []byte("# of us\nuno 1234 -\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t)
	for path, want := range map[string]string{
		file:             "API_KEYS_FILE: " + file + ": line 2: the second field is not",
		file + ".absent": "no such file",
	} {
		ln := listen(t)
		err := gateway.Run(t.Context(), gateway.Config{
			RequestTimeout: time.Second, MaxPending: 1, L1TTL: time.Minute, MemoryBytes: 1 << 20, Lifetimes: service.Lifetimes{CacheTTL: day}, APIKeysFile: path,
		}, gateway.Deps{NATS: r.mine, Store: noStore{}, HTTP: ln, Log: zerolog.Nop(), Now: time.Now, Registry: prometheus.NewRegistry()})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "API_KEYS_FILE") || strings.Contains(err.Error(), "1234") {
			t.Errorf("Run: %v", err)
		}
		_ = ln.Close()
	}
}

func TestAccess_RateLimit(t *testing.T) {
	reg := prometheus.NewRegistry()
	file, key := keys(t, "uno", "-", "dos", "-")
	r := start(t, func(c *gateway.Config, d *gateway.Deps) { c.RateLimit, c.APIKeysFile, d.Registry = "3/h", file, reg })
	r.publish(r.found(number))
	// Hits, numbers that are none and HEAD count alike.
	for i, ask := range []func(header ...string) response{
		func(h ...string) response { return r.get(path, h...) },
		func(h ...string) response { return r.do(http.MethodHead, "/obtener-ruc/"+number.String(), "", h...) },
		func(h ...string) response { return r.get("/obtener-ruc/abc", h...) },
	} {
		got := ask("X-API-Key", key["uno"])
		var left, reset int
		if _, err := fmt.Sscanf(got.Header.Get("RateLimit"), `"lookups";r=%d;t=%d`, &left, &reset); err != nil || left != 2-i || reset > 1200*(i+1) || reset < 1200*(i+1)-60 {
			t.Errorf("%d: %v, %v", i, err, got.Header)
		}
		if got.StatusCode == http.StatusTooManyRequests || got.Header.Get("RateLimit-Policy") != `"lookups";q=3;w=3600` {
			t.Errorf("%d: %d %v", i, got.StatusCode, got.Header)
		}
	}
	for range 2 {
		got := r.get(path, "X-API-Key", key["uno"])
		p := got.problem(t)
		if p.Code != ruc.RateLimited || got.StatusCode != http.StatusTooManyRequests || p.RetryAfter < 1140 || p.RetryAfter > 1200 || !strings.HasPrefix(got.Header.Get("RateLimit"), `"lookups";r=0;t=3`) {
			t.Errorf("%d %v %s", got.StatusCode, got.Header, got.body)
		}
	}
	if got := r.get(path, "X-API-Key", key["dos"]); got.StatusCode != http.StatusOK {
		t.Errorf("another key: %d", got.StatusCode)
	}
	for _, p := range []string{"/health", "/livez", "/readyz", "/nada"} {
		if got := r.get(p); got.StatusCode == http.StatusTooManyRequests || got.Header.Get("RateLimit") != "" {
			t.Errorf("%s: %d %v", p, got.StatusCode, got.Header)
		}
	}
	// Who has no key is counted by address.
	for i := range 4 {
		want := 401
		if i == 3 {
			want = 429
		}
		if got := r.get(path, "X-API-Key", strconv.Itoa(i)); got.StatusCode != want {
			t.Errorf("wrong key %d: %d", i, got.StatusCode)
		}
	}
	r.clock.advance(20 * time.Minute)
	for _, want := range []int{200, 429} {
		if got := r.get(path, "X-API-Key", key["uno"]); got.StatusCode != want {
			t.Errorf("after 20 minutes: %d, want %d", got.StatusCode, want)
		}
	}
	refusals(t, reg, map[string]float64{"rate": 4, "key": 3})
}

func TestAccess_RateLimitByAddress(t *testing.T) {
	ask := func(r *rig, forwarded string) int {
		return r.get("/v1/ruc/7", "X-Forwarded-For", forwarded).StatusCode
	}
	t.Run("of the connection", func(t *testing.T) {
		r := start(t, setting(func(c *gateway.Config) { c.RateLimit, c.TrustedProxies = "2/h", "10.0.0.0/8" }))
		for i, want := range []int{400, 400, 429, 429} {
			if got := ask(r, "203.0.113."+strconv.Itoa(i)); got != want {
				t.Errorf("%d: %d, want %d", i, got, want)
			}
		}
	})
	t.Run("behind a trusted proxy", func(t *testing.T) {
		r := start(t, setting(func(c *gateway.Config) { c.RateLimit, c.TrustedProxies = "2/h", "127.0.0.1,10.0.0.0/8" }))
		for i, want := range []int{400, 400, 429, 429} {
			if got := ask(r, strconv.Itoa(i)+".1.1.1, 203.0.113.1, 10.0.0.1"); got != want {
				t.Errorf("%d: %d, want %d", i, got, want)
			}
		}
		if got := ask(r, "203.0.113.2"); got != 400 {
			t.Errorf("another client: %d", got)
		}
	})
}

// Only what costs a visit is charged, and nothing is visited that cannot be charged.
func TestAccess_QuotaCountsVisits(t *testing.T) {
	file, key := keys(t, "uno", "3/d", "dos", "-")
	log, reg := &buffer{}, prometheus.NewRegistry()
	r := start(t, func(c *gateway.Config, d *gateway.Deps) {
		c.APIKeysFile, d.Registry, d.Log = file, reg, zerolog.New(log)
	})
	var failure error
	fleet := r.scraper(func(req micro.Request, n ruc.Number) {
		if failure != nil {
			r.refuses(req, n, failure)
			return
		}
		r.resolves(req, n)
	})
	ask := func(n ruc.Number, wantStatus, wantLeft int, header ...string) response {
		t.Helper()
		got := r.get("/v1/ruc/"+n.String(), append([]string{"X-API-Key", key["uno"]}, header...)...)
		left := `"visits";r=` + strconv.Itoa(wantLeft) + `;t=`
		if got.StatusCode != wantStatus || got.Header.Get("RateLimit-Policy") != `"visits";q=3;w=86400` || !strings.HasPrefix(got.Header.Get("RateLimit"), left) {
			t.Errorf("%d %v, want %d and %s", got.StatusCode, got.Header, wantStatus, left)
		}
		return got
	}
	ask(number, 200, 2)
	ask(number, 200, 2) // a hit
	ask(second, 504, 2, "Cache-Control", "only-if-cached")
	ask(second, 403, 2, "Sec-Fetch-Site", "cross-site")
	failure = &ruc.Error{Code: ruc.Blocked, RetryAfter: time.Minute}
	ask(second, 503, 2) // the fleet rests: no visit
	failure = &ruc.Error{Code: ruc.Unavailable, Attempts: 3}
	ask(second, 503, 1)
	failure = nil
	ask(number, 200, 0, "Cache-Control", "no-cache")
	asked := fleet.asked.Load()
	p := ask(third, 429, 0).problem(t)
	if p.Code != ruc.RateLimited || p.RetryAfter < 86000 || !strings.Contains(p.Detail, "cuota") || fleet.asked.Load() != asked {
		t.Errorf("%+v, asked %d times more", p, fleet.asked.Load()-asked)
	}
	ask(number, 200, 0) // what is held is served all the same
	if got := r.get("/v1/ruc/"+third.String(), "X-API-Key", key["dos"]); got.StatusCode != http.StatusOK || got.Header.Get("RateLimit") != "" {
		t.Errorf("a key without quota: %d %v", got.StatusCode, got.Header)
	}
	r.clock.advance(day)
	ask(second, 200, 2)
	refusals(t, reg, map[string]float64{"quota": 1, "site": 1})
	for _, line := range log.lines("lookup") {
		if !strings.Contains(line, `"key":"`) {
			t.Errorf("logged without its key: %s", line)
		}
	}
}

// A visit that several share is charged to each of them.
func TestAccess_QuotaCountsSharedVisits(t *testing.T) {
	file, key := keys(t, "uno", "3/d", "dos", "3/d")
	r := start(t, setting(func(c *gateway.Config) { c.APIKeysFile = file }))
	release := make(chan struct{})
	fleet := r.scraper(func(req micro.Request, n ruc.Number) {
		<-release
		r.resolves(req, n)
	})
	var wg sync.WaitGroup
	got := make(chan response, 2)
	charged := func(res response) bool { return strings.HasPrefix(res.Header.Get("RateLimit"), `"visits";r=2;`) }
	for _, name := range []string{"uno", "dos"} {
		wg.Go(func() { got <- r.get(path, "X-API-Key", key[name]) })
		eventually(t, "the visit is charged before it is made", func() bool { return charged(r.get("/v1/ruc/7", "X-API-Key", key[name])) })
	}
	r.waitAsked(fleet, 1)
	close(release)
	wg.Wait()
	for range 2 {
		if res := <-got; res.StatusCode != http.StatusOK || !charged(res) || !strings.Contains(res.Header.Get("Cache-Status"), "fwd=miss") {
			t.Errorf("%d %v", res.StatusCode, res.Header)
		}
	}
}

func TestAccess_AllowedHosts(t *testing.T) {
	reg := prometheus.NewRegistry()
	r := start(t, func(c *gateway.Config, d *gateway.Deps) {
		c.AllowedHosts, d.Registry = "ruc.example.com,*.interno.pe", reg
	})
	r.publish(r.found(number))
	for request, want := range map[string]int{
		"GET " + path + " HTTP/1.1\r\nHost: ruc.example.com\r\n\r\n":                           200,
		"GET " + path + " HTTP/1.1\r\nHost: RUC.example.com:8000\r\n\r\n":                      200,
		"GET " + path + " HTTP/1.1\r\nHost: a.interno.pe\r\n\r\n":                              200,
		"GET " + path + " HTTP/1.1\r\nHost: evil.example.com\r\n\r\n":                          403,
		"GET " + path + " HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n":                                 403,
		"GET " + path + " HTTP/1.0\r\n\r\n":                                                    403,
		"GET //ruc.example.com" + path + " HTTP/1.1\r\nHost: evil.pe\r\n\r\n":                  403,
		"GET " + path + " HTTP/1.1\r\nHost: evil.pe\r\nX-Forwarded-Host: a.interno.pe\r\n\r\n": 403,
		"GET http://ruc.example.com" + path + " HTTP/1.1\r\nHost: evil.pe\r\n\r\n":             403,
		"DELETE " + path + " HTTP/1.1\r\nHost: evil.pe\r\n\r\n":                                403,
		"GET /nada HTTP/1.1\r\nHost: evil.pe\r\n\r\n":                                          403,
		"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n":                                      200,
		"GET /livez HTTP/1.1\r\nHost: evil.pe\r\n\r\n":                                         200,
		"GET /readyz HTTP/1.0\r\n\r\n":                                                         200,
	} {
		got := r.raw(request)
		if got.StatusCode != want {
			t.Errorf("%.60q: %d, want %d", request, got.StatusCode, want)
		}
		if want == 403 {
			if p := got.problem(t); p.Code != ruc.Forbidden || !strings.Contains(p.Detail, "ALLOWED_HOSTS") {
				t.Errorf("%s", got.body)
			}
		}
	}
	refusals(t, reg, map[string]float64{"host": 8})
}

func TestAccess_PagesOfOtherSitesCauseNoVisit(t *testing.T) {
	const app = "https://app.example.com"
	reg := prometheus.NewRegistry()
	var stored ruc.Answer
	r := start(t, func(c *gateway.Config, d *gateway.Deps) {
		c.CORSOrigins, c.RefreshAt, d.Registry = app, 0.5, reg
		d.Store = storeFunc(func(_ context.Context, n ruc.Number) ([]byte, bool, error) {
			return encode(t, stored), n == second, nil
		})
	})
	stored = r.found(second)
	fleet := r.scraper(r.resolves)
	first := r.found(number)
	r.publish(first)
	r.remembers(first, "")
	for _, site := range []string{"cross-site", "same-site", "something-new"} {
		if got := r.get(path, "Sec-Fetch-Site", site); got.StatusCode != http.StatusOK {
			t.Errorf("%s, from memory: %d", site, got.StatusCode)
		}
		if got := r.get("/v1/ruc/"+second.String(), "Sec-Fetch-Site", site); got.StatusCode != http.StatusOK {
			t.Errorf("%s, from the store: %d", site, got.StatusCode)
		}
		for _, header := range [][]string{{}, {"Origin", "https://evil.example"}, {"Origin", "null"}, {"Cache-Control", "no-cache"}, {"Cache-Control", "max-stale"}} {
			got := r.get("/v1/ruc/"+third.String(), append([]string{"Sec-Fetch-Site", site}, header...)...)
			if p := got.problem(t); got.StatusCode != http.StatusForbidden || p.Code != ruc.Forbidden || !strings.Contains(p.Detail, "otro sitio") {
				t.Errorf("%s %q, unknown: %d %s", site, header, got.StatusCode, got.body)
			}
		}
		if got := r.get(path, "Sec-Fetch-Site", site, "Cache-Control", "no-cache"); got.StatusCode != http.StatusForbidden {
			t.Errorf("%s, held but not wanted: %d", site, got.StatusCode)
		}
	}
	// What the stream holds is served too; the store and the memory have lost it.
	last := foundAt(third, "OTRA", r.clock.now())
	r.publish(last)
	r.remembers(last, "")
	if err := r.nc.Publish(wire.SubjectInvalidated, wire.Invalidated{RUC: third}.Encode()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the last event is served", func() bool {
		got := r.get("/v1/ruc/"+third.String(), "Sec-Fetch-Site", "cross-site")
		return got.StatusCode == http.StatusOK && strings.HasSuffix(got.Header.Get("Cache-Status"), "detail=stream")
	})
	// An old answer is refreshed behind, but not for them.
	r.clock.advance(4 * day)
	if got := r.get(path, "Sec-Fetch-Site", "cross-site"); !strings.HasSuffix(got.Header.Get("Cache-Status"), "detail=memory") {
		t.Errorf("%d %v", got.StatusCode, got.Header)
	}
	if err := r.nc.Publish(wire.SubjectInvalidated, wire.Invalidated{RUC: second}.Encode()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the store is read", func() bool {
		got := r.get("/v1/ruc/"+second.String(), "Sec-Fetch-Site", "cross-site")
		return strings.HasSuffix(got.Header.Get("Cache-Status"), "detail=redis")
	})
	<-time.After(200 * time.Millisecond) // in which a refresh would have begun
	if n := fleet.asked.Load(); n != 0 {
		t.Errorf("%d visits", n)
	}
	refusals(t, reg, map[string]float64{"site": 18})
	for name, header := range map[string][]string{
		"no browser":         {},
		"our own page":       {"Sec-Fetch-Site", "same-origin"},
		"typed by a person":  {"Sec-Fetch-Site", "none"},
		"a page of the list": {"Sec-Fetch-Site", "cross-site", "Origin", app},
	} {
		asked := fleet.asked.Load()
		got := r.get(path, append(header, "Cache-Control", "no-cache")...)
		if got.StatusCode != http.StatusOK || fleet.asked.Load() == asked {
			t.Errorf("%s: %d", name, got.StatusCode)
		}
	}
}

func TestAccess_CORS(t *testing.T) {
	const app = "https://app.example.com"
	file, key := keys(t, "uno", "-")
	allow := func(origins string) *rig {
		r := start(t, setting(func(c *gateway.Config) { c.CORSOrigins, c.APIKeysFile, c.AdminToken = origins, file, adminToken }))
		r.publish(r.found(number))
		r.remembers(r.found(number), key["uno"])
		return r
	}
	preflight := func(r *rig, path, origin, method string) response {
		return r.do(http.MethodOptions, path, "", "Origin", origin, "Access-Control-Request-Method", method, "Access-Control-Request-Headers", "x-api-key,x-other")
	}
	sharing := func(got response) (names []string) {
		for name := range got.Header {
			if strings.HasPrefix(name, "Access-Control-") {
				names = append(names, name)
			}
		}
		return names
	}
	t.Run("off", func(t *testing.T) {
		r := allow("")
		got := r.get(path, "Origin", app, "X-API-Key", key["uno"])
		if names := sharing(got); len(names) > 0 || got.StatusCode != http.StatusOK || got.Header.Get("Vary") != "" || got.Header.Get("Cross-Origin-Resource-Policy") != "same-origin" {
			t.Errorf("%d %v", got.StatusCode, got.Header)
		}
		if got := preflight(r, path, app, "GET"); got.StatusCode != http.StatusMethodNotAllowed || len(sharing(got)) > 0 {
			t.Errorf("preflight: %d %v", got.StatusCode, got.Header)
		}
	})
	for origins, foreign := range map[string]bool{app + ",http://localhost:3000": false, "*": true} {
		t.Run(origins, func(t *testing.T) {
			r := allow(origins)
			for origin, want := range map[string]bool{app: true, "https://evil.example": foreign, app + ".evil.example": foreign, "http://app.example.com": foreign, "": false} {
				for _, p := range []string{path, "/v1/ruc/7"} { // problems are readable too
					got := r.get(p, "Origin", origin, "X-API-Key", key["uno"])
					allowed, policy := "", "same-origin"
					if want {
						allowed, policy = origin, "cross-origin"
					}
					if got.Header.Get("Access-Control-Allow-Origin") != allowed || got.Header.Get("Cross-Origin-Resource-Policy") != policy || got.Header.Get("Vary") != "Origin" {
						t.Errorf("%q: %v", origin, got.Header)
					}
					exposed := got.Header.Get("Access-Control-Expose-Headers")
					for _, name := range []string{"ETag", "Age", "Cache-Status", "Retry-After", "RateLimit", "RateLimit-Policy", "X-Request-Id", "Last-Modified"} {
						if want && !strings.Contains(","+exposed+",", ","+name+",") {
							t.Errorf("%s is not exposed: %s", name, exposed)
						}
					}
				}
				if origin == "" {
					continue
				}
				got := preflight(r, path, origin, "GET") // without a key, as browsers do
				if (got.Header.Get("Access-Control-Allow-Origin") == origin) != want || got.StatusCode != http.StatusNoContent {
					t.Errorf("preflight of %q: %d %v", origin, got.StatusCode, got.Header)
				}
				if h := got.Header.Get("Access-Control-Allow-Headers"); want && (!strings.Contains(h, "X-Api-Key") || strings.Contains(h, "x-other")) {
					t.Errorf("allowed headers %q", h)
				}
				// The admin routes are for no page.
				if got := preflight(r, path, origin, "DELETE"); strings.Contains(got.Header.Get("Access-Control-Allow-Methods"), "DELETE") {
					t.Errorf("preflight of DELETE: %v", got.Header)
				}
				if got := preflight(r, "/v1/cache/invalidar", origin, "POST"); len(sharing(got)) > 0 {
					t.Errorf("preflight of an admin route: %v", got.Header)
				}
				if got := r.do(http.MethodDelete, path, "", "Origin", origin); len(sharing(got)) > 0 {
					t.Errorf("DELETE: %v", got.Header)
				}
			}
			for _, got := range []response{r.get(path, "Origin", app, "X-API-Key", key["uno"]), preflight(r, path, app, "GET")} {
				if got.Header.Get("Access-Control-Allow-Credentials") != "" {
					t.Errorf("%v", got.Header)
				}
			}
		})
	}
}

// remembers is holds without a visit meanwhile, with a key where one is wanted.
func (r *rig) remembers(a ruc.Answer, key string) {
	r.t.Helper()
	eventually(r.t, "the memory holds an answer", func() bool {
		got := r.get("/v1/ruc/"+a.RUC.String(), "X-API-Key", key, "Cache-Control", "only-if-cached")
		return got.StatusCode == http.StatusOK && strings.HasSuffix(got.Header.Get("Cache-Status"), "detail=memory")
	})
}

func TestHTTP_SecurityHeadersOnEveryResponse(t *testing.T) {
	r := start(t)
	r.publish(r.found(number))
	r.holds(r.found(number))
	for name, request := range map[string]string{
		"hit":         "GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"problem":     "GET /v1/ruc/7 HTTP/1.1\r\nHost: x\r\n\r\n",
		"health":      "GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
		"no route":    "GET /nada HTTP/1.1\r\nHost: x\r\n\r\n",
		"admin":       "DELETE " + path + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"huge header": "GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("1", 1<<17) + "\r\n\r\n",
		"garbage":     "hello\r\n\r\n",
	} {
		got := r.raw(request)
		for header, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
			"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", "Cross-Origin-Resource-Policy": "same-origin",
		} {
			if got.Header.Get(header) != want {
				t.Errorf("%s: %s: %q", name, header, got.Header.Get(header))
			}
		}
	}
}
