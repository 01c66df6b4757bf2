package httpclient

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptrace"
	"strings"
	"syscall"

	"github.com/rucflow/rucflow/scraper/dispatch"
	"github.com/rucflow/rucflow/scraper/sunat"
	"github.com/rucflow/rucflow/shared/ruc"
)

// session is the search form and the cookies that came with it.
type session struct {
	client  http.Client
	agent   string
	address string // of the form
	form    sunat.Form
}

// maxRedirects bounds how often one request is sent elsewhere. In the normal flow none is.
const maxRedirects = 5

var (
	// errForeign is an address away from the site.
	errForeign = errors.New("httpclient: the site leads to another host")
	errFar     = fmt.Errorf("httpclient: more than %d redirects", maxRedirects)
	// errRepeat is a redirect that would have the query sent again, out of turn.
	errRepeat = errors.New("httpclient: a redirect asks for the query again")
)

// open begins a session by its form. With an error comes the page that it is about, where
// there is one: another than the form, or a form that cannot carry a query.
func (c *Client) open(ctx context.Context) (*session, sunat.Page, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, sunat.Page{}, err
	}
	s := &session{agent: c.cfg.UserAgent, client: http.Client{Transport: c.transport, Jar: jar, CheckRedirect: c.checkRedirect}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.cfg.URL, nil)
	if err != nil {
		return nil, sunat.Page{}, err
	}
	p, err := s.get(req)
	if err == nil {
		s.form, err = sunat.ReadForm(p)
	}
	if err != nil {
		return nil, p, err
	}
	if sunat.Foreign(c.cfg.URL, s.form.Action) {
		return nil, p, errForeign
	}
	s.address = p.URL
	return s, sunat.Page{}, nil
}

func (c *Client) checkRedirect(req *http.Request, via []*http.Request) error {
	switch {
	case sunat.Foreign(c.cfg.URL, req.URL.String()):
		return errForeign
	case len(via) > maxRedirects:
		return errFar
	case req.Method == http.MethodPost:
		return errRepeat
	}
	return nil
}

// ask sends the query for n and returns the page that comes. It calls left when the query
// has left.
func (s *session) ask(ctx context.Context, n ruc.Number, left func()) (sunat.Page, error) {
	token, err := newToken()
	if err != nil {
		return sunat.Page{}, err
	}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { left() }})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.form.Action, strings.NewReader(s.form.Query(n, token)))
	if err != nil {
		return sunat.Page{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", req.URL.Scheme+"://"+req.URL.Host)
	req.Header.Set("Referer", s.address)
	return s.get(req)
}

// get sends a request and reads the page that comes.
func (s *session) get(req *http.Request) (sunat.Page, error) {
	req.Header.Set("User-Agent", s.agent)
	req.Header.Set("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
	req.Header.Set("Accept-Language", "es-PE,es;q=0.9")
	resp, err := s.client.Do(req)
	if err != nil {
		return sunat.Page{}, err
	}
	defer func() { _ = resp.Body.Close() }()                                 // read to its end, or not worth it
	body, err := io.ReadAll(io.LimitReader(resp.Body, sunat.MaxPageBytes+1)) // the parser refuses the one beyond
	if err != nil {
		return sunat.Page{}, err
	}
	address := *resp.Request.URL
	address.Fragment = ""
	return sunat.Page{URL: address.String(), Status: resp.StatusCode, HTML: sunat.Decode(body)}, nil
}

// newToken is what the form's script makes: 52 random base-36 characters.
func newToken() (string, error) {
	const base, length = 36, 52
	n, err := rand.Int(rand.Reader, new(big.Int).Exp(big.NewInt(base), big.NewInt(length), nil))
	if err != nil {
		return "", fmt.Errorf("httpclient.newToken: %w", err)
	}
	text := n.Text(base)
	return strings.Repeat("0", length-len(text)) + text, nil
}

// classify turns whatever ended a visit into what Visit promises, by the causes that
// package browser gives to the same failures.
func (s *slot) classify(caller context.Context, err error) error {
	var known *ruc.Error
	switch {
	case err == nil || errors.As(err, &known):
		return err
	case caller.Err() != nil:
		return caller.Err()
	case s.life.Err() != nil:
		return &sunat.VisitError{Cause: sunat.CauseLost, Err: dispatch.ErrStopped}
	case errors.Is(err, context.DeadlineExceeded):
		return &sunat.VisitError{Cause: sunat.CauseSilent, Err: errors.New("httpclient: no whole page came in time")}
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return &sunat.VisitError{Cause: sunat.CauseReset, Err: err}
	default:
		return &sunat.VisitError{Cause: sunat.CauseNetwork, Err: err}
	}
}
