package cachewriter_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/store"
	"github.com/rucflow/rucflow/shared/wire"
)

func TestWriter_StoresWithTheTimeLeft(t *testing.T) {
	r := newRig(t)
	s := &shelf{}
	r.run(r.deps(s))
	now := time.Now()
	stream, err := r.js.Stream(t.Context(), wire.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	epoch := stream.CachedInfo().Created.Unix()
	for i, tc := range []struct {
		answer ruc.Answer
		left   time.Duration
	}{
		{foundAt(number, "HOY & HOY", now), 7 * day},
		{foundAt(number, "AYER", now.Add(-day)), 6 * day},
		{missingAt(second, now.Add(-time.Minute)), 59 * time.Minute},
		{foundAt(second, "MAÑANA", now.Add(time.Hour)), 7 * day}, // another machine's clock
	} {
		seq := r.publish(tc.answer)
		r.settled()
		got := s.all()
		if len(got) != i+1 {
			t.Fatalf("%d entries after %d events", len(got), i+1)
		}
		e := got[i]
		if e.RUC != tc.answer.RUC || string(e.Value) != string(encode(t, tc.answer)) || e.Version != (store.Version{Epoch: epoch, Seq: seq}) {
			t.Errorf("%+v: %s", e, e.Value)
		}
		if e.TTL > tc.left || e.TTL < tc.left-patience {
			t.Errorf("%s: TTL %v, not %v", tc.answer.RUC, e.TTL, tc.left)
		}
	}
}

func TestWriter_ExpiredIsAcknowledgedAndNotStored(t *testing.T) {
	r := newRig(t)
	s := &shelf{}
	r.run(r.deps(s))
	r.publish(foundAt(number, "VIEJA", time.Now().Add(-8*day)))
	r.publish(missingAt(number, time.Now().Add(-2*time.Hour)))
	r.settled()
	if got := s.all(); len(got) > 0 {
		t.Errorf("stored: %s", got[0].Value)
	}
}

func TestWriter_FailuresAreNotAnswers(t *testing.T) {
	r := newRig(t)
	s := &shelf{}
	r.run(r.deps(s))
	r.store(wire.FailedEvent(number, wire.Job{Seq: 1, Time: time.Now()}, wire.NewProblem(number, &ruc.Error{Code: ruc.Blocked}), ruc.FuenteReplica, time.Now()))
	r.publish(foundAt(second, "X", time.Now()))
	r.settled()
	if got := s.all(); len(got) != 1 || got[0].RUC != second {
		t.Errorf("stored %d entries", len(got))
	}
}

func TestWriter_KeepsWhatAFailingStoreDidNotTake(t *testing.T) {
	const events = 600 // more than two batches
	r := newRig(t)
	s := &shelf{}
	var down atomic.Bool
	var refused atomic.Int64
	down.Store(true)
	deps := r.deps(putFunc(func(ctx context.Context, entries []store.Entry) error {
		if down.Load() {
			refused.Add(1)
			return errors.New("connection refused")
		}
		return s.Put(ctx, entries)
	}))
	r.run(deps)
	for i := range events {
		r.publish(foundAt(ruc.FromPrefix(fmt.Sprintf("20%08d", i)), "X", time.Now()))
	}
	eventually(t, "it tries again", func() bool { return refused.Load() >= 3 })
	info, err := r.state()
	if err != nil || info.AckFloor.Stream != 0 || info.NumAckPending == 0 {
		t.Errorf("acknowledged up to %d although nothing was stored (%v)", info.AckFloor.Stream, err)
	}
	down.Store(false)
	r.settled()
	if got := s.count(); got != events {
		t.Errorf("stored %d of %d", got, events)
	}
}

// A slow cachewriter holds the old answer while another has stored the new one.
func TestWriter_NewestStaysWhateverTheOrder(t *testing.T) {
	r := newRig(t)
	answers, err := store.NewMemory(1<<20, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = answers.Close() })
	holding, goOn := make(chan struct{}), make(chan struct{})
	hold := sync.OnceFunc(func() { close(holding); <-goOn })
	slow := putFunc(func(ctx context.Context, entries []store.Entry) error {
		hold()
		return answers.Put(ctx, entries)
	})
	stopSlow := r.run(r.deps(slow))
	r.publish(foundAt(number, "ANTES", time.Now()))
	<-holding
	newest := foundAt(number, "AHORA", time.Now().Add(-day)) // the order is the stream's, not the clocks'
	held := func() string {
		b, _, err := answers.Get(t.Context(), number)
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
	r.run(r.deps(answers))
	// What the slow one has asked the server for is delivered to it, so a few more.
	eventually(t, "the other stores the newer answer", func() bool {
		r.publish(newest)
		return held() == string(encode(t, newest))
	})
	close(goOn)
	r.settled()
	stopSlow()
	if got := held(); got != string(encode(t, newest)) {
		t.Errorf("held: %s", got)
	}
}

// In a stream that was made anew sequences begin at 1, and what a running cachewriter
// finds there is newer than all that it has stored.
func TestWriter_TakesAStreamMadeAnewForNewer(t *testing.T) {
	r := newRig(t)
	answers, err := store.NewMemory(1<<20, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = answers.Close() })
	deps := r.deps(answers)
	r.run(deps)
	for range 3 {
		r.publish(foundAt(number, "ANTES", time.Now()))
	}
	r.settled()
	info, err := r.state()
	if err != nil {
		t.Fatal(err)
	}
	old := wire.Epoch(info)
	if err := r.js.DeleteStream(t.Context(), wire.StreamEvents); err != nil {
		t.Fatal(err)
	}
	// A stream's birth counts in seconds.
	eventually(t, "the second is over", func() bool { return time.Now().Unix() > old })
	r.provision(patience)
	newest := foundAt(number, "AHORA", time.Now())
	r.publish(newest)
	eventually(t, "the new stream's answer is stored", func() bool {
		b, _, err := answers.Get(t.Context(), number)
		return err == nil && string(b) == string(encode(t, newest))
	})
}

func TestWriter_ContinuesWhereItStopped(t *testing.T) {
	r := newRig(t)
	before, after := &shelf{}, &shelf{}
	stop := r.run(r.deps(before))
	r.publish(foundAt(number, "UNO", time.Now()))
	r.settled()
	stop()
	missed := r.publish(foundAt(number, "DOS", time.Now()))
	r.run(r.deps(after))
	r.settled()
	if got := after.all(); len(got) != 1 || got[0].Version.Seq != missed || before.count() != 1 {
		t.Errorf("stored %d before, %d after", before.count(), len(got))
	}
}

// Without giving back, the next one would wait for the consumer's AckWait of 30 s.
func TestWriter_GivesBackWhatItDidNotStore(t *testing.T) {
	const events = 600
	r := newRig(t)
	got := &shelf{}
	busy := make(chan struct{}, events)
	stop := r.run(r.deps(putFunc(func(ctx context.Context, _ []store.Entry) error {
		busy <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	})))
	for i := range events {
		r.publish(foundAt(ruc.FromPrefix(fmt.Sprintf("20%08d", i)), "X", time.Now()))
	}
	<-busy
	stop()
	r.run(r.deps(got))
	r.settled()
	if n := got.count(); n != events {
		t.Errorf("stored %d of %d", n, events)
	}
}

func TestWriter_GoesOnAfterAServerRestart(t *testing.T) {
	r := newRig(t)
	s := &shelf{}
	r.run(r.deps(s))
	r.publish(foundAt(number, "UNO", time.Now()))
	r.settled()
	r.restartBus()
	r.publish(foundAt(number, "DOS", time.Now()))
	eventually(t, "the event after the restart is stored", func() bool { return s.count() == 2 })
	r.settled()
}
