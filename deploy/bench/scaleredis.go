//go:build linux

package bench

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/rucflow/rucflow/shared/ruc"
)

// redis is of answers in Redis, and of a gateway's memory that is filled from it.
func (s scaling) redis(ctx context.Context) error {
	// It writes to its disk as one that is deployed does, but for the sync of each write.
	on, err := s.startServers(ctx, "--appendonly", "yes", "--auto-aof-rewrite-percentage", "0")
	if err != nil {
		return err
	}
	js, err := s.connect(ctx, on)
	if err != nil {
		return err
	}
	if err := s.answerAtOnce(js.Conn()); err != nil { // where Redis is late
		return err
	}
	empty, err := usedByRedis(ctx, on)
	if err != nil {
		return err
	}
	if err := s.fillRedis(ctx, on, empty); err != nil {
		return err
	}
	g, err := s.startService(ctx, "gateway", on, patientRead, smallMemory, "ADMIN_TOKEN="+adminToken)
	if err != nil {
		return err
	}
	round, err := s.hitAgain(ctx, on, "Redis: hit", hit{server: g, layer: heldByRedis, load: sample(g.http, s.count, every)})
	if err != nil {
		return err
	}
	s.noteHits("Redis: hit", round)
	s.note("Redis: hit: "+redisCPU, round[redisCPU])
	if err := s.memory(ctx, on); err != nil {
		return err
	}
	if err := s.restartRedis(ctx, &on, g); err != nil {
		return err
	}
	if err := s.invalidations(ctx, g); err != nil {
		return err
	}
	left, err := usedByRedis(ctx, on)
	s.note("Redis: bytes per record, its version alone", (left-empty)/float64(s.count))
	return err
}

// fillRedis puts the records into an empty Redis.
func (s scaling) fillRedis(ctx context.Context, on servers, empty float64) error {
	r, err := s.openRedis(on)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // it returns nil
	began := s.now()
	if err := s.put(ctx, r, s.count, redisLanes); err != nil {
		return err
	}
	s.noteSince("Redis: filled", began)
	full, err := usedByRedis(ctx, on)
	if err != nil {
		return err
	}
	s.note("Redis: bytes per record, with its version", (full-empty)/float64(s.count))
	_, err = s.noteMemory("Redis", on.redis)
	return err
}

// usedByRedis is what Redis has allocated, in bytes.
func usedByRedis(ctx context.Context, on servers) (float64, error) {
	client := redis.NewClient(&redis.Options{Addr: on.redisAddr})
	defer func() { _ = client.Close() }() // nothing was written
	info, err := client.Info(ctx, "memory").Result()
	if err != nil {
		return 0, err
	}
	return usedMemory(info)
}

// usedMemory reads the text of INFO memory.
func usedMemory(info string) (float64, error) {
	_, after, found := strings.Cut(info, "\r\nused_memory:")
	value, _, ended := strings.Cut(after, "\r\n")
	if !found || !ended {
		return 0, fmt.Errorf("no used_memory in INFO memory: %q", info)
	}
	return strconv.ParseFloat(value, 64)
}

// restartRedis kills Redis and waits until it has read its append-only file and the
// gateway uses it.
func (s scaling) restartRedis(ctx context.Context, on *servers, g server) (err error) {
	began := s.now()
	if on.redis, err = s.restart(on.redis); err != nil {
		return err
	}
	client := redis.NewClient(&redis.Options{Addr: on.redisAddr})
	defer func() { _ = client.Close() }() // nothing was written
	err = s.awaitFor(ctx, scaleWait, on.redis, "it should serve", func() bool { return client.Ping(ctx).Err() == nil })
	if err != nil {
		return err
	}
	s.noteSince("Redis: killed, until it serves", began)
	return s.connected(ctx, g)
}

// invalidations has patterns invalidated while others of the records are asked for.
func (s scaling) invalidations(ctx context.Context, g server) error {
	spared := ruc.MustParsePattern(someNumbers)
	hits := sample(g.http, s.count, func(n ruc.Number) bool { return !spared.Matches(n) })
	for _, run := range []struct {
		what, pattern string
		dryRun        bool
	}{{"Redis: pattern, dry run of all", allNumbers, true}, {"Redis: pattern, a number in eleven", someNumbers, false}} {
		var count int
		round, took, err := s.during(ctx, hits, func(ctx context.Context) (err error) {
			count, err = invalidate(ctx, g, run.pattern, run.dryRun)
			return err
		})
		if err == nil {
			err = s.checkDeleted(run.pattern, count)
		}
		if err != nil {
			return err
		}
		s.note(run.what+": "+seconds, took.Seconds())
		s.noteHits(run.what+", hits meanwhile", round)
	}
	began := s.now()
	_, err := invalidate(ctx, g, allNumbers, false)
	s.noteSince("Redis: pattern, all that is left", began)
	return err
}

// memory is of a gateway that holds every record, and of one with the default bound.
func (s scaling) memory(ctx context.Context, on servers) error {
	const perRecord = 4 << 10 // more than one takes
	wide, err := s.startService(ctx, "gateway", on, patientRead, fmt.Sprintf("CACHE_MEMORY_BYTES=%d", s.count*perRecord), "L1_TTL=24h")
	if err != nil {
		return err
	}
	if err := s.fillMemory(ctx, wide, "memory, all records", s.count); err != nil {
		return err
	}
	round, err := s.hitAgain(ctx, on, "memory: hit", hit{server: wide, layer: heldInMemory, load: sample(wide.http, s.count, every)})
	if err != nil {
		return err
	}
	s.noteHits("memory, all records: hit", round)
	wide.stop()
	bounded, err := s.startService(ctx, "gateway", on, patientRead)
	if err != nil {
		return err
	}
	defer bounded.stop()
	return s.fillMemory(ctx, bounded, "memory, default bound", min(s.count, sampled))
}

// fillMemory asks a gateway for records until it holds as many as it may.
func (s scaling) fillMemory(ctx context.Context, g server, what string, count int) error {
	empty, err := memoryOfAll([]int{g.pid()})
	if err != nil {
		return err
	}
	began := s.now()
	if err := s.askOnce(ctx, g.http, count); err != nil {
		return err
	}
	s.noteSince(what+": filled from Redis", began)
	held, err := metric(ctx, g.ops, "ruc_memory_entries")
	if err != nil {
		return err
	}
	heap, err := metric(ctx, g.ops, "go_memstats_heap_alloc_bytes")
	if err != nil {
		return err
	}
	full, err := s.noteMemory(what, g.process)
	s.note(what+": records held", held)
	s.note(what+": bytes of RSS per record", (full-empty[rssMiB]*mib)/held)
	s.note(what+": bytes of heap per record, garbage too", heap/held)
	return err
}
