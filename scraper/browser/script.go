package browser

import (
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/rucflow/rucflow/scraper/sunat"
	"github.com/rucflow/rucflow/shared/ruc"
)

// binding is the name of the function through which documents report. It is random so
// that no page can know it.
var binding = "r" + rand.Text()

// asked is the tab's name from the query on until the document that answers it.
var asked = "a" + rand.Text()

//go:embed script.js
var scriptSource string

// documentScript is what every document of a tab runs first.
func documentScript(fetch bool) string {
	return strings.NewReplacer(
		"BINDING", `"`+binding+`"`,
		"ASKED", `"`+asked+`"`,
		"FETCH", strconv.FormatBool(fetch),
		"MAXBYTES", strconv.Itoa(sunat.MaxPageBytes),
	).Replace(scriptSource)
}

// Kinds of document, as script.js names them.
const (
	kindForm    = "form"    // the search form, after its scripts are ready; HTML is where it sends its query
	kindResult  = "result"  // a list of rows; HTML is an excerpt
	kindOther   = "other"   // anything else; HTML is the document, cut at 64 Ki characters
	kindDialog  = "dialog"  // no document: what one said in a dialog that was not opened
	kindFetched = "fetched" // no document: the answer to the query that the form sent; HTML is its bytes
	kindFailed  = "failed"  // no document: no answer came to it; HTML says why, without a cause
)

// report is one message of script.js. Doc names the document: the protocol's own
// events of a document arrive after its push, so counting them takes the old
// document's for the new one's.
type report struct {
	Kind   string `json:"kind"`
	Doc    string `json:"doc"`
	URL    string `json:"url"`
	Status int    `json:"status"`
	HTML   string `json:"html"`
}

func parseReport(payload string) (report, error) {
	var r report
	if err := json.Unmarshal([]byte(payload), &r); err != nil {
		return report{}, fmt.Errorf("browser.parseReport: %w", err)
	}
	return r, nil
}

// failedLoad reports whether the document is Chromium's own page about a load that
// failed. It is empty in the headless shell: the code comes from the network events.
func (r report) failedLoad() bool { return strings.HasPrefix(r.URL, "chrome-error:") }

func (r report) page() sunat.Page {
	if r.Kind == kindFetched {
		return sunat.Page{URL: withoutFragment(r.URL), Status: r.Status, HTML: sunat.Decode(r.bytes())}
	}
	return sunat.Page{URL: withoutFragment(r.URL), Status: r.Status, HTML: r.HTML}
}

// bytes undoes x-user-defined, which has byte 0x80 be U+F780 and so on (Encoding Standard).
func (r report) bytes() []byte {
	b := make([]byte, 0, len(r.HTML))
	for _, char := range r.HTML {
		b = append(b, byte(char)) //nolint:gosec // the byte is what is wanted of it
	}
	return b
}

// submitScript types n into the parked form and presses its button, in one call.
func submitScript(n ruc.Number) string {
	return fmt.Sprintf(`(() => {
	const field = document.getElementById('txtRuc');
	field.focus();
	field.value = '%s';
	field.dispatchEvent(new Event('input', {bubbles: true}));
	field.dispatchEvent(new Event('change', {bubbles: true}));
	window.name = '%s';
	document.getElementById('btnAceptar').click();
})()`, n, asked)
}

// invalidNumberAlert is what the form says to a number that fails its own check
// (search form of e-consultaruc.sunat.gob.pe, 2025).
const invalidNumberAlert = "Por favor, ingrese número de RUC válido."

// parseString reads a protocol value that is a string.
func parseString(value []byte) (string, error) {
	var s string
	if err := json.Unmarshal(value, &s); err != nil {
		return "", fmt.Errorf("browser.parseString: %w", err)
	}
	return s, nil
}
