//go:build linux

package bench

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// amidKills is the one variant: events that are stored and written while what they pass
// through is killed.
const amidKills = "Redis, NATS and two cachewriters killed in turn"

// The measures of it.
const (
	lostEvents    = "lost"
	redelivered   = "redelivered"
	storedSeconds = "s to store"
	killedTimes   = "kills"
)

const (
	writerCount = 2

	// storeWait bounds one try to store an event, storeRetry parts the tries.
	storeWait  = 2 * time.Second
	storeRetry = 50 * time.Millisecond
	// lostWait is for the last events: what a dead cachewriter had is given out again only
	// after the consumer's AckWait of 30 s, maybe twice.
	lostWait = 3 * time.Minute
)

// losing says how much is stored and killed.
type losing struct {
	events int
	kills  int           // of Redis, of NATS and of cachewriters
	again  time.Duration // the consumer's AckWait; 0 = as it is
}

func lost(ctx context.Context, l *lab) (Figures, error) {
	return l.lose(ctx, losing{events: 100_000, kills: 3})
}

// lose stores events, kills the processes that they pass through meanwhile, and counts
// those that are not in Redis when nothing is pending any more.
func (l *lab) lose(ctx context.Context, plan losing) (f Figures, err error) {
	s, err := l.startServers(ctx, "--appendonly", "yes", "--appendfsync", "always")
	if err != nil {
		return nil, err
	}
	js, err := l.connect(ctx, s)
	if err != nil {
		return nil, err
	}
	if err := plan.hurry(ctx, js); err != nil {
		return nil, err
	}
	v := &victims{servers: s}
	for i := range v.writers {
		if v.writers[i], err = l.startService(ctx, "cachewriter", s); err != nil {
			return nil, err
		}
	}
	storing := &storing{lab: l, js: js, began: l.now(), acked: make([]uint64, plan.events)}
	both, together := errgroup.WithContext(ctx)
	both.Go(func() error { return storing.run(together) })
	both.Go(func() error { return v.killAll(together, l, storing, plan.kills) })
	if err := both.Wait(); err != nil {
		return nil, err
	}
	stored := l.now().Sub(storing.began)
	info, err := l.drained(ctx, lostWait, js, v.nats)
	if err != nil {
		return nil, err
	}
	took := l.now().Sub(storing.began)
	count, err := storing.missing(ctx, s)
	if err != nil {
		return nil, err
	}
	f.add(amidKills, map[string]float64{
		lostEvents: float64(count), perSecond: float64(plan.events) / took.Seconds(), storedSeconds: stored.Seconds(), killedTimes: float64(v.killed),
		// Nothing else is in the stream, so all deliveries beyond one of each message.
		redelivered: float64(info.Delivered.Consumer - info.Delivered.Stream),
	})
	return f, nil
}

// hurry sets the consumer's AckWait.
func (p losing) hurry(ctx context.Context, js jetstream.JetStream) error {
	if p.again == 0 {
		return nil
	}
	consumer, err := js.Consumer(ctx, wire.StreamEvents, wire.ConsumerCachewriter)
	if err != nil {
		return err
	}
	cfg := consumer.CachedInfo().Config
	cfg.AckWait = p.again
	_, err = js.UpdateConsumer(ctx, wire.StreamEvents, cfg)
	return err
}

// victims are what is killed.
type victims struct {
	servers
	writers [writerCount]server
	killed  int
}

// killAll kills one after the other while events are stored: the n-th when as large a
// share of them is.
func (v *victims) killAll(ctx context.Context, l *lab, s *storing, each int) error {
	turns := []func(context.Context, *lab) error{v.killRedis, v.killNATS, v.killWriter}
	times := each * len(turns)
	for i := range times {
		due := int64(len(s.acked) * (i + 1) / (times + 1))
		if err := l.awaitFor(ctx, lostWait, v.nats, fmt.Sprintf("%d events should be stored", due), func() bool { return s.count.Load() >= due }); err != nil {
			return err
		}
		if err := turns[i%len(turns)](ctx, l); err != nil {
			return err
		}
		v.killed++
	}
	return nil
}

func (v *victims) killRedis(ctx context.Context, l *lab) (err error) {
	if v.redis, err = l.restart(v.redis); err != nil {
		return err
	}
	return l.redisReady(ctx, v.servers)
}

func (v *victims) killNATS(ctx context.Context, l *lab) (err error) {
	if v.nats, err = l.restart(v.nats); err != nil {
		return err
	}
	return l.natsReady(ctx, v.servers)
}

// killWriter kills one cachewriter and the next time the other.
func (v *victims) killWriter(ctx context.Context, l *lab) (err error) {
	w := &v.writers[0]
	if w.process, err = l.restart(w.process); err != nil {
		return err
	}
	if err := l.answers(ctx, w.process, "http://"+w.ops+"/readyz"); err != nil {
		return err
	}
	slices.Reverse(v.writers[:])
	return nil
}

// storing is a row of events and what the stream said of each.
type storing struct {
	lab   *lab
	js    jetstream.JetStream
	began time.Time
	acked []uint64     // sequence of each event, once the stream has acknowledged it
	count atomic.Int64 // of those
}

// number is whose event the i-th is: mostly of a number of its own, one in twenty of the
// number just before it, which another publisher stores at the same time, and one in
// twenty of a number that was stored a little earlier.
func (s *storing) number(i int) ruc.Number {
	const every, near, far, back = 20, 19, 9, 101
	switch {
	case i%every == near:
		i--
	case i%every == far && i > back:
		i -= back
	}
	return company(i)
}

// body is the i-th event's, unlike any other's.
func (s *storing) body(i int) ([]byte, error) {
	return answer(s.number(i), s.began.Add(-time.Duration(i)*time.Millisecond))
}

// run stores the events as slots do, each until the stream has acknowledged it.
func (s *storing) run(ctx context.Context) error {
	publishers, ctx := errgroup.WithContext(ctx)
	publishers.SetLimit(storedAtOnce)
	for i := range s.acked {
		publishers.Go(func() error { return s.store(ctx, i) })
	}
	return publishers.Wait()
}

func (s *storing) store(ctx context.Context, i int) error {
	body, err := s.body(i)
	if err != nil {
		return err
	}
	n, job := s.number(i), wire.Job{Seq: uint64(i + 1), Time: s.began} //nolint:gosec // counted up from 0
	for tries := time.After(lostWait); ; {
		ack, err := s.try(ctx, n, job, body)
		if err == nil {
			s.acked[i] = ack.Sequence
			s.count.Add(1)
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tries:
			return fmt.Errorf("an event could not be stored within %v: %w", lostWait, err)
		case <-time.After(storeRetry):
		}
	}
}

func (s *storing) try(ctx context.Context, n ruc.Number, job wire.Job, body []byte) (*jetstream.PubAck, error) {
	ctx, cancel := context.WithTimeout(ctx, storeWait)
	defer cancel()
	return wire.StoreAnswer(ctx, s.js.Conn(), s.js, n, wire.ResolvedEvent(n, job, body, ruc.FuenteReplica, s.began))
}

// drained waits until the cachewriters have acknowledged every event.
func (l *lab) drained(ctx context.Context, most time.Duration, js jetstream.JetStream, nats *process) (info *jetstream.ConsumerInfo, err error) {
	consumer, err := js.Consumer(ctx, wire.StreamEvents, wire.ConsumerCachewriter)
	if err != nil {
		return nil, err
	}
	err = l.awaitFor(ctx, most, nats, "every event should be acknowledged", func() bool {
		var err error
		info, err = consumer.Info(ctx)
		return err == nil && info.NumPending == 0 && info.NumAckPending == 0
	})
	return info, err
}

// missing counts the events that Redis has neither itself nor a newer one of.
func (s *storing) missing(ctx context.Context, on servers) (count int, err error) {
	client := redis.NewClient(&redis.Options{Addr: on.redisAddr})
	defer func() { _ = client.Close() }() // nothing was written
	for page := range slices.Chunk(s.byNumber(), pipelined) {
		var keys []string
		for _, events := range page {
			keys = append(keys, "sunat:ruc:"+s.number(events[0]).String())
		}
		held, err := client.MGet(ctx, keys...).Result()
		if err != nil {
			return 0, err
		}
		for i, events := range page {
			value, _ := held[i].(string) // nil where there is none
			n, err := s.newerThan([]byte(value), events)
			if err != nil {
				return 0, err
			}
			count += n
		}
	}
	return count, nil
}

// byNumber are the events of each number, the newest first.
func (s *storing) byNumber() (all [][]int) {
	place := map[ruc.Number]int{}
	for i := range s.acked {
		n := s.number(i)
		at, known := place[n]
		if !known {
			at = len(all)
			place[n], all = at, append(all, nil)
		}
		all[at] = append(all[at], i)
	}
	for _, events := range all {
		slices.SortFunc(events, func(a, b int) int { return cmp.Compare(s.acked[b], s.acked[a]) })
	}
	return all
}

// newerThan counts how many of a number's events, the newest first, come before the one
// whose body this is.
func (s *storing) newerThan(held []byte, events []int) (count int, err error) {
	for ; count < len(events); count++ {
		body, err := s.body(events[count])
		if err != nil {
			return 0, err
		}
		if bytes.Equal(body, held) {
			break
		}
	}
	return count, nil
}
