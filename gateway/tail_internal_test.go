package gateway

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/embedded"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// tailed is a tail whose reader notes what it is given.
type tailed struct {
	*tail
	t    *testing.T
	r    *reader
	js   jetstream.JetStream
	base time.Time
}

func startTail(t *testing.T) *tailed {
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
	if err := (wire.Provisioner{JS: js, Source: ruc.FuenteReplica}).Events(t.Context(), 45*24*time.Hour); err != nil {
		t.Fatal(err)
	}
	f := testFeed(t, time.Now)
	r, leave := enter(t, f, interest{})
	t.Cleanup(leave)
	tt := &tailed{tail: newTail(nc, f, zerolog.Nop()), t: t, r: r, js: js, base: time.Now()}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { tt.run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	f.attachNow(r)
	return tt
}

// at is an event that was heard and stored seconds after the first.
func (tt *tailed) at(seq uint64, seconds int) stored {
	return stored{eventResolved, watchedNumber, seq, tt.base.Add(time.Duration(seconds) * time.Second), []byte("{}")}
}

func (tt *tailed) store(n int) {
	tt.t.Helper()
	body, err := ruc.Missing(watchedNumber, time.Now(), ruc.FuenteReplica, ruc.MotorChrome).Encode()
	if err != nil {
		tt.t.Fatal(err)
	}
	for range n {
		m := &nats.Msg{Subject: wire.ResolvedSubject(watchedNumber), Data: body}
		if _, err := tt.js.PublishMsg(tt.t.Context(), m); err != nil {
			tt.t.Fatal(err)
		}
	}
}

func (tt *tailed) expect(seqs ...uint64) {
	tt.t.Helper()
	for _, seq := range seqs {
		select {
		case got := <-tt.r.frames:
			if want := mark("event: resolved", seq); !slices.Equal(got[:len(want)-1], want[:len(want)-1]) {
				tt.t.Fatalf("%q, want %d", got, seq)
			}
		case <-time.After(10 * time.Second):
			tt.t.Fatalf("%d did not come", seq)
		}
	}
}

func TestTail_PutsInOrder(t *testing.T) {
	tt := startTail(t)
	tt.store(6)
	tt.hear(tt.at(6, 0))
	tt.expect(1, 2, 3, 4, 5, 6)
	for _, seq := range []uint64{8, 9, 7, 7, 11, 10} {
		tt.hear(tt.at(seq, int(seq)))
	}
	tt.expect(7, 8, 9, 10, 11)
}

func TestTail_ReadsWhatItDidNotHear(t *testing.T) {
	tt := startTail(t)
	tt.hear(tt.at(1, 0))
	tt.expect(1)
	tt.store(5)
	tt.hear(tt.at(5, 1))
	tt.expect(2, 3, 4, 5)
	tt.store(3)
	tt.gap() // and hears nothing more
	tt.expect(6, 7, 8)
}

// Sequences begin at one again where somebody has deleted the stream.
func TestTail_FollowsAStreamMadeAnew(t *testing.T) {
	tt := startTail(t)
	for seq := 1; seq <= 3; seq++ {
		tt.hear(tt.at(uint64(seq), seq))
	}
	tt.expect(1, 2, 3)
	tt.hear(tt.at(2, 2)) // comes twice
	tt.hear(tt.at(1, 4))
	tt.hear(tt.at(2, 5))
	tt.expect(1, 2)
}
