package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/rucflow/rucflow/gateway"
	"github.com/rucflow/rucflow/shared/embedded"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, leftByFasthttp()...) }

// leftByFasthttp are two goroutines of fasthttp that nobody can stop.
func leftByFasthttp() []goleak.Option {
	return []goleak.Option{
		// One clock for the whole process.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		// Sees that its server has stopped after a sleep of up to ten seconds.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
	}
}

const (
	token = "t0ken"
	// patience is how long a test waits for what must come.
	patience = 10 * time.Second
	day      = 24 * time.Hour
)

var (
	number = ruc.MustParse("20131312955")
	second = ruc.MustParse("20100055237")
	third  = ruc.MustParse("20100017491")
)

// clock is the real time, moved.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) advance(d time.Duration) { c.ahead.Add(int64(d)) }

// inert is the part of a store that no test of a lookup uses.
type inert struct{}

func (inert) Delete(context.Context, ruc.Number) error { return nil }
func (inert) DeletePattern(context.Context, ruc.Pattern, bool) (int, error) {
	return 0, nil
}

// noStore holds nothing.
type noStore struct{ inert }

func (noStore) Kind() string { return "memory" }
func (noStore) Get(context.Context, ruc.Number) ([]byte, bool, error) {
	return nil, false, nil
}

// storeFunc is a store of one function.
type storeFunc func(ctx context.Context, n ruc.Number) ([]byte, bool, error)

func (storeFunc) Kind() string { return "redis" }
func (f storeFunc) Get(ctx context.Context, n ruc.Number) ([]byte, bool, error) {
	return f(ctx, n)
}
func (storeFunc) Delete(context.Context, ruc.Number) error { return nil }
func (storeFunc) DeletePattern(context.Context, ruc.Pattern, bool) (int, error) {
	return 0, nil
}

// rig is a gateway that runs on a NATS server of its own.
type rig struct {
	t     *testing.T
	clock *clock
	url   string
	dir   string
	bus   *embedded.Server
	nc    *nats.Conn // the test's own connection
	js    jetstream.JetStream
	mine  *nats.Conn // the gateway's
	jobs  atomic.Uint64
	web   *http.Client
	stop  func() error // tells Run to stop and returns what it returned
}

// start runs a gateway until the test ends; change alters its settings.
func start(t *testing.T, change ...func(*gateway.Config, *gateway.Deps)) *rig {
	t.Helper()
	r := &rig{t: t, clock: &clock{}, dir: t.TempDir()}
	r.startBus("127.0.0.1:0")
	t.Cleanup(func() { r.bus.Stop() })
	r.nc, r.mine = r.connect("test"), r.connect("gateway")
	var err error
	if r.js, err = jetstream.New(r.nc); err != nil {
		t.Fatal(err)
	}
	p := wire.Provisioner{JS: r.js, Source: ruc.FuenteReplica, Warn: func(what, field, _, _ string) { t.Errorf("differs: %s %s", what, field) }}
	if err := p.Events(t.Context(), 45*day); err != nil {
		t.Fatal(err)
	}

	ln := listen(t)
	r.url = "http://" + ln.Addr().String()
	r.web = &http.Client{Timeout: patience, Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 256}}
	t.Cleanup(r.web.CloseIdleConnections)
	cfg := gateway.Config{
		RequestTimeout: patience, MaxPending: 256, L1TTL: 10 * time.Minute, MemoryBytes: 1 << 20,
		Lifetimes: service.Lifetimes{CacheTTL: 7 * day, NegativeTTL: time.Hour, Grace: 30 * day},
	}
	deps := gateway.Deps{
		NATS: r.mine, Store: noStore{}, HTTP: ln, Log: zerolog.Nop(), Now: r.clock.now,
		Registry: prometheus.NewRegistry(), ShutdownTimeout: patience,
	}
	for _, f := range change {
		f(&cfg, &deps)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- gateway.Run(ctx, cfg, deps) }()
	r.stop = func() error {
		cancel()
		select {
		case err := <-ended:
			ended <- err
			return err
		case <-time.After(patience):
			t.Error("Run did not return")
			return nil
		}
	}
	t.Cleanup(func() {
		// The client may have made a connection that it then did not need, and a server
		// waits for the request of a new one.
		r.web.CloseIdleConnections()
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	if got := r.get("/livez"); got.StatusCode != http.StatusOK {
		t.Fatalf("/livez: %d", got.StatusCode)
	}
	r.flush(r.mine) // its subscriptions are known to the server
	return r
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func (r *rig) startBus(addr string) {
	r.t.Helper()
	var err error
	if r.bus, err = embedded.Start(context.Background(), embedded.Config{StoreDir: r.dir, Addr: addr, Token: token}); err != nil {
		r.t.Fatal(err)
	}
}

// stopBus kills the NATS server until startAgain.
func (r *rig) stopBus() (startAgain func()) {
	r.t.Helper()
	addr := strings.TrimPrefix(r.bus.URL(), "nats://")
	r.bus.Stop()
	return func() { r.t.Helper(); r.startBus(addr) }
}

func (r *rig) connect(role string) *nats.Conn {
	r.t.Helper()
	nc, err := service.NATSConfig{URL: r.bus.URL(), Token: token}.Connect(role, zerolog.Nop())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(nc.Close)
	return nc
}

func (r *rig) flush(nc *nats.Conn) {
	r.t.Helper()
	if err := nc.FlushTimeout(patience); err != nil {
		r.t.Fatal(err)
	}
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("in vain: %s", what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// fleet is a scraper as the gateway sees it.
type fleet struct{ asked atomic.Int64 }

// scraper answers ruc.resolve until the test ends, each request in a goroutine of
// its own.
func (r *rig) scraper(answer func(req micro.Request, n ruc.Number)) *fleet {
	r.t.Helper()
	return r.scraperOn(r.connect("scraper"), answer)
}

// later is a request that may be answered after its handler has returned.
type later struct {
	micro.Request
	nc *nats.Conn
}

func (l later) Error(code, word string, data []byte, _ ...micro.RespondOpt) error {
	header := nats.Header{wire.HeaderErrorCode: {code}, wire.HeaderError: {word}}
	return l.nc.PublishMsg(&nats.Msg{Subject: l.Reply(), Data: data, Header: header})
}

func (r *rig) scraperOn(nc *nats.Conn, answer func(req micro.Request, n ruc.Number)) *fleet {
	r.t.Helper()
	f := &fleet{}
	var inHand sync.WaitGroup
	r.t.Cleanup(inHand.Wait)
	_, err := micro.AddService(nc, micro.Config{
		Name: wire.ScraperService, Version: "1.0.0",
		Endpoint: &micro.EndpointConfig{
			Subject: wire.SubjectResolve, QueueGroup: wire.ScraperQueue,
			Handler: micro.HandlerFunc(func(req micro.Request) {
				f.asked.Add(1)
				n, err := wire.ParseRequest(req.Data())
				if err != nil {
					r.t.Errorf("the gateway asked for %q", req.Data())
					return
				}
				inHand.Go(func() { answer(later{req, nc}, n) })
			}),
		},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.flush(nc)
	return f
}

// resolves stores and replies a found answer, as a scraper does.
func (r *rig) resolves(req micro.Request, n ruc.Number) {
	r.reply(req, r.found(n))
}

func (r *rig) reply(req micro.Request, a ruc.Answer) { r.respond(req, a, r.publish(a)) }

// respond replies without an event.
func (r *rig) respond(req micro.Request, a ruc.Answer, seq uint64) {
	if err := wire.RespondAnswer(req, encode(r.t, a), a.Encontrado, seq); err != nil {
		r.t.Errorf("RespondAnswer: %v", err)
	}
}

// refuses replies an error.
func (r *rig) refuses(req micro.Request, n ruc.Number, err error) {
	if err := wire.NewProblem(n, err).Respond(req); err != nil {
		r.t.Errorf("Respond: %v", err)
	}
}

func silent(micro.Request, ruc.Number) {}

// publish stores an answer as event and returns its sequence.
func (r *rig) publish(a ruc.Answer) uint64 {
	return r.store(wire.ResolvedEvent(a.RUC, r.job(), encode(r.t, a), a.Fuente, r.clock.now()))
}

func (r *rig) publishFailure(n ruc.Number, err error) {
	r.store(wire.FailedEvent(n, r.job(), wire.NewProblem(n, err), ruc.FuenteReplica, r.clock.now()))
}

func (r *rig) job() wire.Job { return wire.Job{Seq: r.jobs.Add(1), Time: r.clock.now()} }

func (r *rig) store(m *nats.Msg) uint64 {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ack, err := r.js.PublishMsg(ctx, m)
	if err != nil {
		r.t.Errorf("storing an event: %v", err)
		return 0
	}
	return ack.Sequence
}

// hear gives the gateway an event as if the stream had republished it under that
// sequence.
func (r *rig) hear(a ruc.Answer, seq uint64) {
	r.t.Helper()
	r.hearBody(a.RUC, string(encode(r.t, a)), seq)
}

func (r *rig) hearBody(n ruc.Number, body string, seq uint64) {
	r.t.Helper()
	m := nats.NewMsg(wire.SubjectResolved)
	m.Data = []byte(body)
	m.Header.Set("Nats-Sequence", strconv.FormatUint(seq, 10))
	m.Header.Set("Nats-Subject", wire.ResolvedSubject(n))
	m.Header.Set("Nats-Time-Stamp", r.clock.now().UTC().Format(time.RFC3339Nano))
	if err := r.nc.PublishMsg(m); err != nil {
		r.t.Fatal(err)
	}
}

// holds waits until the gateway's memory holds the answer.
func (r *rig) holds(a ruc.Answer) {
	r.t.Helper()
	eventually(r.t, "the memory holds "+a.Huella, func() bool {
		got := r.get("/v1/ruc/" + a.RUC.String())
		return got.Header.Get("ETag") == etag(a) && strings.HasSuffix(got.Header.Get("Cache-Status"), "detail=memory")
	})
}

func (r *rig) found(n ruc.Number) ruc.Answer {
	return foundAt(n, "EJEMPLO & HIJOS S.A.C.", r.clock.now())
}

func foundAt(n ruc.Number, name ruc.Text, at time.Time) ruc.Answer {
	return ruc.Found(n, ruc.Record{RazonSocial: name, Estado: "ACTIVO", Activo: true}, at, ruc.FuenteReplica, ruc.MotorChrome)
}

func missingAt(n ruc.Number, at time.Time) ruc.Answer {
	return ruc.Missing(n, at, ruc.FuenteReplica, ruc.MotorChrome)
}

func encode(t *testing.T, a ruc.Answer) []byte {
	t.Helper()
	b, err := a.Encode()
	if err != nil {
		t.Error(err)
	}
	return b
}

func etag(a ruc.Answer) string { return `W/"` + a.Huella + `"` }

// response is what came back over HTTP, read to its end.
type response struct {
	*http.Response
	body string
}

func (r *rig) get(path string, header ...string) response {
	r.t.Helper()
	return r.do(http.MethodGet, path, "", header...)
}

// do makes one request; header holds names and values in turn.
func (r *rig) do(method, path, body string, header ...string) response {
	r.t.Helper()
	req, err := http.NewRequest(method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := r.web.Do(req)
	if err != nil {
		r.t.Errorf("%s %s: %v", method, path, err)
		return response{Response: &http.Response{Header: http.Header{}}}
	}
	return read(r.t, res)
}

// raw sends bytes that no client library would and reads one response.
func (r *rig) raw(request string) response {
	r.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		r.t.Fatal(err)
	}
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		_, _ = io.WriteString(conn, request) // the server may close before it has read everything
	}()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		r.t.Fatalf("%.40q: %v", request, err)
	}
	got := read(r.t, res)
	_ = conn.Close()
	<-wrote
	return got
}

func read(t *testing.T, res *http.Response) response {
	t.Helper()
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Errorf("reading a body: %v", err)
	}
	return response{res, string(b)}
}

// problem checks that the response is a whole and consistent error document and
// returns it.
func (r response) problem(t *testing.T) wire.Problem {
	t.Helper()
	p := decodeProblem(t, []byte(r.body))
	if got := r.Header.Get("Content-Type"); got != wire.ProblemType {
		t.Errorf("Content-Type %q", got)
	}
	if p.Status != r.StatusCode {
		t.Errorf("the body says %d, the status line %d", p.Status, r.StatusCode)
	}
	if p.Code == ruc.NotFound {
		return p // an answer: it may be kept, and has no request
	}
	if got := r.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control %q", got)
	}
	if p.RequestID == "" || p.RequestID != r.Header.Get("X-Request-Id") {
		t.Errorf("requestId %q, X-Request-Id %q", p.RequestID, r.Header.Get("X-Request-Id"))
	}
	after := ""
	if p.RetryAfter > 0 {
		after = strconv.Itoa(p.RetryAfter)
	}
	if got := r.Header.Get("Retry-After"); got != after {
		t.Errorf("Retry-After %q, the body says %q", got, after)
	}
	return p
}

func decodeProblem(t *testing.T, body []byte) wire.Problem {
	t.Helper()
	var p wire.Problem
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		t.Fatalf("no problem document: %v: %.200q", err, body)
	}
	if !p.Code.Known() || p.Type != "urn:rucflow:problem:"+string(p.Code) || p.Title == "" || p.Detail == "" {
		t.Errorf("incomplete: %s", body)
	}
	if p.Message != "Error al consultar RUC" || p.Retryable != p.Code.Retryable() {
		t.Errorf("message %q, retryable %v", p.Message, p.Retryable)
	}
	return p
}
