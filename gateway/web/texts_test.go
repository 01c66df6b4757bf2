package web_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func textsOf(t *testing.T, lang string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("texts", "index."+lang+".json"))
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	if err := json.Unmarshal(b, &texts); err != nil {
		t.Fatalf("%s.json: %v", lang, err)
	}
	// A key that is there twice would be lost in the map without a word.
	if lines := regexp.MustCompile(`(?m)^ +"`).FindAll(b, -1); len(lines) != len(texts) {
		t.Errorf("%s.json has %d lines with a text, but %d keys", lang, len(lines), len(texts))
	}
	return texts
}

// sources returns the lookup page's own files by name: the template, the scripts, the sheet.
func sources(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, pattern := range []string{"*.html", "*.js", "*.css", "*.svg"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if strings.HasPrefix(name, "docs.") {
				continue // of the other page
			}
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			files[name] = string(b)
		}
	}
	if len(files) < 4 {
		t.Fatalf("found only %d files of the page", len(files))
	}
	return files
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func TestTexts_BothLanguagesSayTheSame(t *testing.T) {
	es, en := textsOf(t, "es"), textsOf(t, "en")
	placeholder := regexp.MustCompile(`\{\w+\}`)
	for _, key := range sortedKeys(es) {
		other, ok := en[key]
		if !ok {
			t.Errorf("en.json lacks %q", key)
			continue
		}
		if strings.TrimSpace(es[key]) == "" || strings.TrimSpace(other) == "" {
			t.Errorf("%q is empty", key)
		}
		a, b := placeholder.FindAllString(es[key], -1), placeholder.FindAllString(other, -1)
		slices.Sort(a)
		slices.Sort(b)
		a, b = slices.Compact(a), slices.Compact(b)
		if !slices.Equal(a, b) {
			t.Errorf("%q has %v in Spanish and %v in English", key, a, b)
		}
	}
	for _, key := range sortedKeys(en) {
		if _, ok := es[key]; !ok {
			t.Errorf("es.json lacks %q", key)
		}
	}
}

// Keys are written out wherever they are used, so that both ways can be checked: a table
// of keys in a script holds them whole, none is put together from parts.
func TestTexts_EveryKeyIsUsedAndEveryUsedKeyExists(t *testing.T) {
	texts := textsOf(t, "es")
	areas := map[string]bool{} // what stands before the first dot of a key
	for key := range texts {
		if area, _, dotted := strings.Cut(key, "."); dotted {
			areas[area] = true
		}
	}
	template := regexp.MustCompile(`\{\{t "([^"]+)"\}\}`)
	call := regexp.MustCompile(`\bt\("([^"]+)"`)
	literal := regexp.MustCompile(`"([a-zA-Z]+)\.([a-zA-Z.]+)"`)
	used := map[string]bool{}
	use := func(file, key string) {
		if _, ok := texts[key]; !ok {
			t.Errorf("%s uses %q, which is no text", file, key)
		}
		used[key] = true
	}
	for file, source := range sources(t) {
		switch filepath.Ext(file) {
		case ".html":
			for _, m := range template.FindAllStringSubmatch(source, -1) {
				use(file, m[1])
			}
		case ".js":
			for _, m := range call.FindAllStringSubmatch(source, -1) {
				use(file, m[1])
			}
			for _, m := range literal.FindAllStringSubmatch(source, -1) {
				if areas[m[1]] {
					use(file, m[1]+"."+m[2])
				}
			}
		}
	}
	for _, key := range sortedKeys(texts) {
		if !used[key] {
			t.Errorf("%q is not used", key)
		}
	}
}

// Text of a record reaches the page as text only, and nothing needs a weaker policy than
// the one the page is served with.
func TestPage_NoMarkupFromTextAndNothingInline(t *testing.T) {
	banned := map[string]*regexp.Regexp{
		"markup made from text":      regexp.MustCompile(`(?i)innerHTML|outerHTML|insertAdjacentHTML|document\.write|setHTML|createContextualFragment|DOMParser|srcdoc`),
		"code made from text":        regexp.MustCompile(`\beval\s*\(|\bnew Function\b|set(?:Timeout|Interval)\(\s*["'` + "`" + `]`),
		"a style attribute":          regexp.MustCompile(`(?i)\sstyle\s*=|setAttribute\(\s*["']style|\bel\([^()]*\bstyle\s*:`),
		"a style element":            regexp.MustCompile(`(?i)<style`),
		"a listener in markup":       regexp.MustCompile(`(?i)<[^>]*\son[a-z]+\s*=`),
		"a data: or javascript: URL": regexp.MustCompile(`(?i)["'(=]\s*(?:data|javascript):`),
		"something from elsewhere":   regexp.MustCompile(`(?i)(?:src|href|import|url\()\W{0,3}https?://`),
	}
	for file, source := range sources(t) {
		for what, pattern := range banned {
			if found := pattern.FindString(source); found != "" {
				t.Errorf("%s has %s: %q", file, what, found)
			}
		}
	}
	inline := regexp.MustCompile(`(?is)<script\b([^>]*)>(.*?)</script>`)
	for _, m := range inline.FindAllStringSubmatch(sources(t)["index.html"], -1) {
		if m[2] != "" && !strings.Contains(m[1], `type="application/json"`) {
			t.Errorf("index.html has an inline script: %q", m[2])
		}
	}
}

// Every id that a script asks for is in the template, every drawing in the sprite.
func TestPage_IdsAndDrawingsExist(t *testing.T) {
	files := sources(t)
	ids := map[string]bool{}
	for _, m := range regexp.MustCompile(`\sid="([^"]+)"`).FindAllStringSubmatch(files["index.html"], -1) {
		if ids[m[1]] {
			t.Errorf("index.html has the id %q twice", m[1])
		}
		ids[m[1]] = true
	}
	for _, m := range regexp.MustCompile(`id: "([^"]+)"`).FindAllStringSubmatch(files["app.js"], -1) {
		ids[m[1]] = true // made by the script
	}
	for _, m := range regexp.MustCompile(`(?:\bpage|getElementById)\("([^"]+)"\)`).FindAllStringSubmatch(files["app.js"]+files["view.js"], -1) {
		if !ids[m[1]] {
			t.Errorf("a script asks for the id %q, which is nowhere", m[1])
		}
	}
	drawings := regexp.MustCompile(`(?:\bicon\(|button\("[^"]*", )"([a-z]+)"`)
	for _, m := range drawings.FindAllStringSubmatch(files["app.js"]+files["view.js"], -1) {
		if !ids["i-"+m[1]] {
			t.Errorf("a script draws %q, which is not in the sprite", m[1])
		}
	}
}
