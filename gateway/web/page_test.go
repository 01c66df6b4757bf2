package web_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"html/template"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// pageIn executes the template as the gateway does.
func pageIn(t *testing.T, lang, other string) string {
	t.Helper()
	texts := textsOf(t, lang)
	page, err := template.New("index.html").Funcs(template.FuncMap{
		"t":     func(key string) string { return texts[key] },
		"asset": func(name string) string { return "/web/" + name + "?v=0123456789abcdef" },
		"texts": func() map[string]string { return texts },
	}).ParseFiles("index.html")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := page.Execute(&out, struct{ Lang, Other, Version string }{lang, other, "v0.0.0-test"}); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestPage_EveryTextSurvivesTheTemplate(t *testing.T) {
	for lang, other := range map[string]string{"es": "en", "en": "es"} {
		page := pageIn(t, lang, other)
		if !strings.Contains(page, `<html lang="`+lang+`">`) || !strings.Contains(page, `hreflang="`+other+`"`) {
			t.Errorf("the page in %s does not say its language and the other", lang)
		}
		// What html/template puts where it refuses a value.
		if strings.Contains(page, "ZgotmplZ") {
			t.Errorf("the page in %s has a value in a place that html/template refuses", lang)
		}
		inside := regexp.MustCompile(`(?s)<script type="application/json" id="texts">(.*?)</script>`).FindStringSubmatch(page)
		if inside == nil {
			t.Fatalf("the page in %s has no texts for its scripts", lang)
		}
		got := map[string]string{}
		if err := json.Unmarshal([]byte(inside[1]), &got); err != nil {
			t.Fatal(err)
		}
		for key, text := range textsOf(t, lang) {
			if got[key] != text {
				t.Errorf("the scripts get %q for %q, want %q", got[key], key, text)
			}
		}
	}
}

// The page is for slow lines as well: 60 KB is the promise, this bound keeps it at half.
func TestPage_IsLight(t *testing.T) {
	const maxBytes = 30 << 10
	size := func(b []byte) int {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		_, _ = w.Write(b) // into memory
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Len()
	}
	total := size([]byte(pageIn(t, "es", "en")))
	for name, source := range sources(t) {
		if filepath.Ext(name) != ".html" {
			total += size([]byte(source))
		}
	}
	t.Logf("%d bytes compressed", total)
	if total > maxBytes {
		t.Errorf("the page takes %d bytes compressed, more than %d", total, maxBytes)
	}
}

// The examples are run in a browser; here it is only seen that none is missing.
func TestLogic_EveryFunctionHasExamples(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("testdata", "logic.json"))
	if err != nil {
		t.Fatal(err)
	}
	var examples []struct {
		Call string            `json:"call"`
		Args []json.RawMessage `json:"args"`
		Want json.RawMessage   `json:"want"`
	}
	if err := json.Unmarshal(b, &examples); err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for i, e := range examples {
		if len(e.Args) == 0 || len(e.Want) == 0 {
			t.Errorf("example %d, of %q, lacks args or want", i, e.Call)
		}
		shown[e.Call] = true
	}
	var functions []string
	for _, m := range regexp.MustCompile(`(?m)^export function (\w+)`).FindAllStringSubmatch(sources(t)["logic.js"], -1) {
		functions = append(functions, m[1])
		if !shown[m[1]] {
			t.Errorf("logic.json has no example of %s", m[1])
		}
	}
	for call := range shown {
		if !slices.Contains(functions, call) {
			t.Errorf("logic.json has an example of %q, which logic.js does not export", call)
		}
	}
}
