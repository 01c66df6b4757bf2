package gateway

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/valyala/fasthttp"

	"github.com/rucflow/rucflow/shared/ruc"
)

// BenchmarkHit is a hit of the memory from the parsed request to the response ready to be
// sent: with nothing of access, and with all of it.
func BenchmarkHit(b *testing.B) {
	key, line, err := NewKey("uno", "1000000/d")
	if err != nil {
		b.Fatal(err)
	}
	file := filepath.Join(b.TempDir(), "keys")
	if err := os.WriteFile(file, []byte(line), 0o600); err != nil {
		b.Fatal(err)
	}
	for name, cfg := range map[string]Config{
		"open":      {},
		"key":       {APIKeysFile: file},
		"rate":      {RateLimit: "1000000000/s", TrustedProxies: "0.0.0.0/32"},
		"hosts":     {AllowedHosts: "a.example.com,*.interno.pe,localhost"},
		"cors":      {CORSOrigins: "https://app.example.com"},
		"protected": {APIKeysFile: file, RateLimit: "1000000000/s", AllowedHosts: "localhost", CORSOrigins: "https://app.example.com"},
	} {
		b.Run(name, func(b *testing.B) {
			reg := prometheus.NewRegistry()
			m, err := newMetrics(reg, "memory")
			if err != nil {
				b.Fatal(err)
			}
			door, err := newAccess(cfg, time.Now, m, zerolog.Nop())
			if err != nil {
				b.Fatal(err)
			}
			defer door.close()
			memory, err := newL1(1<<20, time.Hour)
			if err != nil {
				b.Fatal(err)
			}
			defer memory.close()
			n := ruc.MustParse("20131312955")
			memory.put(n, &held{body: make([]byte, 2000), found: true, obtained: time.Now(), etag: []byte(`W/"abc"`), modified: []byte(time.Now().UTC().Format(httpTime))})
			w := &server{
				lookups: &lookups{l1: memory, refresh: &refresher{}, policy: ruc.Policy{TTL: time.Hour}, now: time.Now, metrics: m},
				access:  door, admin: &admin{}, metrics: m, now: time.Now, log: zerolog.Nop(),
			}
			handle := w.app(0).Handler()
			ctx := &fasthttp.RequestCtx{}
			ctx.Request.SetRequestURI("/obtener-ruc/" + n.String())
			ctx.Request.Header.SetHost("localhost:8000")
			ctx.Request.Header.Set("X-Forwarded-For", "198.51.100.7, 203.0.113.9")
			ctx.Request.Header.Set(headerAPIKey, key)
			b.ReportAllocs()
			for b.Loop() {
				ctx.Response.Reset()
				handle(ctx)
			}
			if ctx.Response.StatusCode() != 200 {
				b.Fatalf("%d %s", ctx.Response.StatusCode(), ctx.Response.Body())
			}
		})
	}
}

// instant is a store that holds one answer to everything and takes no time.
type instant []byte

func (instant) Kind() string { return "redis" }

func (v instant) Get(context.Context, ruc.Number) ([]byte, bool, error) { return v, true, nil }

// storedHits makes a server that reads the store at every lookup.
func storedHits(tb testing.TB, log zerolog.Logger, store answers) *server {
	tb.Helper()
	m, err := newMetrics(prometheus.NewRegistry(), store.Kind())
	if err != nil {
		tb.Fatal(err)
	}
	door, err := newAccess(Config{}, time.Now, m, log)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(door.close)
	memory, err := newL1(1<<20, 1) // for a nanosecond
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(memory.close)
	return &server{
		lookups: &lookups{l1: memory, store: store, refresh: &refresher{}, policy: ruc.Policy{TTL: time.Hour}, now: time.Now, metrics: m, log: log, hits: sampledHits(log)},
		access:  door, admin: &admin{}, metrics: m, now: time.Now, log: log,
	}
}

func storedAnswer(tb testing.TB, n ruc.Number) instant {
	tb.Helper()
	record := ruc.Record{Avisos: []string{strings.Repeat("aviso ", 200)}}
	value, err := ruc.Found(n, record, time.Now(), ruc.FuenteReplica, ruc.MotorHTTP).Encode()
	if err != nil {
		tb.Fatal(err)
	}
	return value
}

// BenchmarkStored is a hit of the store, as BenchmarkHit is one of the memory, without the
// time of the store: what the lookup adds to it, with the log lines that hits leave and
// without.
func BenchmarkStored(b *testing.B) {
	n := ruc.MustParse("20131312955")
	for name, level := range map[string]zerolog.Level{"info": zerolog.InfoLevel, "warn": zerolog.WarnLevel} {
		b.Run(name, func(b *testing.B) {
			log := zerolog.New(io.Discard).Level(level).With().Timestamp().Logger()
			handle := storedHits(b, log, storedAnswer(b, n)).app(0).Handler()
			ctx := &fasthttp.RequestCtx{}
			ctx.Request.SetRequestURI("/obtener-ruc/" + n.String())
			b.ReportAllocs()
			for b.Loop() {
				ctx.Response.Reset()
				handle(ctx)
			}
			if from := string(ctx.Response.Header.Peek(headerCacheStatus)); !strings.HasSuffix(from, "detail=redis") {
				b.Fatalf("%d %s", ctx.Response.StatusCode(), from)
			}
		})
	}
}
