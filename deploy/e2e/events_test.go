package e2e

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// TestSeries_EventsSurvive: while cachewriters, Redis and NATS are killed at random, no
// event that JetStream acknowledged is lost, and in the end Redis holds the newest of
// each number.
func TestSeries_EventsSurvive(t *testing.T) {
	const (
		perSecond  = 1000 // due; what an outage delays is made up for
		publishers = 16
		patience   = 2 * time.Second // for one acknowledgement
		retry      = 50 * time.Millisecond
	)
	const together = 40
	count, numbers := long(3_000, 100_000), long(200, 2_000)
	// number is whose the i-th event is. So many numbers at a time take turns until each
	// has had all of its events: what is killed later must not lose them.
	number := func(i int) int { return i/(count/numbers*together)*together + i%together }
	// What a killed cachewriter had in hand comes again after AckWait. Every run of the
	// tests has no time for the real one.
	ackWait := long(2*time.Second, 0)

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	f := newFleet(t) // Redis appends each write to its file, as redis.conf has it
	js := f.jetStream()
	if ackWait > 0 {
		f.setAckWait(js, ackWait)
	}
	for range 2 {
		f.writers = append(f.writers, f.launch("cachewriter"))
	}
	f.whole()

	// event is the i-th. The newer, the older its date, so that only the stream's order
	// can tell which is the newest.
	began := time.Now()
	event := func(i int) (*nats.Msg, error) {
		n := ruc.FromPrefix(fmt.Sprintf("2066%06d", number(i)))
		at := began.Add(-time.Duration(i) * time.Millisecond)
		a := ruc.Found(n, ruc.Record{RazonSocial: ruc.Text(fmt.Sprint("VERSION ", i))}, at, ruc.FuenteReplica, ruc.MotorChrome)
		body, err := a.Encode()
		return wire.ResolvedEvent(n, wire.Job{Seq: uint64(i + 1), Time: began}, body, ruc.FuenteReplica, time.Now()), err
	}
	sequences := make([]uint64, count) // of the acknowledgements
	newest := make([][]byte, numbers)  // acknowledged
	var retried, duplicates atomic.Int64
	scraper, err := jetstream.New(f.connectAs("scraper", nats.MaxReconnects(-1), nats.ReconnectWait(retry)))
	if err != nil {
		t.Fatal(err)
	}
	// publish stores an event as a scraper does: the same one again until it is
	// acknowledged.
	publish := func(i int) error {
		m, err := event(i)
		for err == nil && t.Context().Err() == nil {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			ack, failed := scraper.PublishMsg(ctx, m)
			cancel()
			if failed == nil {
				sequences[i], newest[number(i)] = ack.Sequence, m.Data
				if ack.Duplicate {
					duplicates.Add(1) // it was stored, and the acknowledgement lost
				}
				return nil
			}
			retried.Add(1)
			<-time.After(retry)
		}
		return err
	}
	published := make(chan struct{})
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			for i := range count {
				if number(i)%publishers != p {
					continue // each number has one publisher, and so its order
				}
				<-time.After(time.Until(began.Add(time.Duration(i) * time.Second / perSecond)))
				if err := publish(i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	go func() { wg.Wait(); close(published) }()

	kills := f.killAtRandom(random, published)
	took := time.Since(began)
	consumer := func() *jetstream.ConsumerInfo {
		c, err := js.Consumer(t.Context(), wire.StreamEvents, wire.ConsumerCachewriter)
		if err != nil {
			return &jetstream.ConsumerInfo{NumPending: 1} // NATS has just come back
		}
		return c.CachedInfo()
	}
	f.eventually("the cachewriters have written everything", long(readyWait, 2*time.Minute), func() bool {
		info := consumer()
		return info.NumPending == 0 && info.NumAckPending == 0 && info.Delivered.Stream >= uint64(count)
	})
	t.Logf("%d events of %d numbers published in %v, all in Redis %v later; killed: %v; published again %d times, of which %d were stored before; at least %d redeliveries",
		count, numbers, took.Round(100*time.Millisecond), (time.Since(began) - took).Round(100*time.Millisecond), kills,
		retried.Load(), duplicates.Load(), consumer().Delivered.Consumer-uint64(count))

	f.storedOnce(js, sequences, func(i int) string {
		m, err := event(i)
		if err != nil {
			t.Fatal(err)
		}
		return m.Header.Get(nats.MsgIdHdr)
	})
	client := f.reader()
	for i, body := range newest {
		n := ruc.FromPrefix(fmt.Sprintf("2066%06d", i))
		if held, err := client.Get(t.Context(), "sunat:ruc:"+n.String()).Bytes(); err != nil || !bytes.Equal(held, body) {
			t.Errorf("%s: Redis holds %.160s (%v), the newest event is %.160s", n, held, err, body)
		}
	}
	dead, err := js.Stream(t.Context(), wire.StreamDead)
	if err != nil {
		t.Fatal(err)
	}
	if letters := dead.CachedInfo().State.Msgs; letters != 0 {
		t.Errorf("%d events became dead letters", letters)
	}
}

// stored counts the messages below a subject, and the subjects.
func stored(t *testing.T, s jetstream.Stream, subject string) (messages, subjects int) {
	t.Helper()
	info, err := s.Info(t.Context(), jetstream.WithSubjectFilter(subject+".*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, count := range info.State.Subjects {
		messages += int(count)
	}
	return messages, len(info.State.Subjects)
}

// setAckWait changes after how long the server gives an event out again.
func (f *fleet) setAckWait(js jetstream.JetStream, to time.Duration) {
	f.t.Helper()
	c, err := js.Consumer(f.t.Context(), wire.StreamEvents, wire.ConsumerCachewriter)
	if err == nil {
		cfg := c.CachedInfo().Config
		cfg.AckWait = to
		_, err = js.UpdateConsumer(f.t.Context(), wire.StreamEvents, cfg)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// killAtRandom kills now one, now several of the cachewriters, Redis and NATS, and
// starts them again a moment later, until enough; each has its turn at least once. It
// returns how often each kind was killed.
func (f *fleet) killAtRandom(random *rand.Rand, enough <-chan struct{}) map[string]int {
	f.t.Helper()
	type victim struct {
		name        string
		kill, again func()
	}
	victims := []victim{
		{"redis-server", f.redis.Kill, f.redis.Restart},
		{"nats-server", func() { f.nats.stop(syscall.SIGKILL) }, func() { f.startNATS() }},
	}
	for i := range f.writers {
		victims = append(victims, victim{"cachewriter",
			func() { f.writers[i].stop(syscall.SIGKILL) }, func() { f.writers[i] = f.writers[i].again() }})
	}
	upTo := func(d time.Duration) <-chan time.Time { return time.After(time.Duration(random.Int64N(int64(d)))) }
	kills := map[string]int{}
	done := false
	for round := 0; !done || round < len(victims); round++ {
		select {
		case <-enough:
			done = true
		case <-upTo(2 * time.Second):
		}
		var down []victim
		for i, v := range victims {
			if i == round%len(victims) || random.IntN(4) == 0 {
				down = append(down, v)
			}
		}
		random.Shuffle(len(down), func(i, j int) { down[i], down[j] = down[j], down[i] })
		for _, v := range down {
			v.kill()
			kills[v.name]++
		}
		<-upTo(time.Second)
		slices.Reverse(down)
		for _, v := range down {
			v.again()
		}
	}
	return kills
}

// storedOnce checks that the stream holds exactly the acknowledged events, each once and
// where its acknowledgement said. id is the i-th's Nats-Msg-Id.
func (f *fleet) storedOnce(js jetstream.JetStream, sequences []uint64, id func(i int) string) {
	f.t.Helper()
	s, err := js.Stream(f.t.Context(), wire.StreamEvents)
	if err != nil {
		f.t.Fatal(err)
	}
	answers, numbers := stored(f.t, s, wire.SubjectResolved)
	if gaps := s.CachedInfo().State.NumDeleted; answers != len(sequences) || gaps != 0 {
		f.t.Errorf("the stream holds %d answers, %d gaps; %d were acknowledged", answers, gaps, len(sequences))
	}
	// Each answer but the first of a number says something else than the one before.
	if changes, _ := stored(f.t, s, wire.SubjectChanged); changes != answers-numbers {
		f.t.Errorf("the stream holds %d changes of %d answers of %d numbers", changes, answers, numbers)
	}
	// The operator may read what is stored.
	admin, err := jetstream.New(f.connectAs("admin"))
	if err != nil {
		f.t.Fatal(err)
	}
	stream, err := admin.Stream(f.t.Context(), wire.StreamEvents)
	if err != nil {
		f.t.Fatal(err)
	}
	const readers = 8
	var wg sync.WaitGroup
	for r := range readers {
		wg.Go(func() {
			for i := r; i < len(sequences); i += readers {
				m, err := stream.GetMsg(f.t.Context(), sequences[i])
				if err != nil {
					f.t.Errorf("the event acknowledged as %d: %v", sequences[i], err)
				} else if got := m.Header.Get(nats.MsgIdHdr); got != id(i) {
					f.t.Errorf("acknowledged as %d was %s, stored there is %s", sequences[i], id(i), got)
				}
			}
		})
	}
	wg.Wait()
}
