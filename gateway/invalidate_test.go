package gateway_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rucflow/rucflow/gateway"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/store"
	"github.com/rucflow/rucflow/shared/wire"
)

const adminToken = "let-me-in"

var authorized = []string{"Authorization", "Bearer " + adminToken}

// keeper is a store that can be written to.
type keeper interface {
	gateway.Store
	Put(ctx context.Context, entries []store.Entry) error
}

// startWithStore runs a gateway with an admin token and a store of this process.
func startWithStore(t *testing.T, change ...func(*gateway.Config, *gateway.Deps)) (*rig, keeper) {
	t.Helper()
	m, err := store.NewMemory(1<<20, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return start(t, append([]func(*gateway.Config, *gateway.Deps){func(c *gateway.Config, d *gateway.Deps) {
		c.AdminToken, d.Store = adminToken, m
	}}, change...)...), m
}

// keep puts answers into the store, as a cachewriter does.
func keep(t *testing.T, s keeper, answers ...ruc.Answer) {
	t.Helper()
	for i, a := range answers {
		entry := store.Entry{RUC: a.RUC, Value: encode(t, a), Version: store.Version{Seq: uint64(i + 1)}, TTL: day}
		if err := s.Put(t.Context(), []store.Entry{entry}); err != nil {
			t.Fatal(err)
		}
	}
}

func (r *rig) invalidate(body string, header ...string) response {
	r.t.Helper()
	return r.do(http.MethodPost, "/v1/cache/invalidar", body, append([]string{"Content-Type", "application/json"}, header...)...)
}

func TestInvalidate_NextLookupVisits(t *testing.T) {
	r, s := startWithStore(t)
	fleet := r.scraper(r.resolves)
	old := foundAt(number, "ANTES", time.Now())
	keep(t, s, old)
	if got := r.get("/v1/ruc/" + number.String()); got.Header.Get("ETag") != etag(old) {
		t.Fatalf("before: %s", got.body)
	}
	got := r.do(http.MethodDelete, "/v1/ruc/"+number.String(), "", authorized...)
	if got.StatusCode != http.StatusNoContent || got.body != "" {
		t.Fatalf("DELETE: %d %s", got.StatusCode, got.body)
	}
	got = r.get("/v1/ruc/" + number.String())
	if got.Header.Get("Cache-Status") != "rucflow; fwd=miss; stored" || got.Header.Get("ETag") == etag(old) || fleet.asked.Load() != 1 {
		t.Errorf("after: %v %s", got.Header, got.body)
	}
	// What is not there is forgotten already.
	if got := r.do(http.MethodDelete, "/v1/ruc/"+second.String(), "", authorized...); got.StatusCode != http.StatusNoContent {
		t.Errorf("DELETE of nothing: %d %s", got.StatusCode, got.body)
	}
}

func TestInvalidate_EveryGatewayForgets(t *testing.T) {
	r, s := startWithStore(t)
	// Another gateway on the same bus and store, which is told by the notice alone.
	ln := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	cfg := gateway.Config{RequestTimeout: patience, MaxPending: 1, L1TTL: time.Hour, MemoryBytes: 1 << 20}
	cfg.CacheTTL = 7 * day
	go func() {
		ended <- gateway.Run(ctx, cfg, gateway.Deps{
			NATS: r.connect("gateway"), Store: s, HTTP: ln, Now: r.clock.now, Registry: prometheus.NewRegistry(), ShutdownTimeout: patience,
		})
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	other := &rig{t: t, clock: r.clock, url: "http://" + ln.Addr().String(), web: r.web}
	answers := []ruc.Answer{foundAt(number, "UNO", time.Now()), foundAt(second, "DOS", time.Now()), foundAt(third, "TRES", time.Now())}
	keep(t, s, answers...)
	for _, a := range answers {
		other.get("/v1/ruc/" + a.RUC.String())
		other.holds(a)
	}
	gone := func(n ruc.Number) func() bool {
		return func() bool {
			got := other.get("/v1/ruc/" + n.String())
			return got.StatusCode == http.StatusServiceUnavailable // nobody answers ruc.resolve
		}
	}
	if got := r.do(http.MethodDelete, "/v1/ruc/"+number.String(), "", authorized...); got.StatusCode != http.StatusNoContent {
		t.Fatalf("DELETE: %d %s", got.StatusCode, got.body)
	}
	eventually(t, "the other gateway forgets the number", gone(number))
	other.holds(answers[1])
	if got := r.invalidate(`{"patron":"2010*"}`, authorized...); got.StatusCode != http.StatusOK || got.body != `{"claves":2}` {
		t.Fatalf("POST: %d %s", got.StatusCode, got.body)
	}
	eventually(t, "the other gateway forgets the second", gone(second))
	eventually(t, "the other gateway forgets the third", gone(third))
}

// What is no notice changes nothing.
func TestInvalidate_IgnoresWhatIsNoNotice(t *testing.T) {
	r := start(t)
	a, mark := r.found(number), r.found(second)
	r.publish(a)
	r.holds(a)
	for _, text := range []string{"", "*", `{"patron":"x"}`, `{"ruc":"1"}`} {
		if err := r.nc.Publish(wire.SubjectInvalidated, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	r.publish(mark) // heard after the others
	r.holds(mark)
	r.holds(a)
}

// A lookup that had read the store before the deletion does not bring the answer back
// into the memory.
func TestInvalidate_WinsOverAReadUnderWay(t *testing.T) {
	reading, goOn := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(goOn) })
	defer release()
	old := foundAt(number, "ANTES", time.Now())
	first := true
	r := start(t, func(c *gateway.Config, d *gateway.Deps) {
		c.AdminToken = adminToken
		d.Store = storeFunc(func(context.Context, ruc.Number) ([]byte, bool, error) {
			if !first {
				return nil, false, nil
			}
			first = false
			close(reading)
			<-goOn
			return encode(t, old), true, nil
		})
	})
	fleet := r.scraper(r.resolves)
	got := make(chan response, 1)
	go func() { got <- r.get("/v1/ruc/" + number.String()) }()
	<-reading
	if got := r.do(http.MethodDelete, "/v1/ruc/"+number.String(), "", authorized...); got.StatusCode != http.StatusNoContent {
		t.Fatalf("DELETE: %d %s", got.StatusCode, got.body)
	}
	release()
	if a := <-got; a.Header.Get("ETag") != etag(old) {
		t.Errorf("the lookup under way got %s", a.body)
	}
	if a := r.get("/v1/ruc/" + number.String()); a.Header.Get("ETag") == etag(old) || fleet.asked.Load() != 1 {
		t.Errorf("the next one got %s", a.body)
	}
}

func TestInvalidate_Pattern(t *testing.T) {
	r, s := startWithStore(t)
	keep(t, s, foundAt(number, "UNO", time.Now()), foundAt(second, "DOS", time.Now()), foundAt(third, "TRES", time.Now()))
	for _, step := range []struct {
		body   string
		status int
		answer string
	}{
		{`{"patron":"2010*","simular":true}`, 200, `{"claves":2}`},
		{`{"patron":"*","simular":true}`, 200, `{"claves":3}`},
		{`{"patron":"*"}`, 400, `El patrón * abarca todos los RUC.`},
		{`{"patron":"***"}`, 400, `El patrón * abarca todos los RUC.`},
		{`{"patron":"2010*"}`, 200, `{"claves":2}`},
		{`{"patron":"2010*"}`, 200, `{"claves":0}`},
		{`{"patron":"*","todo":true}`, 200, `{"claves":1}`},
		{`{"patron":"20?"}`, 400, "El patrón solo puede tener dígitos"},
		{`{}`, 400, "El patrón solo puede tener dígitos"},
		{`{"patron":"2*","todos":true}`, 400, "no se entiende"},
		{`{"patron":"2*"}{}`, 400, "no se entiende"},
		{`{"patron":`, 400, "no se entiende"},
		{``, 400, "no se entiende"},
	} {
		got := r.invalidate(step.body, authorized...)
		if got.StatusCode != step.status || !strings.Contains(got.body, step.answer) {
			t.Errorf("%s: %d %s", step.body, got.StatusCode, got.body)
		}
		if got.StatusCode != http.StatusOK {
			got.problem(t)
		}
	}
	// A body that comes in chunks is a body.
	got := r.raw("POST /v1/cache/invalidar HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + adminToken +
		"\r\nContent-Type: application/json; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{\"patron\":\"2010*\r\n2\r\n\"}\r\n0\r\n\r\n")
	if got.StatusCode != http.StatusOK || got.body != `{"claves":0}` {
		t.Errorf("chunked: %d %s", got.StatusCode, got.body)
	}
	for kind, header := range map[string][]string{
		"text/plain":       {"Content-Type", "text/plain"},
		"none":             nil,
		"gzip":             {"Content-Type", "application/json", "Content-Encoding", "gzip"},
		"application/json": {"Content-Type", "application/json"},
	} {
		got := r.do(http.MethodPost, "/v1/cache/invalidar", `{"patron":"2010*"}`, append(header, authorized...)...)
		if want := http.StatusUnsupportedMediaType; (got.StatusCode == want) == (kind == "application/json") {
			t.Errorf("%s: %d %s", kind, got.StatusCode, got.body)
		}
	}
}

func TestInvalidate_WantsTheToken(t *testing.T) {
	for name, tc := range map[string]struct {
		token  string
		header []string
		status int
		code   ruc.Code
	}{
		"no token set":           {"", authorized, 403, ruc.Forbidden},
		"no token set, none":     {"", []string{"Authorization", "Bearer "}, 403, ruc.Forbidden},
		"none given":             {adminToken, nil, 401, ruc.Unauthorized},
		"a wrong one":            {adminToken, []string{"Authorization", "Bearer let-me-im"}, 401, ruc.Unauthorized},
		"a longer one":           {adminToken, []string{"Authorization", "Bearer " + adminToken + "x"}, 401, ruc.Unauthorized},
		"another scheme":         {adminToken, []string{"Authorization", "Basic " + adminToken}, 401, ruc.Unauthorized},
		"the token alone":        {adminToken, []string{"Authorization", adminToken}, 401, ruc.Unauthorized},
		"in the wrong header":    {adminToken, []string{"X-Admin-Token", adminToken}, 401, ruc.Unauthorized},
		"the scheme and no more": {adminToken, []string{"Authorization", "Bearer "}, 401, ruc.Unauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			a := foundAt(number, "SIGUE", time.Now())
			r, s := startWithStore(t, func(c *gateway.Config, _ *gateway.Deps) { c.AdminToken = tc.token })
			keep(t, s, a)
			for _, got := range []response{
				r.do(http.MethodDelete, "/v1/ruc/"+number.String(), "", tc.header...),
				r.invalidate(`{"patron":"*","todo":true}`, tc.header...),
				r.do(http.MethodDelete, "/v1/ruc/1", "", tc.header...), // who may not ask learns nothing
			} {
				if p := got.problem(t); got.StatusCode != tc.status || p.Code != tc.code {
					t.Errorf("%d %s", got.StatusCode, got.body)
				}
				if challenge := got.Header.Get("WWW-Authenticate"); (challenge != "") != (tc.status == http.StatusUnauthorized) {
					t.Errorf("WWW-Authenticate %q", challenge)
				}
			}
			if got := r.get("/v1/ruc/" + number.String()); got.Header.Get("ETag") != etag(a) {
				t.Errorf("it was forgotten: %d %s", got.StatusCode, got.body)
			}
		})
	}
	r, _ := startWithStore(t)
	if got := r.do(http.MethodDelete, "/v1/ruc/"+number.String(), "", "Authorization", "bearer "+adminToken); got.StatusCode != http.StatusNoContent {
		t.Errorf("the scheme in small letters: %d", got.StatusCode)
	}
	if p := r.do(http.MethodDelete, "/v1/ruc/20123456789", "", authorized...).problem(t); p.Code != ruc.Invalid {
		t.Errorf("a wrong number: %+v", p)
	}
}

// brokenStore cannot delete.
type brokenStore struct{}

func (brokenStore) Kind() string                                          { return "redis" }
func (brokenStore) Get(context.Context, ruc.Number) ([]byte, bool, error) { return nil, false, nil }
func (brokenStore) Delete(context.Context, ruc.Number) error              { return errors.New("away") }
func (brokenStore) DeletePattern(context.Context, ruc.Pattern, bool) (int, error) {
	return 3, errors.New("away")
}

func TestInvalidate_SaysWhenItFailed(t *testing.T) {
	r := start(t, func(c *gateway.Config, d *gateway.Deps) { c.AdminToken, d.Store = adminToken, brokenStore{} })
	for _, got := range []response{
		r.do(http.MethodDelete, "/v1/ruc/"+number.String(), "", authorized...),
		r.invalidate(`{"patron":"2010*"}`, authorized...),
	} {
		p := got.problem(t)
		if got.StatusCode != http.StatusServiceUnavailable || p.Code != ruc.Unavailable || !strings.Contains(p.Detail, "No se pudo borrar") || p.RetryAfter == 0 {
			t.Errorf("%d %s", got.StatusCode, got.body)
		}
	}
}

func TestInvalidate_SaysWhenNobodyCouldBeTold(t *testing.T) {
	r, _ := startWithStore(t)
	r.stopBus()
	p := r.do(http.MethodDelete, "/v1/ruc/"+number.String(), "", authorized...).problem(t)
	if p.Code != ruc.Unavailable || !strings.Contains(p.Detail, "Se borró de la caché, pero") {
		t.Errorf("%+v", p)
	}
}

// Forgotten is more than invalidated: the answer is not served as stale either.
func TestForget_NothingIsLeft(t *testing.T) {
	r, s := startWithStore(t)
	a := r.found(number)
	keep(t, s, a)
	r.publish(a)
	r.holds(a)
	kept := r.found(second)
	r.publish(kept)
	path := "/v1/ruc/" + number.String()
	if got := r.do(http.MethodDelete, path+"?olvidar=quiz%C3%A1s", "", authorized...); got.StatusCode != http.StatusBadRequest {
		t.Errorf("olvidar=quizás: %d %s", got.StatusCode, got.body)
	}
	if got := r.get(path); got.StatusCode != http.StatusOK {
		t.Errorf("after a refused request: %d %s", got.StatusCode, got.body)
	}
	if got := r.do(http.MethodDelete, path, "", authorized...); got.StatusCode != http.StatusNoContent {
		t.Errorf("DELETE: %d %s", got.StatusCode, got.body)
	}
	if got := r.get(path); got.StatusCode != http.StatusOK {
		t.Errorf("an invalidated answer may be served while nobody can visit: %d %s", got.StatusCode, got.body)
	}
	if got := r.do(http.MethodDelete, path+"?olvidar=true", "", authorized...); got.StatusCode != http.StatusNoContent {
		t.Errorf("DELETE: %d %s", got.StatusCode, got.body)
	}
	if got := r.get(path); got.problem(t).Code != ruc.Unavailable {
		t.Errorf("after: %d %s", got.StatusCode, got.body)
	}
	if got := r.get("/v1/ruc/" + second.String()); got.StatusCode != http.StatusOK {
		t.Errorf("another number: %d %s", got.StatusCode, got.body)
	}
}
