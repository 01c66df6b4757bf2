package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html/template"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func readTestAPI(t *testing.T) *api {
	t.Helper()
	b, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	a, err := readAPI(b)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func docsTexts(t *testing.T, lang string) map[string]string {
	t.Helper()
	b, err := os.ReadFile("texts/docs." + lang + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var texts map[string]string
	if err := json.Unmarshal(b, &texts); err != nil {
		t.Fatal(err)
	}
	return texts
}

// The page is written to the test's artifacts too: go test -run Docs -artifacts.
func TestDocs_Render(t *testing.T) {
	a := readTestAPI(t)
	used := map[string]map[string]bool{}
	for lang, other := range map[string]string{"es": english, english: "es"} {
		texts := docsTexts(t, lang)
		used[lang] = map[string]bool{}
		page, err := template.New("docs.html").Funcs(template.FuncMap{
			"t": func(key string) (string, error) {
				used[lang][key] = true
				if texts[key] == "" {
					return "", fmt.Errorf("no text %s in %s", key, lang)
				}
				return texts[key], nil
			},
			"asset": func(name string) string { return name },
		}).ParseFiles("docs.html")
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		err = page.Execute(&out, struct {
			Lang, Other, Version string
			Doc                  apiView
		}{lang, other, "v1.2.3", a.view(lang)})
		if err != nil {
			t.Fatal(err)
		}
		checkPage(t, lang, out.String())
		for key := range texts {
			if !used[lang][key] {
				t.Errorf("%s: nobody uses the text %s", lang, key)
			}
		}
		if err := os.WriteFile(filepath.Join(t.ArtifactDir(), "docs."+lang+".html"), out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// checkPage looks at what the page's policy forbids, and at its links into itself.
func checkPage(t *testing.T, lang, html string) {
	t.Helper()
	ids := map[string]bool{}
	for _, m := range regexp.MustCompile(` id="([^"]*)"`).FindAllStringSubmatch(html, -1) {
		if ids[m[1]] {
			t.Errorf("%s: two elements have the id %s", lang, m[1])
		}
		ids[m[1]] = true
	}
	for _, m := range regexp.MustCompile(`href="#([^"]*)"`).FindAllStringSubmatch(html, -1) {
		if !ids[m[1]] {
			t.Errorf("%s: a link leads to %s, which is nowhere", lang, m[1])
		}
	}
	for _, forbidden := range []string{"<script", "<style", " style=", "http://", "//cdn", "ZgotmplZ"} {
		if i := strings.Index(html, forbidden); i >= 0 {
			t.Errorf("%s: %.80s", lang, html[i:])
		}
	}
	for _, m := range regexp.MustCompile(`\s(?:href|src)="([^#/"][^"]*)"`).FindAllStringSubmatch(html, -1) {
		if m[1] != "docs.css" && m[1] != "docs.js" {
			t.Errorf("%s: something is loaded from %s", lang, m[1])
		}
	}
	for _, expected := range []string{"/obtener-ruc/{ruc}", "/v1/eventos", "razonSocial", "actividadesEconomicas[].ciiu", "code-not-held", "ruc.resolved", "openapi.yaml"} {
		if !strings.Contains(html, expected) {
			t.Errorf("%s: the page has no %s", lang, expected)
		}
	}
}

func TestReadAPI_SaysWhatIsMissing(t *testing.T) {
	for document, want := range map[string]string{
		"":                                     "no mapping",
		"[]":                                   "no mapping",
		"a: [":                                 "yaml",
		"a: {description: uno}":                "line 1: description without x-description-en",
		"a:\n  - {summary: uno}":               "line 2: summary without x-summary-en",
		"a: {$ref: '#/b/c'}\nb: {d: 1}":        "line 1: #/b/c leads nowhere",
		"a: {$ref: 'other.yaml#/b'}":           "leads nowhere",
		"a: &x {b: 1}\nc: *x":                  "line 2: an alias",
		"a: {$ref: '#/b/x~1y'}\nb: {x/y: {}}":  "",
		"a: {value: {description: uno}}":       "",
		"a: {summary: uno, x-summary-en: one}": "",
	} {
		_, err := readAPI([]byte(document))
		if want == "" && err == nil {
			continue
		}
		if want == "" || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", document, err, want)
		}
	}
}
