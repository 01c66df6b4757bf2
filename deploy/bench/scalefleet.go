//go:build linux

package bench

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rucflow/rucflow/shared/wire"
)

const (
	gatewayRecords = 2000
	// politeTime is for some visits at the default pace of 1.1 s.
	politeTime = 22 * time.Second
	// waiting is how many callers each scraper has: more than tabs.
	waiting = 2 * slots
)

// gateways has several gateways asked at once, by as many callers together as one has.
func (s scaling) gateways(ctx context.Context) error {
	on, err := s.startServers(ctx)
	if err != nil {
		return err
	}
	r, err := s.openRedis(on)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // it returns nil
	if err := s.put(ctx, r, gatewayRecords, redisLanes); err != nil {
		return err
	}
	js, err := s.connect(ctx, on)
	if err != nil {
		return err
	}
	if err := s.answerAtOnce(js.Conn()); err != nil { // where Redis is late
		return err
	}
	for _, layer := range []string{heldInMemory, heldByRedis} {
		if err := s.gatewaysRound(ctx, on, layer); err != nil {
			return err
		}
	}
	return nil
}

func (s scaling) gatewaysRound(ctx context.Context, on servers, layer string) error {
	settings := []string{patientRead}
	if layer == heldByRedis {
		settings = append(settings, smallMemory)
	}
	all := make([]hit, s.count)
	for i := range all {
		g, err := s.startService(ctx, "gateway", on, settings...)
		if err != nil {
			return err
		}
		defer g.stop()
		if err := s.askOnce(ctx, g.http, gatewayRecords); err != nil {
			return err
		}
		all[i] = hit{server: g, layer: layer, load: sample(g.http, gatewayRecords, every)}
		all[i].load.few = callers / s.count
	}
	what := "gateways: " + layer + " hit"
	round, err := s.again(what, func() (map[string]float64, error) { return s.askTogether(ctx, on, all) })
	if err != nil {
		return err
	}
	s.noteHits(what, round)
	return nil
}

// askTogether measures several servers at once.
func (l *lab) askTogether(ctx context.Context, on servers, all []hit) (map[string]float64, error) {
	rounds := make([]map[string]float64, len(all))
	asking, ctx := errgroup.WithContext(ctx)
	for i, v := range all {
		asking.Go(func() (err error) {
			rounds[i], err = l.hit(ctx, on, v)
			return err
		})
	}
	if err := asking.Wait(); err != nil {
		return nil, err
	}
	return together(rounds), nil
}

// together is of servers that were measured at once: what all answer, what one answer
// costs in the mean, and the slowest of the latencies.
func together(rounds []map[string]float64) map[string]float64 {
	all := map[string]float64{}
	for _, r := range rounds {
		all[perSecond] += r[perSecond]
		all[serverCPU] += r[serverCPU] * r[perSecond]
		all[p50], all[p99] = max(all[p50], r[p50]), max(all[p99], r[p99])
	}
	all[serverCPU] /= all[perSecond]
	return all
}

// polite is of several scrapers with the settings for SUNAT as they are by default.
func (s scaling) polite(ctx context.Context) error {
	return s.scrapers(ctx, "scrapers, default pace", politeTime, "SUNAT_PAUSE=0")
}

// impolite is of several scrapers that the machine alone holds up.
func (s scaling) impolite(ctx context.Context) error {
	return s.scrapers(ctx, "scrapers, no pace and no limit", max(s.duration(), politeTime/2),
		"SUNAT_PAUSE=0", "SUNAT_PACE=0", fmt.Sprintf("SUNAT_MAX_CONCURRENT=%d", slots*s.count))
}

// scrapers has cold numbers visited for a while by several scrapers with as many callers
// as keep them busy.
func (s scaling) scrapers(ctx context.Context, what string, d time.Duration, settings ...string) error {
	f := &fleet{}
	var err error
	if f.servers, err = s.startServers(ctx); err != nil {
		return err
	}
	js, err := s.connect(ctx, f.servers)
	if err != nil {
		return err
	}
	f.nc = js.Conn()
	if f.site, err = s.startSite(ctx); err != nil {
		return err
	}
	measured := []*process{f.nats}
	for range s.count {
		if f.scraper, err = s.startService(ctx, "scraper", f.servers, append(settings, "SUNAT_URL="+f.url)...); err != nil {
			return err
		}
		if err := s.warm(ctx, f); err != nil {
			return err
		}
		measured = append(measured, f.scraper.process)
	}
	if err := s.visitFor(ctx, f, s.count, time.Second); err != nil { // the first visits connect
		return err
	}
	before, err := cpuOfAll(measured...)
	if err != nil {
		return err
	}
	began, posts := s.now(), f.Stats().Posts
	if err := s.visitFor(ctx, f, s.count*waiting, d); err != nil {
		return err
	}
	took, visits := s.now().Sub(began), float64(f.Stats().Posts-posts)
	after, err := cpuOfAll(measured...)
	if err != nil {
		return err
	}
	var scraping time.Duration
	for i := range s.count {
		scraping += after[i+1] - before[i+1]
	}
	s.note(what+": visits per second", visits/took.Seconds())
	s.note(what+": "+natsCPU+" per visit", float64((after[0]-before[0])/time.Microsecond)/visits)
	s.note(what+": CPU µs of the scraper per visit, its browser's not", float64(scraping/time.Microsecond)/visits)
	stats := f.Stats()
	s.note(what+": "+visitsEach, float64(stats.Posts)/float64(len(stats.Visits)))
	return nil
}

// visitFor has callers ask for cold numbers, each for the next one when it has its answer.
func (s scaling) visitFor(ctx context.Context, f *fleet, count int, d time.Duration) error {
	end := s.now().Add(d)
	var mu sync.Mutex
	asking, ctx := errgroup.WithContext(ctx)
	for range count {
		asking.Go(func() error {
			for s.now().Before(end) {
				mu.Lock()
				n := f.cold()
				mu.Unlock()
				m, err := f.nc.RequestWithContext(ctx, wire.SubjectResolve, n.AppendTo(nil))
				if err == nil {
					_, err = wire.ReadReply(n, m)
				}
				if err != nil {
					return fmt.Errorf("%s: %w", n, err)
				}
			}
			return nil
		})
	}
	return asking.Wait()
}
