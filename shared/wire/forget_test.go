package wire_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// subjects returns the subjects of everything in the streams.
func subjects(t *testing.T, js jetstream.JetStream) map[string]uint64 {
	t.Helper()
	all := map[string]uint64{}
	for _, name := range []string{wire.StreamEvents, wire.StreamVisits, wire.StreamDead} {
		s, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		info, err := s.Info(t.Context(), jetstream.WithSubjectFilter(">"))
		if err != nil {
			t.Fatal(err)
		}
		for subject, count := range info.State.Subjects {
			all[subject] = count
		}
	}
	return all
}

func TestForget_LeavesNothingOfTheNumberAndAllOfOthers(t *testing.T) {
	_, js := server(t)
	other := ruc.MustParse("20100055237")
	job := func(seq uint64) wire.Job { return wire.Job{Seq: seq, Time: time.Unix(int64(seq), 0)} }
	failure := wire.NewProblem(number, &ruc.Error{Code: ruc.Blocked})
	now := time.Now()
	delivered := consumed(t, js,
		wire.ResolvedEvent(number, job(1), []byte(`{}`), ruc.FuenteReplica, now),
		wire.ResolvedEvent(number, job(2), []byte(`{}`), ruc.FuenteReplica, now),
		wire.ResolvedEvent(other, job(3), []byte(`{}`), ruc.FuenteReplica, now),
	)
	if _, err := js.PublishMsg(t.Context(), wire.FailedEvent(number, job(4), failure, ruc.FuenteReplica, now)); err != nil {
		t.Fatal(err)
	}
	bury(t, js, delivered[0])
	bury(t, js, delivered[2])
	for _, n := range []ruc.Number{number, other} {
		if _, err := js.Publish(t.Context(), wire.VisitSubject(n), n.AppendTo(nil)); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range delivered {
		if err := m.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := wire.Forget(t.Context(), js, number); err != nil {
		t.Fatal(err)
	}
	want := map[string]uint64{wire.ResolvedSubject(other): 1, wire.VisitSubject(other): 1, wire.DeadSubject("audit"): 1}
	if diff := cmp.Diff(want, subjects(t, js)); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	if err := wire.Forget(t.Context(), js, number); err != nil {
		t.Errorf("again: %v", err)
	}
}

// What a cachewriter has in hand may yet be stored, so the purge alone is not the end.
func TestForget_WaitsForTheCachewriter(t *testing.T) {
	_, js := server(t)
	inHand := consumed(t, js, wire.ResolvedEvent(number, wire.Job{Seq: 1, Time: time.Now()}, []byte(`{}`), ruc.FuenteReplica, time.Now()))
	forgotten := make(chan error, 1)
	go func() { forgotten <- wire.Forget(context.WithoutCancel(t.Context()), js, number) }()
	select {
	case err := <-forgotten:
		t.Fatalf("done before the cachewriter: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	if err := inHand[0].DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-forgotten; err != nil {
		t.Error(err)
	}
}

func TestForget_TellsOfACachewriterThatIsStuck(t *testing.T) {
	_, js := server(t)
	consumed(t, js, wire.ResolvedEvent(number, wire.Job{Seq: 1, Time: time.Now()}, []byte(`{}`), ruc.FuenteReplica, time.Now()))
	if err := wire.Forget(t.Context(), js, number); !errors.Is(err, wire.ErrUnsettled) {
		t.Errorf("%v", err)
	}
}

func TestForget_WithoutStreams(t *testing.T) {
	_, js := server(t)
	if err := wire.Forget(t.Context(), js, number); err != nil {
		t.Error(err)
	}
}
