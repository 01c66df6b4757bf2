package httpclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/scraper/sunat"
	"github.com/rucflow/rucflow/shared/ruc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var company = ruc.MustParse("20131312955") // SUNAT itself

const patience = 10 * time.Second

// start runs a Client on the form at url until the test ends.
func start(t *testing.T, url string, change func(*Config)) *Client {
	t.Helper()
	cfg := Config{URL: url, Slots: 1, AttemptTimeout: patience, UserAgent: "rucflow/test"}
	if change != nil {
		change(&cfg)
	}
	c, err := New(cfg, Deps{Log: zerolog.Nop(), Now: time.Now, Slots: func(int, int, int) {}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c
}

func fake(t *testing.T) (*replica.Server, string) {
	t.Helper()
	s := replica.New(replica.Config{}, time.Now)
	server := httptest.NewServer(s)
	t.Cleanup(func() { s.Close(); server.CloseClientConnections(); server.Close() })
	return s, server.URL + replica.FormPath
}

// own serves a form that posts to /result, and what result makes of the query.
func own(t *testing.T, result http.HandlerFunc) (url string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /form", func(w http.ResponseWriter, _ *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "session", Value: "1"})
		fmt.Fprint(w, `<form method="post" action="result"><input name="accion"><input name="nroRuc"><input name="token"><input id="txtRuc" name="search1"></form>`)
	})
	mux.Handle("GET /round", http.RedirectHandler("/round", http.StatusFound))
	mux.HandleFunc("POST /result", result)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL + "/form"
}

func wantCause(t *testing.T, err error, want sunat.Cause) {
	t.Helper()
	var visit *sunat.VisitError
	if !errors.As(err, &visit) || visit.Cause != want {
		t.Fatalf("error %v, want cause %q", err, want)
	}
}

func TestVisit_ReadsTheRecordInOneSession(t *testing.T) {
	s, url := fake(t)
	c := start(t, url, func(c *Config) { c.Slots = 2 })
	for i := range 20 {
		n := ruc.FromPrefix(fmt.Sprintf("20%08d", 5000+i))
		want, found := replica.Lookup(n)
		p, err := c.Visit(t.Context(), n, nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := sunat.Parse(p, n)
		if err != nil || r.Found != found || found && r.Record.RazonSocial != want.Record.RazonSocial {
			t.Errorf("%v: %+v", err, r)
		}
		if p.Status != http.StatusOK || !strings.HasSuffix(p.URL, replica.QueryPath) {
			t.Errorf("status %d, URL %s", p.Status, p.URL)
		}
	}
	if stats := s.Stats(); stats.Posts != 20 || stats.Forms > 2 {
		t.Errorf("%d POSTs and %d forms for 20 visits in two sessions", stats.Posts, stats.Forms)
	}
}

// TestVisit_SaysWhoAsks: what goes to SUNAT, and nothing by which browsers describe
// themselves.
func TestVisit_SaysWhoAsks(t *testing.T) {
	var form, query http.Header
	var body string
	s := replica.New(replica.Config{}, time.Now)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			form = r.Header
		} else {
			b, _ := io.ReadAll(r.Body)
			query, body, r.Body = r.Header, string(b), io.NopCloser(strings.NewReader(string(b)))
		}
		s.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { s.Close(); server.Close() })
	c := start(t, server.URL+replica.FormPath, nil)
	if _, err := c.Visit(t.Context(), company, nil); err != nil {
		t.Fatal(err)
	}
	common := map[string]string{
		"User-Agent": "rucflow/test", "Accept-Language": "es-PE,es;q=0.9", "Accept-Encoding": "gzip",
		"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
	}
	asked := maps.Clone(common)
	maps.Copy(asked, map[string]string{
		"Content-Type": "application/x-www-form-urlencoded", "Content-Length": query.Get("Content-Length"),
		"Origin": server.URL, "Referer": server.URL + replica.FormPath, "Cookie": query.Get("Cookie"),
	})
	for of, both := range map[string][2]map[string]string{"form": {common, flat(form)}, "query": {asked, flat(query)}} {
		if diff := cmp.Diff(both[0], both[1]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", of, diff)
		}
	}
	for _, cookie := range []string{replica.SessionCookie, replica.BalancerCookie} {
		if !strings.Contains(query.Get("Cookie"), cookie) {
			t.Errorf("the query lacks the cookie %s", cookie)
		}
	}
	token := regexp.MustCompile(`&token=[0-9a-z]{52}&`)
	if !token.MatchString(body) {
		t.Errorf("no token in %s", body)
	}
	want := "accion=consPorRuc&razSoc=&nroRuc=20131312955&nrodoc=&token=&contexto=ti-it&modo=1&rbtnTipo=1&search1=20131312955&tipdoc=1&search2=&search3=&codigo="
	if got := token.ReplaceAllString(body, "&token=&"); got != want {
		t.Errorf("query\n%s, want\n%s", got, want)
	}
}

func flat(h http.Header) map[string]string {
	m := map[string]string{}
	for _, name := range slices.Collect(maps.Keys(h)) {
		m[name] = h.Get(name)
	}
	return m
}

func TestVisit_ASessionThatIsLostIsBegunAnew(t *testing.T) {
	s, url := fake(t)
	c := start(t, url, nil)
	for i, kind := range []string{replica.FaultError, replica.FaultBounce, "401", replica.FaultReset} {
		if err := s.SetFault(replica.Fault{Kind: kind, Times: 1}); err != nil {
			t.Fatal(err)
		}
		_, _ = c.Visit(t.Context(), company, nil) // that it fails is TestEngines_EndVisitsAlike's
		if p, err := c.Visit(t.Context(), company, nil); err != nil || !strings.Contains(p.HTML, company.String()) {
			t.Errorf("after %s: %v", kind, err)
		}
		if forms := s.Stats().Forms; forms != i+2 {
			t.Errorf("after %s: %d forms, want %d", kind, forms, i+2)
		}
	}
}

func TestVisit_FormDoesNotCome(t *testing.T) {
	s, url := fake(t)
	if err := s.SetFault(replica.Fault{Kind: replica.FaultReset, On: replica.OnForm}); err != nil {
		t.Fatal(err)
	}
	c := start(t, url, nil)
	_, err := c.Visit(t.Context(), company, nil)
	wantCause(t, err, sunat.CauseReset)
	for deadline := time.Now().Add(patience); !c.Down(0); <-time.After(time.Millisecond) { // the slot answers before it goes on
		if time.Now().After(deadline) {
			t.Fatal("not down without a form")
		}
	}
	s.ClearFaults()
	if err := s.SetFault(replica.Fault{Kind: replica.FaultWAF, On: replica.OnForm}); err != nil {
		t.Fatal(err)
	}
	p, err := c.Visit(t.Context(), company, nil)
	if ruc.CodeOf(err) != ruc.Blocked || !strings.Contains(p.HTML, "Request Rejected") {
		t.Errorf("%v, page:\n%s", err, p.HTML)
	}
	s.ClearFaults()
	if p, err = c.Visit(t.Context(), company, nil); err != nil || !strings.Contains(p.HTML, company.String()) {
		t.Errorf("%v, page:\n%s", err, p.HTML)
	}
	if err := c.WaitReady(t.Context()); err != nil || c.Down(0) {
		t.Errorf("down with a session ready: %v", err)
	}
}

func TestVisit_AFormThatCannotAskIsAChangedPage(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `<form><input id="txtRuc" name="search1"></form>`)
	}))
	t.Cleanup(server.Close)
	p, err := start(t, server.URL, nil).Visit(t.Context(), company, nil)
	if ruc.CodeOf(err) != ruc.Changed || !strings.Contains(p.HTML, "txtRuc") {
		t.Errorf("%v, page %q", err, p.HTML)
	}
}

func TestVisit_TransportFailuresHaveTheirCause(t *testing.T) {
	hijack := func(linger int, answer string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // what is not read would be a reset in any case
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.WriteString(conn, answer)
			_ = conn.(*net.TCPConn).SetLinger(linger)
			_ = conn.Close()
		}
	}
	redirect := func(status int, to string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, status) }
	}
	const gone = -1 // a close by the rules
	const begun = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n<title>"
	for name, tt := range map[string]struct {
		result http.HandlerFunc
		want   sunat.Cause
	}{
		"reset":                    {hijack(0, ""), sunat.CauseReset},
		"reset amid the page":      {hijack(0, begun), sunat.CauseReset},
		"closed without an answer": {hijack(gone, ""), sunat.CauseNetwork},
		"closed amid the page":     {hijack(gone, begun), sunat.CauseNetwork},
		"no HTTP":                  {hijack(gone, "SSH-2.0\r\n\r\n"), sunat.CauseNetwork},
		"a host that is another's": {redirect(http.StatusFound, "http://127.0.0.2:1/"), sunat.CauseNetwork},
		"round and round":          {redirect(http.StatusFound, "/round"), sunat.CauseNetwork},
		"the query once more":      {redirect(http.StatusTemporaryRedirect, "/result"), sunat.CauseNetwork},
	} {
		t.Run(name, func(t *testing.T) {
			var posts atomic.Int32
			url := own(t, func(w http.ResponseWriter, r *http.Request) { posts.Add(1); tt.result(w, r) })
			_, err := start(t, url, nil).Visit(t.Context(), company, nil)
			wantCause(t, err, tt.want)
			if strings.Contains(err.Error(), company.String()) {
				t.Errorf("the number is told: %v", err)
			}
			if posts.Load() != 1 {
				t.Errorf("%d POSTs", posts.Load())
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		_, err := start(t, "http://127.0.0.1:1/", nil).Visit(t.Context(), company, nil)
		wantCause(t, err, sunat.CauseNetwork)
	})
}

func TestVisit_ARedirectWithinTheSiteIsFollowed(t *testing.T) {
	url := own(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/form#part", http.StatusFound) })
	p, err := start(t, url, nil).Visit(t.Context(), company, nil)
	if err != nil || p.URL != url || !strings.Contains(p.HTML, "txtRuc") {
		t.Errorf("%v, %+v", err, p)
	}
}

func TestVisit_AnEndlessPageEnds(t *testing.T) {
	url := own(t, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, strings.Repeat("endless ", 1024)); err != nil {
				return
			}
		}
	})
	p, err := start(t, url, nil).Visit(t.Context(), company, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sunat.Parse(p, company); ruc.CodeOf(err) != ruc.Changed {
		t.Errorf("%d bytes: %v", len(p.HTML), err)
	}
}

func TestVisit_CallerGone(t *testing.T) {
	arrived, left := make(chan struct{}), make(chan struct{})
	url := own(t, func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
		close(left)
	})
	c := start(t, url, nil)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if _, err := c.Visit(ctx, company, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	<-left // the request is broken off
}

func TestVisit_GateIsOpenFromTheFormUntilTheQueryLeaves(t *testing.T) {
	asked := make(chan struct{})
	gone := make(chan struct{})
	c := start(t, own(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		close(asked)
		<-gone // the answer comes after the caller was told that the query has left
	}), nil)
	var times int
	_, err := c.Visit(t.Context(), company, func(context.Context) (func(), error) {
		select {
		case <-asked:
			t.Error("the query left before the gate opened")
		default:
		}
		return func() { times++; close(gone) }, nil
	})
	if err != nil || times != 1 {
		t.Errorf("%v, told %d times", err, times)
	}
}

func TestVisit_GateThatStaysShutEndsTheVisitAsItSays(t *testing.T) {
	s, url := fake(t)
	c := start(t, url, nil)
	shut := errors.New("no turn")
	if _, err := c.Visit(t.Context(), company, func(context.Context) (func(), error) { return nil, shut }); err != shut { //nolint:errorlint // no other error around it
		t.Errorf("error %v", err)
	}
	if stats := s.Stats(); stats.Posts != 0 {
		t.Errorf("%d queries left", stats.Posts)
	}
	if _, err := c.Visit(t.Context(), company, nil); err != nil || s.Stats().Forms != 1 {
		t.Errorf("%v, %d forms", err, s.Stats().Forms)
	}
}

// site answers requests without a network, for tests whose time is made up.
type site func(*http.Request) (status int, body string)

func (s site) RoundTrip(r *http.Request) (*http.Response, error) {
	status, body := s(r)
	return &http.Response{StatusCode: status, Request: r, Body: io.NopCloser(strings.NewReader(body)), Header: http.Header{}}, nil
}

// TestRun_SessionsAgeAndFormsAreAwaited: an idle session is left alone and replaced when it
// is needed, and a site in trouble is not pressed.
func TestRun_SessionsAgeAndFormsAreAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := replica.New(replica.Config{}, time.Now)
		defer fake.Close()
		handle := func(r *http.Request) (int, string) {
			w := httptest.NewRecorder()
			fake.ServeHTTP(w, r)
			return w.Code, w.Body.String()
		}
		c, err := New(Config{URL: "http://127.0.0.1" + replica.FormPath, Slots: 1, AttemptTimeout: time.Second, UserAgent: "x"},
			Deps{Log: zerolog.Nop(), Now: time.Now, Slots: func(int, int, int) {}})
		if err != nil {
			t.Fatal(err)
		}
		c.transport.RegisterProtocol("http", site(handle))
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = c.Run(ctx) })
		forms := func(want int) {
			t.Helper()
			synctest.Wait()
			if got := fake.Stats().Forms; got != want {
				t.Errorf("%d forms, want %d", got, want)
			}
		}
		forms(1)
		time.Sleep(time.Hour) //nolint:forbidigo // of no time: the clock is made up
		forms(1)
		if c.Ready() != 1 {
			t.Error("an idle slot is not ready")
		}
		if _, err := c.Visit(ctx, company, nil); err != nil {
			t.Error(err)
		}
		forms(2)
		time.Sleep(defaultIdleReload - time.Minute) //nolint:forbidigo // as above
		if _, err := c.Visit(ctx, company, nil); err != nil {
			t.Error(err)
		}
		forms(2)

		if err := fake.SetFault(replica.Fault{Kind: "500"}); err != nil {
			t.Fatal(err)
		}
		if err := fake.SetFault(replica.Fault{Kind: replica.FaultError, On: replica.OnForm}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Visit(ctx, company, nil); err != nil {
			t.Error(err)
		}
		forms(3)
		time.Sleep(time.Hour) //nolint:forbidigo // as above
		synctest.Wait()
		if more := fake.Stats().Forms - 3; more < 90 || more > 170 { // one in 24 to 36 s
			t.Errorf("%d forms in an hour of trouble", more)
		}
		fake.ClearFaults()
		stop()
		wg.Wait()
	})
}

func TestRun_LetsTheVisitInHandFinish(t *testing.T) {
	arrived, answer := make(chan struct{}), make(chan struct{})
	url := own(t, func(http.ResponseWriter, *http.Request) { close(arrived); <-answer })
	c, err := New(Config{URL: url, Slots: 1, AttemptTimeout: patience, UserAgent: "x"}, Deps{Log: zerolog.Nop(), Now: time.Now, Slots: func(int, int, int) {}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran, visited := make(chan error, 1), make(chan error, 1)
	go func() { ran <- c.Run(ctx) }()
	go func() {
		_, err := c.Visit(context.Background(), company, nil)
		visited <- err
	}()
	<-arrived
	stop()
	if err := c.WaitReady(t.Context()); err == nil {
		t.Error("WaitReady after the end")
	}
	close(answer)
	if err := errors.Join(<-visited, <-ran); err != nil {
		t.Error(err)
	}
	_, err = c.Visit(t.Context(), company, nil)
	wantCause(t, err, sunat.CauseLost)
	if err := c.Run(t.Context()); err == nil {
		t.Error("it ran twice")
	}
}

func TestNew_SaysEverythingThatIsWrong(t *testing.T) {
	_, err := New(Config{IdleReload: -1}, Deps{})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"address", "slots", "attempt timeout", "user agent", "life"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing from: %v", want, err)
		}
	}
}
