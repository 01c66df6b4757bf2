//go:build linux

package bench

import (
	"context"
	"fmt"
	"net/http"
	"syscall"

	"github.com/nats-io/nats.go"

	"github.com/rucflow/rucflow/shared/wire"
)

// The variants of a Redis that is frozen.
const (
	healthyBurst = "64 lookups at once, Redis healthy"
	frozenBurst  = "64 lookups at once, Redis just frozen"
	healthyHits  = "memory hits, Redis healthy"
	frozenHits   = "memory hits, Redis frozen"
)

// frozen measures how long lookups of numbers that nobody holds take until a scraper has
// answered, which it does at once here: so what is more than with a healthy Redis was lost
// on Redis.
func frozen(ctx context.Context, l *lab) (Figures, error) {
	s, err := l.startServers(ctx)
	if err != nil {
		return nil, err
	}
	js, err := l.connect(ctx, s)
	if err != nil {
		return nil, err
	}
	if err := l.fill(ctx, s); err != nil {
		return nil, err
	}
	if err := l.answerAtOnce(js.Conn()); err != nil {
		return nil, err
	}
	g, err := l.startService(ctx, "gateway", s)
	if err != nil {
		return nil, err
	}
	asked := many // the numbers after those that Redis holds
	next := func() int { asked += callers; return asked - callers }
	if _, err := l.burst(ctx, g, next()); err != nil { // the first lookups connect
		return nil, err
	}
	if _, _, err := lookup(ctx, g.http, company(0), http.StatusOK); err != nil {
		return nil, err
	}
	memory := hit{server: g, load: load{addr: g.http, requests: [][]byte{request(http.MethodGet, path(company(0)))}, order: []int{0}, status: http.StatusOK}}
	return l.each(ctx, []string{healthyBurst, healthyHits, frozenBurst, frozenHits}, func(ctx context.Context, name string) (round map[string]float64, err error) {
		switch name {
		case healthyBurst:
			return l.burst(ctx, g, next())
		case frozenBurst:
			if err := s.redis.signal(syscall.SIGSTOP); err != nil {
				return nil, err
			}
			return l.burst(ctx, g, next())
		case frozenHits: // Redis is frozen since the burst
			defer func() {
				if err == nil {
					err = l.thaw(ctx, s, g)
				}
			}()
		}
		return l.hit(ctx, s, memory)
	})
}

// answerAtOnce is a scraper for which SUNAT takes no time.
func (l *lab) answerAtOnce(nc *nats.Conn) error {
	_, err := nc.QueueSubscribe(wire.SubjectResolve, wire.ScraperQueue, func(m *nats.Msg) {
		n, err := wire.ParseRequest(m.Data)
		if err != nil {
			return
		}
		body, err := answer(n, l.now())
		if err != nil {
			return
		}
		_ = m.Respond(body) // without a reply the lookup fails, and the scenario with it
	})
	return err
}

// burst is 64 lookups at once of numbers that nobody holds.
func (l *lab) burst(ctx context.Context, g server, first int) (map[string]float64, error) {
	all := load{addr: g.http, each: 1, status: http.StatusOK}
	for i := range callers {
		all.requests = append(all.requests, request(http.MethodGet, path(company(first+i))))
		all.order = append(all.order, i)
	}
	before, err := hitsOf(ctx, g, visited)
	if err != nil {
		return nil, err
	}
	took, err := all.run(ctx, readyWait, l.now)
	if err != nil {
		return nil, err
	}
	after, err := hitsOf(ctx, g, visited)
	if err == nil && after-before != callers {
		err = fmt.Errorf("%v of %d lookups asked a scraper", after-before, callers)
	}
	return latencies(took), err
}

// thaw lets Redis go on and waits until the gateway uses it again.
func (l *lab) thaw(ctx context.Context, s servers, g server) error {
	if err := s.redis.signal(syscall.SIGCONT); err != nil {
		return err
	}
	return l.connected(ctx, g)
}

// connected waits until a gateway uses Redis.
func (l *lab) connected(ctx context.Context, g server) error {
	return l.await(ctx, g.process, "Redis should be used again", func() bool {
		connected, err := metric(ctx, g.ops, "ruc_store_connected")
		return err == nil && connected == 1
	})
}
