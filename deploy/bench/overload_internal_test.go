//go:build linux

package bench

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rucflow/rucflow/shared/ruc"
)

func TestSortTold(t *testing.T) {
	var f Figures
	sortTold([]told{
		{took: 2 * time.Second}, {ruc.Overloaded, 3 * time.Millisecond}, {ruc.Overloaded, time.Millisecond}, {ruc.Overloaded, 2 * time.Millisecond},
	}, &f)
	want := Figures{
		{Name: overloadAnswered, Rounds: map[string][]float64{shareOfAll: {0.25}, p50: {2000}, p99: {2000}}},
		{Name: overloadRefused, Rounds: map[string][]float64{shareOfAll: {0.75}, p50: {2}, p99: {3}}},
		{Name: overloadFailed, Rounds: map[string][]float64{shareOfAll: {0}}},
	}
	if diff := cmp.Diff(want, f); diff != "" {
		t.Error(diff)
	}
	f = nil
	sortTold([]told{{code: ruc.Timeout, took: time.Second}}, &f)
	if got := of(overloadFailed, shareOfAll)(f); got != 1 {
		t.Errorf("a timeout is no refusal: %v", f)
	}
}

func TestVisitRate(t *testing.T) {
	if rate, share := visitRate(40, 10*time.Second); rate != 4 || share != 0.8 {
		t.Errorf("%v, %v", rate, share)
	}
}

func TestAsk(t *testing.T) {
	answers := map[string]func(http.ResponseWriter){
		path(cold(0)): func(w http.ResponseWriter) { _, _ = w.Write([]byte("{}")) },
		path(cold(1)): func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(`{"code":"overloaded"}`))
		},
		path(cold(2)): func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) },
	}
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answers[r.URL.Path](w) }))
	defer gateway.Close()
	l, g := &lab{now: time.Now}, server{http: strings.TrimPrefix(gateway.URL, "http://")}
	for i, want := range []ruc.Code{"", ruc.Overloaded} {
		if got, err := l.ask(t.Context(), client, g, cold(i)); err != nil || got.code != want || got.took <= 0 {
			t.Errorf("%d: %+v, %v", i, got, err)
		}
	}
	if got, err := l.ask(t.Context(), client, g, cold(2)); err == nil {
		t.Errorf("no problem and no answer: %+v", got)
	}
}
