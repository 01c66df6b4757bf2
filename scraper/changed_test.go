package scraper

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/scraper/sunat"
	"github.com/rucflow/rucflow/shared/ruc"
)

func files(t *testing.T, dir string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestChanged_StructureOfThePageIsKept(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	renamed := strings.NewReplacer("Estado del Contribuyente:", "Situación Registral:")
	r.run(&fakeEngine{visit: func(_ context.Context, n ruc.Number, _ int) (sunat.Page, error) {
		p := shown(n)
		p.HTML = renamed.Replace(p.HTML)
		return p, nil
	}})
	for _, n := range []ruc.Number{number, number} {
		if a := r.asked(n, patience); ruc.CodeOf(a.err) != ruc.Changed {
			t.Errorf("%v", a.err)
		}
	}
	kept := files(t, r.cfg.ChangedDir)
	if len(kept) != 1 {
		t.Fatalf("kept: %v; one structure was seen", kept)
	}
	info, err := os.Stat(kept[0])
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	b, err := os.ReadFile(kept[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"a required row is missing", "<h4 class=\"list-group-item-heading\">‹20›</h4>", "Tipo Contribuyente:"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%q is not in\n%s", want, b)
		}
	}
	if strings.Contains(string(b), number.String()) {
		t.Errorf("the number is in\n%s", b)
	}
}

func TestChanged_IsBounded(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	c := &changedPages{
		dir: filepath.Join(t.TempDir(), "changed"), now: func() time.Time { return now }, log: zerolog.Nop(),
		counter: prometheus.NewCounter(prometheus.CounterOpts{Name: "pages"}),
	}
	c.sweep() // without a folder
	page := func(i int) sunat.Page {
		return sunat.Page{Status: 200, HTML: strings.Repeat("<p>", i)}
	}
	why := errors.New("by no rule")
	for i := range maxChangedPages + 5 {
		now = now.Add(time.Minute)
		c.keep(page(i), why)
	}
	if got := files(t, c.dir); len(got) != maxChangedPages {
		t.Errorf("%d kept", len(got))
	}
	other := filepath.Join(c.dir, "page-of-mine.txt")
	if err := os.WriteFile(other, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	now = now.Add(changedAge - time.Second)
	c.keep(page(maxChangedPages), why) // seen again
	now = now.Add(time.Minute)
	c.sweep()
	if got := files(t, c.dir); len(got) != 2 {
		t.Errorf("kept: %v; one page was seen again, one file is somebody else's", got)
	}
	if n := testutil.ToFloat64(c.counter); n != maxChangedPages+6 {
		t.Errorf("counted %v", n)
	}
}

// A folder that cannot be written costs a log line, not the answer.
func TestChanged_FolderThatCannotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	c := &changedPages{
		dir: filepath.Join(file, "changed"), now: time.Now, log: zerolog.New(&log),
		counter: prometheus.NewCounter(prometheus.CounterOpts{Name: "pages"}),
	}
	c.keep(sunat.Page{HTML: "<p>"}, errors.New("by no rule"))
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "could not be kept") {
		t.Errorf("log: %s", got)
	}
}
