//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The variants of the hits.
const (
	bareFiber      = "bare Fiber"
	gatewayMemory  = "gateway, memory hit"
	gateway304     = "gateway, 304"
	gateway404     = "gateway, not found"
	gatewayHEAD    = "gateway, HEAD"
	gatewayZipf    = "gateway, memory, Zipf mix of 10,000"
	bareGoRedis    = "bare Fiber + go-redis"
	bareRueidis    = "bare Fiber + rueidis"
	gatewayRedis   = "gateway, Redis hit"
	gatewayUnheard = "gateway, Redis hit, LOG_LEVEL=warn"
)

// warmUp is how long a variant is asked before it is measured: its turn comes after
// seconds without work.
const warmUp = 200 * time.Millisecond

// smallMemory holds some 30 of the 10,000 answers, so that nearly every lookup is a hit of
// Redis, and fills the memory as hits of Redis do.
const smallMemory = "CACHE_MEMORY_BYTES=64KiB"

// On a crowded machine Redis is late at times, and lookups go on to a scraper. A round with
// a smaller share of hits than minShare tells nothing of them and is measured again.
const (
	minShare = 0.9
	hitTries = 5
)

var errFewHits = errors.New("too few of the lookups were hits of the layer that is measured")

// The layers of a gateway's metric that are looked at.
const (
	heldInMemory = "memory"
	heldByRedis  = "redis"
	heldInFiles  = "file"
	visited      = "visit"
)

// hit is one variant: whom to ask what.
type hit struct {
	server server
	load   load
	layer  string // that is to answer nearly every lookup; "" = any
}

// hits asks the gateway and the least programs for answers that are held.
func hits(ctx context.Context, l *lab) (Figures, error) {
	s, err := l.startServers(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.fill(ctx, s); err != nil {
		return nil, err
	}
	js, err := l.connect(ctx, s)
	if err != nil {
		return nil, err
	}
	if err := l.answerAtOnce(js.Conn()); err != nil {
		return nil, err
	}
	order, variants, err := l.hitVariants(ctx, s)
	if err != nil {
		return nil, err
	}
	figures, err := l.each(ctx, order, func(ctx context.Context, name string) (map[string]float64, error) {
		return l.hitAgain(ctx, s, name, variants[name])
	})
	if err != nil || l.Profiles == "" {
		return figures, err
	}
	for _, name := range order {
		if err := l.profile(ctx, name, variants[name]); err != nil {
			return nil, fmt.Errorf("profile of %s: %w", name, err)
		}
	}
	return figures, nil
}

// hitVariants starts whom the variants ask, with all that is to be held held.
func (l *lab) hitVariants(ctx context.Context, s servers) (order []string, variants map[string]hit, err error) {
	n := company(0)
	gateways := map[string]server{}
	for name, settings := range map[string][]string{"memory": nil, "redis": {smallMemory}, "unheard": {smallMemory, "LOG_LEVEL=warn"}} {
		if gateways[name], err = l.startService(ctx, "gateway", s, settings...); err != nil {
			return nil, nil, err
		}
	}
	memory := gateways["memory"]
	for i := range many {
		if _, _, err := lookup(ctx, memory.http, company(i), http.StatusOK); err != nil {
			return nil, nil, err
		}
	}
	if _, _, err := lookup(ctx, memory.http, missing, http.StatusNotFound); err != nil {
		return nil, nil, err
	}
	from, etag, err := lookup(ctx, memory.http, n, http.StatusOK)
	if err != nil || !strings.HasSuffix(from, "detail=memory") {
		return nil, nil, fmt.Errorf("a memory hit is expected: %q: %w", from, err)
	}
	bare := map[string]server{}
	for _, redisClient := range []string{"", "go-redis", "rueidis"} {
		if bare[redisClient], err = l.startBare(ctx, s, "http://"+memory.http+path(n), redisClient); err != nil {
			return nil, nil, err
		}
	}
	one := func(on server, status int, method string, lines ...string) hit {
		return hit{server: on, load: load{
			addr: on.http, requests: [][]byte{request(method, path(n), lines...)}, order: []int{0}, status: status, bodiless: method == http.MethodHead || status == http.StatusNotModified,
		}}
	}
	mix := func(on server, order []int, layer string) hit {
		return hit{server: on, layer: layer, load: load{addr: on.http, requests: everyNumber(), order: order, status: http.StatusOK}}
	}
	notFound := one(memory, http.StatusNotFound, http.MethodGet)
	notFound.load.requests[0] = request(http.MethodGet, path(missing))
	evenly := rand.New(rand.NewPCG(1, 0)).Perm(many) //nolint:gosec // the same mix in every run
	return []string{bareFiber, gatewayMemory, gateway304, gateway404, gatewayHEAD, gatewayZipf, bareGoRedis, bareRueidis, gatewayRedis, gatewayUnheard}, map[string]hit{
		bareFiber:      one(bare[""], http.StatusOK, http.MethodGet),
		gatewayMemory:  one(memory, http.StatusOK, http.MethodGet),
		gateway304:     one(memory, http.StatusNotModified, http.MethodGet, "If-None-Match: "+etag),
		gateway404:     notFound,
		gatewayHEAD:    one(memory, http.StatusOK, http.MethodHead),
		gatewayZipf:    mix(memory, zipf(), ""),
		bareGoRedis:    mix(bare["go-redis"], evenly, heldByRedis),
		bareRueidis:    mix(bare["rueidis"], evenly, heldByRedis),
		gatewayRedis:   mix(gateways["redis"], evenly, heldByRedis),
		gatewayUnheard: mix(gateways["unheard"], evenly, heldByRedis),
	}, nil
}

// startBare starts the least program, which sends the response that is at url.
func (l *lab) startBare(ctx context.Context, s servers, url, redisClient string) (v server, err error) {
	if v.http, err = freeAddr(ctx); err != nil {
		return v, err
	}
	v.process, err = l.start("bare", "bare", []string{"-addr", v.http, "-copy", url, "-redis", s.redisAddr, "-client", redisClient}, nil)
	if err != nil {
		return v, err
	}
	return v, l.answers(ctx, v.process, "http://"+v.http+path(company(0)))
}

func everyNumber() (all [][]byte) {
	for i := range many {
		all = append(all, request(http.MethodGet, path(company(i))))
	}
	return all
}

// zipf is a row of numbers of which few are asked for often, as in life.
func zipf() []int {
	const length, exponent = 100_000, 1.1
	z := rand.NewZipf(rand.New(rand.NewPCG(1, 0)), exponent, 1, many-1) //nolint:gosec // the same mix in every run
	order := make([]int, length)
	for i := range order {
		order[i] = int(z.Uint64()) //nolint:gosec // less than many
	}
	return order
}

// hitAgain measures one variant for a round, more than once where need be.
func (l *lab) hitAgain(ctx context.Context, s servers, name string, v hit) (map[string]float64, error) {
	return l.again(name, func() (map[string]float64, error) { return l.hit(ctx, s, v) })
}

// again measures hits until enough of the lookups are, or too often.
func (l *lab) again(name string, measure func() (map[string]float64, error)) (round map[string]float64, err error) {
	for range hitTries {
		if round, err = measure(); !errors.Is(err, errFewHits) {
			break
		}
		fmt.Fprintf(l.out, "%s is measured again: %v\n", name, err)
	}
	return round, err
}

// hit measures one variant for a round.
func (l *lab) hit(ctx context.Context, s servers, v hit) (map[string]float64, error) {
	if _, err := v.load.run(ctx, warmUp, l.now); err != nil {
		return nil, err
	}
	before, err := v.count(ctx, s)
	if err != nil {
		return nil, err
	}
	d := l.duration()
	took, err := v.load.run(ctx, d, l.now)
	if err != nil {
		return nil, err
	}
	after, err := v.count(ctx, s)
	if err != nil {
		return nil, err
	}
	n := float64(len(took))
	round := latencies(took)
	round[perSecond] = n / d.Seconds()
	round[serverCPU] = float64((after.server-before.server)/time.Microsecond) / n
	if v.layer == heldByRedis {
		round[redisCPU] = float64((after.redis-before.redis)/time.Microsecond) / n
	}
	if v.layer != "" && v.server.ops != "" {
		share := (after.hits - before.hits) / n
		if share < minShare {
			return nil, fmt.Errorf("%w: %s %.2f", errFewHits, v.layer, share)
		}
		if v.layer == heldByRedis {
			round[redisShare] = share
		}
	}
	return round, nil
}

// latencies are the figures of how long responses took, sorted, in microseconds.
func latencies(took []uint32) map[string]float64 {
	return map[string]float64{p50: float64(percentile(took, 50)) / 1000, p99: float64(percentile(took, 99)) / 1000}
}

// counts are what a round is the difference of.
type counts struct {
	server, redis time.Duration // CPU
	hits          float64       // of the layer, as the gateway counts them
}

func (v hit) count(ctx context.Context, s servers) (c counts, err error) {
	if v.layer != "" && v.server.ops != "" {
		if c.hits, err = hitsOf(ctx, v.server, v.layer); err != nil {
			return c, err
		}
	}
	if c.server, err = v.server.cpu(); err != nil {
		return c, err
	}
	if v.layer == heldByRedis {
		c.redis, err = s.redis.cpu()
	}
	return c, err
}

// profile writes a CPU profile of a gateway at work, apart from the rounds.
func (l *lab) profile(ctx context.Context, name string, v hit) error {
	if v.server.ops == "" {
		return nil // of the bare ones there is nothing to mend
	}
	loaded := make(chan error, 1)
	go func() {
		_, err := v.load.run(ctx, l.duration()+warmUp, l.now)
		loaded <- err
	}()
	status, _, body, err := get(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", v.server.ops, max(1, int(l.Seconds))))
	if err = errors.Join(err, <-loaded); err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("status %d: %s", status, body)
	}
	return os.WriteFile(filepath.Join(l.Profiles, strings.NewReplacer(",", "", " ", "-").Replace(name)+".pprof"), body, 0o644) //nolint:gosec // for everybody
}

// hitsOf is how many lookups a gateway has answered from a layer.
func hitsOf(ctx context.Context, g server, layer string) (float64, error) {
	return metric(ctx, g.ops, `ruc_lookup_duration_seconds_count{layer="`+layer+`"`)
}
