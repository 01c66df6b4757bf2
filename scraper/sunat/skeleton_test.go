package sunat_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/scraper/sunat"
)

func TestSkeleton(t *testing.T) {
	for _, tt := range []struct{ name, page, want string }{
		{
			"labels stay, values go",
			"<h4 class=\"list-group-item-heading\">Estado del Contribuyente:</h4>\n<p>ACTIVO</p>",
			"<h4 class=\"list-group-item-heading\">Estado del Contribuyente:</h4>\n<p>‹6›</p>",
		},
		{"a renamed label", "<h4>Situación:</h4>", "<h4>‹10›</h4>"},
		{"scripts and comments", `<script>var n="20131312955"</script><!-- PEREZ JUAN -->`, "<script>‹19›</script><!--‹12›-->"},
		{
			"attributes", `<input id="txtRuc2" name="nroRuc" value="20131312955" onclick="go(1)" disabled>`,
			`<input id="txtRuc2" name="nroRuc" value="‹11›" onclick="‹5›" disabled>`,
		},
		{"a number for a name", `<p id="ruc-20131312955" class="col-md-7">`, `<p id="‹15›" class="col-md-7">`},
		{"a name is no place for data", `<div class="JOSÉ QUISPE">`, `<div class="‹11›">`},
		{"not closed", `<p>uno<p>dos <b`, "<p>‹3›<p>‹3›"},
		{"nothing", "", ""},
	} {
		if got := sunat.Skeleton(tt.page); got != tt.want {
			t.Errorf("%s: %s", tt.name, got)
		}
	}
	if got := sunat.Skeleton(strings.Repeat("<p>x</p>", 1<<20)); len(got) > 129<<10 || !strings.HasSuffix(got, "‹cut›") {
		t.Errorf("%d bytes of a long page", len(got))
	}
}

// No word of any of the replica's records is in the skeleton of its page.
func TestSkeleton_HoldsNothingOfTheRecord(t *testing.T) {
	for _, c := range replica.Cases() {
		got := sunat.Skeleton(sunat.Decode(replica.Render(c.Taxpayer, time.Now())))
		r := c.Taxpayer.Expected(time.Now())
		said := []string{c.Number.String(), string(r.RazonSocial), string(r.Estado), string(r.Condicion), string(r.TipoContribuyente)}
		for _, text := range said {
			if text != "" && strings.Contains(got, text) {
				t.Errorf("%s: %q is in\n%s", c.Name, text, got)
			}
		}
		if !strings.Contains(got, "RUC:") || !strings.Contains(got, "list-group") {
			t.Errorf("%s: the structure is not in\n%s", c.Name, got)
		}
	}
}

// A document's or taxpayer's number has eight digits or more.
var personalNumber = regexp.MustCompile(`[1-9]\d{7}`)

func FuzzSkeleton(f *testing.F) {
	f.Add("<h4>Estado:</h4><p>20131312955</p>")
	f.Add(`<a20131312955 b20131312955=x id="20131312955"></a20131312955><!DOCTYPE 20131312955><20131312955>`)
	f.Fuzz(func(t *testing.T, page string) {
		if got := sunat.Skeleton(page); personalNumber.MatchString(got) {
			t.Errorf("%s", got)
		}
	})
}
