package browser_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rucflow/rucflow/scraper/browser"
	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/scraper/sunat"
)

// newOwnSite serves a form that runs script on its button and posts to result: for what
// the replica does not do.
func newOwnSite(t *testing.T, script string, result http.HandlerFunc) *site {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /form", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, `<form method="post" action="result"><input id="txtRuc" name="ruc"></form>
<button id="btnAceptar" onclick="%s">Buscar</button>`, script)
	})
	mux.HandleFunc("POST /result", result)
	mux.HandleFunc("GET /popup", func(http.ResponseWriter, *http.Request) {})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return &site{form: server.URL + "/form"}
}

const submitForm = "document.forms[0].submit()"

func html(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, "<title>own</title><p>asked: %s</p>%s", r.PostFormValue("ruc"), body)
	}
}

func TestVisit_FormRefusesTheNumber(t *testing.T) {
	bothWays(t, func(t *testing.T, way func(*browser.Config)) {
		r := start(t, newOwnSite(t, "alert('Por favor, ingrese número de RUC válido.')", html("")), way)
		began := time.Now()
		_, err := r.Visit(t.Context(), company, nil)
		wantCause(t, err, sunat.CauseDialog)
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("took %s", took)
		}
		if r.events.of(r.events.discarded, "dialog") != 0 {
			t.Error("a tab was given up for it")
		}
	})
}

func TestVisit_DialogOfAFrameDoesNotOpen(t *testing.T) {
	r := start(t, newOwnSite(t, submitForm, html(`<iframe srcdoc="<script>alert(1)</script>"></iframe>`)), nil)
	for range 6 {
		r.visit(t, company)
	}
	if len(r.events.discarded) != 0 {
		t.Errorf("tabs discarded: %v", r.events.discarded)
	}
}

// A tab is not drawn, and no frame comes to it.
func TestVisit_AFormThatWaitsForAFrame(t *testing.T) {
	bothWays(t, func(t *testing.T, way func(*browser.Config)) {
		r := start(t, newOwnSite(t, "requestAnimationFrame(() => "+submitForm+")", html("")), way)
		if p := r.visit(t, company); !strings.Contains(p.HTML, company.String()) {
			t.Errorf("page:\n%s", p.HTML)
		}
	})
}

func TestVisit_AScriptWithoutAnEnd(t *testing.T) {
	const attempt = 2 * time.Second
	const once = "if (!document.cookie) { document.cookie = 'spun=1'; for (;;); } "
	r := start(t, newOwnSite(t, once+submitForm, html("")), func(c *browser.Config) { c.AttemptTimeout = attempt })
	began := time.Now()
	_, err := r.Visit(t.Context(), company, nil)
	wantCause(t, err, sunat.CauseSilent)
	if took := time.Since(began); took < attempt || took > attempt+time.Second {
		t.Errorf("took %s", took)
	}
	if p := r.visit(t, company); !strings.Contains(p.HTML, company.String()) {
		t.Errorf("the next visit brought\n%s", p.HTML)
	}
	eventually(t, "renderers at rest", func() bool {
		before := ticks(r.of(t, "renderer"))
		<-time.After(200 * time.Millisecond) // the measure itself: CPU time over a span
		return ticks(r.of(t, "renderer"))-before <= 4
	})
}

// An answer's scripts do not run, and it is told as it came.
func TestVisit_AnswersScriptsArePutAside(t *testing.T) {
	const page = `<script>document.title = 'ran'</script><script type="module" src="popup"></script><p id="p"></p><script defer="">for (;;);</script>`
	r := start(t, newOwnSite(t, submitForm, html(page)), nil)
	for range 4 {
		p := r.visit(t, company)
		if !strings.Contains(p.HTML, page) || !strings.Contains(p.HTML, "<title>own</title>") {
			t.Fatalf("page:\n%s", p.HTML)
		}
	}
}

// The question whether to leave a page is asked by the browser itself.
func TestVisit_NativeDialogIsAccepted(t *testing.T) {
	r := start(t, newOwnSite(t, "onbeforeunload = () => 'stay?'; "+submitForm, html("")), nil)
	for range 4 {
		began := time.Now()
		if p := r.visit(t, company); !strings.Contains(p.HTML, company.String()) {
			t.Fatalf("page:\n%s", p.HTML)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("took %s", took)
		}
	}
}

// A window that does not come through window.open gets past the script, and is closed.
func TestVisit_WindowOfALinkIsClosed(t *testing.T) {
	s := newOwnSite(t, submitForm, html(`<body onload="document.querySelector('a').click()"><a target="_blank" rel="opener" href="popup"></a>`))
	r := start(t, s, nil)
	r.ready(t, 2)
	before := len(r.of(t, "renderer"))
	for range 4 {
		r.visit(t, company)
	}
	r.ready(t, 2)
	eventually(t, "no renderer more", func() bool { return len(r.of(t, "renderer")) <= before })
}

// What a page names on other hosts is not found: no redirect leads into the operator's
// network, and nobody is told of the visit.
func TestVisit_OtherHostsAreNotFound(t *testing.T) {
	var calls atomic.Int32
	elsewhere := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls.Add(1) }))
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = elsewhere.Listener.Close()
	elsewhere.Listener = l
	elsewhere.Start()
	defer elsewhere.Close()
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	for name, address := range map[string]string{"address": elsewhere.URL, "name": "http://localhost:" + port} {
		bothWays(t, func(t *testing.T, way func(*browser.Config)) {
			r := start(t, newOwnSite(t, submitForm, func(w http.ResponseWriter, req *http.Request) {
				http.Redirect(w, req, address, http.StatusFound)
			}), way)
			_, err := r.Visit(t.Context(), company, nil)
			t.Logf("redirected to another %s: %v", name, err)
			wantCause(t, err, sunat.CauseNetwork)
		})
	}
	t.Run("parts of a page", func(t *testing.T) {
		r := start(t, newOwnSite(t, submitForm, html(`<script src="`+elsewhere.URL+`"></script><iframe src="`+elsewhere.URL+`"></iframe><script>fetch("`+elsewhere.URL+`")</script>`)), nil)
		for range 3 {
			r.visit(t, company)
		}
	})
	if n := calls.Load(); n != 0 {
		t.Errorf("%d requests left the site", n)
	}
}

func TestVisit_ConnectionResetHalfWay(t *testing.T) {
	s := newOwnSite(t, submitForm, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "5000")
		html("half of it")(w, new(http.Request))
		_ = http.NewResponseController(w).Flush()
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	})
	bothWays(t, func(t *testing.T, way func(*browser.Config)) {
		r := start(t, s, way)
		began := time.Now()
		_, err := r.Visit(t.Context(), company, nil)
		wantCause(t, err, sunat.CauseReset)
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

func TestVisit_PageThatGoesElsewhereByItself(t *testing.T) {
	s := newOwnSite(t, submitForm, html(`<div class="list-group">rows</div><script>location = 'popup'</script>`))
	r := start(t, s, nil)
	for range 6 {
		r.visit(t, company)
	}
}

func TestVisit_GateIsOpenFromTheFormUntilTheQueryLeaves(t *testing.T) {
	s := newSite(t, replica.Config{ResultDelay: 300 * time.Millisecond})
	r := start(t, s, nil)
	r.ready(t, 2)
	left := make(chan time.Duration, 2)
	var opened time.Time
	_, err := r.Visit(context.Background(), company, func(context.Context) (func(), error) {
		if s.Stats().Posts != 0 {
			t.Error("the query left before the gate opened")
		}
		opened = time.Now()
		return func() { left <- time.Since(opened) }, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	close(left)
	if after, told := <-left; !told || after > 250*time.Millisecond {
		t.Errorf("told %t, %s after the gate opened", told, after)
	}
	if _, twice := <-left; twice {
		t.Error("told twice")
	}
}

func TestVisit_GateThatStaysShutEndsTheVisitAsItSays(t *testing.T) {
	s := newSite(t, replica.Config{})
	r := start(t, s, nil)
	shut := errors.New("no turn")
	if _, err := r.Visit(t.Context(), company, func(context.Context) (func(), error) { return nil, shut }); !errors.Is(err, shut) {
		t.Errorf("error %v", err)
	}
	if posts := s.Stats().Posts; posts != 0 {
		t.Errorf("%d queries left", posts)
	}
	r.visit(t, company)
}

func TestVisit_TabDiesAtTheGate(t *testing.T) {
	s := newSite(t, replica.Config{})
	r := start(t, s, func(c *browser.Config) { c.Slots = 1 })
	r.ready(t, 1)
	_, err := r.Visit(t.Context(), company, func(ctx context.Context) (func(), error) {
		r.signal(t, "renderer", kill)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	wantCause(t, err, sunat.CauseCrash)
	r.visit(t, company)
}
