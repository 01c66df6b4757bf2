package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rucflow/rucflow/shared/ruc"
)

// TestStale_SUNATGone: with SUNAT's page gone, what was known is served from wherever
// it is still held, as long as it may be, and nothing else is made up.
func TestStale_SUNATGone(t *testing.T) {
	const lifetime = 8 * time.Second
	f := startFleet(t, 1, 1, 1, "CACHE_TTL=8s", "SUNAT_ATTEMPT_TIMEOUT=5s")
	known, unknown := fresh(8001), fresh(8002)
	status, _, body := f.lookup(known)
	born := f.answer(known, status, body).ObtenidoEn
	client := f.reader()
	key := "sunat:ruc:" + known.String()
	f.eventually("it is in Redis", lifetime, func() bool { return client.Exists(t.Context(), key).Val() == 1 })
	f.closeSite()

	from := func(detail string) {
		t.Helper()
		status, h, again := f.lookup(known)
		if got := h.Get("Cache-Status"); status != http.StatusOK || again != body || !strings.HasSuffix(got, "detail="+detail) {
			t.Errorf("want it from %s: %d %s %s", detail, status, got, again)
		}
	}
	restart := func() {
		t.Helper()
		f.replace(f.gateways, 0) // not whole: a scraper without SUNAT's page takes nothing
		f.eventually("the gateway serves", readyWait, func() bool { return f.gateways[0].addr("http") != "" })
		f.HTTP = f.gateways[0].addr("http")
	}
	from("memory")
	restart() // a new process has an empty memory
	from("redis")
	if left := lifetime - time.Since(born); left > 0 {
		<-time.After(left)
	}
	from("stale")

	began := time.Now()
	status, h, body := f.lookup(unknown)
	if p := f.problem(h, status, body); status != http.StatusServiceUnavailable || p.Code != ruc.Unavailable || h.Get("Retry-After") == "" {
		t.Errorf("never seen: %d %v %s", status, h, body)
	}
	if took := time.Since(began); took > 3*5*time.Second {
		t.Errorf("refused after %v", took)
	}
	// Nothing negative is kept: the next one asks again.
	if status, _, _ := f.lookup(unknown); status != http.StatusServiceUnavailable {
		t.Errorf("asked again: %d", status)
	}
	if client.Exists(t.Context(), "sunat:ruc:"+unknown.String()).Val() != 0 {
		t.Error("Redis holds something of a number that SUNAT was never asked for")
	}
}
