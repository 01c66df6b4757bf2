package browser

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/css"
	"github.com/chromedp/cdproto/dom"
	"github.com/chromedp/cdproto/heapprofiler"
	"github.com/chromedp/cdproto/inspector"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"

	"github.com/rucflow/rucflow/scraper/dispatch"
	"github.com/rucflow/rucflow/scraper/sunat"
	"github.com/rucflow/rucflow/shared/ruc"
)

const (
	openWait    = 4 * time.Second        // a tab, from nothing to its script installed
	closeWait   = time.Second            // one command on the way out, or to a dialog
	crashWait   = 100 * time.Millisecond // Page.crash is never answered
	collectWait = 2 * time.Second
	eventRoom   = 64 // events between two looks of the slot; a page makes four
)

// refusedLoad stands for the code of a load that Chromium itself refused, and names none for.
const refusedLoad = "refused by the browser"

// event is what a tab tells its slot; exactly one field is set.
type event struct {
	payload string // of a push
	failure string // Chromium's code for a document that did not load
	dialog  string // text of a dialog that was accepted
	sent    bool   // the query left
}

// tab is one page target. Its slot's goroutine alone calls its methods, except listen,
// which runs on the goroutine that reads the connection and so never sends a command.
type tab struct {
	chrome *chrome
	target *chromedp.Target
	cancel context.CancelFunc // closes the target; may take 5 s
	life   context.Context    // ends with the tab, for the reason that is its cause
	end    context.CancelCauseFunc
	events chan event
	doc    string // the document last taken note of
	sent   func() // called when the query of the visit in hand leaves
	opened time.Time
	uses   int
	// collectedAt is the number of uses at the last forced garbage collection.
	collectedAt int
	stays       bool // on a form that is still good, after a visit

	// main is the tab's own frame, as against those inside its page. In Chromium it has
	// the target's name.
	main atomic.Value // cdp.FrameID
	// query is the address to which the form sends its query.
	query atomic.Pointer[string]
	// loading is the request of the main document, or of the query; listen alone uses it.
	loading network.RequestID
}

// openTab opens a tab and prepares it.
func (c *chrome) openTab(now time.Time) (*tab, error) {
	id, err := c.newTarget()
	if err != nil {
		return nil, fmt.Errorf("browser.openTab: %w", err)
	}
	t := &tab{chrome: c, sent: func() {}, events: make(chan event, eventRoom), opened: now}
	t.life, t.end = context.WithCancelCause(c.life)
	var ctx context.Context
	ctx, t.cancel = chromedp.NewContext(c.ctx, chromedp.WithListener(t.listen), chromedp.WithTargetID(id))

	// The context of the first call is the life of the goroutine that reads the tab's
	// messages: with a deadline on it the tab opens, and every later command hangs.
	// So the long context, and a watchdog beside it.
	ready := make(chan error, 1)
	c.spawn(func() {
		err := chromedp.Do(ctx)
		if err == nil {
			err = t.prepare(ctx, chromedp.FromContext(ctx).Target)
		}
		ready <- err
	})
	watchdog := time.NewTimer(openWait)
	defer watchdog.Stop()
	select {
	case err = <-ready:
	case <-watchdog.C:
		err = fmt.Errorf("not within %s", openWait)
	case <-c.life.Done():
		err = context.Cause(c.life)
	}
	if err != nil {
		c.spawn(t.cancel)
		t.end(err)
		return nil, fmt.Errorf("browser.openTab: %w", err)
	}
	t.target = chromedp.FromContext(ctx).Target
	if gone, err := chromedp.Detached(ctx); err == nil {
		c.spawn(func() {
			select {
			case <-gone:
				t.end(errDetached)
			case <-t.life.Done():
			}
		})
	}
	return t, nil
}

// newTarget makes the page of a tab. The headless shell can leave a page undrawn, which
// nobody looks at: no frames, so no layout, paint and compositing but what scripts ask for.
// That is a quarter of a visit's CPU. What it starts with is drawn, and closed. The full
// browser knows only pages that are drawn, and the one that it starts with is used.
func (c *chrome) newTarget() (id target.ID, err error) {
	var first target.ID
	select {
	case first = <-c.firstTab:
	default:
	}
	if first != "" && !c.undrawn() {
		return first, nil
	}
	ctx, cancel := context.WithTimeout(c.life, openWait)
	defer cancel()
	made, err := cdp.Call(ctx, c.client, target.CreateTarget, target.CreateTargetParams{URL: "about:blank", EnableBeginFrameControl: new(c.undrawn())})
	if err == nil && first != "" {
		_, err = cdp.Call(ctx, c.client, target.CloseTarget, target.CloseTargetParams{TargetID: first})
	}
	return made.TargetID, err
}

// undrawn reports whether pages need not be drawn.
func (c *chrome) undrawn() bool { return strings.HasPrefix(c.version, "HeadlessChrome/") }

// prepare installs the script and switches off what the library switches on for every
// tab and we do not need: mirroring the DOM and CSS alone doubled the CPU of a visit.
// The network events stay, at about 20 of 120 ms CPU a visit: nothing else names why a
// document did not load (the headless shell's error page is empty) or tells at once of a
// page cut off half-way, which otherwise takes the whole timeout. Switching them on for the
// click and off for the form's load saved nothing measurable.
func (t *tab) prepare(ctx context.Context, tg *chromedp.Target) error {
	t.main.Store(cdp.FrameID(tg.TargetID))
	off := cdp.Empty{}
	call := func(method string, params any) error {
		if err := tg.Call(ctx, method, params, nil); err != nil {
			return fmt.Errorf("%s: %w", method, err)
		}
		return nil
	}
	return errors.Join(
		call(runtime.AddBinding.Method, runtime.AddBindingParams{Name: binding}),
		call(page.AddScriptToEvaluateOnNewDocument.Method, page.AddScriptToEvaluateOnNewDocumentParams{Source: documentScript(t.chrome.fetch)}),
		call(css.Disable.Method, off), // before dom, on which it depends
		call(dom.Disable.Method, off),
		call(cdplog.Disable.Method, off),
		call(page.SetLifecycleEventsEnabled.Method, page.SetLifecycleEventsEnabledParams{Enabled: false}),
		call(target.SetDiscoverTargets.Method, target.SetDiscoverTargetsParams{Discover: false}),
		call(target.SetAutoAttach.Method, target.SetAutoAttachParams{AutoAttach: false, WaitForDebuggerOnStart: false, Flatten: new(true)}),
	)
}

// listen gets the tab's events on the goroutine that reads the connection. It only hands
// over: a command from here would wait for an answer that only this goroutine can read.
func (t *tab) listen(ev any) {
	switch ev := ev.(type) {
	case *runtime.EventBindingCalled:
		if ev.Name == binding {
			t.tell(event{payload: ev.Payload})
		}
	case *network.EventRequestWillBeSent:
		if ev.FrameID == t.main.Load() && (ev.Type == network.ResourceTypeDocument || t.fetches(ev)) {
			t.loading = ev.RequestID
			if ev.Request.Method == http.MethodPost {
				t.tell(event{sent: true})
			}
		}
	case *network.EventLoadingFailed:
		// Canceled: replaced by another navigation, or an answer without a document.
		if ev.RequestID == t.loading && !ev.Canceled {
			t.tell(event{failure: cmp.Or(ev.ErrorText, refusedLoad)})
		}
	case *page.EventJavascriptDialogOpening:
		// Until it is answered every command to the tab hangs.
		t.chrome.spawn(t.acceptDialog)
		if ev.Message != "" { // the question whether to leave a page has no text
			t.tell(event{dialog: ev.Message})
		}
	case *inspector.EventTargetCrashed:
		// A command in flight is not failed by the crash; it ends with this context.
		t.end(errCrashed)
	}
}

// fetches reports whether a request is the query that the parked form sends.
func (t *tab) fetches(ev *network.EventRequestWillBeSent) bool {
	query := t.query.Load()
	return t.chrome.fetch && ev.Type == network.ResourceTypeFetch && ev.Request.Method == http.MethodPost && query != nil && ev.Request.URL == *query
}

func (t *tab) tell(e event) {
	select {
	case t.events <- e:
	default: // a page that floods; the slot sees enough of it in what is queued
	}
}

func (t *tab) acceptDialog() {
	ctx, cancel := context.WithTimeout(t.life, closeWait)
	defer cancel()
	_, err := cdp.Call(ctx, t.target, page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{Accept: true})
	t.chrome.log.Debug().Err(err).Msg("dialog accepted")
	if err != nil {
		t.end(errStuck)
	}
}

// forget drops what the tab told so far.
func (t *tab) forget() {
	for {
		select {
		case <-t.events:
		default:
			return
		}
	}
}

// load brings the tab to the form at address. It returns nil when the form is parked,
// or the page that came in its place. It waits for the form's push and not for the
// load event of a navigation command, which one hung image holds up.
func (t *tab) load(ctx context.Context, address string) (*sunat.Page, error) {
	ctx, cancel := t.bound(ctx, dispatch.FormWait)
	defer cancel()
	t.forget()
	began, err := cdp.Call(ctx, t.target, page.Navigate, page.NavigateParams{URL: address})
	if err != nil {
		return nil, err
	}
	if began.ErrorText != "" {
		return nil, networkError(began.ErrorText)
	}
	r, err := t.next(ctx)
	if err != nil {
		return nil, err
	}
	if r.Kind == kindForm {
		t.query.Store(&r.HTML)
		return nil, nil
	}
	p := r.page()
	return &p, nil
}

// submit asks the parked form for n and returns the page that comes. It calls sent when
// the query leaves, and may call it again.
func (t *tab) submit(ctx context.Context, n ruc.Number, sent func()) (sunat.Page, error) {
	t.uses++
	t.sent = sent
	t.forget()
	if err := t.evaluate(ctx, submitScript(n), nil); err != nil {
		return sunat.Page{}, err
	}
	r, err := t.next(ctx)
	if err != nil {
		return sunat.Page{}, err
	}
	if t.chrome.fetch && r.Kind != kindFetched {
		return sunat.Page{}, errLeft
	}
	p := r.page()
	if r.Kind == kindForm { // sent back to the form, which reports itself without its HTML
		err = t.evaluate(ctx, "document.documentElement.outerHTML", &p.HTML)
	}
	return p, err
}

// next waits for the next document of the tab. Everything that can end the wait ends it
// at once: the push, a failed load, the form's refusal, and through ctx the deadline, a
// crash and the loss of the browser.
func (t *tab) next(ctx context.Context) (report, error) {
	for {
		var e event
		select {
		case e = <-t.events:
		case <-ctx.Done():
			return report{}, ctx.Err()
		}
		switch {
		case e.sent:
			t.sent()
			continue
		case e.failure != "":
			return report{}, networkError(e.failure)
		case e.dialog == invalidNumberAlert:
			return report{}, errRefused
		case e.dialog != "":
			continue // accepted; the page goes on
		}
		r, err := parseReport(e.payload)
		if err != nil {
			return report{}, err
		}
		switch {
		case r.Kind == kindDialog && r.HTML == invalidNumberAlert:
			return report{}, errRefused
		case r.Kind == kindDialog:
			continue
		case r.Kind == kindFailed: // and the network events named no code
			return report{}, networkError(r.HTML)
		case r.Kind == kindFetched: // by the document at hand
		case r.Doc == t.doc || r.failedLoad():
			continue // of a failed load the code is told apart, by navigate or network
		}
		t.doc = r.Doc
		if sunat.Foreign(t.chrome.site, r.URL) {
			return report{}, errForeign
		}
		return r, nil
	}
}

// evaluate runs expression in the page; a non-nil text receives its string value.
func (t *tab) evaluate(ctx context.Context, expression string, text *string) error {
	res, err := cdp.Call(ctx, t.target, runtime.Evaluate, runtime.EvaluateParams{
		Expression:    expression,
		ReturnByValue: new(text != nil),
		UserGesture:   new(true), // or the POST lacks the header that a press of the button brings
	})
	switch {
	case err != nil:
		return err
	case res.ExceptionDetails != nil:
		return fmt.Errorf("browser: exception in the page: %w", &chromedp.ExceptionError{ExceptionDetails: res.ExceptionDetails})
	case text == nil:
		return nil
	}
	value, err := parseString(res.Result.Value)
	*text = value
	return err
}

// leave takes the tab away from the site.
func (t *tab) leave(ctx context.Context) error {
	ctx, cancel := t.bound(ctx, closeWait)
	defer cancel()
	_, err := cdp.Call(ctx, t.target, page.Navigate, page.NavigateParams{URL: "about:blank"})
	return err
}

// collect forces a garbage collection.
func (t *tab) collect(ctx context.Context) error {
	ctx, cancel := t.bound(ctx, collectWait)
	defer cancel()
	t.collectedAt = t.uses
	_, err := cdp.Call(ctx, t.target, heapprofiler.CollectGarbage, cdp.Empty{})
	return err
}

// bound returns ctx with a limit, ending with the tab as well.
func (t *tab) bound(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, end := t.alive(ctx)
	ctx, cancel := context.WithTimeout(ctx, limit)
	return ctx, func() { cancel(); end() }
}

// alive returns ctx ending with the tab as well.
func (t *tab) alive(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(t.life, cancel)
	return ctx, func() { stop(); cancel() }
}

// crash frees the renderer of a tab that misbehaved, in the background. It comes before
// the closing, because closing a tab that spins leaves its renderer burning a core (seen
// after 12 s still), and a crashed one is gone at once.
func (t *tab) crash() {
	if t.life.Err() != nil {
		return
	}
	t.chrome.spawn(func() {
		ctx, cancel := context.WithTimeout(t.chrome.life, crashWait)
		defer cancel()
		_, _ = cdp.Call(ctx, t.target, page.Crash, cdp.Empty{}) // never answered
	})
}

// close closes the tab in the background: it may take 5 s when the browser is frozen. It
// must not be the browser's last tab, with which the headless shell would end.
func (t *tab) close() {
	t.end(errDetached)
	t.chrome.spawn(t.cancel)
}
