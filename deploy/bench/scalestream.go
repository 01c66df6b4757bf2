//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"

	"github.com/rucflow/rucflow/shared/wire"
)

const (
	directGets = 2000
	purges     = 20
)

// stream is of a stream with an answer of each number, and of those who read all of it.
func (s scaling) stream(ctx context.Context) error {
	on, js, err := s.filledStream(ctx)
	if err != nil {
		return err
	}
	if err := s.readStream(ctx, on, js); err != nil {
		return err
	}
	return s.forget(ctx, js)
}

// filledStream starts servers whose stream has every answer, and has been restarted.
func (s scaling) filledStream(ctx context.Context) (on servers, js jetstream.JetStream, err error) {
	if on, err = s.startServers(ctx); err != nil {
		return on, nil, err
	}
	if js, err = s.connect(ctx, on); err != nil {
		return on, nil, err
	}
	if err := s.fillStream(ctx, on, js); err != nil {
		return on, nil, err
	}
	if err := s.newestAnswers(ctx, js.Conn()); err != nil {
		return on, nil, err
	}
	err = s.restartStream(ctx, &on)
	return on, js, err
}

func (s scaling) fillStream(ctx context.Context, on servers, js jetstream.JetStream) error {
	empty, err := memoryOfAll([]int{on.nats.pid()})
	if err != nil {
		return err
	}
	source := &source{js: js, now: s.now, unnamed: true}
	began := s.now()
	if err := source.store(ctx, s.count); err != nil {
		return err
	}
	s.noteSince("stream: filled", began)
	size, _, err := diskOf(on.streams)
	if err != nil {
		return err
	}
	s.note("stream: bytes on disk per event", size/float64(s.count))
	full, err := s.noteMemory("stream: NATS, filled", on.nats)
	s.note("stream: NATS, bytes of RSS per event", (full-empty[rssMiB]*mib)/float64(s.count))
	return err
}

// newestAnswers asks for the newest answer of numbers, one after the other, as a front does
// before each visit.
func (s scaling) newestAnswers(ctx context.Context, nc *nats.Conn) error {
	chance := rand.New(rand.NewPCG(1, 0)) //nolint:gosec // the same numbers in every run
	var took []uint32
	for range directGets {
		n, began := company(chance.IntN(s.count)), s.now()
		_, ok, err := wire.NewestAnswer(ctx, nc, n)
		if err != nil || !ok {
			return errors.Join(err, fmt.Errorf("%s: its answer in the stream: %v", n, ok))
		}
		took = append(took, microseconds(s.now().Sub(began)))
	}
	slices.Sort(took)
	s.noteHits("stream: newest answer of a number", latencies(took))
	return nil
}

// restartStream ends NATS in an orderly way, then by a kill, and waits until the stream can
// be read each time.
func (s scaling) restartStream(ctx context.Context, on *servers) (err error) {
	for _, end := range []string{"stopped", "killed"} {
		if end == "stopped" {
			on.nats.stop()
		}
		began := s.now()
		if on.nats, err = s.restart(on.nats); err != nil {
			return err
		}
		err = s.awaitFor(ctx, scaleWait, on.nats, "the stream should be read", func() bool { return s.streamHolds(ctx, *on) })
		if err != nil {
			return err
		}
		s.noteSince("stream: NATS "+end+", until it can be read", began)
	}
	_, err = s.noteMemory("stream: NATS, started anew", on.nats)
	return err
}

// streamHolds reports whether the stream can be read and has every event.
func (s scaling) streamHolds(ctx context.Context, on servers) bool {
	nc, err := nats.Connect("nats://" + on.natsAddr)
	if err != nil {
		return false
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return false
	}
	stream, err := js.Stream(ctx, wire.StreamEvents)
	if err != nil || stream.CachedInfo().State.Msgs != uint64(s.count) { //nolint:gosec // more than 0
		return false
	}
	_, ok, err := wire.NewestAnswer(ctx, nc, company(s.count-1))
	return ok && err == nil
}

// readStream has a cachewriter catch up with all events, and replays them.
func (s scaling) readStream(ctx context.Context, on servers, js jetstream.JetStream) error {
	began := s.now()
	w, err := s.startService(ctx, "cachewriter", on)
	if err != nil {
		return err
	}
	if _, err := s.drained(ctx, scaleWait, js, on.nats); err != nil {
		return err
	}
	s.note("stream: cachewriter, events per second", float64(s.count)/s.now().Sub(began).Seconds())
	most, err := peakOf(w.pid())
	if err != nil {
		return err
	}
	s.note("stream: cachewriter, most MiB", most/mib)
	w.stop()
	client := redis.NewClient(&redis.Options{Addr: on.redisAddr})
	defer func() { _ = client.Close() }()
	if err := client.FlushDB(ctx).Err(); err != nil {
		return err
	}
	began = s.now()
	round, err := s.replayRound(ctx, on, s.count)
	if err != nil {
		return err
	}
	s.noteSince("stream: rucflow replay", began)
	s.note("stream: rucflow replay, events per second", round[perSecond])
	s.note("stream: rucflow replay, most MiB", round[mostMiB])
	return nil
}

// forget removes numbers from the streams, as rucflow forget does.
func (s scaling) forget(ctx context.Context, js jetstream.JetStream) error {
	var took []uint32
	for i := range purges {
		began := s.now()
		if err := wire.Forget(ctx, js, company(i*(s.count/purges))); err != nil {
			return err
		}
		took = append(took, microseconds(s.now().Sub(began)))
	}
	slices.Sort(took)
	s.noteHits("stream: a number is forgotten", latencies(took))
	return nil
}
