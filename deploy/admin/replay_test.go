package admin_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/deploy/admin"
	"github.com/rucflow/rucflow/shared/embedded"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/store"
	"github.com/rucflow/rucflow/shared/store/storetest"
	"github.com/rucflow/rucflow/shared/wire"
)

const (
	token    = "t0ken"
	patience = 10 * time.Second
	day      = 24 * time.Hour
)

var (
	company = ruc.MustParse("20131312955")
	another = ruc.MustParse("20100055237")
	person  = ruc.FromPrefix("1012345678")
)

// bus is a NATS server with the streams of a fleet.
type bus struct {
	t    testing.TB
	cfg  service.NATSConfig
	nc   *nats.Conn
	js   jetstream.JetStream
	jobs uint64
}

func newBus(t testing.TB) *bus {
	t.Helper()
	s, err := embedded.Start(context.Background(), embedded.Config{StoreDir: t.TempDir(), Addr: "127.0.0.1:0", Token: token})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	b := &bus{t: t, cfg: service.NATSConfig{URL: s.URL(), Token: token}}
	if b.nc, err = b.cfg.Connect("test", zerolog.Nop()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.nc.Close)
	if b.js, err = jetstream.New(b.nc); err != nil {
		t.Fatal(err)
	}
	b.provision()
	return b
}

func (b *bus) provision() {
	b.t.Helper()
	p := wire.Provisioner{JS: b.js, Source: ruc.FuenteReplica, Warn: func(what, field, _, _ string) { b.t.Errorf("%s: %s differs", what, field) }}
	for _, err := range []error{p.Events(b.t.Context(), 45*day), p.Cachewriter(b.t.Context()), p.Dead(b.t.Context())} {
		if err != nil {
			b.t.Fatal(err)
		}
	}
}

// store publishes an event as a slot does and returns its sequence.
func (b *bus) store(m *nats.Msg) uint64 {
	b.t.Helper()
	ack, err := b.js.PublishMsg(b.t.Context(), m)
	if err != nil {
		b.t.Fatal(err)
	}
	return ack.Sequence
}

func (b *bus) job() wire.Job {
	b.jobs++
	return wire.Job{Seq: b.jobs, Time: time.Now()}
}

// found stores that n is somebody, as of some time ago.
func (b *bus) found(n ruc.Number, name string, ago time.Duration) (seq uint64, body []byte) {
	b.t.Helper()
	body = encode(b.t, ruc.Found(n, record(name), time.Now().Add(-ago), ruc.FuenteReplica, ruc.MotorHTTP))
	return b.store(wire.ResolvedEvent(n, b.job(), body, ruc.FuenteReplica, time.Now())), body
}

// missing stores that n is nobody.
func (b *bus) missing(n ruc.Number, ago time.Duration) uint64 {
	b.t.Helper()
	body := encode(b.t, ruc.Missing(n, time.Now().Add(-ago), ruc.FuenteReplica, ruc.MotorHTTP))
	return b.store(wire.ResolvedEvent(n, b.job(), body, ruc.FuenteReplica, time.Now()))
}

func record(name string) ruc.Record {
	return ruc.Record{
		RazonSocial: ruc.Text(name), Estado: "ACTIVO", Activo: true, Condicion: "HABIDO", Habido: true,
		Distrito: "SAN ISIDRO", Provincia: "LIMA", Departamento: "LIMA",
	}
}

func encode(t testing.TB, a ruc.Answer) []byte {
	t.Helper()
	b, err := a.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// storeConfig is that of a command that writes to Redis.
func (b *bus) storeConfig(s *storetest.RedisServer) admin.StoreConfig {
	return admin.StoreConfig{
		NATS: b.cfg, Site: service.Site{URL: "http://127.0.0.1:1/"}, Redis: s.RedisConfig(),
		Lifetimes: service.Lifetimes{CacheTTL: 7 * day, NegativeTTL: time.Hour, Grace: 30 * day},
	}
}

// epoch is that of the versions that a cachewriter writes.
func (b *bus) epoch() int64 {
	b.t.Helper()
	c, err := b.js.Consumer(b.t.Context(), wire.StreamEvents, wire.ConsumerCachewriter)
	if err != nil {
		b.t.Fatal(err)
	}
	return wire.Epoch(c.CachedInfo())
}

// put writes to Redis as a cachewriter does.
func (b *bus) put(s *storetest.RedisServer, entries ...store.Entry) {
	b.t.Helper()
	r, err := store.NewRedis(s.RedisConfig(), ruc.FuenteReplica, time.Now, zerolog.Nop())
	if err != nil {
		b.t.Fatal(err)
	}
	defer r.Close()
	if err := r.Put(b.t.Context(), entries); err != nil {
		b.t.Fatal(err)
	}
}

// held is what Redis has of n, and for how long.
func held(t testing.TB, c *redis.Client, n ruc.Number) (value string, left time.Duration) {
	t.Helper()
	value, err := c.Get(t.Context(), "sunat:ruc:"+n.String()).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		t.Fatal(err)
	}
	return value, c.TTL(t.Context(), "sunat:ruc:"+n.String()).Val()
}

func replay(t testing.TB, cfg admin.StoreConfig, r admin.Replay) string {
	t.Helper()
	var out, errs strings.Builder
	r.Now = time.Now
	if err := r.Run(t.Context(), cfg, &out, &errs); err != nil {
		t.Fatalf("%v: %s%s", err, out.String(), errs.String())
	}
	return out.String()
}

func TestReplay_BringsBackWhatACachewriterWrote(t *testing.T) {
	b, s := newBus(t), storetest.StartRedis(t)
	c := s.Client()
	numbers := storetest.Numbers(2500) // more than a page
	want := map[ruc.Number]string{}
	seqs := map[ruc.Number]uint64{}
	for i, n := range numbers {
		seq, body := b.found(n, "EMPRESA", time.Duration(i)*time.Minute)
		want[n], seqs[n] = string(body), seq
	}
	for _, n := range numbers[:3] { // newer ones
		seq, body := b.found(n, "OTRA", 0)
		want[n], seqs[n] = string(body), seq
	}
	// The newest answer counts, although an older one would be fresh.
	b.missing(numbers[3], 2*time.Hour)
	delete(want, numbers[3])
	b.found(numbers[4], "VIEJA", 8*day)
	delete(want, numbers[4])
	b.missing(person, time.Minute)
	b.store(&nats.Msg{Subject: wire.ResolvedSubject(another), Data: []byte("{}")})

	const summary = "2499 written, 0 there already or newer, 2 expired, 1 bad\n"
	cfg := b.storeConfig(s)
	if got := replay(t, cfg, admin.Replay{DryRun: true}); got != strings.Replace(summary, "written", "to write", 1) {
		t.Errorf("a dry run: %s", got)
	}
	if keys := c.Keys(t.Context(), "sunat:ruc:*").Val(); len(keys) != 0 {
		t.Fatalf("a dry run wrote %d", len(keys))
	}
	if got := replay(t, cfg, admin.Replay{}); got != summary {
		t.Error(got)
	}
	if keys := c.Keys(t.Context(), "sunat:ruc:*").Val(); len(keys) != 2499 {
		t.Errorf("%d keys", len(keys))
	}
	for i, n := range numbers {
		value, left := held(t, c, n)
		if value != want[n] {
			t.Fatalf("%s: %q, want %q", n, value, want[n])
		}
		if value == "" {
			continue
		}
		if version := c.Get(t.Context(), "seq:{sunat:ruc:"+n.String()+"}").Val(); version != fmt.Sprintf("%019d.%020d", b.epoch(), seqs[n]) {
			t.Fatalf("%s: version %s", n, version)
		}
		expect := 7*day - time.Duration(i)*time.Minute
		if i < 3 {
			expect = 7 * day
		}
		if left > expect || left < expect-time.Minute {
			t.Fatalf("%s: lives %v, want %v", n, left, expect)
		}
	}
	if _, left := held(t, c, person); left > 59*time.Minute || left < 58*time.Minute {
		t.Errorf("that SUNAT does not know a number lives %v", left)
	}
	if got := replay(t, cfg, admin.Replay{}); got != "0 written, 2499 there already or newer, 2 expired, 1 bad\n" {
		t.Errorf("again: %s", got)
	}
}

func TestReplay_NeverReplacesANewerAnswer(t *testing.T) {
	b, s := newBus(t), storetest.StartRedis(t)
	seq, _ := b.found(company, "ANTES", 0)
	b.put(s, store.Entry{RUC: company, Value: []byte("newer"), TTL: time.Hour, Version: store.Version{Epoch: b.epoch(), Seq: seq + 1}})
	if got := replay(t, b.storeConfig(s), admin.Replay{}); got != "0 written, 1 there already or newer, 0 expired, 0 bad\n" {
		t.Error(got)
	}
	if value, _ := held(t, s.Client(), company); value != "newer" {
		t.Error(value)
	}
}

func TestReplay_OfSomeNumbersOrSinceATime(t *testing.T) {
	b, s := newBus(t), storetest.StartRedis(t)
	b.found(company, "UNA", 0)
	b.found(another, "OTRA", 0)
	cfg := b.storeConfig(s)
	// The stream gives the times, so nothing is older than now.
	for _, since := range []string{time.Now().Add(time.Hour).Format(time.RFC3339), time.Now().Add(day).Format("2006-01-02")} {
		if got := replay(t, cfg, admin.Replay{Since: since}); !strings.HasPrefix(got, "0 written") {
			t.Errorf("since %s: %s", since, got)
		}
	}
	if got := replay(t, cfg, admin.Replay{Numbers: company.String() + "," + person.String()}); !strings.HasPrefix(got, "1 written") {
		t.Error(got)
	}
	if value, _ := held(t, s.Client(), another); value != "" {
		t.Error("a number that was not named was written")
	}
	if got := replay(t, cfg, admin.Replay{Since: "72h"}); !strings.HasPrefix(got, "1 written, 1 there already") {
		t.Error(got)
	}
}

func TestReplay_SaysWhatIsWrong(t *testing.T) {
	b, s := newBus(t), storetest.StartRedis(t)
	b.found(company, "UNA", 0)
	gone := s.RedisConfig()
	gone.Port = 1
	for name, tc := range map[string]struct {
		change func(*admin.StoreConfig)
		replay admin.Replay
		want   string
	}{
		"a time that is none": {nil, admin.Replay{Since: "yesterday"}, "-since"},
		"a wrong number":      {nil, admin.Replay{Numbers: "20123456789"}, "debería ser 6"},
		"another source":      {func(c *admin.StoreConfig) { c.Site.URL = "https://sunat.gob.pe/" }, admin.Replay{}, `holds data of source "replica"`},
		"no Redis":            {func(c *admin.StoreConfig) { c.Redis = gone }, admin.Replay{}, "connection refused"},
		"no NATS":             {func(c *admin.StoreConfig) { c.NATS.URL = "nats://127.0.0.1:1" }, admin.Replay{}, "no servers available"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := b.storeConfig(s)
			if tc.change != nil {
				tc.change(&cfg)
			}
			tc.replay.Now = time.Now
			var out strings.Builder
			if err := tc.replay.Run(t.Context(), cfg, &out, &out); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v", err)
			}
		})
	}
	cfg := b.storeConfig(s)
	cfg.Redis = store.RedisConfig{}
	if err := cfg.Check(); err == nil || !strings.Contains(err.Error(), "REDIS_URL") {
		t.Errorf("%v", err)
	}
}

// BenchmarkReplay fills an empty Redis with 100,000 answers of 2 KB.
func BenchmarkReplay(b *testing.B) {
	const count = 100_000
	bus, s := newBus(b), storetest.StartRedis(b)
	r := record("EMPRESA")
	r.Avisos = []string{strings.Repeat("aviso ", 200)}
	for i, n := range storetest.Numbers(count) {
		body := encode(b, ruc.Found(n, r, time.Now(), ruc.FuenteReplica, ruc.MotorHTTP))
		if i == 0 {
			b.Logf("an answer has %d bytes", len(body))
		}
		if _, err := bus.js.PublishMsgAsync(wire.ResolvedEvent(n, bus.job(), body, ruc.FuenteReplica, time.Now())); err != nil {
			b.Fatal(err)
		}
	}
	<-bus.js.PublishAsyncComplete()
	for b.Loop() {
		if err := s.Client().FlushAll(b.Context()).Err(); err != nil {
			b.Fatal(err)
		}
		var out strings.Builder
		if err := (admin.Replay{Now: time.Now}).Run(b.Context(), bus.storeConfig(s), &out, io.Discard); err != nil || !strings.HasPrefix(out.String(), "100000 written") {
			b.Fatalf("%v: %s", err, out.String())
		}
	}
	b.ReportMetric(count*float64(b.N)/b.Elapsed().Seconds(), "answers/s")
}
