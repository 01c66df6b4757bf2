package gateway

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

func TestBatch_AtMostSoMany(t *testing.T) {
	b := newBatches(t.Context(), nil, nil)
	for range maxBatches {
		b.slots <- struct{}{}
	}
	w := &server{access: &access{}, admin: &admin{}, batches: b, now: time.Now, refused: zerolog.Nop()}
	req := httptest.NewRequest(http.MethodPost, "/v1/ruc/lote", strings.NewReader(batchExample))
	req.Header.Set("Content-Type", "application/json")
	res, err := w.app(0).Test(req, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
		t.Errorf("%d, Retry-After %q", res.StatusCode, res.Header.Get("Retry-After"))
	}
}
