package replica

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/text/encoding/charmap"

	"github.com/rucflow/rucflow/shared/ruc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait on a condition.
const patience = 10 * time.Second

var goodToken = strings.Repeat("z", 52)

// clock is a hand-set clock.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Date(2026, 3, 4, 15, 6, 7, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// site is a served replica with a client that follows no redirect.
type site struct {
	*Server
	t      *testing.T
	url    string
	client *http.Client
	clock  *clock
}

func serve(t *testing.T, cfg Config) *site {
	t.Helper()
	c := newClock()
	server := New(cfg, c.now)
	listening := httptest.NewServer(server)
	transport := &http.Transport{}
	t.Cleanup(func() {
		server.Close()
		transport.CloseIdleConnections()
		listening.Close()
	})
	client := &http.Client{
		Transport:     transport,
		Timeout:       patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return &site{Server: server, t: t, url: listening.URL, client: client, clock: c}
}

// answer is a response read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte // as far as it came
	err    error  // of the request or of reading the body
}

// text is the body decoded as the header says.
func (a answer) text() string {
	s, err := charmap.Windows1252.NewDecoder().Bytes(a.body)
	if err != nil {
		return string(a.body)
	}
	return string(s)
}

func (s *site) do(ctx context.Context, method, path, contentType, body string) answer {
	s.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	read, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, read, err}
}

func (s *site) get(path string) answer {
	s.t.Helper()
	return s.do(s.t.Context(), http.MethodGet, path, "", "")
}

func (s *site) post(fields url.Values) answer {
	s.t.Helper()
	return s.do(s.t.Context(), http.MethodPost, QueryPath, formMediaType, fields.Encode())
}

// query is the POST of the search form for a number.
func query(number string) url.Values {
	return url.Values{
		"accion": {actionByNumber}, "nroRuc": {number}, "search1": {number}, "token": {goodToken},
		"contexto": {"ti-it"}, "modo": {"1"}, "rbtnTipo": {"1"}, "tipdoc": {"1"},
	}
}

// inBackground asks for a number without waiting for the answer.
func (s *site) inBackground(number string) <-chan answer {
	answered := make(chan answer, 1)
	go func() { answered <- s.post(query(number)) }()
	return answered
}

func (s *site) setFault(f Fault) {
	s.t.Helper()
	if err := s.SetFault(f); err != nil {
		s.t.Fatal(err)
	}
}

// until waits for a condition.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

func receive(t *testing.T, answered <-chan answer) answer {
	t.Helper()
	select {
	case a := <-answered:
		return a
	case <-time.After(patience):
		t.Fatal("no answer")
		return answer{}
	}
}

// isRecordOf reports whether a page is the whole result page of a number.
func isRecordOf(a answer, number string) bool {
	text := a.text()
	return a.err == nil && a.status == http.StatusOK &&
		strings.Contains(text, `<h4 class="list-group-item-heading">`+number+" - ") &&
		strings.Contains(text, "Fecha consulta: ") && strings.Contains(text, "</html>")
}

const (
	sunat      = "20131312955"
	company    = "20100055237"
	wrongDigit = "20123456789"
)

func mustLookup(t *testing.T, number string) Taxpayer {
	t.Helper()
	tp, found := Lookup(ruc.MustParse(number))
	if !found {
		t.Fatalf("Lookup(%s) finds nobody", number)
	}
	return tp
}
