// Package page drives the web page in a real Chromium, on the all-in-one.
package page

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"go.uber.org/goleak"

	"github.com/rucflow/rucflow/deploy/allinone/allinonetest"
	"github.com/rucflow/rucflow/gateway"
	"github.com/rucflow/rucflow/scraper/browser"
	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/shared/ruc"
)

// screenshots is where TestPage_LooksRight leaves its pictures; `make screenshots` sets it.
var screenshots = flag.String("screenshots", "", "folder for the screenshots of TestPage_LooksRight; kept nowhere by default")

// maxPageBytes is what the page may cost to load, compressed.
const maxPageBytes = 60_000

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// fasthttp keeps one goroutine per process for the Date header, for ever, and
		// one per stopped server for up to ten seconds.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
	)
}

// patience is how long something may take that must come, on a busy machine.
const patience = 30 * time.Second

// client keeps no connection, so that a test leaves no goroutine behind.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// site is an all-in-one whose page is visited.
type site struct {
	*allinonetest.Program
	t *testing.T
}

// start runs the program until the test ends; it has answered one lookup then.
func start(t *testing.T, settings ...string) *site {
	t.Helper()
	s := &site{allinonetest.Start(t, t.TempDir(), settings...), t}
	s.eventually("SUNAT answers", func() bool { return s.lookup(fresh(0)) == http.StatusOK })
	return s
}

// on is the same site in a part of the test.
func (s *site) on(t *testing.T) *site { return &site{s.Program, t} }

func (s *site) eventually(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("in vain: %s", what)
		}
	}
}

func (s *site) get(url string) (status int, body string) {
	s.t.Helper()
	resp, err := client.Get(url)
	if err != nil {
		s.t.Errorf("%s: %v", url, err)
		return 0, ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Errorf("%s: %v", url, err)
	}
	return resp.StatusCode, string(b)
}

func (s *site) lookup(n ruc.Number) (status int) {
	s.t.Helper()
	status, _ = s.get("http://" + s.HTTP + "/v1/ruc/" + n.String())
	return status
}

// fault makes the replica misbehave.
func (s *site) fault(f replica.Fault) {
	s.t.Helper()
	b, err := json.Marshal(f)
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := client.Post("http://"+s.Replica+replica.FaultsPath, "application/json", bytes.NewReader(b))
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		s.t.Fatalf("a fault: status %d", resp.StatusCode)
	}
}

// visits is how often the replica was asked for n.
func (s *site) visits(n ruc.Number) int {
	s.t.Helper()
	_, body := s.get("http://" + s.Replica + replica.StatsPath)
	var stats replica.Stats
	if err := json.Unmarshal([]byte(body), &stats); err != nil {
		s.t.Fatal(err)
	}
	return stats.Visits[n.String()]
}

// fresh returns the i-th of a row of numbers of which nothing is known.
func fresh(i int) ruc.Number { return ruc.FromPrefix(fmt.Sprintf("2055%06d", i)) }

// visitor is a person with a browser of their own: nothing is shared with other visitors.
type visitor struct {
	t    *testing.T
	ctx  context.Context
	host string // which is asked, and no other

	mu       sync.Mutex
	faults   []string // what went wrong in the page
	received float64  // bytes over the network
}

// startBrowser runs a Chromium for visitors until the test ends.
func startBrowser(t *testing.T) context.Context {
	t.Helper()
	chrome, err := browser.FindChrome(os.Getenv("CHROME_PATH"))
	if err != nil {
		t.Fatal(err)
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chrome), chromedp.NoSandbox,
		chromedp.Flag("disable-dev-shm-usage", true)) // of what a container may not have
	ctx, stop := chromedp.NewExecAllocator(context.Background(), opts...)
	ctx, end := chromedp.NewContext(ctx)
	t.Cleanup(func() { end(); stop() })
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	return ctx
}

// watcher is what each page is given to note what must not happen.
const watcher = `window.seen = {violations: [], shift: 0, moved: []};
document.addEventListener("securitypolicyviolation", (e) => seen.violations.push(e.violatedDirective + " " + e.blockedURI));
new PerformanceObserver((list) => { for (const e of list.getEntries()) if (!e.hadRecentInput) {
  seen.shift += e.value;
  for (const {node, previousRect: from, currentRect: to} of e.sources)
    seen.moved.push((node?.id || node?.className || node?.nodeName) + " from " + [from.x, from.y, from.width, from.height] + " to " + [to.x, to.y, to.width, to.height]);
} })
  .observe({type: "layout-shift", buffered: true});`

// visit gives the site a visitor with a window so wide, who likes it light or dark.
func (s *site) visit(in context.Context, width int64, scheme string) *visitor {
	s.t.Helper()
	v := &visitor{t: s.t, host: s.HTTP}
	ctx, end := chromedp.NewContext(in, chromedp.WithNewBrowserContext(), chromedp.WithListener(v.heard))
	s.t.Cleanup(end)
	if err := chromedp.Do(ctx); err != nil { // without a deadline, which would be the tab's
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	s.t.Cleanup(cancel)
	v.ctx = ctx
	tg := chromedp.FromContext(ctx).Target
	for method, params := range map[string]any{
		emulation.SetDeviceMetricsOverride.Method:    emulation.SetDeviceMetricsOverrideParams{Width: width, Height: 900, DeviceScaleFactor: 1, Mobile: width < 600},
		emulation.SetEmulatedMedia.Method:            emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}},
		emulation.SetLocaleOverride.Method:           emulation.SetLocaleOverrideParams{Locale: "es-PE"},
		network.SetExtraHTTPHeaders.Method:           network.SetExtraHTTPHeadersParams{Headers: network.Headers{"Accept-Language": "es-PE,es;q=0.9"}},
		page.AddScriptToEvaluateOnNewDocument.Method: page.AddScriptToEvaluateOnNewDocumentParams{Source: watcher},
	} {
		if err := tg.Call(ctx, method, params, nil); err != nil {
			s.t.Fatalf("%s: %v", method, err)
		}
	}
	return v
}

// heard notes what the browser reports.
func (v *visitor) heard(event any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	wrong := func(format string, args ...any) { v.faults = append(v.faults, fmt.Sprintf(format, args...)) }
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		if u, err := url.Parse(e.Request.URL); err != nil || u.Host != v.host {
			wrong("a request to %s", e.Request.URL)
		}
	case *network.EventLoadingFinished:
		v.received += e.EncodedDataLength
	case *runtime.EventExceptionThrown:
		wrong("%s", (&chromedp.ExceptionError{ExceptionDetails: e.ExceptionDetails}).Error())
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning {
			wrong("the console: %s", e.Args[0].Value)
		}
	case *log.EventEntryAdded:
		// That a lookup was not answered with 200 is not the page's fault.
		answer := e.Entry.Source == log.EntrySourceNetwork && strings.HasPrefix(e.Entry.URL, "http://"+v.host+"/v1/")
		if e.Entry.Level == log.EntryLevelError && !answer {
			wrong("%s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL)
		}
	}
}

func (v *visitor) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	v.t.Helper()
	if err := chromedp.Do(v.ctx, steps...); err != nil {
		v.t.Fatalf("%s: %v", what, err)
	}
}

// eval evaluates an expression in the page.
func eval[T any](v *visitor, expression string, opts ...chromedp.EvaluateOption) T {
	v.t.Helper()
	value, err := chromedp.Run(v.ctx, chromedp.Evaluate[T](expression, opts...))
	if err != nil {
		v.t.Fatalf("%.200s: %v", expression, err)
	}
	return value
}

func (v *visitor) goTo(path string) {
	v.t.Helper()
	v.do(path, chromedp.Navigate("http://"+v.host+path))
}

func (v *visitor) click(selector string) {
	v.t.Helper()
	v.do(selector, chromedp.Click(selector))
}

func (v *visitor) text(selector string) string {
	v.t.Helper()
	return eval[string](v, fmt.Sprintf("document.querySelector(%q)?.innerText ?? ''", selector))
}

// until waits for a condition in the page. While one page gives way to another there may be
// nothing to ask, or no element that the condition names.
func (v *visitor) until(condition string) {
	v.t.Helper()
	probe := chromedp.Evaluate[bool]("(() => { try { return Boolean(" + condition + "); } catch { return false; } })()")
	for deadline := time.Now().Add(patience); ; <-time.After(20 * time.Millisecond) {
		yes, err := chromedp.Run(v.ctx, probe)
		if err == nil && yes {
			return
		}
		if time.Now().After(deadline) {
			v.t.Fatalf("in vain: %s (%v)\nthe page says:\n%s", condition, err, v.text("body"))
		}
	}
}

// write presses keys, wherever the focus is.
func (v *visitor) write(keys string) {
	v.t.Helper()
	v.do("typing", chromedp.KeyEvent(keys))
}

// enter presses the key of that name as a keyboard does: a page that handles it has no new
// line after it. (chromedp's own way sends the line's end apart.)
func (v *visitor) enter() {
	v.t.Helper()
	v.do("Enter", chromedp.Func(func(ctx context.Context, tg *chromedp.Target) error {
		for _, kind := range []input.DispatchKeyEventType{input.DispatchKeyEventTypeKeyDown, input.DispatchKeyEventTypeKeyUp} {
			p := input.DispatchKeyEventParams{Type: kind, Key: "Enter", Code: "Enter", WindowsVirtualKeyCode: 13}
			if kind == input.DispatchKeyEventTypeKeyDown {
				p.Text = "\r"
			}
			if err := tg.Call(ctx, input.DispatchKeyEvent.Method, p, nil); err != nil {
				return err
			}
		}
		return nil
	}))
}

// paste puts text into the box.
func (v *visitor) paste(text string) {
	v.t.Helper()
	v.do("pasting", chromedp.Focus("#q"), chromedp.Func(func(ctx context.Context, tg *chromedp.Target) error {
		return tg.Call(ctx, input.InsertText.Method, input.InsertTextParams{Text: text}, nil)
	}))
}

// blameless checks that nothing went wrong in the page so far.
func (v *visitor) blameless() {
	v.t.Helper()
	seen := eval[struct {
		Violations []string
		Shift      float64
		Moved      []string
	}](v, "seen")
	if len(seen.Violations) > 0 {
		v.t.Errorf("against the page's own policy: %v", seen.Violations)
	}
	if seen.Shift > 0.02 { // 0.1 is what the Web Vitals call good
		v.t.Errorf("the layout shifted by %.3f: %s", seen.Shift, strings.Join(seen.Moved, "; "))
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, fault := range v.faults {
		v.t.Error(fault)
	}
	v.faults = nil
}

// fits checks that nothing lies beside the window.
func (v *visitor) fits() {
	v.t.Helper()
	if wide, window := eval[int](v, "document.documentElement.scrollWidth"), eval[int](v, "innerWidth"); wide > window {
		v.t.Errorf("%d wide in a window of %d", wide, window)
	}
}

// accessible has axe-core look at the page (testdata/axe-core).
func (v *visitor) accessible() {
	v.t.Helper()
	script, err := os.ReadFile(filepath.Join("testdata", "axe-core", "axe.min.js"))
	if err != nil {
		v.t.Fatal(err)
	}
	const look = `axe.run(document, {resultTypes: ["violations"]}).then((r) => ({
		passes: r.passes.length,
		violations: r.violations.map((v) => ({id: v.id, impact: v.impact, help: v.help, nodes: v.nodes.map((n) => n.html)})),
	}))`
	eval[chromedp.Void](v, string(script)+";0")
	found := eval[struct {
		Passes     int
		Violations []struct {
			ID, Impact, Help string
			Nodes            []string
		}
	}](v, look, chromedp.EvalAwaitPromise)
	if found.Passes < 10 {
		v.t.Errorf("axe passed %d rules only: it has not seen the page", found.Passes)
	}
	for _, f := range found.Violations {
		if f.Impact == "serious" || f.Impact == "critical" {
			v.t.Errorf("%s: %s: %s\n%s", f.Impact, f.ID, f.Help, strings.Join(f.Nodes, "\n"))
		}
	}
}

// picture keeps a screenshot of the whole page, where there is a folder for it.
func (v *visitor) picture(name string) {
	v.t.Helper()
	if *screenshots == "" {
		return
	}
	png, err := chromedp.Run(v.ctx, chromedp.FullScreenshot(100))
	if err != nil || len(png) < 5_000 {
		v.t.Errorf("%s: %d bytes, %v", name, len(png), err)
	}
	if err := os.WriteFile(filepath.Join(*screenshots, name+".png"), png, 0o644); err != nil {
		v.t.Error(err)
	}
}

// The numbers of the pictures: one that exists, and one whose last digit is wrong.
const (
	known = "20131312955"
	wrong = "20123456789"
)

var absent = absentNumber()

// absentNumber is one that the replica does not know.
func absentNumber() ruc.Number {
	for i := 0; ; i++ {
		if n := ruc.FromPrefix(fmt.Sprintf("2000%06d", i)); !exists(n) {
			return n
		}
	}
}

func exists(n ruc.Number) bool {
	_, ok := replica.Lookup(n)
	return ok
}

// TestPage_LooksRight drives the page through its states, at two widths, light and dark.
func TestPage_LooksRight(t *testing.T) {
	if *screenshots != "" {
		if err := os.MkdirAll(*screenshots, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t)
	// One where SUNAT refuses, and what was known has grown old.
	old := start(t, "CACHE_TTL=1s", "L1_TTL=1s", "SUNAT_PAUSE=10m")
	for _, at := range []*site{s, old} {
		if status := at.lookup(ruc.MustParse(known)); status != http.StatusOK {
			t.Fatal(status)
		}
	}
	<-time.After(time.Second) // CACHE_TTL
	old.fault(replica.Fault{Kind: replica.FaultWAF})
	if status := old.lookup(fresh(100)); status != http.StatusServiceUnavailable {
		t.Fatalf("SUNAT refuses: %d", status)
	}
	chrome := startBrowser(t)
	for _, width := range []int64{390, 1280} {
		for _, scheme := range []string{"light", "dark"} {
			slow := fresh(int(width) + len(scheme))
			s.fault(replica.Fault{Kind: replica.FaultSlow, RUC: slow.String(), DelayMs: 9_000, Times: 1})
			for _, state := range []struct {
				name  string
				at    *site
				path  string
				do    func(v *visitor)
				until string
			}{
				{"vacia", s, "/", nil, `document.querySelector("#status-sunat.good")`},
				{"ficha", s, "/?ruc=" + known, nil, `document.querySelector("#results article .badge.good")`},
				{"visita", s, "/?ruc=" + slow.String(), nil, `document.querySelector("#results .steps [aria-current=step]")?.textContent === "En SUNAT"`},
				{"no-existe", s, "/?ruc=" + absent.String(), nil, `document.querySelector("#results article[aria-busy=false]")?.innerText.includes("No registrado")`},
				{"errado", s, "/", func(v *visitor) { v.paste(wrong); v.enter() }, `document.querySelector("#hint.bad")?.innerText.includes("debería ser 6")`},
				{"antigua", old, "/?ruc=" + known, nil, `document.querySelector("#results article .notice.warn")?.innerText.includes("Dato antiguo")`},
				{"pausa", old, "/?ruc=" + fresh(101).String(), nil, `document.querySelector("#status-sunat.warn") && document.querySelector("#results article[aria-busy=false] [data-until]")`},
				{"varios", s, "/", func(v *visitor) {
					v.paste(fmt.Sprintf("Proveedor A\tRUC: 20-13131295-5\nProveedor B\t%s\nProveedor C\t%s\n%s, %s", fresh(6), wrong, absent, fresh(7)))
					v.enter()
				}, `document.querySelectorAll("#results .rows > li").length === 5 && !document.querySelector("#results [aria-busy=true]")`},
			} {
				name := fmt.Sprintf("%s-%d-%s", state.name, width, scheme)
				t.Run(name, func(t *testing.T) {
					v := state.at.on(t).visit(chrome, width, scheme)
					v.goTo(state.path)
					v.until(`document.querySelector("#status-sunat.good, #status-sunat.warn")`)
					if state.do != nil {
						state.do(v)
					}
					v.until(state.until)
					v.fits()
					v.picture(name)
					v.accessible()
					v.blameless()
				})
			}
		}
	}
}

// TestPage_IsSmall: what a first visit to the page transfers.
func TestPage_IsSmall(t *testing.T) {
	s := start(t)
	v := s.visit(startBrowser(t), 1280, "light")
	v.goTo("/")
	v.until(`document.querySelector("#status-sunat.good")`)
	v.mu.Lock()
	received := v.received
	v.mu.Unlock()
	t.Logf("the page transfers %.0f bytes, headers and /health included; the bound is %d", received, maxPageBytes)
	if received == 0 || received >= maxPageBytes {
		t.Error("outside of the bound")
	}
	v.goTo("/") // again: its parts are kept
	v.until(`document.querySelector("#status-sunat.good")`)
	v.mu.Lock()
	defer v.mu.Unlock()
	if again := v.received - received; again > received/4 {
		t.Errorf("a second time it transfers %.0f bytes", again)
	}
}

// TestPage_Behaves walks through the page by keyboard, as people do.
func TestPage_Behaves(t *testing.T) {
	s := start(t)
	v := s.visit(startBrowser(t), 1280, "light")
	v.goTo("/")
	v.until(`document.querySelector("#status-sunat.good")`)

	// The digits, as they are typed.
	eval[chromedp.Void](v, `document.activeElement.blur()`)
	v.write("/2013131295") // the first character brings one to the box
	v.until(`document.querySelector("#hint").innerText.includes("Falta 1 dígito")`)
	v.write("4")
	v.until(`document.querySelector("#hint.bad")?.innerText.includes("debería ser 5")`)
	v.write(kb.Backspace + "5")
	v.until(`document.querySelector("#hint.good")`)
	v.enter()
	v.until(`document.querySelector("#results article .badge")`)
	if name := v.text("#results h2"); !strings.HasPrefix(name, "SUPERINTENDENCIA NACIONAL") {
		t.Errorf("the card is %q", name)
	}
	if !eval[bool](v, `location.search === "?ruc=20131312955"`) || !strings.Contains(v.text("#results .invented"), "Datos inventados") {
		t.Errorf("the card: %s", v.text("#results"))
	}
	if n := s.visits(ruc.MustParse(known)); n != 1 {
		t.Errorf("%d visits", n)
	}
	if !strings.Contains(v.text("#results .provenance"), "Consultado ahora") {
		t.Errorf("from where: %q", v.text("#results .provenance"))
	}

	// A reload is a hit; a refresh is a visit, but for an answer of the last two seconds.
	v.goTo("/?ruc=" + known)
	v.until(`document.querySelector("#results .provenance")?.innerText.includes("De la memoria")`)
	<-time.After(2 * time.Second)
	v.click(`#results [data-act=refresh]`)
	v.until(`document.querySelector("#results .provenance")?.innerText.includes("Consultado ahora")`)
	if n := s.visits(ruc.MustParse(known)); n != 2 {
		t.Errorf("%d visits after a refresh", n)
	}

	// The clipboard gets the whole record.
	eval[chromedp.Void](v, `navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }; 0`)
	v.click(`#results [data-act=copy-json]`)
	v.until("window.copied")
	copied := eval[string](v, "copied")
	_, body := s.get("http://" + s.HTTP + "/v1/ruc/" + known)
	if !sameJSON(t, copied, body) {
		t.Errorf("copied %s\nserved %s", copied, body)
	}
	v.click(`#results [data-act=copy-csv]`)
	v.until(`window.copied.startsWith("ruc,encontrado,razonSocial") && window.copied.includes("\r\n20131312955,true,")`)

	// Back to the empty page, and again from the recent ones.
	v.write(kb.Escape + kb.Escape)
	v.until(`location.search === "" && !document.querySelector("#results article")`)
	v.do("back", chromedp.NavigateBack())
	v.until(`document.querySelector("#results article .badge")`)
	v.goTo("/")
	v.until(`document.querySelector("#recents-list a")?.dataset.ruc === "20131312955"`)
	v.click("#recents-clear")
	v.until(`document.querySelector("#recents").hidden`)

	// English, by the link, and from then on.
	v.click("#language")
	v.until(`document.documentElement.lang === "en" && document.querySelector("h1").innerText === "RUC lookup"`)
	v.goTo("/?ruc=" + known)
	v.until(`document.documentElement.lang === "en" && document.querySelector("#results h2[lang=es]")`)
	v.accessible()
	v.blameless()
}

// TestPage_TellsHowAVisitGoes: the place in the queue, the attempts, a failure.
func TestPage_TellsHowAVisitGoes(t *testing.T) {
	s := start(t, "SUNAT_MAX_CONCURRENT=1")
	v := s.visit(startBrowser(t), 390, "dark")
	first, second := fresh(1), fresh(2)
	s.fault(replica.Fault{Kind: replica.FaultSlow, RUC: first.String(), DelayMs: 4_000, Times: 1})
	s.fault(replica.Fault{Kind: replica.FaultError, RUC: second.String()})
	began := make(chan struct{})
	go func() { defer close(began); s.lookup(first) }()
	s.eventually("the first visit", func() bool { return s.visits(first) == 1 })
	s.fault(replica.Fault{Kind: replica.FaultSlow, RUC: second.String(), DelayMs: 1_000})
	v.goTo("/?ruc=" + second.String())
	v.until(`document.querySelector("#results h2")?.innerText.includes("El siguiente en la cola")`)
	v.until(`document.querySelector("#results h2")?.innerText.includes("Consultando en SUNAT")`)
	v.until(`document.querySelector("#results h2")?.innerText.includes("intento 2 de 3")`)
	v.until(`document.querySelector("#results h2")?.innerText.includes("intento 3 de 3")`)
	v.until(`document.querySelector("#results article[aria-busy=false]")?.innerText.includes("unavailable")`)
	v.blameless()
	<-began
}

// TestPage_LogicInABrowser runs the examples of gateway/web/testdata where they count.
func TestPage_LogicInABrowser(t *testing.T) {
	s := start(t)
	v := s.visit(startBrowser(t), 1280, "light")
	v.goTo("/")
	b, err := os.ReadFile(filepath.Join("..", "..", "gateway", "web", "testdata", "logic.json"))
	if err != nil {
		t.Fatal(err)
	}
	const run = `import(document.querySelector("script[type=module]").src.replace("app.js", "logic.js")).then((m) => {
		const wrong = [];
		for (const {call, args, want} of %s) {
			let got;
			if (call === "eventParser") {
				const push = m.eventParser();
				got = args.flatMap((piece) => push(piece));
			} else got = m[call](...args);
			if (JSON.stringify(got) !== JSON.stringify(want)) wrong.push(call + JSON.stringify(args) + " gives " + JSON.stringify(got));
		}
		return wrong;
	})`
	for _, wrong := range eval[[]string](v, fmt.Sprintf(run, b), chromedp.EvalAwaitPromise) {
		t.Error(wrong)
	}
}

// TestDocs_LooksRight: the API's documentation, in both languages. It is long, and takes axe
// many seconds, so not each way to look at it is tried.
func TestDocs_LooksRight(t *testing.T) {
	s := start(t)
	chrome := startBrowser(t)
	for _, look := range []struct {
		lang   string
		width  int64
		scheme string
	}{{"es", 390, "light"}, {"en", 1280, "dark"}} {
		name := fmt.Sprintf("docs-%s-%d-%s", look.lang, look.width, look.scheme)
		t.Run(name, func(t *testing.T) {
			v := s.on(t).visit(chrome, look.width, look.scheme)
			v.goTo("/docs?lang=" + look.lang)
			if text := v.text("body"); !strings.Contains(text, "/v1/ruc/{ruc}") || !strings.Contains(text, "actividadesEconomicas") {
				t.Errorf("not the documentation: %.200s", text)
			}
			v.fits()
			v.accessible()
			v.picture(name)
			v.blameless()
		})
	}
}

// TestPage_AsksForAKeyWhereOneIsNeeded, keeps it for the session, and forgets it when told.
func TestPage_AsksForAKeyWhereOneIsNeeded(t *testing.T) {
	key, file := apiKey(t)
	s := &site{allinonetest.Start(t, t.TempDir(), "API_KEYS_FILE="+file), t}
	v := s.visit(startBrowser(t), 390, "light")
	v.goTo("/?ruc=" + known)
	v.until(`document.activeElement === document.querySelector("#access-key")`)
	v.accessible()
	v.picture("clave-390-light")
	v.write("nope")
	v.enter()
	v.until(`!document.querySelector("#access-wrong").hidden`)
	v.write(key)
	v.enter()
	v.until(`document.querySelector("#results article .badge")`)
	v.goTo("/?ruc=" + known)
	v.until(`document.querySelector("#results article .badge")`)
	v.click("#key-forget")
	v.goTo("/?ruc=" + known)
	v.until(`document.activeElement === document.querySelector("#access-key")`)
	v.blameless()
}

// apiKey makes a file with one key.
func apiKey(t *testing.T) (key, file string) {
	t.Helper()
	key, line, err := gateway.NewKey("pagina", "")
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(file, []byte(line+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return key, file
}

func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	var x, y any
	if json.Unmarshal([]byte(a), &x) != nil || json.Unmarshal([]byte(b), &y) != nil {
		return false
	}
	return fmt.Sprint(x) == fmt.Sprint(y)
}
