package scraper

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/scraper/sunat"
	"github.com/rucflow/rucflow/shared/embedded"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	token = "t0ken"
	// patience is how long a test waits for what must come.
	patience = 10 * time.Second
)

var (
	number = ruc.MustParse("20131312955")
	second = ruc.MustParse("20100055237")
	third  = ruc.MustParse("20100017491")
	nobody = ruc.FromPrefix("2000000000") // the replica does not know it
)

// fakeEngine is an engine without a browser. It keeps the contract of Visit: gate,
// POST, page.
type fakeEngine struct {
	// visit is what happens after the POST has left; attempt counts from 1 per
	// number. Nil = what the replica says.
	visit func(ctx context.Context, n ruc.Number, attempt int) (sunat.Page, error)

	down atomic.Bool
	send time.Duration // how long after its gate a POST leaves

	mu      sync.Mutex
	tries   map[ruc.Number]int
	posts   []time.Time // when each POST was allowed to leave
	running int
	peak    int // most visits at one time
}

func (e *fakeEngine) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (e *fakeEngine) WaitReady(ctx context.Context) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for e.down.Load() {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		if ctx.Err() != nil {
			break
		}
	}
	return ctx.Err()
}

func (e *fakeEngine) Down(time.Duration) bool { return e.down.Load() }

func (e *fakeEngine) Visit(ctx context.Context, n ruc.Number, gate func(context.Context) (func(), error)) (sunat.Page, error) {
	left, err := gate(ctx)
	if err != nil {
		return sunat.Page{}, err
	}
	if err := sleep(ctx, e.send); err != nil {
		left()
		return sunat.Page{}, err
	}
	attempt := e.began(n)
	left()
	defer e.ended()
	if e.visit == nil {
		return shown(n), nil
	}
	return e.visit(ctx, n, attempt)
}

func (e *fakeEngine) began(n ruc.Number) (attempt int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.posts = append(e.posts, time.Now())
	e.running++
	e.peak = max(e.peak, e.running)
	if e.tries == nil {
		e.tries = map[ruc.Number]int{}
	}
	e.tries[n]++
	return e.tries[n]
}

func (e *fakeEngine) ended() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.running--
}

// visits returns how often n was asked for.
func (e *fakeEngine) visits(n ruc.Number) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.tries[n]
}

// shown is the page that the replica shows for n.
func shown(n ruc.Number) sunat.Page {
	t, ok := replica.Lookup(n)
	if !ok {
		return page(fmt.Sprintf("<title>Consulta RUC</title><p>El número de RUC %s consultado no es válido. Debe verificar el número y volver a ingresar.</p>", n))
	}
	return page(sunat.Decode(replica.Render(t, time.Now())))
}

func page(html string) sunat.Page { return sunat.Page{Status: http.StatusOK, HTML: html} }

// takes is a visit that lasts d, or until it is cut short.
func takes(d time.Duration) func(context.Context, ruc.Number, int) (sunat.Page, error) {
	return func(ctx context.Context, n ruc.Number, _ int) (sunat.Page, error) {
		if err := sleep(ctx, d); err != nil {
			return sunat.Page{}, err
		}
		return shown(n), nil
	}
}

// until is a visit that lasts until release is closed, or until it is cut short.
func until(release <-chan struct{}) func(context.Context, ruc.Number, int) (sunat.Page, error) {
	return func(ctx context.Context, n ruc.Number, _ int) (sunat.Page, error) {
		select {
		case <-ctx.Done():
			return sunat.Page{}, ctx.Err()
		case <-release:
			return shown(n), nil
		}
	}
}

// rig is a NATS server on which scrapers run.
type rig struct {
	t    *testing.T
	dir  string
	bus  *embedded.Server
	nc   *nats.Conn // the test's own connection
	js   jetstream.JetStream
	cfg  Config
	wait time.Duration // ShutdownTimeout
	bare bool          // scrapers do not provision
}

// newRig starts a server with the streams of a fleet set by cfg, which change alters.
func newRig(t *testing.T, change ...func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), wait: patience, cfg: Config{
		Site: service.Site{URL: "http://127.0.0.1/"}, Engine: ruc.MotorChrome, Slots: 2, MaxConcurrent: 2, Attempts: 3,
		AttemptTimeout: patience, Queue: 64, EventsMaxAge: 45 * 24 * time.Hour,
		ChangedDir: filepath.Join(t.TempDir(), "changed"),
	}}
	for _, f := range change {
		f(&r.cfg)
	}
	r.startBus("127.0.0.1:0")
	t.Cleanup(func() { r.bus.Stop() })
	r.nc = r.connect("test")
	var err error
	if r.js, err = jetstream.New(r.nc); err != nil {
		t.Fatal(err)
	}
	if err := provision(t.Context(), r.js, r.cfg, Deps{Log: zerolog.Nop(), Provision: true}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) startBus(addr string) {
	r.t.Helper()
	var err error
	if r.bus, err = embedded.Start(context.Background(), embedded.Config{StoreDir: r.dir, Addr: addr, Token: token}); err != nil {
		r.t.Fatal(err)
	}
}

// restartBus kills the NATS server and starts it again on its files.
func (r *rig) restartBus() {
	r.t.Helper()
	addr, before := strings.TrimPrefix(r.bus.URL(), "nats://"), r.nc.Stats().Reconnects
	r.bus.Stop()
	r.startBus(addr)
	eventually(r.t, "the test is connected again", func() bool { return r.nc.Stats().Reconnects > before && r.nc.IsConnected() })
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

// run starts a scraper and returns once it answers; stop, which the end of the test
// calls too, ends it.
func (r *rig) run(e *fakeEngine) (stop func()) {
	r.t.Helper()
	return r.runOn(r.connect("scraper"), prometheus.NewRegistry(), e)
}

func (r *rig) runOn(nc *nats.Conn, reg *prometheus.Registry, e *fakeEngine) (stop func()) {
	r.t.Helper()
	deps := Deps{
		NATS: nc, Log: zerolog.Nop(), Now: time.Now, Registry: reg,
		Provision: !r.bare, ShutdownTimeout: r.wait, engine: e,
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	before := r.scrapers()
	go func() { ended <- Run(ctx, r.cfg, deps) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				r.t.Errorf("Run: %v", err)
			}
		case <-time.After(2 * patience):
			r.t.Error("Run did not return")
		}
	})
	r.t.Cleanup(stop)
	eventually(r.t, "the scraper answers", func() bool { return r.scrapers() > before })
	return stop
}

// scrapers counts those that answer.
func (r *rig) scrapers() int {
	r.t.Helper()
	replies := make(chan *nats.Msg, 16)
	inbox := r.nc.NewInbox()
	sub, err := r.nc.ChanSubscribe(inbox, replies)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := r.nc.PublishRequest("$SRV.PING."+wire.ScraperService, inbox, nil); err != nil {
		r.t.Fatal(err)
	}
	count := 0
	for {
		select {
		case m := <-replies:
			if len(m.Data) == 0 {
				return 0 // no responders
			}
			count++
		case <-time.After(20 * time.Millisecond):
			return count
		}
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

// next waits for the next message.
func next(t *testing.T, ch <-chan *nats.Msg) *nats.Msg {
	t.Helper()
	select {
	case m := <-ch:
		return m
	case <-time.After(patience):
		t.Fatal("no message came")
		return nil
	}
}

// hear subscribes to subjects, all into one channel.
func (r *rig) hear(subjects ...string) <-chan *nats.Msg {
	r.t.Helper()
	heard := make(chan *nats.Msg, 64)
	for _, subject := range subjects {
		if _, err := r.nc.ChanSubscribe(subject, heard); err != nil {
			r.t.Fatal(err)
		}
	}
	return heard
}

// reply is what a caller of ruc.resolve got.
type reply struct {
	wire.Reply
	err  error // a *ruc.Error
	took time.Duration
}

// ask sends a request of a caller who waits so long and returns where the reply
// will be.
func (r *rig) ask(n ruc.Number, wait time.Duration) <-chan reply {
	m := nats.NewMsg(wire.SubjectResolve)
	m.Data = n.AppendTo(nil)
	wire.SetWait(m.Header, wait)
	got := make(chan reply, 1)
	began := time.Now()
	go func() {
		answer, err := r.nc.RequestMsg(m, wait+patience)
		a := reply{err: err}
		if err == nil {
			a.Reply, a.err = wire.ReadReply(n, answer)
		}
		a.took = time.Since(began)
		got <- a
	}()
	return got
}

// asked is ask, waited for.
func (r *rig) asked(n ruc.Number, wait time.Duration) reply { return <-r.ask(n, wait) }

// queued returns how many jobs wait or are in flight.
func (r *rig) queued() uint64 {
	r.t.Helper()
	s, err := r.js.Stream(r.t.Context(), wire.StreamVisits)
	if err != nil {
		r.t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

// stored returns every event in the stream, oldest first.
func (r *rig) stored() []wire.Event {
	r.t.Helper()
	s, err := r.js.Stream(r.t.Context(), wire.StreamEvents)
	if err != nil {
		r.t.Fatal(err)
	}
	var events []wire.Event
	for seq := uint64(1); seq <= s.CachedInfo().State.LastSeq; seq++ {
		m, err := s.GetMsg(r.t.Context(), seq)
		if err != nil {
			r.t.Fatal(err)
		}
		h := m.Header
		if h == nil {
			h = nats.Header{}
		}
		h.Set("Nats-Subject", m.Subject)
		h.Set("Nats-Sequence", fmt.Sprint(m.Sequence))
		h.Set("Nats-Time-Stamp", m.Time.Format(time.RFC3339Nano))
		e, err := wire.ParseEvent(&nats.Msg{Subject: m.Subject, Header: h, Data: m.Data})
		if err != nil {
			r.t.Fatalf("event %d: %v", seq, err)
		}
		events = append(events, e)
	}
	return events
}

// put puts a job as a front does.
func (r *rig) put(n ruc.Number, wait time.Duration) {
	r.t.Helper()
	m := nats.NewMsg(wire.VisitSubject(n))
	wire.SetWait(m.Header, wait)
	if _, err := r.js.PublishMsg(r.t.Context(), m); err != nil {
		r.t.Fatal(err)
	}
}

// take pulls one message, as a slot that will not do its work.
func (r *rig) take(stream, consumer string) jetstream.Msg {
	r.t.Helper()
	c, err := r.js.Consumer(r.t.Context(), stream, consumer)
	if err != nil {
		r.t.Fatal(err)
	}
	batch, err := c.Fetch(1, jetstream.FetchMaxWait(patience))
	if err != nil {
		r.t.Fatal(err)
	}
	m, ok := <-batch.Messages()
	if !ok {
		r.t.Fatalf("nothing to take: %v", batch.Error())
	}
	return m
}

// ackWait changes how long the server waits for a slot that does not answer.
func (r *rig) ackWait(d time.Duration) {
	r.t.Helper()
	r.ackWaitOf(wire.StreamVisits, wire.ConsumerSlots, d)
}

func (r *rig) ackWaitOf(stream, consumer string, d time.Duration) {
	r.t.Helper()
	c, err := r.js.Consumer(r.t.Context(), stream, consumer)
	if err != nil {
		r.t.Fatal(err)
	}
	cfg := c.CachedInfo().Config
	cfg.AckWait = d
	if _, err := r.js.UpdateConsumer(r.t.Context(), stream, cfg); err != nil {
		r.t.Fatal(err)
	}
}

// numbers returns n different numbers that the replica knows.
func numbers(n int) []ruc.Number {
	all := make([]ruc.Number, n)
	for i := range all {
		all[i] = ruc.FromPrefix(fmt.Sprintf("20%08d", 10_000_000+i))
	}
	return all
}
