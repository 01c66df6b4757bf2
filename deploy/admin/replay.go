package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/store"
	"github.com/rucflow/rucflow/shared/wire"
)

const (
	// skew is by how much a scraper's clock may be ahead of the server's, so that an
	// answer is younger than its event.
	skew          = time.Hour
	progressEvery = time.Second
)

// StoreConfig is how a command reaches the stream of answers and the Redis that they are
// kept in, and how long they live there: the settings of a cachewriter.
type StoreConfig struct {
	NATS      service.NATSConfig
	Site      service.Site
	Redis     store.RedisConfig
	Lifetimes service.Lifetimes
}

// Check validates the settings; the error names the variable.
func (c *StoreConfig) Check() error {
	err := errors.Join(c.Site.Check(), c.Redis.Check(), c.Lifetimes.Check())
	if err == nil && !c.Redis.Configured() {
		err = errors.New("REDIS_URL: answers are written into Redis: set REDIS_URL or REDIS_HOST")
	}
	return err
}

// Replay says what to write again.
type Replay struct {
	Since   string // a day, a time or a duration back from now; "" = as far as answers can be fresh
	Numbers string // only these, parted by commas; "" = all
	DryRun  bool   // write nothing
	Now     func() time.Time
}

// What became of the newest answer of each number.
const (
	written = iota
	older   // the store has this one, or a newer one
	expired // it is fresh no longer
	bad     // it is no answer, or the store does not take it
	fates
)

// Run writes the newest answer of every number from RUC_EVENTS into Redis, with the version
// that a cachewriter gives it and the time that it has left. A newer answer that Redis has
// stays, so cachewriters may be at work meanwhile. It prints its progress on errs and what
// it did on out.
//
// It reads the events twice. An answer may be fresh though a newer one of its number, that
// SUNAT does not know it any more, has expired; so which one is the newest must be known
// before the first is written. Between the two it holds the numbers, about 50 bytes each,
// and never more than a page of answers.
func (r Replay) Run(ctx context.Context, cfg StoreConfig, out, errs io.Writer) error {
	since, err := service.ParseSince(r.Since, r.Now())
	if err != nil {
		return err
	}
	numbers, err := r.numbers()
	if err != nil {
		return err
	}
	ctx, w, err := openStore(ctx, cfg, r.Now, r.DryRun)
	if err != nil {
		return err
	}
	defer w.close()
	if earliest := w.clock.Now().Add(-max(cfg.Lifetimes.CacheTTL, cfg.Lifetimes.NegativeTTL) - skew); since.Before(earliest) {
		since = earliest
	}
	p := progress{out: errs, now: r.Now, began: r.Now()}
	if len(numbers) > 0 {
		err = w.only(ctx, numbers, since, &p)
	} else {
		err = w.all(ctx, since, &p)
	}
	p.summary(out, r.DryRun)
	return because(ctx, err)
}

func (r Replay) numbers() ([]ruc.Number, error) {
	if r.Numbers == "" {
		return nil, nil
	}
	return parse(strings.Split(r.Numbers, ","))
}

// storeWriter does what a cachewriter does, once.
type storeWriter struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	redis  *store.Redis
	clock  *wire.Clock
	policy ruc.Policy
	epoch  int64
	dryRun bool // write nothing
}

// openStore connects to both sides and learns what a cachewriter would know.
func openStore(ctx context.Context, cfg StoreConfig, now func() time.Time, dryRun bool) (context.Context, *storeWriter, error) {
	ctx, nc, err := connect(ctx, cfg.NATS, operatorRole)
	if err != nil {
		return nil, nil, err
	}
	w := &storeWriter{nc: nc, clock: wire.NewClock(now), policy: cfg.Lifetimes.Policy(), dryRun: dryRun}
	if err := because(ctx, w.open(ctx, cfg, now)); err != nil {
		w.close()
		return nil, nil, err
	}
	return ctx, w, nil
}

func (w *storeWriter) open(ctx context.Context, cfg StoreConfig, now func() time.Time) (err error) {
	if err := wire.AwaitServer(ctx, w.nc); err != nil {
		return err
	}
	if w.js, err = jetstream.New(w.nc); err != nil {
		return err
	}
	consumer, err := w.js.Consumer(ctx, wire.StreamEvents, wire.ConsumerCachewriter)
	if err != nil {
		return fmt.Errorf("%s/%s: %w", wire.StreamEvents, wire.ConsumerCachewriter, err)
	}
	info, err := w.clock.Learn(ctx, consumer)
	if err != nil {
		return err
	}
	source := cfg.Site.Source()
	if err := wire.CheckSource(info, source); err != nil {
		return err
	}
	w.epoch = wire.Epoch(info)
	w.redis, err = store.NewRedis(cfg.Redis, source, now, zerolog.Nop())
	if err == nil && !w.dryRun {
		err = w.redis.Claim(ctx, source)
	}
	return err
}

func (w *storeWriter) close() {
	w.nc.Close()
	if w.redis != nil {
		_ = w.redis.Close() // which returns nil
	}
}

// all writes what was stored since then.
func (w *storeWriter) all(ctx context.Context, since time.Time, p *progress) error {
	newest := map[ruc.Number]uint64{}
	err := wire.ReadAnswers(ctx, w.nc, since, func(page wire.AnswerPage) error {
		for _, e := range page.Events {
			newest[e.RUC] = e.Seq
		}
		p.read(len(page.Events), page.Bad)
		return nil
	})
	if err != nil {
		return err
	}
	p.writing()
	return wire.ReadAnswers(ctx, w.nc, since, func(page wire.AnswerPage) error {
		var events []wire.Event
		for _, e := range page.Events {
			if e.Seq == newest[e.RUC] {
				events = append(events, e)
			}
		}
		return w.put(ctx, events, p)
	})
}

// only writes the answers of some numbers.
func (w *storeWriter) only(ctx context.Context, numbers []ruc.Number, since time.Time, p *progress) error {
	for _, n := range numbers {
		e, ok, err := wire.NewestAnswer(ctx, w.nc, n)
		if err != nil {
			return err
		}
		if !ok || e.Stored.Before(since) {
			continue
		}
		if err := w.put(ctx, []wire.Event{e}, p); err != nil {
			return err
		}
	}
	return nil
}

// put writes those that are fresh.
func (w *storeWriter) put(ctx context.Context, events []wire.Event, p *progress) error {
	now := w.clock.Now()
	var entries []store.Entry
	for _, e := range events {
		f := w.policy.Freshness(e.Prefix.Found, e.Prefix.ObtainedAt, now)
		if f.State != ruc.Fresh {
			p.count[expired]++
			continue
		}
		entries = append(entries, store.Entry{RUC: e.RUC, Value: e.Body, TTL: f.Left, Version: store.Version{Epoch: w.epoch, Seq: e.Seq}})
	}
	var wrote []bool
	var err error
	if !w.dryRun && len(entries) > 0 {
		wrote, err = w.redis.PutTold(ctx, entries)
	}
	var away error // of an entry that the store would take
	for i := range entries {
		switch err := store.EntryError(err, i); {
		case errors.Is(err, store.ErrRefused):
			p.count[bad]++
		case err != nil:
			away = err
		case w.dryRun || wrote[i]:
			p.count[written]++
		default:
			p.count[older]++
		}
	}
	p.wrote()
	if away != nil {
		return fmt.Errorf("the answers cannot be written now, and may be replayed again: %w", away)
	}
	return nil
}

// progress counts and tells.
type progress struct {
	out         io.Writer
	now         func() time.Time
	began, said time.Time
	events      int
	count       [fates]int
}

func (p *progress) read(answers, others int) {
	p.events += answers + others
	p.count[bad] += others
	p.say("events read", p.events)
}

// writing begins to measure anew.
func (p *progress) writing() { p.began, p.said = p.now(), time.Time{} }

func (p *progress) wrote() {
	p.say("answers done", p.count[written]+p.count[older]+p.count[expired])
}

func (p *progress) say(what string, count int) {
	now := p.now()
	if now.Sub(p.said) < progressEvery {
		return
	}
	if !p.said.IsZero() { // a second has passed
		fmt.Fprintf(p.out, "%d %s, %.0f/s\n", count, what, float64(count)/now.Sub(p.began).Seconds())
	}
	p.said = now
}

func (p *progress) summary(out io.Writer, dryRun bool) {
	verb := "written"
	if dryRun {
		verb = "to write"
	}
	fmt.Fprintf(out, "%d %s, %d there already or newer, %d expired, %d bad\n",
		p.count[written], verb, p.count[older], p.count[expired], p.count[bad])
}
