package browser_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rucflow/rucflow/scraper/replica"
)

// BenchmarkVisit reports what a visit on a warm slot takes beyond the site's own time for
// the POST, and the CPU time of the browser with all its helpers, the return to the form
// included. Run it with -benchtime 100x or more.
func BenchmarkVisit(b *testing.B) {
	fake := replica.New(replica.Config{}, time.Now)
	var served atomic.Int64 // nanoseconds of the last POST
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		fake.ServeHTTP(w, r)
		if r.Method == http.MethodPost {
			served.Store(int64(time.Since(began)))
		}
	}))
	b.Cleanup(func() { fake.Close(); server.Close() })
	r := start(b, &site{Server: fake, form: server.URL + replica.FormPath}, nil)
	for range 10 {
		r.ready(b, 2)
		r.visit(b, company)
	}
	r.ready(b, 2)
	cpu := ticks(r.processes(b))
	var over []float64
	for b.Loop() {
		b.StopTimer()
		r.ready(b, 2)
		b.StartTimer()
		began := time.Now()
		r.visit(b, company)
		over = append(over, float64(time.Since(began)-time.Duration(served.Load()))/1e6)
	}
	r.ready(b, 2)
	const msPerTick = 10
	b.ReportMetric(float64(ticks(r.processes(b))-cpu)*msPerTick/float64(len(over)), "cpu-ms/visit")
	slices.Sort(over)
	b.ReportMetric(over[len(over)/2], "over-p50-ms")
	b.ReportMetric(over[len(over)*99/100], "over-p99-ms")
}
