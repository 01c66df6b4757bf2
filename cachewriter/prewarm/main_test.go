package prewarm

import (
	"context"
	"errors"
	"flag"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/rucflow/rucflow/shared/client"
	"github.com/rucflow/rucflow/shared/embedded"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/wire"
)

var full = flag.Bool("full", false, "the long form: 300 numbers beside an interactive client, visits of 100 to 300 ms")

func TestMain(m *testing.M) {
	minPause = 5 * time.Millisecond
	goleak.VerifyTestMain(m)
}

const (
	token    = "t0ken"
	patience = 20 * time.Second // how long a test waits for what must come
	day      = 24 * time.Hour
)

var settings = Config{
	Lifetimes: service.Lifetimes{CacheTTL: 7 * day, NegativeTTL: time.Hour, Grace: 30 * day}, RefreshAt: 0.9,
	IdleMin: 20 * time.Millisecond, IdleMax: 40 * time.Millisecond, Column: "1", Wait: patience,
}

// The two who ask, each for numbers of its own.
const (
	prewarmed   = "20"
	interactive = "10"
)

// number is the i-th of somebody's numbers.
func number(whose string, i int) ruc.Number {
	digits := strconv.Itoa(10_000_000 + i)
	return ruc.FromPrefix(whose + digits)
}

func numbersOf(whose string, count int) (all []ruc.Number, text string) {
	for i := range count {
		n := number(whose, i)
		all, text = append(all, n), text+n.String()+"\n"
	}
	return all, text
}

// step is something that happened to a job.
type step struct {
	what string // put, begun, ended
	n    ruc.Number
	at   time.Time
}

// fleet is a gateway and a slot in one, on a real queue of visits of a real NATS server.
type fleet struct {
	t      *testing.T
	dir    string
	bus    *embedded.Server
	nc     *nats.Conn
	js     jetstream.JetStream
	svc    micro.Service
	policy ruc.Policy
	visit  func() time.Duration
	refuse func(n ruc.Number, asked int) error // what is answered instead of a visit; may be nil
	ended  chan struct{}                       // closed at the end of the test

	lookups sync.WaitGroup

	mu      sync.Mutex
	held    map[ruc.Number]ruc.Answer
	missing map[ruc.Number]bool // of which SUNAT does not know
	waiting map[ruc.Number][]chan struct{}
	asked   map[ruc.Number]int // how often a visit was asked for
	steps   []step
}

func newFleet(t *testing.T, visit func() time.Duration) *fleet {
	t.Helper()
	f := &fleet{
		t: t, dir: t.TempDir(), policy: settings.Policy(), visit: visit, ended: make(chan struct{}),
		held: map[ruc.Number]ruc.Answer{}, missing: map[ruc.Number]bool{}, waiting: map[ruc.Number][]chan struct{}{}, asked: map[ruc.Number]int{},
	}
	f.startBus("127.0.0.1:0")
	t.Cleanup(func() { f.bus.Stop() })
	t.Cleanup(func() { close(f.ended); f.lookups.Wait() })
	f.nc = f.connect("test")
	var err error
	if f.js, err = jetstream.New(f.nc); err != nil {
		t.Fatal(err)
	}
	if err := (wire.Provisioner{JS: f.js, Source: ruc.FuenteReplica}).Visits(t.Context(), 64, 1, 0); err != nil {
		t.Fatal(err)
	}
	f.startGateway()
	slots := f.slots()
	t.Cleanup(service.Background(context.Background(), func(ctx context.Context) { f.work(ctx, slots) }))
	return f
}

func takes(d time.Duration) func() time.Duration { return func() time.Duration { return d } }

func (f *fleet) startBus(addr string) {
	f.t.Helper()
	var err error
	if f.bus, err = embedded.Start(context.Background(), embedded.Config{StoreDir: f.dir, Addr: addr, Token: token}); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) connect(role string) *nats.Conn {
	f.t.Helper()
	nc, err := service.NATSConfig{URL: f.bus.URL(), Token: token}.Connect(role, zerolog.Nop())
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(nc.Close)
	return nc
}

func (f *fleet) slots() jetstream.Consumer {
	f.t.Helper()
	c, err := f.js.Consumer(f.t.Context(), wire.StreamVisits, wire.ConsumerSlots)
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

func (f *fleet) startGateway() {
	f.t.Helper()
	var err error
	f.svc, err = micro.AddService(f.nc, micro.Config{
		Name: wire.GatewayService, Version: service.Version,
		Endpoint: &micro.EndpointConfig{Subject: wire.SubjectLookup, QueueGroup: wire.GatewayQueue, Handler: wire.Handler(func(req micro.Request) {
			req = wire.HandOver(req, f.nc)
			f.lookups.Go(func() { f.lookup(req) })
		})},
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

// lookup answers from what is held, or has the slot make a visit.
func (f *fleet) lookup(req micro.Request) {
	n, err := wire.ParseRequest(req.Data())
	if err != nil {
		f.t.Error(err)
		return
	}
	wish := req.Headers().Get(wire.HeaderCacheControl)
	answer, ok := f.holds(n, wish)
	if !ok && wish == onlyHeld {
		_ = wire.NewProblem(n, &ruc.Error{Code: ruc.NotHeld}).Respond(req) // who asked may have gone
		return
	}
	if !ok {
		ended, err := f.put(n)
		if err != nil {
			_ = wire.NewProblem(n, err).Respond(req)
			return
		}
		select {
		case <-ended:
		case <-f.ended:
			return
		case <-time.After(wire.Wait(req.Headers().Get)):
			_ = wire.NewProblem(n, &ruc.Error{Code: ruc.Timeout}).Respond(req)
			return
		}
		answer, _ = f.holds(n, "")
	}
	body, err := answer.Encode()
	if err != nil {
		f.t.Error(err)
	}
	_ = wire.RespondAnswer(req, body, answer.Record != nil, 0)
}

func (f *fleet) holds(n ruc.Number, wish string) (ruc.Answer, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, ok := f.held[n]
	fresh := f.policy.Freshness(a.Encontrado, a.ObtenidoEn, time.Now())
	ok = ok && fresh.State == ruc.Fresh
	if seconds, limited := strings.CutPrefix(wish, "max-age="); limited {
		maxAge, err := strconv.Atoi(seconds)
		if err != nil {
			f.t.Errorf("Cache-Control: %s", wish)
		}
		ok = ok && fresh.Age <= time.Duration(maxAge)*time.Second
	}
	return a, ok
}

// put puts n's job; ended is closed when its visit has.
func (f *fleet) put(n ruc.Number) (ended chan struct{}, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked[n]++
	if f.refuse != nil {
		if err := f.refuse(n, f.asked[n]); err != nil {
			return nil, err
		}
	}
	ended = make(chan struct{})
	f.waiting[n] = append(f.waiting[n], ended)
	_, err = f.js.Publish(context.Background(), wire.VisitSubject(n), []byte(n.String()), jetstream.WithExpectLastSequencePerSubject(0))
	if _, there := wire.JobThere(err); there {
		return ended, nil
	}
	if err != nil {
		return nil, &ruc.Error{Code: ruc.Unavailable, Err: err}
	}
	f.steps = append(f.steps, step{"put", n, time.Now()})
	return ended, nil
}

// work is the one slot.
func (f *fleet) work(ctx context.Context, slots jetstream.Consumer) {
	for ctx.Err() == nil {
		batch, err := slots.Fetch(1, jetstream.FetchContext(ctx), jetstream.FetchHeartbeat(500*time.Millisecond))
		if err != nil {
			_ = sleep(ctx, 10*time.Millisecond) // while the server is away
			continue
		}
		for m := range batch.Messages() {
			n, err := wire.NumberOf(m.Subject())
			if err != nil {
				f.t.Error(err)
			}
			f.note("begun", n)
			if sleep(ctx, f.visit()) != nil {
				return
			}
			f.end(n)
			_ = m.DoubleAck(ctx) // else it comes again
		}
	}
}

func (f *fleet) note(what string, n ruc.Number) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steps = append(f.steps, step{what, n, time.Now()})
}

func (f *fleet) end(n ruc.Number) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steps = append(f.steps, step{"ended", n, time.Now()})
	f.held[n] = ruc.Found(n, ruc.Record{RazonSocial: "EMPRESA"}, time.Now(), ruc.FuenteReplica, ruc.MotorChrome)
	if f.missing[n] {
		f.held[n] = ruc.Missing(n, time.Now(), ruc.FuenteReplica, ruc.MotorChrome)
	}
	for _, ended := range f.waiting[n] {
		close(ended)
	}
	delete(f.waiting, n)
}

// history returns what happened so far.
func (f *fleet) history() []step {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]step(nil), f.steps...)
}

// visits counts those of a number, or of all whose prefix is whose.
func (f *fleet) visits(match func(ruc.Number) bool) (count int) {
	for _, s := range f.history() {
		if s.what == "begun" && match(s.n) {
			count++
		}
	}
	return count
}

func is(n ruc.Number) func(ruc.Number) bool { return func(m ruc.Number) bool { return m == n } }

func of(whose string) func(ruc.Number) bool {
	return func(n ruc.Number) bool { return strings.HasPrefix(n.String(), whose) }
}

// ask is somebody who waits for an answer.
func (f *fleet) ask(n ruc.Number) (took time.Duration) {
	f.t.Helper()
	begun := time.Now()
	if _, err := client.Lookup(f.t.Context(), f.nc, n, client.Request{Wait: patience}); err != nil {
		f.t.Errorf("%s: %v", n, err)
	}
	return time.Since(begun)
}

// running is a prewarm that was started.
type running struct {
	t        *testing.T
	cancel   context.CancelFunc
	ended    chan error
	out, err *text
	reg      *prometheus.Registry
	log      *text
}

// start runs a prewarm, which the end of the test ends too.
func (f *fleet) start(cfg Config, stdin string) *running {
	f.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{t: f.t, cancel: cancel, ended: make(chan error, 1), out: &text{}, err: &text{}, log: &text{}, reg: prometheus.NewRegistry()}
	deps := Deps{
		NATS: f.connect("prewarm"), Log: zerolog.New(r.log), Now: time.Now, In: strings.NewReader(stdin), Out: r.out, Err: r.err, Registry: r.reg,
	}
	go func() { r.ended <- Run(ctx, cfg, deps) }()
	f.t.Cleanup(cancel)
	return r
}

// wait waits for the end of the run.
func (r *running) wait() error {
	r.t.Helper()
	limit := patience
	if *full {
		limit = 30 * time.Minute
	}
	select {
	case err := <-r.ended:
		return err
	case <-time.After(limit):
		r.t.Fatalf("Run did not return; it said %s", r.err)
		return errors.New("unreachable")
	}
}

// stop tells the run to stop.
func (r *running) stop() {
	r.t.Helper()
	r.cancel()
	if err := r.wait(); err != nil {
		r.t.Errorf("told to stop: %v", err)
	}
}

// text is a writer that may be read meanwhile.
type text struct {
	mu sync.Mutex
	b  strings.Builder
}

func (w *text) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *text) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

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

// between is a random duration.
func between(from, to time.Duration) time.Duration { return from + rand.N(to-from) }
