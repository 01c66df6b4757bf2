//go:build linux

package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// The variants of writing.
const (
	pipelineWrites    = "go-redis, SET with EX, pipelines of 500"
	cachewriterWrites = "cachewriter"
)

const (
	writerEvents = 20_000 // in a round
	pipelined    = 500
	storedAtOnce = 64
)

// writer compares the cachewriter, which catches up with events that wait, with the least
// that puts as many values of that size into the same Redis.
func writer(ctx context.Context, l *lab) (Figures, error) {
	s, err := l.startServers(ctx)
	if err != nil {
		return nil, err
	}
	js, err := l.connect(ctx, s)
	if err != nil {
		return nil, err
	}
	w, err := l.startService(ctx, "cachewriter", s)
	if err != nil {
		return nil, err
	}
	client := redis.NewClient(&redis.Options{Addr: s.redisAddr})
	l.stops = append(l.stops, func() { _ = client.Close() })
	written := 0 // numbers are new in each round, as most are for a cachewriter
	return l.each(ctx, []string{pipelineWrites, cachewriterWrites}, func(ctx context.Context, name string) (map[string]float64, error) {
		bodies, err := l.bodies(written)
		if err != nil {
			return nil, err
		}
		if name == pipelineWrites {
			return l.pipeline(ctx, s, client, bodies)
		}
		defer func() { written += writerEvents }()
		return l.catchUp(ctx, s, js, w, written, bodies)
	})
}

// bodies are the answers to the numbers of a round.
func (l *lab) bodies(first int) (bodies [][]byte, err error) {
	for i := range writerEvents {
		body, err := answer(company(first+i), l.now())
		if err != nil {
			return nil, err
		}
		bodies = append(bodies, body)
	}
	return bodies, nil
}

func (l *lab) pipeline(ctx context.Context, s servers, client *redis.Client, bodies [][]byte) (map[string]float64, error) {
	const life = 24 * time.Hour
	if err := client.FlushDB(ctx).Err(); err != nil {
		return nil, err
	}
	before, err := s.redis.cpu()
	if err != nil {
		return nil, err
	}
	began := l.now()
	for from := 0; from < len(bodies); from += pipelined {
		_, err := client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i := from; i < from+pipelined; i++ {
				p.Set(ctx, fmt.Sprintf("bench:%d", i), bodies[i], life)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	took := l.now().Sub(began)
	after, err := s.redis.cpu()
	return map[string]float64{
		perSecond: float64(len(bodies)) / took.Seconds(),
		redisCPU:  float64((after-before)/time.Microsecond) / float64(len(bodies)),
	}, err
}

// catchUp stores the events while the cachewriter's consumer is paused, lets it go on and
// waits until every event is acknowledged.
func (l *lab) catchUp(ctx context.Context, s servers, js jetstream.JetStream, w server, first int, bodies [][]byte) (map[string]float64, error) {
	if _, err := js.PauseConsumer(ctx, wire.StreamEvents, wire.ConsumerCachewriter, l.now().Add(time.Hour)); err != nil {
		return nil, err
	}
	if err := l.store(ctx, js, first, bodies); err != nil {
		return nil, err
	}
	consumer, err := js.Consumer(ctx, wire.StreamEvents, wire.ConsumerCachewriter)
	if err != nil {
		return nil, err
	}
	// The server counts what waits a moment after it has stored it.
	err = l.await(ctx, s.nats, "every event should wait", func() bool {
		info, err := consumer.Info(ctx)
		return err == nil && info.NumPending == uint64(len(bodies))
	})
	if err != nil {
		return nil, err
	}
	kept, err := metric(ctx, w.ops, "ruc_cache_writes_total")
	if err != nil {
		return nil, err
	}
	before, err := cpuOfAll(w.process, s.redis, s.nats)
	if err != nil {
		return nil, err
	}
	if _, err := js.ResumeConsumer(ctx, wire.StreamEvents, wire.ConsumerCachewriter); err != nil {
		return nil, err
	}
	// A pull that was made while the consumer was paused may have to be made again, up to
	// half a second later. What counts is how fast the events go once they come.
	began := l.now()
	err = l.await(ctx, w.process, "the events should come", func() bool {
		asked := l.now()
		info, err := consumer.Info(ctx)
		coming := err == nil && info.NumPending < uint64(len(bodies))
		if !coming {
			began = asked
		}
		return coming
	})
	if err != nil {
		return nil, err
	}
	err = l.await(ctx, w.process, "every event should be acknowledged", func() bool {
		info, err := consumer.Info(ctx)
		return err == nil && info.NumPending == 0 && info.NumAckPending == 0
	})
	if err != nil {
		return nil, err
	}
	took := l.now().Sub(began)
	after, err := cpuOfAll(w.process, s.redis, s.nats)
	if err != nil {
		return nil, err
	}
	total, err := metric(ctx, w.ops, "ruc_cache_writes_total")
	if err == nil && int(total-kept) != len(bodies) {
		err = fmt.Errorf("%v events were stored and not %d", total-kept, len(bodies))
	}
	round := map[string]float64{perSecond: float64(len(bodies)) / took.Seconds()}
	for i, measure := range []string{serverCPU, redisCPU, natsCPU} {
		round[measure] = float64((after[i]-before[i])/time.Microsecond) / float64(len(bodies))
	}
	return round, err
}

// store stores the answers to numbers as slots do.
func (l *lab) store(ctx context.Context, js jetstream.JetStream, first int, bodies [][]byte) error {
	scrapers, ctx := errgroup.WithContext(ctx)
	scrapers.SetLimit(storedAtOnce)
	for i, body := range bodies {
		scrapers.Go(func() error {
			n, job := company(first+i), wire.Job{Seq: uint64(first + i + 1), Time: l.now()} //nolint:gosec // counted up from 0
			_, err := wire.StoreAnswer(ctx, js.Conn(), js, n, wire.ResolvedEvent(n, job, body, ruc.FuenteReplica, l.now()))
			return err
		})
	}
	return scrapers.Wait()
}

// cpuOfAll is the processor time that each of the processes has taken.
func cpuOfAll(all ...*process) (took []time.Duration, err error) {
	for _, p := range all {
		t, err := p.cpu()
		if err != nil {
			return nil, err
		}
		took = append(took, t)
	}
	return took, nil
}
