package gateway

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/rs/zerolog"
	"github.com/valyala/fasthttp"

	"github.com/rucflow/rucflow/gateway/web"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// The bounds of a request.
const (
	maxBodyBytes   = 64 << 10
	maxDrainBytes  = 8 << 20
	drainQuiet     = 100 * time.Millisecond
	drainTimeout   = 2 * time.Second
	maxHeaderBytes = 16 << 10
	readTimeout    = 10 * time.Second
	idleTimeout    = 2 * time.Minute
	// idleWorker is how long the goroutine of a closed connection waits for another one.
	idleWorker = time.Second
	// maxServerConns bounds open connections of one process.
	maxServerConns = 64 << 10
)

// cacheName names this cache in Cache-Status (RFC 9211).
const cacheName = "rucflow"

const headerCacheStatus = "Cache-Status"

// server is the HTTP side of a gateway.
type server struct {
	lookups   *lookups
	histories *histories
	access    *access
	admin     *admin
	streams   *streams
	batches   *batches
	pages     *web.Site
	health    func() health
	ready     func() error
	metrics   *metrics
	now       func() time.Time
	log       zerolog.Logger
	refused   zerolog.Logger // of requests that were no lookups; bounded, for anybody can make them
}

// app makes the Fiber application with every route.
func (w *server) app(writeTimeout time.Duration) *fiber.App {
	app := fiber.New(fiber.Config{
		AppName:               "rucflow",
		DisableStartupMessage: true,
		ErrorHandler:          w.problem,
		BodyLimit:             maxBodyBytes,
		// Bodies are taken from the connection by bounded, not before the handlers.
		StreamRequestBody:            true,
		DisablePreParseMultipartForm: true,
		ReadBufferSize:               maxHeaderBytes,
		ReadTimeout:                  readTimeout,
		WriteTimeout:                 writeTimeout,
		IdleTimeout:                  idleTimeout,
		Concurrency:                  maxServerConns,
		// A panic is an answer with code internal, so fasthttp's own error page
		// never shows.
	})
	app.Server().MaxIdleWorkerDuration = idleWorker
	app.Use(w.guard)
	// Before the host is looked at, for probes ask by address.
	app.Get("/health", w.showHealth)
	app.Get("/livez", func(c *fiber.Ctx) error { return c.SendString("ok\n") })
	app.Get("/readyz", w.showReady)
	if len(w.access.hosts) > 0 {
		app.Use(w.access.host)
	}
	if len(w.access.origins) > 0 {
		app.Use([]string{"/obtener-ruc", "/v1/ruc", "/v1/eventos"}, w.access.crossOrigin())
	}
	app.Get("/obtener-ruc/:ruc", w.record)
	app.Get("/v1/ruc/:ruc", w.record)
	app.Post("/v1/ruc/lote", w.batch)
	app.Get("/v1/ruc/:ruc/historial", w.history)
	app.Get("/v1/eventos", w.events)
	app.Delete("/v1/ruc/:ruc", w.admin.authorize, w.admin.forget)
	app.Post("/v1/cache/invalidar", w.admin.authorize, w.admin.forgetPattern)
	w.pages.Register(app) // last: its "/" would be tried for every request that follows
	return app
}

// guard turns a panic of a handler into an error, and sets the headers that every
// response has.
func (w *server) guard(c *fiber.Ctx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &ruc.Error{Code: ruc.Internal, Err: fmt.Errorf("panic: %v", p)}
		}
	}()
	secure(&c.Response().Header)
	if err := bounded(c); err != nil {
		return err
	}
	return c.Next()
}

// secure sets what every response says to browsers: it is data, to be read by pages of
// this site alone, and loads nothing. A handler of a page of ours sets another policy.
func secure(h *fasthttp.ResponseHeader) {
	for _, header := range security {
		h.SetCanonical(header[0], header[1]) // 0.2 µs less than with Set, at every hit
	}
}

var security = [][2][]byte{
	{[]byte(fiber.HeaderXContentTypeOptions), []byte("nosniff")},
	{[]byte(fiber.HeaderReferrerPolicy), []byte("no-referrer")},
	{[]byte(fiber.HeaderContentSecurityPolicy), []byte("default-src 'none'; frame-ancestors 'none'")},
	{[]byte(headerResourcePolicy), []byte("same-origin")},
}

// bounded takes the body from the connection and refuses one beyond maxBodyBytes.
// What a client still sends then is read and thrown away, up to maxDrainBytes: closing
// on unread data resets the connection, and the refusal would be lost.
func bounded(c *fiber.Ctx) error {
	stream := c.Context().RequestBodyStream()
	if stream == nil {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(stream, maxBodyBytes+1))
	if err != nil {
		return cut(c, err)
	}
	if len(body) <= maxBodyBytes {
		c.Request().SetBodyRaw(body)
		return nil
	}
	if _, err := io.CopyN(io.Discard, stream, maxDrainBytes); err == nil {
		c.Context().SetConnectionClose() // there may be more
	} else if !errors.Is(err, io.EOF) {
		return cut(c, err)
	}
	return &ruc.Error{Code: ruc.TooLarge}
}

// cut refuses a request whose body did not come to its end. The connection ends with it,
// for the rest of the body would be taken for the next request.
func cut(c *fiber.Ctx, err error) error {
	c.Context().SetConnectionClose()
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		return fiber.ErrRequestTimeout
	}
	return &ruc.Error{Code: ruc.BadBody, Err: err}
}

// record answers GET /obtener-ruc/{ruc} and GET /v1/ruc/{ruc}.
func (w *server) record(c *fiber.Ctx) error {
	who, err := w.access.enter(c)
	defer who.tell(c, w.now) // after the lookup, which may count on it
	if err != nil {
		return err
	}
	n, err := ruc.Parse(c.Params("ruc"))
	if err != nil {
		return err
	}
	start := w.now()
	wish := parseWish(c.Get(fiber.HeaderCacheControl))
	wish.foreign = w.access.foreign(c)
	f, ok := w.lookups.memory(n, wish, start)
	if ok && f.found && f.layer == layerMemory {
		w.metrics.hits.Observe(w.now().Sub(start).Seconds())
	} else {
		if f, err = w.lookups.lookup(c.UserContext(), n, trace(c), wish, who); err != nil {
			return &numbered{ruc: n, err: err, logged: true}
		}
	}
	if c.Get(wire.HeaderRequestID) != "" {
		requestID(c)
	}
	return w.send(c, f)
}

// send writes an answer with its caching headers.
func (w *server) send(c *fiber.Ctx, f found) error {
	h := &c.Response().Header
	lifetime := f.fresh.Lifetime
	if f.fresh.State != ruc.Fresh {
		lifetime = 0
	}
	var text [80]byte // of a value; none is longer
	h.SetCanonical(keyETag, f.etag)
	h.SetCanonical(keyAge, appendSeconds(text[:0], f.fresh.Age))
	h.SetCanonical(keyCacheControl, appendSeconds(append(text[:0], "private, max-age="...), lifetime))
	h.SetCanonical(keyLastModified, f.modified)
	h.SetCanonical(keyCacheStatus, appendCacheStatus(text[:0], f))
	if f.found && matches(c.Get(fiber.HeaderIfNoneMatch), f.etag) {
		c.Status(http.StatusNotModified)
		return nil
	}
	h.SetContentType(fiber.MIMEApplicationJSONCharsetUTF8)
	if !f.found {
		c.Status(http.StatusNotFound)
		h.SetContentType(wire.ProblemType)
	}
	c.Response().SetBodyRaw(f.body)
	return nil
}

// The names of an answer's headers, as SetCanonical takes them: each is 0.2 µs less than
// with Set.
var (
	keyETag         = []byte("Etag")
	keyAge          = []byte(fiber.HeaderAge)
	keyCacheControl = []byte(fiber.HeaderCacheControl)
	keyLastModified = []byte(fiber.HeaderLastModified)
	keyCacheStatus  = []byte(headerCacheStatus)
)

func appendSeconds(b []byte, d time.Duration) []byte {
	return strconv.AppendInt(b, int64(d/time.Second), 10)
}

// appendCacheStatus says in the words of RFC 9211 how the answer was come by.
func appendCacheStatus(b []byte, f found) []byte {
	b = append(b, cacheName...)
	switch {
	case f.layer == layerVisit:
		return append(b, "; fwd=miss; stored"...)
	case f.layer == layerJoined:
		return append(b, "; fwd=miss; stored; collapsed"...)
	case f.layer == layerStale && f.begun:
		return append(b, "; fwd=stale; detail=stale"...)
	default:
		b = appendSeconds(append(b, "; hit; ttl="...), f.fresh.Left)
		return append(append(b, "; detail="...), f.layer...)
	}
}

// matches implements If-None-Match (RFC 9110, weak comparison).
func matches(header string, etag []byte) bool {
	if header == "" {
		return false
	}
	opaque := strings.TrimPrefix(string(etag), "W/")
	for candidate := range strings.SplitSeq(header, ",") {
		candidate = strings.TrimSpace(candidate)
		if candidate == "*" || strings.TrimPrefix(candidate, "W/") == opaque {
			return true
		}
	}
	return false
}

// requestID returns the request's id, the client's own where it sent a sane one,
// and repeats it in the response.
func requestID(c *fiber.Ctx) string {
	if id := c.GetRespHeader(wire.HeaderRequestID); id != "" {
		return id
	}
	id := wire.NewTrace(c.Get(wire.HeaderRequestID), "").Request
	c.Set(wire.HeaderRequestID, id)
	return id
}

// trace is what follows the request through other services.
func trace(c *fiber.Ctx) wire.Trace {
	return wire.NewTrace(requestID(c), c.Get(wire.HeaderTraceparent))
}

// numbered is an error about a number that the path named correctly.
type numbered struct {
	ruc    ruc.Number
	err    error
	logged bool
}

func (e *numbered) Error() string { return e.err.Error() }
func (e *numbered) Unwrap() error { return e.err }

// problem is the one place that turns an error into a response.
func (w *server) problem(c *fiber.Ctx, err error) error {
	var about *numbered
	var n ruc.Number
	if errors.As(err, &about) {
		n = about.ruc
	}
	status, err := fiberError(err)
	p := wire.NewProblem(n, err)
	if status != 0 {
		p.Status = status
	}
	if status == http.StatusRequestHeaderFieldsTooLarge {
		drain(c.Context().Conn())
	}
	p.RequestID = requestID(c)
	if p.Code == ruc.Unauthorized {
		c.Set(fiber.HeaderWWWAuthenticate, `Bearer realm="rucflow"`)
	}
	if p.RetryAfter > 0 {
		c.Set(fiber.HeaderRetryAfter, strconv.Itoa(p.RetryAfter))
	}
	if about == nil || !about.logged {
		line := w.refused.Info()
		if p.Code == ruc.Internal {
			line = w.log.Error()
		}
		line.Err(err).Str("code", string(p.Code)).Int("status", p.Status).Str("ruc", n.Masked()).
			Str("req", p.RequestID).Msg("request refused or failed")
	}
	if c.GetRespHeader(fiber.HeaderXContentTypeOptions) == "" {
		secure(&c.Response().Header) // a request that was refused before it reached guard
	}
	c.Set(fiber.HeaderCacheControl, "no-store")
	c.Status(p.Status)
	c.Response().Header.SetContentType(wire.ProblemType)
	c.Response().SetBodyRaw(p.Encode())
	return nil
}

// drain reads what a client still sends of a request that was refused before its end,
// until it is quiet: closing on unread data resets the connection, and the refusal
// would be lost. Time and bytes are bounded.
func drain(conn net.Conn) {
	if conn == nil {
		return // a test's request without a connection
	}
	stop := func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) } // ends a read at once
	quiet, over := time.AfterFunc(drainQuiet, stop), time.AfterFunc(drainTimeout, stop)
	defer quiet.Stop()
	defer over.Stop()
	buf := make([]byte, 16<<10)
	for total := 0; total < maxDrainBytes; {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		total += n
		quiet.Reset(drainQuiet)
	}
}

// fiberError gives the errors of the framework a code. status overrides the
// code's own where one code stands for two statuses.
func fiberError(err error) (status int, coded error) {
	var fe *fiber.Error
	var re *ruc.Error
	if errors.As(err, &re) || !errors.As(err, &fe) {
		return 0, err
	}
	switch fe.Code {
	case http.StatusNotFound:
		return 0, &ruc.Error{Code: ruc.NoRoute}
	case http.StatusMethodNotAllowed:
		return 0, &ruc.Error{Code: ruc.Method}
	case http.StatusRequestEntityTooLarge:
		return 0, &ruc.Error{Code: ruc.TooLarge}
	case http.StatusRequestHeaderFieldsTooLarge, http.StatusRequestURITooLong:
		return http.StatusRequestHeaderFieldsTooLarge, &ruc.Error{Code: ruc.TooLarge}
	case http.StatusRequestTimeout:
		return http.StatusRequestTimeout, &ruc.Error{Code: ruc.Timeout, Detail: "La solicitud tardó demasiado en llegar."}
	case http.StatusUnsupportedMediaType:
		return 0, &ruc.Error{Code: ruc.MediaType}
	case http.StatusBadRequest, http.StatusBadGateway: // the latter for a connection that broke
		return 0, &ruc.Error{Code: ruc.BadBody, Detail: "La solicitud HTTP no se entiende.", Err: err}
	default:
		return 0, &ruc.Error{Code: ruc.Internal, Err: err}
	}
}

func (w *server) showHealth(c *fiber.Ctx) error {
	c.Set(fiber.HeaderCacheControl, "no-store")
	return c.JSON(w.health())
}

func (w *server) showReady(c *fiber.Ctx) error {
	c.Set(fiber.HeaderCacheControl, "no-store")
	if err := w.ready(); err != nil {
		return c.Status(http.StatusServiceUnavailable).SendString(err.Error() + "\n")
	}
	return c.SendString("ok\n")
}
