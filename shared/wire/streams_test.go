package wire_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/embedded"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/wire"
)

func server(t testing.TB) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	s, err := embedded.Start(t.Context(), embedded.Config{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	nc, err := nats.Connect("", s.InProcess())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

func provision(ctx context.Context, p wire.Provisioner, concurrent int, source string) error {
	p.Source = source
	if err := p.Events(ctx, 45*24*time.Hour); err != nil {
		return err
	}
	if err := p.Visits(ctx, 4, concurrent, 1100*time.Millisecond); err != nil {
		return err
	}
	if err := p.State(ctx); err != nil {
		return err
	}
	if err := p.Dead(ctx); err != nil {
		return err
	}
	return p.Cachewriter(ctx)
}

func TestProvision_CreatesOnceAndReportsDifferences(t *testing.T) {
	_, js := server(t)
	var warned []string
	p := wire.Provisioner{JS: js, Warn: func(what, field, want, found string) {
		warned = append(warned, fmt.Sprintf("%s %s %s≠%s", what, field, want, found))
	}}
	for range 2 {
		if err := provision(t.Context(), p, 1, ruc.FuenteReplica); err != nil {
			t.Fatal(err)
		}
	}
	if len(warned) > 0 {
		t.Errorf("the same settings were reported: %q", warned)
	}
	if err := provision(t.Context(), p, 8, ruc.FuenteReplica); err != nil {
		t.Fatal(err)
	}
	if len(warned) != 1 || !strings.Contains(warned[0], "max_ack_pending 8≠1") {
		t.Errorf("a difference was reported as %q", warned)
	}
	p.Update = true
	if err := provision(t.Context(), p, 8, ruc.FuenteReplica); err != nil {
		t.Fatal(err)
	}
	c, err := js.Consumer(t.Context(), wire.StreamVisits, wire.ConsumerSlots)
	if err != nil || c.CachedInfo().Config.MaxAckPending != 8 {
		t.Errorf("the owner's update was not made: %v", err)
	}
	turn, err := js.Consumer(t.Context(), wire.StreamTurn, wire.ConsumerTurn)
	if err != nil || wire.Pace(turn.CachedInfo()) != 1100*time.Millisecond || turn.CachedInfo().NumPending != 1 {
		t.Errorf("the turn: %v, %v", turn.CachedInfo(), err)
	}
}

// A newer rucflow's settings are not undone; what is created or changed is told.
func TestProvision_TellsWhatItDidAndLeavesNewerSettings(t *testing.T) {
	_, js := server(t)
	var created, changed []string
	p := wire.Provisioner{
		JS: js, Update: true, Warn: func(what, field, _, _ string) { t.Errorf("left: %s %s", what, field) },
		Created: func(what string) { created = append(created, what) },
		Changed: func(what, field, want, found string) {
			changed = append(changed, fmt.Sprintf("%s %s %s→%s", what, field, found, want))
		},
	}
	for _, concurrent := range []int{1, 1, 3} {
		if err := provision(t.Context(), p, concurrent, ruc.FuenteReplica); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"RUC_EVENTS", "RUC_VISITS", "RUC_VISITS/slots", "RUC_TURN", "RUC_TURN/turn", "KV_RUC_STATE", "RUC_DEAD", "RUC_EVENTS/cachewriter"}
	if diff := cmp.Diff(want, created); diff != "" {
		t.Errorf("created (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"RUC_VISITS/slots max_ack_pending 1→3"}, changed); diff != "" {
		t.Errorf("changed (-want +got):\n%s", diff)
	}
	c, err := js.Consumer(t.Context(), wire.StreamVisits, wire.ConsumerSlots)
	if err != nil {
		t.Fatal(err)
	}
	newer := c.CachedInfo().Config
	newer.Metadata["rucflow.version"], newer.MaxAckPending = "99", 5
	if _, err := js.UpdateConsumer(t.Context(), wire.StreamVisits, newer); err != nil {
		t.Fatal(err)
	}
	if err := provision(t.Context(), p, 3, ruc.FuenteReplica); err == nil || !strings.Contains(err.Error(), "newer rucflow") {
		t.Errorf("a newer rucflow's consumer: %v", err)
	}
	if c, err = js.Consumer(t.Context(), wire.StreamVisits, wire.ConsumerSlots); err != nil || c.CachedInfo().Config.MaxAckPending != 5 {
		t.Errorf("it was changed: %v, %v", c.CachedInfo().Config, err)
	}
}

// What rucflow does not set is the operator's, and stays.
func TestProvision_LeavesTheOperatorsSettings(t *testing.T) {
	_, js := server(t)
	p := wire.Provisioner{JS: js, Update: true}
	if err := provision(t.Context(), p, 1, ruc.FuenteReplica); err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), wire.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	theirs := s.CachedInfo().Config
	theirs.Compression, theirs.AllowRollup, theirs.MaxAge, theirs.Description = jetstream.S2Compression, true, 50*24*time.Hour, "of the operator"
	theirs.Metadata["owner"] = "somebody"
	if _, err := js.UpdateStream(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	if err := provision(t.Context(), p, 1, ruc.FuenteReplica); err != nil {
		t.Fatal(err)
	}
	if s, err = js.Stream(t.Context(), wire.StreamEvents); err != nil {
		t.Fatal(err)
	}
	got := s.CachedInfo().Config
	if got.MaxAge != 45*24*time.Hour {
		t.Errorf("max_age is still %v", got.MaxAge)
	}
	if got.Compression != jetstream.S2Compression || !got.AllowRollup || got.Metadata["owner"] != "somebody" || got.Description != "of the operator" {
		t.Errorf("the operator's settings are gone: %+v", got)
	}
}

// A consumer that was made by hand is refused by the services and marked by provision,
// which leaves the epoch of what was written with it.
func TestProvision_AdoptsWhatWasMadeByHand(t *testing.T) {
	_, js := server(t)
	if err := provision(t.Context(), wire.Provisioner{JS: js}, 1, ruc.FuenteReplica); err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteConsumer(t.Context(), wire.StreamEvents, wire.ConsumerCachewriter); err != nil {
		t.Fatal(err)
	}
	c, err := js.CreateConsumer(t.Context(), wire.StreamEvents, jetstream.ConsumerConfig{
		Durable: wire.ConsumerCachewriter, AckPolicy: jetstream.AckExplicitPolicy, FilterSubjects: []string{"ruc.resolved.*"},
	})
	if err != nil {
		t.Fatal(err)
	}
	epoch := wire.Epoch(c.CachedInfo())
	if err := wire.CheckSource(c.CachedInfo(), ruc.FuenteReplica); err == nil || !strings.Contains(err.Error(), "rucflow provision") {
		t.Errorf("without a mark: %v", err)
	}
	if err := provision(t.Context(), wire.Provisioner{JS: js, Update: true}, 1, ruc.FuenteReplica); err != nil {
		t.Fatal(err)
	}
	if c, err = js.Consumer(t.Context(), wire.StreamEvents, wire.ConsumerCachewriter); err != nil {
		t.Fatal(err)
	}
	if err := wire.CheckSource(c.CachedInfo(), ruc.FuenteReplica); err != nil {
		t.Error(err)
	}
	if got := wire.Epoch(c.CachedInfo()); got != epoch {
		t.Errorf("the epoch was %d and is %d", epoch, got)
	}
}

func TestCheckSource_SeesItInTheConsumers(t *testing.T) {
	_, js := server(t)
	if err := provision(t.Context(), wire.Provisioner{JS: js}, 1, ruc.FuenteReplica); err != nil {
		t.Fatal(err)
	}
	for stream, name := range map[string]string{wire.StreamVisits: wire.ConsumerSlots, wire.StreamEvents: wire.ConsumerCachewriter} {
		c, err := js.Consumer(t.Context(), stream, name)
		if err != nil {
			t.Fatal(err)
		}
		if err := wire.CheckSource(c.CachedInfo(), ruc.FuenteReplica); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := wire.CheckSource(c.CachedInfo(), ruc.FuenteSunat); err == nil || !strings.Contains(err.Error(), `"replica"`) {
			t.Errorf("%s of another source: %v", name, err)
		}
	}
}

func TestAwaitServer_SaysWhenNobodyAnswers(t *testing.T) {
	nc, err := nats.Connect("nats://127.0.0.1:1", nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := wire.AwaitServer(ctx, nc); err == nil || !strings.Contains(err.Error(), "NATS_URL") {
		t.Errorf("nobody answers: %v", err)
	}
	s, err := embedded.Start(t.Context(), embedded.Config{StoreDir: t.TempDir(), Addr: "127.0.0.1:0", Token: "right"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	refused, err := service.NATSConfig{URL: s.URL(), Token: "wrong"}.Connect("test", zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer refused.Close()
	ctx, cancel = context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := wire.AwaitServer(ctx, refused); err == nil || !strings.Contains(err.Error(), "Authorization Violation") {
		t.Errorf("a wrong token: %v", err)
	}
	connected, _ := server(t)
	if err := wire.AwaitServer(t.Context(), connected); err != nil {
		t.Errorf("this one's own version: %v", err)
	}
}

func TestProvision_RefusesAnotherSource(t *testing.T) {
	_, js := server(t)
	p := wire.Provisioner{JS: js, Update: true, Warn: func(string, string, string, string) {}}
	if err := provision(t.Context(), p, 1, ruc.FuenteReplica); err != nil {
		t.Fatal(err)
	}
	if err := provision(t.Context(), p, 1, ruc.FuenteSunat); err == nil || !strings.Contains(err.Error(), "another NATS server") {
		t.Errorf("data of two sources in one stream: %v", err)
	}
}

// One reply that is lost costs a start a moment and not all of its time.
func TestProvision_AsksAgainWhereAReplyIsLost(t *testing.T) {
	nc, _ := server(t)
	lost := map[string]bool{}
	if _, err := nc.Subscribe("LOSSY.API.>", func(m *nats.Msg) {
		api := strings.TrimPrefix(m.Subject, "LOSSY.API.")
		if strings.Contains(api, ".INFO.") && !lost[api] {
			lost[api] = true
			return
		}
		if err := nc.PublishRequest("$JS.API."+api, m.Reply, m.Data); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.NewWithAPIPrefix(nc, "LOSSY.API")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p := wire.Provisioner{JS: js, Source: ruc.FuenteReplica}
	if err := errors.Join(p.Events(ctx, time.Hour), p.Cachewriter(ctx)); err != nil {
		t.Fatal(err)
	}
	if len(lost) != 2 {
		t.Errorf("lost %v", lost)
	}
}

func TestProvision_ManyAtOnce(t *testing.T) {
	nc, js := server(t)
	// With this there is room for RUC_EVENTS once only; the server counts what another is
	// just creating.
	if err := (wire.Provisioner{JS: js}).Dead(t.Context()); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		// A connection of its own, or the server would serve one after the other.
		own, err := nats.Connect("", nats.InProcessServer(nc.Opts.InProcessServer))
		if err != nil {
			t.Fatal(err)
		}
		defer own.Close()
		js, err := jetstream.New(own)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			p := wire.Provisioner{JS: js, Warn: func(what, field, _, _ string) { t.Errorf("reported: %s %s", what, field) }}
			if err := provision(t.Context(), p, 2, ruc.FuenteReplica); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestNewest_TellsAnswersFromFailuresByTheirSequence(t *testing.T) {
	nc, js := server(t)
	p := wire.Provisioner{JS: js, Warn: func(string, string, string, string) {}}
	if err := provision(t.Context(), p, 1, ruc.FuenteReplica); err != nil {
		t.Fatal(err)
	}
	heard := make(chan *nats.Msg, 8)
	if _, err := nc.ChanSubscribe(wire.SubjectResolved, heard); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := wire.Newest(t.Context(), nc, number); ok || err != nil {
		t.Fatalf("of an empty stream: %v, %v", ok, err)
	}
	publish := func(m *nats.Msg) {
		t.Helper()
		if _, err := js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	publish(wire.ResolvedEvent(number, wire.Job{Seq: 1, Time: at}, encode(t, found), "replica", at))
	e, ok, err := wire.Newest(t.Context(), nc, number)
	if err != nil || !ok || e.Failed || e.Seq != 1 || e.Job != 1 {
		t.Errorf("%+v, %v, %v", e, ok, err)
	}
	m := <-heard
	if r, err := wire.ParseEvent(m); err != nil || r.Seq != 1 || r.Job != 1 || string(r.Body) != string(e.Body) {
		t.Errorf("republished: %+v, %v", r, err)
	}
	publish(wire.FailedEvent(number, wire.Job{Seq: 2, Time: at}, wire.NewProblem(number, &ruc.Error{Code: ruc.Blocked}), "replica", at))
	if e, _, err := wire.Newest(t.Context(), nc, number); err != nil || !e.Failed || e.Seq != 2 {
		t.Errorf("%+v, %v", e, err)
	}
	if e, _, err := wire.NewestAnswer(t.Context(), nc, number); err != nil || e.Failed || e.Seq != 1 {
		t.Errorf("%+v, %v", e, err)
	}
	publish(wire.ResolvedEvent(number, wire.Job{Seq: 1, Time: at}, encode(t, absent), "replica", at))
	if e, _, err := wire.NewestAnswer(t.Context(), nc, number); err != nil || e.Seq != 1 {
		t.Errorf("a second event of one job was stored: %+v, %v", e, err)
	}
}
