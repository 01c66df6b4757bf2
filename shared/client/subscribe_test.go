package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/shared/client"
	"github.com/rucflow/rucflow/shared/embedded"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// bus is a server with the stream of events, and who stores them.
type bus struct {
	t      testing.TB
	server *embedded.Server
	nc     *nats.Conn
	js     jetstream.JetStream
	jobs   uint64
}

const token = "t"

func newBus(t testing.TB) *bus {
	t.Helper()
	s, err := embedded.Start(t.Context(), embedded.Config{StoreDir: t.TempDir(), Addr: "127.0.0.1:0", Token: token})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	b := &bus{t: t, server: s}
	b.nc = b.connect()
	if b.js, err = jetstream.New(b.nc); err != nil {
		t.Fatal(err)
	}
	b.provision()
	return b
}

func (b *bus) provision() {
	b.t.Helper()
	if err := (wire.Provisioner{JS: b.js, Source: ruc.FuenteReplica}).Events(b.t.Context(), time.Hour); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bus) connect(opts ...nats.Option) *nats.Conn {
	b.t.Helper()
	nc, err := nats.Connect(b.server.URL(), append(opts, nats.Token(token))...)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(nc.Close)
	return nc
}

func (b *bus) store(m *nats.Msg) uint64 {
	b.t.Helper()
	ack, err := b.js.PublishMsg(b.t.Context(), m)
	if err != nil {
		b.t.Fatal(err)
	}
	return ack.Sequence
}

// resolved is the event that SUNAT said this of n.
func (b *bus) resolved(a ruc.Answer) (*nats.Msg, []byte) {
	b.t.Helper()
	body, err := a.Encode()
	if err != nil {
		b.t.Fatal(err)
	}
	b.jobs++
	return wire.ResolvedEvent(a.RUC, wire.Job{Seq: b.jobs, Time: time.Now()}, body, ruc.FuenteReplica, time.Now()), body
}

// answer stores that SUNAT knows n by this name.
func (b *bus) answer(n ruc.Number, name string) (seq uint64, body []byte) {
	b.t.Helper()
	m, body := b.resolved(ruc.Found(n, ruc.Record{RazonSocial: ruc.Text(name)}, time.Now(), ruc.FuenteReplica, ruc.MotorChrome))
	return b.store(m), body
}

func (b *bus) progress(p wire.Progress) {
	b.t.Helper()
	if err := b.nc.PublishMsg(p.Message()); err != nil {
		b.t.Fatal(err)
	}
}

// happen lets one event of each kind happen.
func (b *bus) happen() {
	b.t.Helper()
	seq, body := b.answer(known, "UNO")
	m, none := b.resolved(ruc.Missing(known, time.Now(), ruc.FuenteReplica, ruc.MotorChrome))
	missing := b.store(m)
	b.store(wire.FailedEvent(refused, wire.Job{Seq: 99, Time: time.Now()}, wire.NewProblem(refused, &ruc.Error{Code: ruc.Blocked, Attempts: 3}), ruc.FuenteReplica, time.Now()))
	b.change(wire.Event{RUC: known, Seq: seq, Body: body}, wire.Event{RUC: known, Seq: missing, Body: none})
	b.progress(wire.Progress{RUC: unknown, Job: 7, Stage: wire.StageVisiting, Attempt: 1, Attempts: 3})
}

func (b *bus) change(before, after wire.Event) {
	b.t.Helper()
	for _, e := range []*wire.Event{&before, &after} {
		var err error
		if e.Prefix, err = wire.ReadPrefix(e.Body); err != nil {
			b.t.Fatal(err)
		}
	}
	c, ok, err := wire.Compare(before, after)
	if err != nil || !ok {
		b.t.Fatalf("no change: %v, %v", ok, err)
	}
	body, err := c.Encode()
	if err != nil {
		b.t.Fatal(err)
	}
	b.store(wire.ChangedEvent(after.RUC, after.Seq, body, nats.Header{}, ruc.FuenteReplica, time.Now()))
}

// listener is one call of Subscribe.
type listener struct {
	t      *testing.T
	events chan client.Event
	gaps   chan error
	ended  chan error
	stop   context.CancelFunc
}

// subscribe returns when the server hears what s wants.
func subscribe(t *testing.T, nc *nats.Conn, s client.Subscription, before ...func(client.Event)) *listener {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &listener{t: t, events: make(chan client.Event, 10_000), gaps: make(chan error, 10), ended: make(chan error, 1), stop: cancel}
	listening := make(chan struct{})
	s.Listening = func() { close(listening) }
	if s.Gap != nil {
		s.Gap = func(err error) error { l.gaps <- err; return nil }
	}
	go func() {
		defer close(l.ended)
		l.ended <- client.Subscribe(ctx, nc, s, func(e client.Event) error {
			for _, f := range before {
				f(e)
			}
			l.events <- e
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		for err := range l.ended {
			if err != nil {
				t.Errorf("it ended with: %v", err)
			}
		}
	})
	next(t, listening, l.ended)
	return l
}

// goOn is the Gap of who goes on after one.
func goOn(error) error { return nil }

const patience = 10 * time.Second

// next waits for one of what comes by a channel.
func next[T any](t *testing.T, c <-chan T, ended <-chan error) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case err := <-ended:
		t.Fatalf("it ended with: %v", err)
	case <-time.After(patience):
		t.Fatal("nothing came")
	}
	return v
}

// end waits until it ends by itself.
func (l *listener) end() error {
	l.t.Helper()
	select {
	case err := <-l.ended:
		return err
	case <-time.After(patience):
		l.t.Fatal("it goes on")
		return nil
	}
}

// next is the next event in few words.
func (l *listener) next() string {
	l.t.Helper()
	e := next(l.t, l.events, l.ended)
	return fmt.Sprint(e.Kind, " ", e.Seq)
}

func (l *listener) hears(want ...string) {
	l.t.Helper()
	var got []string
	for range want {
		got = append(got, l.next())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		l.t.Errorf("heard (-want +got):\n%s", diff)
	}
}

func TestSubscribe_TellsWhatEachKindTells(t *testing.T) {
	b := newBus(t)
	l := subscribe(t, b.connect(), client.Subscription{})
	b.happen()
	byKind := map[client.Kind][]client.Event{}
	for range 5 {
		e := next(t, l.events, l.ended)
		if stored := e.Kind != client.Progress; (e.Seq > 0) != stored || (e.ID != "") != stored || e.Stored.IsZero() == stored || len(e.Body) == 0 {
			t.Errorf("%+v", e)
		}
		byKind[e.Kind] = append(byKind[e.Kind], e)
	}
	if r := byKind[client.Resolved]; len(r) != 2 || r[0].RUC != known || r[0].Answer.RazonSocial != "UNO" || r[1].Answer.Record != nil || r[1].Answer.RUC != known || time.Since(r[0].Stored) > time.Minute {
		t.Errorf("resolved: %+v", r)
	}
	if f := byKind[client.Failed]; len(f) != 1 || f[0].RUC != refused || f[0].Problem.Code != ruc.Blocked || f[0].Problem.Attempts != 3 {
		t.Errorf("failed: %+v", f)
	}
	if c := byKind[client.Changed]; len(c) != 1 || c[0].RUC != known || !slices.ContainsFunc(c[0].Change.Cambios, func(c ruc.Change) bool { return c.Campo == "encontrado" }) {
		t.Errorf("changed: %+v", c)
	}
	if p := byKind[client.Progress]; len(p) != 1 || p[0].RUC != unknown || *p[0].Progress != (wire.Progress{RUC: unknown, Job: 7, Stage: wire.StageVisiting, Attempt: 1, Attempts: 3}) {
		t.Errorf("progress: %+v", p)
	}
}

func TestSubscribe_OnlyWhatIsWanted(t *testing.T) {
	b := newBus(t)
	for _, tc := range []struct {
		wanted client.Subscription
		want   []string
	}{
		{client.Subscription{Numbers: []ruc.Number{refused}}, []string{"failed 3"}},
		{client.Subscription{Kinds: []client.Kind{client.Changed, client.Progress}}, []string{"changed 4", "progress 0"}},
		{client.Subscription{Kinds: []client.Kind{client.Resolved}, Resume: true}, []string{"resolved 1", "resolved 2"}},
	} {
		b := newBus(t)
		l := subscribe(t, b.connect(), tc.wanted)
		b.happen()
		l.hears(tc.want...)
		l.stop()
		if err := l.end(); err != nil || len(l.events) > 0 {
			t.Errorf("%+v: %v, then %d events", tc.wanted, err, len(l.events))
		}
	}
	// What is no event of ours.
	bad := make(chan error, 1)
	l := subscribe(t, b.connect(), client.Subscription{Bad: func(m *nats.Msg, err error) error {
		bad <- fmt.Errorf("%s: %w", m.Data, err)
		return nil
	}})
	if err := b.nc.Publish(wire.SubjectResolved, []byte("nonsense")); err != nil {
		t.Fatal(err)
	}
	if err := next(t, bad, l.ended); !errors.Is(err, wire.ErrBadEvent) {
		t.Error(err)
	}
}

func TestSubscribe_Ends(t *testing.T) {
	b := newBus(t)
	enough := errors.New("enough")
	got := make(chan error, 1)
	listening := make(chan struct{})
	go func() {
		got <- client.Subscribe(t.Context(), b.nc, client.Subscription{Listening: func() { close(listening) }}, func(client.Event) error { return enough })
	}()
	<-listening
	b.answer(known, "UNO")
	if err := <-got; !errors.Is(err, enough) {
		t.Errorf("the handler ended it, with %v", err)
	}
	if err := client.Subscribe(t.Context(), b.nc, client.Subscription{Resume: true}, func(client.Event) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("the handler of an old event ended it, with %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := client.Subscribe(ended, b.nc, client.Subscription{Resume: true}, nil); err != nil {
		t.Errorf("told to end: %v", err)
	}
	nc := b.connect()
	l := subscribe(t, nc, client.Subscription{})
	nc.Close()
	for _, err := range []error{l.end(), client.Subscribe(t.Context(), nc, client.Subscription{}, nil)} {
		if ruc.CodeOf(err) != ruc.Unavailable || !errors.Is(err, nats.ErrConnectionClosed) {
			t.Errorf("the connection was closed: %v", err)
		}
	}
}

func TestSubscribe_RefusedByTheServer(t *testing.T) {
	user := &server.User{Username: "u", Password: "p", Permissions: &server.Permissions{Subscribe: &server.SubjectPermission{Allow: []string{wire.SubjectResolved}}}}
	s, err := server.NewServer(&server.Options{DontListen: true, NoLog: true, NoSigs: true, Users: []*server.User{user}})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		t.Fatal("not ready")
	}
	nc, err := nats.Connect("", nats.InProcessServer(s), nats.UserInfo("u", "p"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	err = client.Subscribe(t.Context(), nc, client.Subscription{Kinds: []client.Kind{client.Failed}}, nil)
	if ruc.CodeOf(err) != ruc.Unavailable || !errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("%v", err)
	}
	subscribe(t, nc, client.Subscription{Kinds: []client.Kind{client.Resolved}}) // is allowed, whatever was refused before
}

// gate is a way to the server that can be shut.
type gate chan struct{}

func newGate() gate { return make(gate, 1) }

func (g gate) Dial(network, address string) (net.Conn, error) {
	g <- struct{}{}
	defer func() { <-g }()
	return net.Dial(network, address)
}

// away cuts nc off while f runs.
func (g gate) away(t *testing.T, nc *nats.Conn, f func()) {
	t.Helper()
	g <- struct{}{}
	if err := nc.ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	f()
	<-g
}

func TestSubscribe_TellsTheGapOfALostConnection(t *testing.T) {
	b, g := newBus(t), newGate()
	nc := b.connect(nats.SetCustomDialer(g), nats.ReconnectWait(time.Millisecond))
	l := subscribe(t, nc, client.Subscription{Gap: goOn})
	strict := subscribe(t, nc, client.Subscription{})
	g.away(t, nc, func() { b.answer(known, "UNHEARD") })
	if err := next(t, l.gaps, l.ended); !errors.Is(err, client.ErrGap) {
		t.Error(err)
	}
	if err := strict.end(); !errors.Is(err, client.ErrGap) {
		t.Errorf("without a Gap it ended with %v", err)
	}
	b.answer(known, "HEARD")
	l.hears("resolved 2")
}

func TestSubscribe_ResumesWithoutAGap(t *testing.T) {
	b, g := newBus(t), newGate()
	b.happen() // 1 to 4
	nc := b.connect(nats.SetCustomDialer(g), nats.ReconnectWait(time.Millisecond))
	l := subscribe(t, nc, client.Subscription{Resume: true, After: 2, Kinds: []client.Kind{client.Resolved, client.Failed, client.Changed}})
	l.hears("failed 3", "changed 4")
	b.answer(known, "DOS")
	l.hears("resolved 5")
	g.away(t, nc, func() { b.happen() }) // 6 to 9
	l.hears("resolved 6", "resolved 7", "failed 8", "changed 9")
	b.answer(known, "TRES")
	l.hears("resolved 10")

	// Somebody makes the stream anew.
	if err := b.js.DeleteStream(t.Context(), wire.StreamEvents); err != nil {
		t.Fatal(err)
	}
	b.provision()
	b.answer(known, "OTRA VEZ")
	l.hears("resolved 1")
}

// TestSubscribe_TooSlow: more comes than is held while one event is handled.
func TestSubscribe_TooSlow(t *testing.T) {
	const many = 1200
	b := newBus(t)
	begun, goAhead := make(chan struct{}, 2*many), make(chan struct{})
	slow := func(client.Event) {
		begun <- struct{}{}
		<-goAhead
	}
	live, resuming := b.connect(), b.connect()
	l := subscribe(t, live, client.Subscription{Gap: goOn}, slow)
	r := subscribe(t, resuming, client.Subscription{Resume: true, Kinds: []client.Kind{client.Resolved}}, slow)
	want := []string{}
	for i := range many {
		m, _ := b.resolved(ruc.Found(known, ruc.Record{RazonSocial: ruc.Text(strconv.Itoa(i))}, time.Now(), ruc.FuenteReplica, ruc.MotorChrome))
		if _, err := b.js.PublishMsgAsync(m); err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprint("resolved ", i+1))
	}
	next(t, b.js.PublishAsyncComplete(), nil)
	for _, nc := range []*nats.Conn{live, resuming} {
		if err := nc.FlushTimeout(patience); err != nil { // it has heard what came before
			t.Fatal(err)
		}
	}
	next(t, begun, l.ended)
	close(goAhead)
	if err := next(t, l.gaps, l.ended); !errors.Is(err, client.ErrGap) || !errors.Is(err, nats.ErrSlowConsumer) {
		t.Error(err)
	}
	r.hears(want...)
}
