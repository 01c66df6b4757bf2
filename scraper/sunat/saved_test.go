package sunat_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rucflow/rucflow/scraper/sunat"
	"github.com/rucflow/rucflow/shared/ruc"
)

// savedPagesDir holds saved pages of SUNAT, which are not part of this project.
// Unset, the test says so; set, a missing page fails.
const savedPagesDir = "SUNAT_PAGES_DIR"

// savedOutcomes says what every saved page without a record must bring.
var savedOutcomes = map[string]ruc.Code{
	"formulario":             ruc.Unavailable,
	"errorServidor":          ruc.Unavailable,
	"noEncontrado":           ruc.NotFound,
	"bloqueado":              ruc.Blocked,
	"historico":              ruc.Changed,
	"trabajadores":           ruc.Changed,
	"deudaCoactiva":          ruc.Changed,
	"establecimientosAnexos": ruc.Changed,
	"representantesLegales":  ruc.Changed,
}

func TestParse_SavedPages(t *testing.T) {
	dir := os.Getenv(savedPagesDir)
	if dir == "" {
		t.Skipf("%s is not set: the saved pages were not tested", savedPagesDir)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	var expected map[string]map[string]any
	if err := json.Unmarshal(raw, &expected); err != nil {
		t.Fatal(err)
	}
	fichas := 0
	for file, want := range expected {
		page, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Errorf("a saved page is missing: %v", err)
			continue
		}
		if want["_pagina"] != nil {
			fichas++
			t.Run(filepath.Base(file), func(t *testing.T) { savedRecord(t, page, want) })
			continue
		}
		t.Run(filepath.Base(file), func(t *testing.T) { savedOutcome(t, page, want) })
	}
	if fichas != 3 {
		t.Errorf("%d fichas were tested, want 3", fichas)
	}
}

// savedRecord holds every expected key but _pagina against the encoded answer.
func savedRecord(t *testing.T, page []byte, want map[string]any) {
	number, _ := want["ruc"].(string)
	n := ruc.MustParse(number)
	result, err := sunat.Parse(sunat.Page{Status: 200, HTML: sunat.Decode(page)}, n)
	if err != nil || !result.Found {
		t.Fatalf("Parse = %v, %v", result.Found, err)
	}
	if len(result.Unknown) > 0 {
		t.Errorf("unknown labels: %q", result.Unknown)
	}
	b, err := json.Marshal(result.Record)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	got["ruc"] = number // part of the answer, checked by Parse
	delete(want, "_pagina")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
}

func savedOutcome(t *testing.T, page []byte, want map[string]any) {
	class, _ := want["clase"].(string)
	code, ok := savedOutcomes[class]
	if !ok {
		t.Fatalf("no outcome is known for the class %q", class)
	}
	n := ruc.MustParse("20100055237")
	if s, _ := want["ruc"].(string); s != "" {
		n = ruc.MustParse(s)
	}
	result, err := sunat.Parse(sunat.Page{Status: 200, HTML: sunat.Decode(page)}, n)
	if result.Found {
		t.Fatal("a record was read from a page that has none")
	}
	got := ruc.CodeOf(err)
	if err == nil {
		got = ruc.NotFound
	}
	if got != code {
		t.Errorf("code %q, want %q (%v)", got, code, err)
	}
	if code == ruc.NotFound {
		// The same page is no answer to another number.
		_, err := sunat.Parse(sunat.Page{Status: 200, HTML: sunat.Decode(page)}, ruc.MustParse("20131312955"))
		if ruc.CodeOf(err) != ruc.Changed {
			t.Errorf("for another number: %v, want %q", err, ruc.Changed)
		}
		if strings.Contains(sunat.Decode(page), "\uFFFD") {
			t.Error("the page was decoded wrongly")
		}
	}
}
