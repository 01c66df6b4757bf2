package gateway_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/micro"

	"github.com/rucflow/rucflow/gateway"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/store"
)

// headers returns those of r that a test wants to see.
func headers(r response, names ...string) map[string]string {
	got := map[string]string{}
	for _, name := range names {
		if values := r.Header.Values(name); len(values) > 0 {
			got[name] = strings.Join(values, "|")
		}
	}
	return got
}

var caching = []string{"Age", "Cache-Control", "Cache-Status", "Content-Type", "Etag", "Last-Modified", "X-Content-Type-Options"}

func TestLookup_MissThenHit(t *testing.T) {
	r := start(t)
	a := r.found(number)
	fleet := r.scraper(func(req micro.Request, _ ruc.Number) { r.reply(req, a) })
	want := map[string]string{
		"Age": "0", "Cache-Control": "private, max-age=604800", "Cache-Status": "rucflow; fwd=miss; stored",
		"Content-Type": "application/json; charset=utf-8", "Etag": etag(a),
		"Last-Modified": a.ObtenidoEn.Format(http.TimeFormat), "X-Content-Type-Options": "nosniff",
	}
	for i, path := range []string{"/obtener-ruc/", "/v1/ruc/", "/obtener-ruc/"} {
		got := r.get(path + number.String())
		if got.StatusCode != http.StatusOK || got.body != string(encode(t, a)) {
			t.Fatalf("%s: %d %s", path, got.StatusCode, got.body)
		}
		if diff := cmp.Diff(want, headers(got, caching...)); diff != "" {
			t.Errorf("lookup %d (-want +got):\n%s", i+1, diff)
		}
		if id := got.Header.Get("X-Request-Id"); (id != "") != (i == 0) {
			t.Errorf("lookup %d: request id %q, which only the miss has", i+1, id)
		}
		r.clock.advance(time.Hour)
		age := 3600 * (i + 1)
		want["Age"] = strconv.Itoa(age)
		// A few milliseconds have passed since, so a whole second of the time left.
		want["Cache-Status"] = "rucflow; hit; ttl=" + strconv.Itoa(604800-age-1) + "; detail=memory"
	}
	if n := fleet.asked.Load(); n != 1 {
		t.Errorf("the scraper was asked %d times", n)
	}
}

func TestLookup_ReplyWithoutEventIsHeld(t *testing.T) {
	for name, answer := range map[string]ruc.Answer{
		"found": foundAt(number, "X", time.Now()), "not found": missingAt(number, time.Now()),
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t)
			fleet := r.scraper(func(req micro.Request, _ ruc.Number) { r.respond(req, answer, 1) })
			r.get("/v1/ruc/" + number.String())
			got := r.get("/v1/ruc/" + number.String())
			if !strings.HasSuffix(got.Header.Get("Cache-Status"), "detail=memory") || fleet.asked.Load() != 1 {
				t.Errorf("%s, asked %d times", got.Header.Get("Cache-Status"), fleet.asked.Load())
			}
		})
	}
}

func TestLookup_NotFoundIsAnAnswer(t *testing.T) {
	r := start(t)
	a := missingAt(number, r.clock.now())
	fleet := r.scraper(func(req micro.Request, _ ruc.Number) { r.reply(req, a) })
	want := map[string]string{
		"Age": "0", "Cache-Control": "private, max-age=3600", "Cache-Status": "rucflow; fwd=miss; stored",
		"Content-Type": "application/problem+json", "Etag": etag(a),
		"Last-Modified": a.ObtenidoEn.Format(http.TimeFormat), "X-Content-Type-Options": "nosniff",
	}
	for range 2 {
		got := r.get("/v1/ruc/" + number.String())
		if diff := cmp.Diff(want, headers(got, caching...)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		p := got.problem(t)
		if got.StatusCode != http.StatusNotFound || p.Code != ruc.NotFound || p.RUC != number.String() || p.Huella != a.Huella ||
			p.ObtenidoEn == nil || !p.ObtenidoEn.Equal(a.ObtenidoEn) ||
			p.Detail != "SUNAT indica que el RUC 20131312955 no está registrado." {
			t.Errorf("%d %s", got.StatusCode, got.body)
		}
		r.clock.advance(time.Minute)
		want["Age"], want["Cache-Status"] = "60", "rucflow; hit; ttl=3539; detail=memory"
	}
	r.clock.advance(time.Hour)
	r.get("/v1/ruc/" + number.String())
	if n := fleet.asked.Load(); n != 2 {
		t.Errorf("an hour later: asked %d times in all, not 2", n)
	}
}

func TestLookup_Head(t *testing.T) {
	r := start(t)
	a := r.found(number)
	r.publish(a)
	r.holds(a)
	got := r.do(http.MethodHead, "/v1/ruc/"+number.String(), "")
	if got.StatusCode != http.StatusOK || got.body != "" || got.ContentLength != int64(len(encode(t, a))) || got.Header.Get("ETag") != etag(a) {
		t.Errorf("%d, %d bytes of %d, %v", got.StatusCode, len(got.body), got.ContentLength, got.Header)
	}
}

func TestLookup_NotModified(t *testing.T) {
	r := start(t)
	a, absent := r.found(number), missingAt(second, r.clock.now())
	r.publish(a)
	r.publish(absent)
	r.holds(a)
	r.holds(absent)
	strong := `"` + a.Huella + `"`
	for name, tc := range map[string]struct {
		of     ruc.Answer
		header string
		want   int
	}{
		"weak":            {a, etag(a), http.StatusNotModified},
		"strong":          {a, strong, http.StatusNotModified},
		"list":            {a, `"other", W/"x" , ` + etag(a), http.StatusNotModified},
		"any":             {a, "*", http.StatusNotModified},
		"another":         {a, `W/"0123"`, http.StatusOK},
		"none":            {a, "", http.StatusOK},
		"a not-found one": {absent, etag(absent), http.StatusNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			got := r.get("/v1/ruc/"+tc.of.RUC.String(), "If-None-Match", tc.header)
			if got.StatusCode != tc.want || got.Header.Get("ETag") != etag(tc.of) {
				t.Errorf("%d %v", got.StatusCode, got.Header)
			}
			if got.StatusCode == http.StatusNotModified && (got.body != "" || got.Header.Get("Cache-Control") == "" || got.Header.Get("Age") == "") {
				t.Errorf("%q %v", got.body, got.Header)
			}
		})
	}
}

func TestLookup_StoreHitNamesTheStoreAndFillsTheMemory(t *testing.T) {
	for kind, open := range map[string]func(t *testing.T, now func() time.Time) (gateway.Store, error){
		"memory": func(t *testing.T, now func() time.Time) (gateway.Store, error) {
			m, err := store.NewMemory(1<<20, now)
			t.Cleanup(func() { _ = m.Close() })
			return m, err
		},
		"file": func(t *testing.T, now func() time.Time) (gateway.Store, error) {
			return store.NewFile(t.TempDir(), 1<<20, now)
		},
	} {
		t.Run(kind, func(t *testing.T) {
			a := foundAt(number, "GUARDADA S.A.", time.Now().Add(-day))
			r := start(t, func(_ *gateway.Config, d *gateway.Deps) {
				s, err := open(t, d.Now)
				if err != nil {
					t.Fatal(err)
				}
				entry := store.Entry{RUC: number, Value: encode(t, a), Version: store.Version{Seq: 1}, TTL: 6 * day}
				if err := s.(interface {
					Put(context.Context, []store.Entry) error
				}).Put(t.Context(), []store.Entry{entry}); err != nil {
					t.Fatal(err)
				}
				d.Store = s
			})
			for _, layer := range []string{kind, "memory"} {
				got := r.get("/v1/ruc/" + number.String())
				status := "rucflow; hit; ttl=518399; detail=" + layer
				if got.body != string(encode(t, a)) || got.Header.Get("Cache-Status") != status || got.Header.Get("Age") != "86400" {
					t.Errorf("%s: %d %v", layer, got.StatusCode, got.Header)
				}
			}
		})
	}
}

// A store that cannot be used costs its budget and never the lookup.
func TestLookup_GoesOnWithoutTheStore(t *testing.T) {
	now := time.Now()
	give := func(b []byte) storeFunc {
		return func(context.Context, ruc.Number) ([]byte, bool, error) { return b, true, nil }
	}
	whole := encode(t, foundAt(number, "X", now))
	for name, s := range map[string]storeFunc{
		"fails": func(context.Context, ruc.Number) ([]byte, bool, error) { return nil, false, errors.New("refused") },
		"uses up its budget": func(ctx context.Context, _ ruc.Number) ([]byte, bool, error) {
			ctx, cancel := context.WithTimeout(ctx, 40*time.Millisecond)
			defer cancel()
			<-ctx.Done()
			return nil, false, ctx.Err()
		},
		"holds another number": give(encode(t, foundAt(second, "OTRA", now))),
		"holds half a value":   give(whole[:len(whole)/2]),
		"holds garbage":        give([]byte("<html>no</html>")),
		"holds nothing":        give(nil),
		"holds a stale answer": give(encode(t, foundAt(number, "VIEJA", now.Add(-8*day)))),
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, func(_ *gateway.Config, d *gateway.Deps) { d.Store = s })
			a := r.found(number)
			r.scraper(func(req micro.Request, _ ruc.Number) { r.reply(req, a) })
			began := time.Now()
			got := r.get("/v1/ruc/" + number.String())
			if got.StatusCode != http.StatusOK || got.body != string(encode(t, a)) {
				t.Errorf("%d %s", got.StatusCode, got.body)
			}
			// Far more than a budget, for a busy machine.
			if took := time.Since(began); took > time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestLookup_CallersOfOneNumberShareOneRequest(t *testing.T) {
	const callers = 200
	r := start(t)
	a := r.found(number)
	everybodyAsked := make(chan struct{})
	fleet := r.scraper(func(req micro.Request, _ ruc.Number) {
		<-everybodyAsked
		r.reply(req, a)
	})
	var sent atomic.Int64
	trace := &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) {
		if sent.Add(1) == callers {
			close(everybodyAsked)
		}
	}}
	var mu sync.Mutex
	statuses := map[string]int{}
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), http.MethodGet, r.url+"/v1/ruc/"+number.String(), nil)
			if err != nil {
				t.Error(err)
				return
			}
			res, err := r.web.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			got := read(t, res)
			if got.body != string(encode(t, a)) {
				t.Errorf("%d %s", got.StatusCode, got.body)
			}
			status := got.Header.Get("Cache-Status")
			if strings.HasSuffix(status, "detail=memory") {
				status = "memory" // sent, but not yet read when the answer came
			}
			mu.Lock()
			defer mu.Unlock()
			statuses[status]++
		})
	}
	wg.Wait()
	if n := fleet.asked.Load(); n != 1 {
		t.Errorf("the scraper was asked %d times", n)
	}
	collapsed := statuses["rucflow; fwd=miss; stored; collapsed"]
	if statuses["rucflow; fwd=miss; stored"] != 1 || collapsed == 0 || 1+collapsed+statuses["memory"] != callers {
		t.Errorf("Cache-Status: %v", statuses)
	}
}

func TestMemory_NewestEventStays(t *testing.T) {
	r := start(t)
	old, newest := foundAt(number, "ANTES", r.clock.now()), foundAt(number, "AHORA", r.clock.now())
	mark := r.found(second)
	r.hear(newest, 7)
	r.hear(old, 6)
	r.hear(mark, 8) // heard after the others
	r.holds(mark)
	r.holds(newest)
	r.hear(old, 9) // the order is the stream's, not the answers'
	r.holds(old)
}

func TestMemory_StoreNeverReplacesAnEvent(t *testing.T) {
	reading, goOn := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(goOn) })
	defer release()
	old := foundAt(number, "ANTES", time.Now())
	first := sync.OnceValue(func() []byte {
		close(reading)
		<-goOn
		return encode(t, old)
	})
	r := start(t, func(_ *gateway.Config, d *gateway.Deps) {
		d.Store = storeFunc(func(_ context.Context, n ruc.Number) ([]byte, bool, error) {
			if n != number {
				return nil, false, nil
			}
			return first(), true, nil
		})
	})
	got := make(chan response, 1)
	go func() { got <- r.get("/v1/ruc/" + number.String()) }()
	<-reading
	newest, mark := foundAt(number, "AHORA", r.clock.now()), r.found(second)
	r.publish(newest)
	r.publish(mark) // heard after the other
	r.scraper(silent)
	r.holds(mark)
	release()
	if a := <-got; a.Header.Get("ETag") != etag(old) {
		t.Errorf("the reader of the store got %s", a.body)
	}
	if a := r.get("/v1/ruc/" + number.String()); a.Header.Get("ETag") != etag(newest) {
		t.Errorf("the memory holds %s", a.body)
	}
}

func TestMemory_ForgetsAfterL1TTL(t *testing.T) {
	r := start(t, func(c *gateway.Config, _ *gateway.Deps) { c.L1TTL = 300 * time.Millisecond })
	a := r.found(number)
	fleet := r.scraper(r.resolves)
	r.publish(a)
	r.holds(a)
	eventually(t, "the entry is forgotten", func() bool {
		r.get("/v1/ruc/" + number.String())
		return fleet.asked.Load() > 0
	})
}

func TestMemory_IgnoresWhatIsNoEvent(t *testing.T) {
	r := start(t)
	a, mark := r.found(number), r.found(second)
	r.publish(a)
	forged := foundAt(second, "FALSA", r.clock.now())
	forged.RUC = number // the subject names second
	for _, body := range []string{"", "x", "{}", string(encode(t, forged)), string(encode(t, a))[:100]} {
		r.hearBody(second, body, 50)
	}
	r.publish(mark)
	r.holds(mark)
	r.holds(a)
}
