package e2e

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/shared/ruc"
)

// TestPause_FleetRestsWhenSUNATRefuses: after one refusal two scrapers ask nothing more
// until the pause is over, callers are told at once, and one visit tries again.
func TestPause_FleetRestsWhenSUNATRefuses(t *testing.T) {
	const pause = 3 * time.Second
	f := startFleet(t, 1, 2, 1, "SUNAT_PAUSE=3s")
	f.fault(replica.Fault{Kind: replica.FaultWAF})
	refused := func(n ruc.Number) {
		t.Helper()
		status, h, body := f.lookup(n)
		after, err := strconv.Atoi(h.Get("Retry-After"))
		if p := f.problem(h, status, body); status != http.StatusServiceUnavailable || p.Code != ruc.Blocked || err != nil || after < 1 || after > 3 {
			t.Errorf("%d, Retry-After %q: %s", status, h.Get("Retry-After"), body)
		}
	}
	began := time.Now()
	refused(fresh(9000))
	f.eventually("health shows the pause", pause, func() bool {
		_, _, body := f.get("/health")
		return strings.Contains(body, `"sunat":"paused"`) && strings.Contains(body, `"status":"degraded"`)
	})
	for i := range 20 {
		asked := time.Now()
		refused(fresh(9001 + i))
		if took := time.Since(asked); took > time.Second {
			t.Errorf("refused after %v", took)
		}
	}
	if took := time.Since(began); took > pause {
		t.Fatalf("the machine is too slow for this test: %v", took)
	}
	if posts := f.stats().Posts; posts != 1 {
		t.Errorf("SUNAT was asked %d times in a pause", posts-1)
	}
	f.clear()
	n := fresh(9100)
	f.eventually("the first visit after the pause brings the answer", 3*pause, func() bool {
		status, _, _ := f.lookup(n)
		return status == http.StatusOK
	})
	f.eventually("health shows that it is over", pause, func() bool {
		_, _, body := f.get("/health")
		return strings.Contains(body, `"sunat":"ok"`)
	})
}
