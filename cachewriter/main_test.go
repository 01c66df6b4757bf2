package cachewriter_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/rucflow/rucflow/cachewriter"
	"github.com/rucflow/rucflow/shared/embedded"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/store"
	"github.com/rucflow/rucflow/shared/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	token = "t0ken"
	// patience is how long a test waits for what must come; less than the AckWait
	// that cachewriters provision, which would hide what is not given back.
	patience = 20 * time.Second
	day      = 24 * time.Hour
)

var (
	number = ruc.MustParse("20131312955")
	second = ruc.MustParse("20100055237")

	settings = cachewriter.Config{Lifetimes: service.Lifetimes{CacheTTL: 7 * day, NegativeTTL: time.Hour, Grace: 30 * day}, EventsMaxAge: 45 * day}
)

// rig is a NATS server on which cachewriters run.
type rig struct {
	t    *testing.T
	dir  string
	bus  *embedded.Server
	nc   *nats.Conn // the test's own connection
	js   jetstream.JetStream
	jobs uint64
	last uint64 // sequence of the event stored last
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir()}
	r.startBus("127.0.0.1:0")
	t.Cleanup(func() { r.bus.Stop() })
	r.nc = r.connect("test")
	var err error
	if r.js, err = jetstream.New(r.nc); err != nil {
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

func (r *rig) deps(s cachewriter.Store) cachewriter.Deps {
	return cachewriter.Deps{
		NATS: r.connect("cachewriter"), Store: s, Log: zerolog.Nop(), Now: time.Now,
		Registry: prometheus.NewRegistry(), Provision: true, Source: ruc.FuenteReplica,
	}
}

// run starts a cachewriter and returns once it has its consumer; stop, which the
// end of the test calls too, ends it.
func (r *rig) run(deps cachewriter.Deps) (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- cachewriter.Run(ctx, settings, deps) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				r.t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			r.t.Error("Run did not return")
		}
	})
	r.t.Cleanup(stop)
	eventually(r.t, "the cachewriter has its consumer", func() bool { return metric(r.t, deps, "ruc_cachewriter_lag_events") >= 0 })
	return stop
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	within(t, patience, what, ok)
}

// within is eventually for what takes its time.
func within(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(d)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("in vain: %s", what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (r *rig) state() (*jetstream.ConsumerInfo, error) {
	c, err := r.js.Consumer(r.t.Context(), wire.StreamEvents, wire.ConsumerCachewriter)
	if err != nil {
		return nil, err
	}
	return c.CachedInfo(), nil
}

// provision makes what a cachewriter needs, with an AckWait that is short enough
// for a test to outlast. A cachewriter leaves it as it is.
func (r *rig) provision(ackWait time.Duration) {
	r.t.Helper()
	p := wire.Provisioner{JS: r.js, Source: ruc.FuenteReplica}
	err := errors.Join(p.Events(r.t.Context(), settings.EventsMaxAge), p.Cachewriter(r.t.Context()), p.Dead(r.t.Context()))
	if err != nil {
		r.t.Fatal(err)
	}
	info, err := r.state()
	if err != nil {
		r.t.Fatal(err)
	}
	info.Config.AckWait = ackWait
	if _, err := r.js.UpdateConsumer(r.t.Context(), wire.StreamEvents, info.Config); err != nil {
		r.t.Fatal(err)
	}
}

// delivered returns how many deliveries the consumer has made.
func (r *rig) delivered() uint64 {
	r.t.Helper()
	info, err := r.state()
	if err != nil {
		r.t.Fatal(err)
	}
	return info.Delivered.Consumer
}

// letters returns the dead letters, oldest first.
func (r *rig) letters() []wire.Letter {
	r.t.Helper()
	stream, err := r.js.Stream(r.t.Context(), wire.StreamDead)
	if err != nil {
		r.t.Fatal(err)
	}
	var letters []wire.Letter
	for seq := uint64(1); seq <= stream.CachedInfo().State.LastSeq; seq++ {
		m, err := stream.GetMsg(r.t.Context(), seq)
		if err != nil {
			r.t.Fatal(err)
		}
		l, err := wire.ParseDeadLetter(&nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data})
		if err != nil {
			r.t.Error(err)
		}
		letters = append(letters, l)
	}
	return letters
}

// metric returns the value of a counter or gauge, summed over its labels, or how
// often a histogram was observed; -1 before the cachewriter has made it.
func metric(t *testing.T, deps cachewriter.Deps, name string, labels ...string) float64 {
	t.Helper()
	families, err := deps.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum, found := 0.0, false
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if len(labels) > 0 && (len(m.GetLabel()) != 1 || m.GetLabel()[0].GetValue() != labels[0]) {
				continue
			}
			found = true
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	if !found {
		return -1
	}
	return sum
}

// settled waits until every event stored so far is acknowledged. The last of them
// must be an answer. Nothing being pending would not do: a consumer learns of a
// message a moment after its publisher.
func (r *rig) settled() {
	r.t.Helper()
	r.settledWithin(patience)
}

func (r *rig) settledWithin(d time.Duration) {
	r.t.Helper()
	within(r.t, d, "everything is acknowledged", func() bool {
		info, err := r.state()
		return err == nil && info.AckFloor.Stream >= r.last && info.NumAckPending == 0
	})
}

// publish stores an answer as event and returns its sequence.
func (r *rig) publish(a ruc.Answer) uint64 {
	r.t.Helper()
	r.jobs++
	job := wire.Job{Seq: r.jobs, Time: time.Now()}
	return r.store(wire.ResolvedEvent(a.RUC, job, encode(r.t, a), a.Fuente, time.Now()))
}

// publishSaying is publish as a slot does it: the event says what it follows.
func (r *rig) publishSaying(a ruc.Answer) uint64 {
	r.t.Helper()
	r.jobs++
	m := wire.ResolvedEvent(a.RUC, wire.Job{Seq: r.jobs, Time: time.Now()}, encode(r.t, a), a.Fuente, time.Now())
	ack, err := wire.StoreAnswer(r.t.Context(), r.nc, r.js, a.RUC, m)
	if err != nil {
		r.t.Fatal(err)
	}
	r.last = ack.Sequence
	return r.last
}

func (r *rig) store(m *nats.Msg) uint64 {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	ack, err := r.js.PublishMsg(ctx, m)
	if err != nil {
		r.t.Fatal(err)
	}
	r.last = ack.Sequence
	return r.last
}

func foundAt(n ruc.Number, name ruc.Text, at time.Time) ruc.Answer {
	return ruc.Found(n, ruc.Record{RazonSocial: name}, at, ruc.FuenteReplica, ruc.MotorChrome)
}

func missingAt(n ruc.Number, at time.Time) ruc.Answer {
	return ruc.Missing(n, at, ruc.FuenteReplica, ruc.MotorChrome)
}

func encode(t *testing.T, a ruc.Answer) []byte {
	t.Helper()
	b, err := a.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// putFunc is a store of one function.
type putFunc func(ctx context.Context, entries []store.Entry) error

func (f putFunc) Put(ctx context.Context, entries []store.Entry) error { return f(ctx, entries) }

// shelf remembers what it was given.
type shelf struct {
	mu      sync.Mutex
	entries []store.Entry
}

func (s *shelf) Put(_ context.Context, entries []store.Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries = append(s.entries, entries...)
	return nil
}

func (s *shelf) all() []store.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]store.Entry(nil), s.entries...)
}

// count returns how many different events were put.
func (s *shelf) count() int {
	seqs := map[uint64]bool{}
	for _, e := range s.all() {
		seqs[e.Version.Seq] = true
	}
	return len(seqs)
}
