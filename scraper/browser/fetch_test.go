package browser_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rucflow/rucflow/scraper/browser"
	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/scraper/sunat"
	"github.com/rucflow/rucflow/shared/ruc"
)

// bothWays runs a test with the form's own submission and with the query fetched.
func bothWays(t *testing.T, test func(t *testing.T, way func(*browser.Config))) {
	t.Run("submit", func(t *testing.T) { test(t, nil) })
	t.Run("fetch", func(t *testing.T) { test(t, fetches) })
}

func fetches(c *browser.Config) { c.Fetch = true }

func onOneTab(c *browser.Config) { c.Fetch, c.Slots = true, 1 }

func TestFetch_TheTabStaysOnTheForm(t *testing.T) {
	s := newSite(t, replica.Config{})
	r := start(t, s, func(c *browser.Config) { c.Fetch, c.CollectEvery = true, 3 })
	r.ready(t, 2)
	for i := range 20 {
		n := ruc.FromPrefix(fmt.Sprintf("20%08d", 5000+i))
		want, found := replica.Lookup(n)
		p := r.visit(t, n)
		got, err := sunat.Parse(p, n)
		if err != nil || got.Found != found || found && got.Record.RazonSocial != want.Record.RazonSocial {
			t.Errorf("visit %d: %v: %+v", i, err, got)
		}
		if p.Status != http.StatusOK || !strings.HasSuffix(p.URL, replica.QueryPath) {
			t.Errorf("status %d, URL %s", p.Status, p.URL)
		}
	}
	if stats := s.Stats(); stats.Posts != 20 || stats.Forms != 2 {
		t.Errorf("%d POSTs and %d forms for 20 visits on two tabs", stats.Posts, stats.Forms)
	}
	if got := len(r.events.discarded); got != 0 {
		t.Errorf("tabs discarded: %v", r.events.discarded)
	}
}

func TestFetch_ASessionThatIsLostIsBegunAnew(t *testing.T) {
	s := newSite(t, replica.Config{})
	r := start(t, s, func(c *browser.Config) { c.Fetch, c.Slots = true, 1 })
	r.ready(t, 1)
	for i, kind := range []string{replica.FaultError, replica.FaultBounce, "401"} {
		s.fail(t, replica.Fault{Kind: kind, Times: 1})
		r.visit(t, company)
		if p := r.visit(t, company); !strings.Contains(p.HTML, company.String()) {
			t.Errorf("after %s:\n%s", kind, p.HTML)
		}
		if forms := s.Stats().Forms; forms != i+2 {
			t.Errorf("after %s: %d forms, want %d", kind, forms, i+2)
		}
	}
	if got := len(r.events.discarded); got != 0 {
		t.Errorf("tabs discarded: %v", r.events.discarded)
	}
}

// What an idle tab does is TestVisit_IdleTabLeavesTheSiteAndComesBack's, and the same: here it
// has made a visit before.
func TestFetch_AnOldFormIsLeft(t *testing.T) {
	s := newSite(t, replica.Config{})
	r := start(t, s, func(c *browser.Config) { c.Fetch, c.Slots, c.IdleReload = true, 1, 50*time.Millisecond })
	r.ready(t, 1)
	r.visit(t, company)
	forms := s.Stats().Forms
	<-time.After(300 * time.Millisecond) // that nothing happens takes a span to see
	r.visit(t, company)
	if got := s.Stats().Forms; got != forms+1 {
		t.Errorf("%d forms more", got-forms)
	}
}

func TestFetch_BytesArriveAsTheyWere(t *testing.T) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	body := "<p>" + string(all)
	s := newOwnSite(t, submitForm, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8") // which is not true
		_, _ = io.WriteString(w, body)
	})
	r := start(t, s, onOneTab)
	r.ready(t, 1)
	if diff := cmp.Diff(sunat.Decode([]byte(body)), r.visit(t, company).HTML); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFetch_AnEndlessPageEnds(t *testing.T) {
	s := newOwnSite(t, submitForm, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, strings.Repeat("endless ", 1024)); err != nil {
				return
			}
		}
	})
	r := start(t, s, onOneTab)
	r.ready(t, 1)
	p := r.visit(t, company)
	if _, err := sunat.Parse(p, company); ruc.CodeOf(err) != ruc.Changed {
		t.Errorf("%d characters: %v", len(p.HTML), err)
	}
}

// TestFetch_FailuresNameTheirCode: a script is told no cause, so it is the browser's that
// counts.
func TestFetch_FailuresNameTheirCode(t *testing.T) {
	tests := map[string]struct {
		script string
		result http.HandlerFunc
		want   string
	}{
		"closed without an answer": {submitForm, func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			panic(http.ErrAbortHandler)
		}, "net::ERR_EMPTY_RESPONSE"},
		"forbidden by the page": {
			"document.head.innerHTML = `<meta http-equiv=Content-Security-Policy content=connect-src&#32;none>`; " + submitForm,
			html(""), "Failed to fetch",
		},
		"a form that leaves": {"location = 'popup'", html(""), "left the form"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := start(t, newOwnSite(t, tt.script, tt.result), onOneTab)
			r.ready(t, 1)
			began := time.Now()
			_, err := r.Visit(t.Context(), company, nil)
			wantCause(t, err, sunat.CauseNetwork)
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one that says %q", err, tt.want)
			}
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

// A page that measures has its own fetch, and fetches for itself.
func TestFetch_ThePagesOwnRequestsDoNotCount(t *testing.T) {
	const measures = `fetch('http://127.0.0.3:1/', {method: 'POST', mode: 'no-cors'}).catch(() => {}); ` +
		`window.fetch = () => { throw 'measured' }; setTimeout(() => document.forms[0].submit(), 50)`
	r := start(t, newOwnSite(t, measures, html("")), onOneTab)
	r.ready(t, 1)
	for range 4 {
		if p := r.visit(t, company); !strings.Contains(p.HTML, "asked: "+company.String()) {
			t.Fatalf("page:\n%s", p.HTML)
		}
	}
}

func TestFetch_EndsWithTheVisit(t *testing.T) {
	arrived, left := make(chan struct{}, 2), make(chan struct{}, 2)
	s := newOwnSite(t, submitForm, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		arrived <- struct{}{}
		<-r.Context().Done()
		left <- struct{}{}
	})
	r := start(t, s, func(c *browser.Config) { c.Fetch, c.Slots, c.AttemptTimeout = true, 2, time.Second })
	r.ready(t, 2)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if _, err := r.Visit(ctx, company, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	<-left
	_, err := r.Visit(t.Context(), company, nil)
	wantCause(t, err, sunat.CauseSilent)
	<-left
}

func TestFetch_GateIsOpenUntilTheQueryLeaves(t *testing.T) {
	asked, gone := make(chan struct{}), make(chan struct{})
	r := start(t, newOwnSite(t, submitForm, func(w http.ResponseWriter, req *http.Request) {
		close(asked)
		<-gone // the answer comes after the caller was told that the query has left
		html("")(w, req)
	}), onOneTab)
	r.ready(t, 1)
	if _, err := r.Visit(t.Context(), company, func(context.Context) (func(), error) {
		select {
		case <-asked:
			t.Error("the query left before the gate opened")
		default:
		}
		return func() { close(gone) }, nil // twice would panic
	}); err != nil {
		t.Error(err)
	}
}

// TestFetch_SendsWhatTheFormSends: the same fields in the same order, and a token of the
// page's own making.
func TestFetch_SendsWhatTheFormSends(t *testing.T) {
	fake := replica.New(replica.Config{}, time.Now)
	bodies := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			b, _ := io.ReadAll(r.Body)
			bodies <- r.Header.Get("Content-Type") + " " + string(b)
			r.Body = io.NopCloser(strings.NewReader(string(b)))
		}
		fake.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { fake.Close(); server.Close() })
	sent := map[string]string{}
	bothWays(t, func(t *testing.T, way func(*browser.Config)) {
		r := start(t, &site{Server: fake, form: server.URL + replica.FormPath}, way)
		r.ready(t, 1)
		r.visit(t, company)
		before, rest, _ := strings.Cut(<-bodies, "&token=")
		token, after, _ := strings.Cut(rest, "&")
		if len(token) != 52 {
			t.Errorf("token %q", token)
		}
		sent[t.Name()] = before + " " + after
	})
	for _, one := range sent {
		for _, other := range sent {
			if diff := cmp.Diff(one, other); diff != "" || !strings.Contains(one, "accion=consPorRuc") {
				t.Errorf("they differ: %s", diff)
			}
		}
	}
}
