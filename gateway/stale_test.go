package gateway_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/rucflow/rucflow/gateway"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// forgotten stores an answer of that age in the stream and makes the gateway forget it.
func (r *rig) forgotten(n ruc.Number, age time.Duration) ruc.Answer {
	r.t.Helper()
	a := foundAt(n, "LA ÚLTIMA", r.clock.now().Add(-age))
	mark := r.found(third)
	r.publish(a)
	r.publish(mark) // heard after the other
	r.holds(mark)
	if got := r.do(http.MethodDelete, "/v1/ruc/"+n.String(), "", authorized...); got.StatusCode != http.StatusNoContent {
		r.t.Fatalf("DELETE: %d %s", got.StatusCode, got.body)
	}
	return a
}

func TestStale_LastAnswerWhenSUNATCannotBeAsked(t *testing.T) {
	t.Parallel()
	refuse := func(code ruc.Code) func(r *rig) {
		return func(r *rig) {
			r.scraper(func(req micro.Request, n ruc.Number) { r.refuses(req, n, &ruc.Error{Code: code}) })
		}
	}
	for name, tc := range map[string]struct {
		scraper func(r *rig)
		age     time.Duration
		status  int
		cache   string // Cache-Status
		control string // Cache-Control
	}{
		"unavailable, a day old":      {refuse(ruc.Unavailable), day, 200, "rucflow; hit; ttl=518399; detail=stream", "private, max-age=604800"},
		"unavailable, a day over":     {refuse(ruc.Unavailable), 8 * day, 200, "rucflow; hit; ttl=-86400; detail=stale", "private, max-age=0"},
		"unavailable, grace over":     {refuse(ruc.Unavailable), 38 * day, 503, "", "no-store"},
		"blocked":                     {refuse(ruc.Blocked), 8 * day, 200, "rucflow; hit; ttl=-86400; detail=stale", "private, max-age=0"},
		"overloaded":                  {refuse(ruc.Overloaded), 8 * day, 200, "rucflow; hit; ttl=-86400; detail=stale", "private, max-age=0"},
		"timeout of the scraper":      {refuse(ruc.Timeout), 8 * day, 200, "rucflow; hit; ttl=-86400; detail=stale", "private, max-age=0"},
		"no reply":                    {func(r *rig) { r.scraper(silent) }, 8 * day, 200, "rucflow; hit; ttl=-86401; detail=stale", "private, max-age=0"},
		"nobody":                      {func(*rig) {}, 8 * day, 200, "rucflow; hit; ttl=-86400; detail=stale", "private, max-age=0"},
		"a page that changed":         {refuse(ruc.Changed), 8 * day, 502, "", "no-store"},
		"a mistake of ours":           {refuse(ruc.Internal), 8 * day, 500, "", "no-store"},
		"another number, never asked": {refuse(ruc.Unavailable), -1, 503, "", "no-store"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, func(c *gateway.Config, _ *gateway.Deps) {
				c.AdminToken, c.RequestTimeout = adminToken, time.Second
			})
			var a ruc.Answer
			if tc.age >= 0 {
				a = r.forgotten(number, tc.age)
			}
			tc.scraper(r)
			got := r.get("/v1/ruc/" + number.String())
			if got.StatusCode != tc.status || got.Header.Get("Cache-Control") != tc.control {
				t.Fatalf("%d %v %s", got.StatusCode, got.Header, got.body)
			}
			if tc.status != http.StatusOK {
				got.problem(t)
				return
			}
			// A second may have passed.
			status := got.Header.Get("Cache-Status")
			if cut := strings.LastIndex(tc.cache, ";"); !strings.HasSuffix(status, tc.cache[cut:]) || status[:18] != tc.cache[:18] || got.body != string(encode(t, a)) {
				t.Errorf("%s, want %s: %s", status, tc.cache, got.body)
			}
			// The next one asks again: what is stale is not held.
			if again := r.get("/v1/ruc/" + number.String()); strings.Contains(again.Header.Get("Cache-Status"), "memory") {
				t.Errorf("it was held: %v", again.Header)
			}
		})
	}
}

func TestStale_AVisitThatTakesLongGoesOnBehind(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *gateway.Config, _ *gateway.Deps) {
		c.AdminToken, c.StaleAfter = adminToken, 100*time.Millisecond
	})
	old := r.forgotten(number, 8*day)
	newer := r.found(number)
	release := make(chan struct{})
	fleet := r.scraper(func(req micro.Request, n ruc.Number) {
		<-release
		a := newer
		if n != number {
			a = r.found(n)
		}
		r.reply(req, a)
	})
	got := r.get("/v1/ruc/" + number.String())
	if got.Header.Get("Cache-Status") != "rucflow; fwd=stale; detail=stale" || got.body != string(encode(t, old)) {
		t.Errorf("%v %s", got.Header, got.body)
	}
	// Where there is no answer from before, the visit is waited for.
	waiting := r.begin(second)
	r.waitAsked(fleet, 2)
	close(release)
	r.holds(newer)
	if got := <-waiting; got.StatusCode != http.StatusOK || got.Header.Get("Cache-Status") != "rucflow; fwd=miss; stored" {
		t.Errorf("%d %v", got.StatusCode, got.Header)
	}
}

func TestCacheControl_IsHonoured(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		age     time.Duration // of what is held; negative = nothing is
		wish    string
		asked   int64
		status  int
		outcome string // end of Cache-Status
	}{
		"nothing said":               {day, "", 0, 200, "detail=memory"},
		"no-cache":                   {day, "no-cache", 1, 200, "stored"},
		"no-cache among others":      {day, "foo, No-Cache , bar=1", 1, 200, "stored"},
		"max-age, young enough":      {day, "max-age=86500", 0, 200, "detail=memory"},
		"max-age, too old":           {day, "max-age=86000", 1, 200, "stored"},
		"max-age=0":                  {day, "max-age=0", 1, 200, "stored"},
		"max-age without sense":      {day, "max-age=x", 1, 200, "stored"},
		"only-if-cached, held":       {day, "only-if-cached", 0, 200, "detail=memory"},
		"only-if-cached, nothing":    {-1, "only-if-cached", 0, 504, ""},
		"only-if-cached, stale":      {8 * day, "only-if-cached", 0, 504, ""},
		"both, stale":                {8 * day, "only-if-cached, max-stale", 0, 200, "detail=stale"},
		"max-stale":                  {8 * day, "max-stale", 0, 200, "detail=stale"},
		"max-stale, long enough":     {8 * day, "max-stale=86500", 0, 200, "detail=stale"},
		"max-stale, too long ago":    {8 * day, "max-stale=86000", 1, 200, "stored"},
		"max-stale and fresh":        {day, "max-stale=1", 0, 200, "detail=memory"},
		"stale, nothing said":        {8 * day, "", 1, 200, "stored"},
		"max-stale beyond the grace": {38 * day, "max-stale", 1, 200, "stored"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t)
			if tc.age >= 0 {
				a, mark := foundAt(number, "LA ÚLTIMA", r.clock.now().Add(-tc.age)), r.found(third)
				r.publish(a)
				r.publish(mark)
				r.holds(mark)
			}
			fleet := r.scraper(r.resolves)
			got := r.get("/v1/ruc/"+number.String(), "Cache-Control", tc.wish)
			if got.StatusCode != tc.status || !strings.HasSuffix(got.Header.Get("Cache-Status"), tc.outcome) || fleet.asked.Load() != tc.asked {
				t.Errorf("%d %q, asked %d times", got.StatusCode, got.Header.Get("Cache-Status"), fleet.asked.Load())
			}
			if tc.status == http.StatusGatewayTimeout && got.problem(t).Code != ruc.NotHeld {
				t.Errorf("%s", got.body)
			}
		})
	}
}

// Who wants a new answer is told when there is none, and gets no other.
func TestCacheControl_NoCacheIsNotCoveredUp(t *testing.T) {
	t.Parallel()
	r := start(t)
	a := r.found(number)
	r.publish(a)
	r.holds(a)
	r.scraper(func(req micro.Request, n ruc.Number) { r.refuses(req, n, &ruc.Error{Code: ruc.Unavailable}) })
	for _, wish := range []string{"no-cache", "max-age=0"} {
		r.clock.advance(time.Minute)
		if p := r.get("/v1/ruc/"+number.String(), "Cache-Control", wish).problem(t); p.Code != ruc.Unavailable {
			t.Errorf("%s: %+v", wish, p)
		}
	}
	m := nats.NewMsg(wire.SubjectLookup)
	m.Data = []byte(number.String())
	m.Header.Set("Cache-Control", "no-cache")
	reply, err := r.nc.RequestMsg(m, patience)
	if err != nil || reply.Header.Get(wire.HeaderError) != string(ruc.Unavailable) {
		t.Errorf("over NATS: %v %v", reply, err)
	}
	r.holds(a)
}

// An event from before the request does not end the wait for a new answer.
func TestCacheControl_NoCacheWaitsForANewerEvent(t *testing.T) {
	t.Parallel()
	r := start(t)
	old, newer, mark := foundAt(number, "ANTES", r.clock.now()), foundAt(number, "AHORA", r.clock.now()), r.found(second)
	r.hear(old, 5)
	r.holds(old)
	fleet := r.scraper(silent)
	got := make(chan response, 1)
	go func() { got <- r.get("/v1/ruc/"+number.String(), "Cache-Control", "no-cache") }()
	r.waitAsked(fleet, 1)
	r.hear(old, 5)
	r.hear(foundAt(number, "MUCHO ANTES", r.clock.now()), 4)
	r.hear(mark, 6)
	r.holds(mark)
	select {
	case a := <-got:
		t.Fatalf("answered with %s", a.body)
	default:
	}
	r.hear(newer, 7)
	if a := <-got; a.Header.Get("ETag") != etag(newer) {
		t.Errorf("answered with %s", a.body)
	}
}

func TestRefresh_LastPartOfALifeIsVisitedBehind(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *gateway.Config, _ *gateway.Deps) { c.RefreshAt = 0.9 })
	old := r.found(number)
	r.publish(old)
	r.holds(old)
	fleet := r.scraper(func(req micro.Request, n ruc.Number) { r.reply(req, foundAt(n, "NUEVA", r.clock.now())) })
	r.clock.advance(6 * day) // 0.86 of its life
	r.get("/v1/ruc/" + number.String())
	r.clock.advance(8 * time.Hour) // 0.905
	asked := fleet.asked.Load()
	if asked != 0 {
		t.Errorf("asked %d times too early", asked)
	}
	eventually(t, "it is refreshed", func() bool {
		got := r.get("/v1/ruc/" + number.String())
		if !strings.HasSuffix(got.Header.Get("Cache-Status"), "detail=memory") {
			t.Fatalf("a lookup waited: %v", got.Header)
		}
		return strings.Contains(got.body, "NUEVA")
	})
	if n := fleet.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestRefresh_RestsAfterAFailureAndLeavesNotFoundAlone(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *gateway.Config, _ *gateway.Deps) { c.RefreshAt = 0.9 })
	a, absent := r.found(number), missingAt(second, r.clock.now())
	r.publish(absent)
	r.publish(a) // heard after the other
	r.holds(a)
	fleet := r.scraper(func(req micro.Request, n ruc.Number) {
		if n != number {
			t.Errorf("asked for %s", n)
		}
		r.refuses(req, n, &ruc.Error{Code: ruc.Blocked})
	})
	r.clock.advance(57 * time.Minute) // 0.95 of a not-found's life
	for range 20 {
		if got := r.get("/v1/ruc/" + second.String()); got.StatusCode != http.StatusNotFound {
			t.Fatalf("%d %s", got.StatusCode, got.body)
		}
	}
	r.clock.advance(6*day + 12*time.Hour)
	eventually(t, "a refresh is tried", func() bool { r.get("/v1/ruc/" + number.String()); return fleet.asked.Load() == 1 })
	for i := range 100 {
		if got := r.get("/v1/ruc/" + number.String()); got.body != string(encode(t, a)) {
			t.Fatalf("lookup %d: %s", i, got.body)
		}
	}
	if n := fleet.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}
