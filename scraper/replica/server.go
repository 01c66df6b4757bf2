package replica

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/text/encoding/charmap"

	"github.com/rucflow/rucflow/shared/ruc"
)

// The addresses of the site.
const (
	// FormPath is the search form's.
	FormPath = contextPath + "FrameCriterioBusquedaWeb.jsp"
	// QueryPath takes every query, by POST.
	QueryPath = contextPath + "jcrS00Alias"

	contextPath = "/cl-ti-itmrconsruc/"
)

// The values of the field accion that the site answers, beside those of the
// sub-pages.
const (
	actionByNumber   = "consPorRuc"
	actionByDocument = "consPorTipdoc"
	actionByName     = "consPorRazonSoc"
)

// The names of the cookies that the form sets: the session of the application
// server, and one of the load balancer.
const (
	SessionCookie  = "ITMRCONSRUCSESSION"
	BalancerCookie = "TS01fda901"
)

const (
	minTokenLength = 50      // shorter ones, and none at all, bring the error page
	maxBodyBytes   = 1 << 16 // a form is under one KiB

	htmlLatin1     = "text/html;charset=ISO-8859-1"
	formMediaType  = "application/x-www-form-urlencoded"
	cacheForever   = "public, max-age=86400"
	neverCached    = "no-cache, no-store, must-revalidate"
	errorByNumber  = "Surgieron problemas al procesar la consulta por número de ruc."
	notAuthorized  = "No autorizado"
	base36         = "0123456789abcdefghijklmnopqrstuvwxyz"
	sessionLength  = 52
	balancerLength = 64
)

// Config is the site's behaviour. The zero Config answers everything at once and
// refuses nothing.
type Config struct {
	FormDelay   time.Duration // before the search form is answered
	ResultDelay time.Duration // before any POST is answered
	// TokenAtOnce has the form's script make its token at once. By default it takes 2 to
	// 12 ms, so that what waits for it has to.
	TokenAtOnce bool

	// The rate rule, per client address. A POST less than MinInterval after the one
	// before, or beyond MaxConcurrent in progress, is refused and opens a block of
	// BlockFor, in which the form and every POST are refused. 0 turns each part off.
	MinInterval   time.Duration
	MaxConcurrent int
	BlockFor      time.Duration
	BlockByReset  bool // refuse with a TCP reset instead of the firewall's page
}

// Server is the site, an http.Handler that starts no goroutine. Its methods are
// safe for concurrent use.
type Server struct {
	cfg      Config
	now      func() time.Time
	mux      *http.ServeMux
	pacer    *pacer
	counters counters
	faults   *faults
	close    func()
	closed   chan struct{}
}

// tokenScript is where the form gets its token from.
const tokenScript = "sunatrecaptcha/3.0.2/sunatrecaptcha3.js"

//go:embed static
var staticFiles embed.FS

// New returns a site that takes the time from now. It does no I/O.
func New(cfg Config, now func() time.Time) *Server {
	s := &Server{
		cfg:    cfg,
		now:    now,
		mux:    http.NewServeMux(),
		pacer:  newPacer(cfg),
		faults: newFaults(),
		closed: make(chan struct{}),
	}
	s.close = sync.OnceFunc(func() { close(s.closed) })

	s.mux.Handle("GET /{$}", http.RedirectHandler(FormPath, http.StatusFound))
	s.mux.HandleFunc("GET "+FormPath, s.serveForm)
	s.mux.HandleFunc("GET "+QueryPath, s.serveGetQuery)
	s.mux.HandleFunc("POST "+QueryPath, s.serveQuery)
	s.mux.HandleFunc("GET "+contextPath+"captcha", serveCaptcha)

	static, err := fs.Sub(staticFiles, "static")
	if err != nil {
		panic("replica: embedded files: " + err.Error()) // the directory is part of the source
	}
	files := cacheable(http.FileServerFS(static))
	s.mux.Handle("GET /a/js/", http.StripPrefix("/a", files))
	s.mux.Handle("GET /sunatrecaptcha/", files)
	if cfg.TokenAtOnce {
		script, err := fs.ReadFile(static, tokenScript)
		if err != nil {
			panic("replica: embedded files: " + err.Error())
		}
		s.mux.Handle("GET /"+tokenScript, generated("text/javascript; charset=utf-8", func() []byte {
			return append([]byte("var replicaTokenAtOnce = true;\n"), script...)
		}))
	}
	s.mux.Handle("GET /a/imagenes/logo_2015.png", generated("image/png", logoPNG))
	s.mux.Handle("GET /a/imagenes/loading.gif", generated("image/gif", loadingGIF))
	s.routeControl()
	return s
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Close breaks off the responses that a fault or a delay holds back, for good.
// Run calls it; a test that serves the handler by itself calls it before it stops
// its server.
func (s *Server) Close() { s.close() }

// Stats returns what was asked of the site so far.
func (s *Server) Stats() Stats { return s.counters.snapshot() }

// ResetStats sets the statistics to zero.
func (s *Server) ResetStats() { s.counters.reset() }

// SetFault makes the site misbehave from the next request on. A fault of the same
// kind, place and number is replaced. The error says what is wrong with f.
func (s *Server) SetFault(f Fault) error {
	checked, err := f.checked()
	if err == nil {
		err = s.faults.set(checked)
	}
	if err != nil {
		return fmt.Errorf("replica.SetFault: %w", err)
	}
	return nil
}

// Faults returns the active faults; those of a limited number of times go as they
// are spent.
func (s *Server) Faults() []Fault { return s.faults.list() }

// ClearFaults ends all faults. What hangs is answered as if it never had.
func (s *Server) ClearFaults() { s.faults.clear() }

// page is one answer of the site before it goes out.
type page struct {
	status int
	html   string
	utf8   bool // its bytes are UTF-8, whatever the header says
}

func ok(html string) page { return page{status: http.StatusOK, html: html} }

func (p page) bytes() []byte {
	if p.utf8 {
		return []byte(p.html)
	}
	return latin1(p.html)
}

func (p page) write(w http.ResponseWriter) {
	body := p.bytes()
	header(w)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.status)
	_, _ = w.Write(body) // a client that left is no concern of a fake site
}

func header(w http.ResponseWriter) {
	w.Header().Set("Content-Type", htmlLatin1)
	w.Header().Set("Cache-Control", neverCached)
	w.Header().Set("Pragma", "no-cache")
}

func (s *Server) serveForm(w http.ResponseWriter, r *http.Request) {
	s.counters.form()
	if s.refuse(w, r) {
		return
	}
	setCookies(w, r)
	s.answer(w, r, OnForm, ruc.Number{}, "", s.cfg.FormDelay, s.form)
}

func (s *Server) form() page {
	return ok(document("form", struct{ Year int }{s.now().In(ruc.Lima).Year()}))
}

// serveGetQuery answers as the real site has since June 2021: queries go by POST.
func (s *Server) serveGetQuery(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("accion") != "" {
		header(w)
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(notAuthorized))
		return
	}
	s.serveForm(w, r)
}

func (s *Server) serveQuery(w http.ResponseWriter, r *http.Request) {
	arrived := s.now()
	answered := s.counters.post(arrived)
	defer answered()

	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != formMediaType {
		http.Error(w, "Unsupported Media Type", http.StatusUnsupportedMediaType)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
	if err := r.ParseForm(); err != nil {
		http.Error(w, "Bad Request", http.StatusBadRequest)
		return
	}
	q := r.PostForm
	asked := strings.TrimSpace(q.Get("nroRuc"))
	if q.Get("accion") == actionByNumber {
		s.counters.visit(asked)
	}

	if s.refuse(w, r) {
		return
	}
	done, admitted := s.pacer.post(clientAddress(r), arrived)
	if !admitted {
		s.refuseNow(w, r)
		return
	}
	defer done()
	n, _ := ruc.Parse(asked)
	s.answer(w, r, OnResult, n, asked, s.cfg.ResultDelay, func() page { return s.query(q, n, asked) })
}

// query returns the right page for a POST.
func (s *Server) query(q url.Values, n ruc.Number, asked string) page {
	now := s.now()
	switch action := q.Get("accion"); action {
	case actionByNumber:
		// A click in the list of names sends actReturn and no token.
		if len(q.Get("token")) < minTokenLength && q.Get("actReturn") != "1" {
			return errorPage()
		}
		t, found := Lookup(n)
		switch {
		case !found:
			return notFound(asked, now)
		case q.Get("modo") != "1":
			return ok(document("old-result", pageOf(t, now)))
		default:
			return ok(renderResult(t, now))
		}
	case actionByName:
		return nameList(decoded(q.Get("razSoc")), now)
	case actionByDocument:
		return message(fmt.Sprintf("El Sistema RUC NO REGISTRA un número de RUC para el documento %s.", decoded(q.Get("nrodoc"))), now)
	default:
		return subPage(action, n, now)
	}
}

func errorPage() page { return ok(document("error", errorByNumber)) }

func notFound(asked string, now time.Time) page {
	return message(fmt.Sprintf("El número de RUC %s consultado no es válido. Debe verificar el número y volver a ingresar.", decoded(asked)), now)
}

// message is a sentence in the shell of the result page.
func message(text string, now time.Time) page {
	return ok(document("not-found", struct {
		Message string
		Year    int
	}{text, now.In(ruc.Lima).Year()}))
}

// decoded reads a form value: a browser sends it in the page's charset, a tool in
// UTF-8.
func decoded(value string) string {
	if utf8.ValidString(value) {
		return value
	}
	text, err := charmap.Windows1252.NewDecoder().String(value)
	if err != nil {
		return strings.ToValidUTF8(value, "?")
	}
	return text
}

func firewallPage() page {
	const supportIDDigits = 19
	id := make([]byte, supportIDDigits)
	for i := range id {
		id[i] = byte('1' + rand.IntN(9))
	}
	return ok(document("rejected", string(id)))
}

// refuse answers a client that serves a block.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request) bool {
	if !s.pacer.blocked(clientAddress(r), s.now()) {
		return false
	}
	s.refuseNow(w, r)
	return true
}

func (s *Server) refuseNow(w http.ResponseWriter, _ *http.Request) {
	s.counters.block()
	if s.cfg.BlockByReset {
		reset(w)
		return
	}
	firewallPage().write(w)
}

// answer sends the page that right returns, late by delay, or what the first
// fault that meets the request makes of it.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, on string, n ruc.Number, asked string, delay time.Duration, right func() page) {
	fault, cleared, faulty := s.faults.take(on, asked)
	s.wait(r, delay+fault.delay())
	if !faulty {
		right().write(w)
		return
	}
	if status, is := statusFaults[fault.Kind]; is {
		text := http.StatusText(status)
		if status == http.StatusUnauthorized {
			text = notAuthorized
		}
		page{status: status, html: text}.write(w)
		return
	}
	switch fault.Kind {
	case FaultHang:
		s.hold(r, cleared)
		right().write(w)
	case FaultHalf:
		body := right().bytes()
		header(w)
		_, _ = w.Write(body[:middle(body)])
	case FaultHalfOpen:
		s.writeHalfOpen(w, r, cleared, right())
	case FaultError:
		errorPage().write(w)
	case FaultWAF:
		firewallPage().write(w)
	case FaultEmpty:
		ok("").write(w)
	case FaultReset:
		reset(w)
	case FaultOtherRUC:
		ok(renderResult(anotherThan(n), s.now())).write(w)
	case FaultNotFoundOther:
		notFound(anotherThan(n).Number.String(), s.now()).write(w)
	case FaultBounce:
		s.form().write(w)
	case FaultRename:
		p := right()
		p.html = renamed.Replace(p.html)
		p.write(w)
	case FaultAlert, FaultAlertLoad, FaultPopup, FaultLoop:
		p := right()
		p.html = scripted(fault.Kind, p.html)
		p.write(w)
	default: // slow, whose delay is over
		right().write(w)
	}
}

// writeHalfOpen announces the whole page, sends half of it, and the rest once the
// faults are cleared.
func (s *Server) writeHalfOpen(w http.ResponseWriter, r *http.Request, cleared <-chan struct{}, p page) {
	body := p.bytes()
	header(w)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.status)
	half := middle(body)
	_, _ = w.Write(body[:half])
	_ = http.NewResponseController(w).Flush()
	s.hold(r, cleared)
	_, _ = w.Write(body[half:])
}

// middle is where a page is cut in two: amid the rows of a record, where what is
// required has come and what is optional has not, or else amid the bytes.
func middle(body []byte) int {
	first := bytes.Index(body, []byte(`<div class="list-group">`))
	last := bytes.Index(body, []byte(`<div class="panel-footer`))
	if first < 0 || last < 0 {
		return len(body) / 2
	}
	return (first + last) / 2
}

// hold waits until the faults are cleared. When the client leaves or the site is
// closed it breaks the response off instead of returning.
func (s *Server) hold(r *http.Request, cleared <-chan struct{}) {
	select {
	case <-cleared:
	case <-r.Context().Done():
		panic(http.ErrAbortHandler)
	case <-s.closed:
		panic(http.ErrAbortHandler)
	}
}

// wait sleeps, and breaks the response off as hold does.
func (s *Server) wait(r *http.Request, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.Context().Done():
		panic(http.ErrAbortHandler)
	case <-s.closed:
		panic(http.ErrAbortHandler)
	}
}

// reset closes the connection with a TCP reset, which a zero linger time makes of
// a close. Where the connection cannot be had, the response is broken off.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, is := conn.(*net.TCPConn); is {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

func clientAddress(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// setCookies gives a new client its session, in the form of WebLogic's ids, and
// its place at the load balancer. They are not asked for again: the real site
// answers queries without them.
func setCookies(w http.ResponseWriter, r *http.Request) {
	if _, err := r.Cookie(SessionCookie); err != nil {
		value := fmt.Sprintf("%s!-%d!%d", randomText(sessionLength), rand.Int32(), rand.Int32())
		http.SetCookie(w, &http.Cookie{Name: SessionCookie, Value: value, Path: "/", HttpOnly: true})
	}
	if _, err := r.Cookie(BalancerCookie); err != nil {
		http.SetCookie(w, &http.Cookie{Name: BalancerCookie, Value: "014d" + randomText(balancerLength), Path: "/"})
	}
}

func randomText(length int) string {
	b := make([]byte, length)
	for i := range b {
		b[i] = base36[rand.IntN(len(base36))]
	}
	return string(b)
}

// cacheable serves files with a day in the cache, and no listings.
func cacheable(files http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/") {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Cache-Control", cacheForever)
		files.ServeHTTP(w, r)
	})
}

func generated(contentType string, draw func() []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", cacheForever)
		_, _ = w.Write(draw())
	}
}

// serveCaptcha draws the same picture each time: its code is asked of nobody. What
// else was once asked here is refused.
func serveCaptcha(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("accion") != "image" {
		firewallPage().write(w)
		return
	}
	w.Header().Set("Content-Type", "image/png")
	w.Header().Set("Cache-Control", neverCached)
	_, _ = w.Write(captchaPNG())
}
