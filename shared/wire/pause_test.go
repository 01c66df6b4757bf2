package wire_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/shared/wire"
)

func TestPause_Encoding(t *testing.T) {
	p := wire.Pause{For: 5 * time.Minute, N: 1, Probe: "host/1"}
	if got := string(p.Encode()); got != `{"forMs":300000,"n":1,"probe":"host/1"}` {
		t.Error(got)
	}
	for given, want := range map[string]wire.Pause{
		string(p.Encode()):           p,
		`{"forMs":600000}`:           {For: 10 * time.Minute, N: 1}, // as a person writes it
		`{"forMs":14400000,"n":2}`:   {For: time.Hour, N: 2},
		`{"forMs":0,"n":-3,"x":"y"}`: {N: 1},
	} {
		if got, err := wire.ParsePause([]byte(given)); err != nil || got != want {
			t.Errorf("%s: %+v, %v", given, got, err)
		}
	}
	for _, bad := range []string{"", "paused", `{"forMs":-1}`, `{"forMs":"5m"}`} {
		if got, err := wire.ParsePause([]byte(bad)); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}

// reports collects what a watch reports.
type reports struct {
	mu  sync.Mutex
	all []error
}

func (r *reports) add(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, err)
}

func (r *reports) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.all)
}

func watch(t *testing.T, nc *nats.Conn, js jetstream.JetStream, now func() time.Time, report func(error)) *wire.PauseWatch {
	t.Helper()
	w := wire.NewPauseWatch(nc, js, wire.NewClock(now), report)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { w.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	select {
	case <-w.Known():
	case <-time.After(10 * time.Second):
		t.Fatal("the watch knows nothing")
	}
	return w
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("in vain: %s", what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func unreported(t *testing.T) func(error) {
	return func(err error) { t.Errorf("reported: %v", err) }
}

func TestPauseWatch_HearsAndWritesByRevision(t *testing.T) {
	nc, js := server(t)
	p := wire.Provisioner{JS: js, Warn: func(string, string, string, string) {}}
	if err := p.State(t.Context()); err != nil {
		t.Fatal(err)
	}
	one, two := watch(t, nc, js, time.Now, unreported(t)), watch(t, nc, js, time.Now, unreported(t))
	if s := one.Current(); s != (wire.PauseState{}) {
		t.Errorf("of a new bucket: %+v", s)
	}
	first, won, err := one.Replace(t.Context(), 0, wire.Pause{For: time.Hour, N: 1})
	if err != nil || !won || one.Current().Revision != first.Revision {
		t.Fatalf("%+v, %v, %v", first, won, err)
	}
	if _, won, err := two.Replace(t.Context(), 0, wire.Pause{For: time.Hour, N: 1}); err != nil || won {
		t.Errorf("a second opening: %v, %v", won, err)
	}
	await(t, "the other hears it", func() bool { return two.Current().Revision == first.Revision })
	if s := two.Current(); !s.Set() || s.N != 1 || s.Left > time.Hour || s.Left < time.Hour-10*time.Second {
		t.Errorf("%+v", s)
	}
	if won, err := two.Clear(t.Context(), first.Revision-1); err != nil || won {
		t.Errorf("of an old revision: %v, %v", won, err)
	}
	if won, err := two.Clear(t.Context(), first.Revision); err != nil || !won {
		t.Errorf("clearing: %v, %v", won, err)
	}
	await(t, "the other hears that too", func() bool { return !one.Current().Set() })
	// A deleted key has a revision, and whoever starts now knows it.
	late := watch(t, nc, js, time.Now, unreported(t))
	if s := late.Current(); s.Set() || s.Revision != one.Current().Revision {
		t.Errorf("%+v, want revision %d", s, one.Current().Revision)
	}
	if _, won, err := late.Replace(t.Context(), late.Current().Revision, wire.Pause{N: 2}); err != nil || !won {
		t.Errorf("opening again: %v, %v", won, err)
	}
	if s := late.Current(); !s.Set() || s.Left != 0 {
		t.Errorf("run out at once: %+v", s)
	}
	// It is the bucket that everybody else's tools open.
	kv, err := js.KeyValue(t.Context(), wire.BucketState)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.PutString(t.Context(), wire.KeyPause, `{"forMs":600000}`); err != nil {
		t.Fatal(err)
	}
	await(t, "a person's pause", func() bool { return one.Current().Left > 9*time.Minute })
	if err := kv.Delete(t.Context(), wire.KeyPause); err != nil {
		t.Fatal(err)
	}
	await(t, "its end", func() bool { return !one.Current().Set() })
}

// A machine whose clock is wrong sees the same pause as the others.
func TestPauseWatch_TakesTheServersTime(t *testing.T) {
	nc, js := server(t)
	p := wire.Provisioner{JS: js, Warn: func(string, string, string, string) {}}
	if err := p.State(t.Context()); err != nil {
		t.Fatal(err)
	}
	writer := watch(t, nc, js, time.Now, unreported(t))
	if _, won, err := writer.Replace(t.Context(), 0, wire.Pause{For: time.Minute, N: 1}); err != nil || !won {
		t.Fatal(won, err)
	}
	for _, off := range []time.Duration{time.Hour, -time.Hour} {
		w := watch(t, nc, js, func() time.Time { return time.Now().Add(off) }, unreported(t))
		if left := w.Current().Left; left > time.Minute || left < 50*time.Second {
			t.Errorf("%v ahead: %v left", off, left)
		}
	}
}

func TestPauseWatch_SaysOnceThatThereIsNoBucket(t *testing.T) {
	nc, js := server(t)
	var told reports
	w := watch(t, nc, js, time.Now, told.add)
	if s := w.Current(); s.Set() || told.count() != 1 {
		t.Errorf("%+v, %d reports", s, told.count())
	}
	p := wire.Provisioner{JS: js, Warn: func(string, string, string, string) {}}
	if err := p.State(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "the bucket is found", func() bool { return told.count() == 2 })
	if told.all[0] == nil || told.all[1] != nil {
		t.Errorf("%v", told.all)
	}
}
