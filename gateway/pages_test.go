package gateway_test

import (
	"compress/gzip"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

func TestPages_Language(t *testing.T) {
	r := start(t)
	for name, tc := range map[string]struct {
		path   string
		header []string
		want   string
	}{
		"nothing said":     {"/", nil, "es"},
		"Peru":             {"/", []string{"Accept-Language", "es-PE,es;q=0.9,en;q=0.8"}, "es"},
		"English":          {"/", []string{"Accept-Language", "en-GB,en;q=0.9,es;q=0.1"}, "en"},
		"another":          {"/", []string{"Accept-Language", "qu"}, "es"},
		"nonsense":         {"/", []string{"Accept-Language", "%%;;=="}, "es"},
		"by the query":     {"/?lang=en", []string{"Accept-Language", "es"}, "en"},
		"by the cookie":    {"/docs", []string{"Accept-Language", "es", "Cookie", "lang=en"}, "en"},
		"query and cookie": {"/docs?lang=es", []string{"Cookie", "lang=en"}, "es"},
		"an unknown one":   {"/?lang=fr", []string{"Cookie", "lang=xx"}, "es"},
	} {
		got := r.get(tc.path, tc.header...)
		if got.Header.Get("Content-Language") != tc.want || !strings.Contains(got.body, `<html lang="`+tc.want+`">`) {
			t.Errorf("%s: %s", name, got.Header.Get("Content-Language"))
		}
		if chosen := strings.Contains(tc.path, "lang="+tc.want); chosen != strings.HasPrefix(got.Header.Get("Set-Cookie"), "lang="+tc.want+";") {
			t.Errorf("%s: Set-Cookie %q", name, got.Header.Get("Set-Cookie"))
		}
	}
}

func TestPages_CachingAndCompression(t *testing.T) {
	r := start(t)
	page := r.get("/")
	asset := regexp.MustCompile(`/web/[0-9a-f]+/app\.js`).FindString(page.body)
	if asset == "" {
		t.Fatalf("the page loads no script: %s", page.body)
	}
	for path, caching := range map[string]string{
		"/": "no-cache", "/docs": "no-cache", "/openapi.yaml": "no-cache",
		asset: "public, max-age=31536000, immutable", "/web/older/app.js": "no-cache",
	} {
		plain, small := r.get(path), r.get(path, "Accept-Encoding", "gzip")
		if got := plain.Header.Get("Cache-Control"); got != caching {
			t.Errorf("%s: Cache-Control %q", path, got)
		}
		unpacked, err := gzip.NewReader(strings.NewReader(small.body))
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		body, err := io.ReadAll(unpacked)
		if err != nil || string(body) != plain.body || small.Header.Get("Content-Encoding") != "gzip" || len(small.body) > len(plain.body)/2 {
			t.Errorf("%s: %d bytes plain, %d compressed, %v", path, len(plain.body), len(small.body), err)
		}
		if got := r.get(path, "If-None-Match", `"x", `+plain.Header.Get("ETag")); got.StatusCode != http.StatusNotModified || got.body != "" {
			t.Errorf("%s: what is held is sent again: %d", path, got.StatusCode)
		}
	}
	if got := r.get("/web/" + strings.Split(asset, "/")[2] + "/index.html"); got.StatusCode != http.StatusNotFound {
		t.Errorf("a template is served: %d", got.StatusCode)
	}
}
