package replica

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rucflow/rucflow/shared/ruc"
)

// The kinds of Fault. Those in resultOnly make sense for result pages alone.
const (
	FaultHang          = "hang"            // no response until the client leaves, the faults are cleared or the server stops
	FaultSlow          = "slow"            // the response comes late (DelayMs, else 3 s)
	FaultHalf          = "half"            // the first half of the page as a complete response
	FaultHalfOpen      = "half-open"       // the first half of the page, then nothing on an open connection
	FaultOtherRUC      = "other-ruc"       // the whole page of another taxpayer
	FaultError         = "error"           // SUNAT's error page
	FaultWAF           = "waf"             // the firewall's page, status 200
	FaultEmpty         = "empty"           // status 200 and no body
	FaultReset         = "reset"           // TCP reset without a response
	FaultAlert         = "alert"           // the right page, with an alert() before its content
	FaultAlertLoad     = "alert-load"      // the right page, with an alert() on load
	FaultPopup         = "popup"           // the right page, which opens a window on load
	FaultLoop          = "loop"            // the right page, with an endless script at its end
	FaultRename        = "rename"          // a required label has another name
	FaultBounce        = "bounce"          // the search form again
	FaultNotFoundOther = "not-found-other" // "no es válido", of another number
)

// statusFaults answer with a bare HTTP status.
var statusFaults = map[string]int{
	"401": http.StatusUnauthorized,
	"403": http.StatusForbidden,
	"429": http.StatusTooManyRequests,
	"500": http.StatusInternalServerError,
	"502": http.StatusBadGateway,
	"503": http.StatusServiceUnavailable,
	"504": http.StatusGatewayTimeout,
}

var (
	anywhere   = []string{FaultHang, FaultSlow, FaultHalf, FaultHalfOpen, FaultError, FaultWAF, FaultEmpty, FaultReset, FaultAlert, FaultAlertLoad, FaultPopup, FaultLoop}
	resultOnly = []string{FaultOtherRUC, FaultRename, FaultBounce, FaultNotFoundOther}
)

// The values of Fault.On.
const (
	OnResult = "result" // answers to POSTs; the default
	OnForm   = "form"   // the search form
)

// Fault is a misbehaviour asked of the site.
type Fault struct {
	Kind    string `json:"fault"`   // a Fault… constant, or one of 401 403 429 500 502 503 504
	RUC     string `json:"ruc"`     // only for this number; "" for any
	Times   int    `json:"times"`   // how often; 0 until cleared
	DelayMs int    `json:"delayMs"` // wait before it shows, in milliseconds; 0 for none
	On      string `json:"on"`      // OnResult or OnForm; "" is OnResult
}

const (
	maxFaults        = 256
	maxDelay         = 10 * time.Minute
	defaultSlowDelay = 3 * time.Second
)

// delay is how long the fault waits before it shows.
func (f Fault) delay() time.Duration {
	if f.Kind == FaultSlow && f.DelayMs == 0 {
		return defaultSlowDelay
	}
	return time.Duration(f.DelayMs) * time.Millisecond
}

// checked returns f with its defaults, or why it is none.
func (f Fault) checked() (Fault, error) {
	if f.On == "" {
		f.On = OnResult
	}
	_, status := statusFaults[f.Kind]
	switch {
	case f.On != OnResult && f.On != OnForm:
		return Fault{}, fmt.Errorf("on %q is neither %q nor %q", f.On, OnResult, OnForm)
	case !status && !slices.Contains(anywhere, f.Kind) && !slices.Contains(resultOnly, f.Kind):
		return Fault{}, fmt.Errorf("fault %q is not one of %s", f.Kind, strings.Join(faultKinds(), ", "))
	case f.On == OnForm && slices.Contains(resultOnly, f.Kind):
		return Fault{}, fmt.Errorf("fault %q is for results only", f.Kind)
	case f.On == OnForm && f.RUC != "":
		return Fault{}, errors.New("the form is asked for without a number: leave ruc empty")
	case f.RUC != "" && !elevenDigits(f.RUC):
		return Fault{}, fmt.Errorf("ruc %q is not 11 digits", f.RUC)
	case f.Times < 0:
		return Fault{}, fmt.Errorf("times %d is negative", f.Times)
	case f.DelayMs < 0 || time.Duration(f.DelayMs) > maxDelay/time.Millisecond:
		return Fault{}, fmt.Errorf("delayMs %d is not between 0 and %d", f.DelayMs, maxDelay/time.Millisecond)
	}
	return f, nil
}

func faultKinds() []string {
	return slices.Sorted(slices.Values(slices.Concat(anywhere, resultOnly, slices.Collect(maps.Keys(statusFaults)))))
}

// faults are the active ones, in the order in which they were set. It is safe for
// concurrent use.
type faults struct {
	mu       sync.Mutex
	active   []Fault
	released chan struct{} // closed and replaced when the faults are cleared
}

func newFaults() *faults { return &faults{released: make(chan struct{})} }

// set adds a checked fault. One of the same kind, place and number is replaced.
func (f *faults) set(fault Fault) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, old := range f.active {
		if old.Kind == fault.Kind && old.On == fault.On && old.RUC == fault.RUC {
			f.active[i] = fault
			return nil
		}
	}
	if len(f.active) >= maxFaults {
		return fmt.Errorf("there are %d faults already", maxFaults)
	}
	f.active = append(f.active, fault)
	return nil
}

// take returns the first fault that meets a request and spends one of its times.
// Its hold is closed when the faults are cleared.
func (f *faults) take(on, asked string) (fault Fault, hold <-chan struct{}, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, candidate := range f.active {
		if candidate.On != on || candidate.RUC != "" && candidate.RUC != asked {
			continue
		}
		switch candidate.Times {
		case 0:
		case 1:
			f.active = slices.Delete(f.active, i, i+1)
		default:
			f.active[i].Times--
		}
		return candidate, f.released, true
	}
	return Fault{}, nil, false
}

func (f *faults) list() []Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]Fault{}, f.active...)
}

func (f *faults) clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.active = nil
	close(f.released)
	f.released = make(chan struct{})
}

// renamed is what the fault rename does to a required label.
var renamed = strings.NewReplacer("Estado del Contribuyente:", "Situaci&oacute;n del Contribuyente:")

// scripts are what the script faults put into a page: the text before which it
// goes, and the script.
var scripts = map[string]struct{ before, script string }{
	FaultAlert:     {`<div class="container">`, `<script>alert('Aviso de la réplica');</script>`},
	FaultAlertLoad: {"</body>", `<script>window.addEventListener('load', function () { alert('Aviso de la réplica'); });</script>`},
	FaultPopup:     {"</body>", `<script>window.addEventListener('load', function () { window.open('about:blank'); });</script>`},
	FaultLoop:      {"</body>", `<script>for (;;) { }</script>`},
}

// scripted returns the document with the fault's script in it.
func scripted(kind, html string) string {
	s := scripts[kind]
	return strings.Replace(html, s.before, s.script+s.before, 1)
}

// anotherThan returns a registered taxpayer whose number is not n; n may be the
// zero Number.
func anotherThan(n ruc.Number) Taxpayer {
	prefix := []byte(caseSUNAT)
	if !n.IsZero() {
		copy(prefix, n.String())
	}
	for {
		// The fourth digit leads out of the numbers that ask for nobody.
		prefix[3] = '0' + (prefix[3]-'0'+1)%10
		if t, ok := Lookup(ruc.FromPrefix(string(prefix))); ok {
			return t
		}
	}
}
