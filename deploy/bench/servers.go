//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/store"
	"github.com/rucflow/rucflow/shared/wire"
)

// servers are what the services stand on, with nothing in them.
type servers struct {
	redis, nats         *process
	redisAddr, natsAddr string
	streams             string // the folder of NATS
}

// startServers starts a Redis that keeps nothing on disk, unless further settings say so,
// and a NATS that does.
func (l *lab) startServers(ctx context.Context, redisSettings ...string) (s servers, err error) {
	if s.redisAddr, err = freeAddr(ctx); err != nil {
		return s, err
	}
	host, port, err := net.SplitHostPort(s.redisAddr)
	if err != nil {
		return s, err
	}
	data, err := l.folder("redis")
	if err != nil {
		return s, err
	}
	args := append([]string{"--bind", host, "--port", port, "--save", "", "--appendonly", "no", "--dir", data}, redisSettings...)
	if s.redis, err = l.start("redis", "redis-server", args, nil); err != nil {
		return s, err
	}
	if err := l.redisReady(ctx, s); err != nil {
		return s, err
	}
	if s.streams, err = l.folder("streams"); err != nil {
		return s, err
	}
	if s.natsAddr, err = freeAddr(ctx); err != nil {
		return s, err
	}
	if host, port, err = net.SplitHostPort(s.natsAddr); err != nil {
		return s, err
	}
	s.nats, err = l.start("nats", "nats-server", []string{"--addr", host, "--port", port, "--jetstream", "--store_dir", s.streams}, nil)
	if err != nil {
		return s, err
	}
	return s, l.natsReady(ctx, s)
}

func (l *lab) redisReady(ctx context.Context, s servers) error {
	return l.said(ctx, s.redis, "Ready to accept connections")
}

func (l *lab) natsReady(ctx context.Context, s servers) error {
	return l.said(ctx, s.nats, "Server is ready")
}

// server is a process that answers over HTTP.
type server struct {
	*process
	http, ops string
}

// startService starts a service as it is deployed, with further settings.
func (l *lab) startService(ctx context.Context, name string, s servers, settings ...string) (v server, err error) {
	if v.http, err = freeAddr(ctx); err != nil {
		return v, err
	}
	if v.ops, err = freeAddr(ctx); err != nil {
		return v, err
	}
	environ := append([]string{
		"NATS_URL=nats://" + s.natsAddr, "REDIS_URL=redis://" + s.redisAddr, "HTTP_ADDR=" + v.http, "OPS_ADDR=" + v.ops,
		"SUNAT_URL=http://127.0.0.1:1/", "OPS_PPROF=true", // nobody asks the site
	}, settings...)
	if v.process, err = l.start(name, name, nil, environ); err != nil {
		return v, err
	}
	return v, l.answers(ctx, v.process, "http://"+v.ops+"/readyz")
}

// answers waits until a process answers with a 200.
func (l *lab) answers(ctx context.Context, p *process, url string) error {
	return l.await(ctx, p, "it should serve", func() bool {
		status, _, _, err := get(ctx, url)
		return err == nil && status == http.StatusOK
	})
}

// connect is a client of the servers' NATS, which has the streams of the events.
func (l *lab) connect(ctx context.Context, s servers) (jetstream.JetStream, error) {
	nc, err := service.NATSConfig{URL: "nats://" + s.natsAddr}.Connect("bench", zerolog.Nop())
	if err != nil {
		return nil, err
	}
	l.stops = append(l.stops, nc.Close)
	if err := wire.AwaitServer(ctx, nc); err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	p := wire.Provisioner{JS: js, Source: ruc.FuenteReplica, Warn: func(string, string, string, string) {}}
	return js, errors.Join(p.Events(ctx, eventsMaxAge), p.Cachewriter(ctx), p.Dead(ctx))
}

const eventsMaxAge = 45 * 24 * time.Hour // the default of EVENTS_MAX_AGE

// many are the numbers of the mixes, of companies.
const many = 10_000

// company is the i-th of a row of numbers.
func company(i int) ruc.Number { return ruc.FromPrefix(fmt.Sprintf("20%08d", i)) }

// cold is the i-th of a row of numbers that the replica knows and nobody has asked for.
func cold(i int) ruc.Number { return ruc.FromPrefix(fmt.Sprintf("2055%06d", i)) }

// missing is a number that SUNAT does not know.
var missing = ruc.FromPrefix("2099999999")

// answer is an encoded answer of the usual size, 2 KB.
func answer(n ruc.Number, at time.Time) ([]byte, error) {
	return ruc.Found(n, ruc.Record{
		RazonSocial: "EMPRESA DE PRUEBA S.A.C.", TipoContribuyente: "SOCIEDAD ANONIMA CERRADA", TipoPersona: ruc.PersonaJuridica,
		Estado: "ACTIVO", Activo: true, Condicion: "HABIDO", Habido: true,
		Avisos: []string{strings.Repeat("aviso ", 130)},
	}, at, ruc.FuenteReplica, ruc.MotorHTTP).Encode()
}

// fill puts the answers to the first many numbers, and to the missing one, into Redis.
func (l *lab) fill(ctx context.Context, s servers) error {
	r, err := l.openRedis(s)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // it returns nil
	body, err := ruc.Missing(missing, l.now(), ruc.FuenteReplica, ruc.MotorHTTP).Encode()
	if err != nil {
		return err
	}
	if err := r.Put(ctx, []store.Entry{entry(missing, body)}); err != nil {
		return err
	}
	return l.put(ctx, r, many, 1)
}

// openRedis is the servers' Redis as a store.
func (l *lab) openRedis(s servers) (*store.Redis, error) {
	return store.NewRedis(store.RedisConfig{URL: "redis://" + s.redisAddr, Timeout: time.Second}, ruc.FuenteReplica, l.now, zerolog.Nop())
}

// putter is a store that takes answers.
type putter interface {
	Put(ctx context.Context, entries []store.Entry) error
}

// put puts the answers to the first numbers into a store, in as many batches at once.
func (l *lab) put(ctx context.Context, to putter, count, atOnce int) error {
	putting, ctx := errgroup.WithContext(ctx)
	putting.SetLimit(atOnce)
	for first := 0; first < count && ctx.Err() == nil; first += pipelined {
		putting.Go(func() error {
			var entries []store.Entry
			for i := first; i < min(first+pipelined, count); i++ {
				body, err := answer(company(i), l.now())
				if err != nil {
					return err
				}
				entries = append(entries, entry(company(i), body))
			}
			return to.Put(ctx, entries)
		})
	}
	return putting.Wait()
}

// entry is an answer that is held for a day.
func entry(n ruc.Number, body []byte) store.Entry {
	return store.Entry{RUC: n, Value: body, Version: store.Version{Seq: 1}, TTL: 24 * time.Hour}
}

// client keeps no connection: nothing of it is left when what it asks is measured.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// get asks once and reads all of the response.
func get(ctx context.Context, url string) (status int, h http.Header, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it is read to its end
	body, err = io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, body, err
}

// lookup asks a gateway for a number and returns where the answer came from, as its
// Cache-Status says, with the ETag.
func lookup(ctx context.Context, addr string, n ruc.Number, want int) (from, etag string, err error) {
	status, h, body, err := get(ctx, "http://"+addr+path(n))
	if err != nil {
		return "", "", err
	}
	if status != want {
		return "", "", fmt.Errorf("%s: status %d: %s", n, status, body)
	}
	return h.Get("Cache-Status"), h.Get("ETag"), nil
}

func path(n ruc.Number) string { return "/obtener-ruc/" + n.String() }
