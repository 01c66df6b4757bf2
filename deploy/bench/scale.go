//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rucflow/rucflow/deploy/admin"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/store"
)

const (
	// minRecords are far more than smallMemory holds; maxRecords have numbers of their own.
	minRecords = 1000
	maxRecords = 10_000_000

	// sampled is how many of the records are asked for at most.
	sampled = 50_000
	// fewCallers leave a machine of two cores idle now and then, so that what they wait for
	// is the answer and not each other.
	fewCallers = 4
	// scaleWait is for what takes minutes with a million records.
	scaleWait = 15 * time.Minute

	redisLanes = 2 // batches at once, as a cachewriter has
	fileLanes  = 16

	// patientRead lets a hit that is late count as late. By default it would be a miss.
	patientRead = "REDIS_TIMEOUT=1s"

	adminToken = "0123456789abcdef" // of gateways that nobody else knows of
)

// The patterns that are invalidated: a number in eleven, and all.
const (
	someNumbers = "*7"
	allNumbers  = "20*"
)

// scaling is one column of the figures: so many records, or so many processes.
type scaling struct {
	*lab
	figures *Figures
	column  string
	count   int
}

// note keeps a figure, and shows it at once: the next may take minutes.
func (s scaling) note(what string, value float64) {
	s.figures.add(what, map[string]float64{s.column: value})
	fmt.Fprintf(s.out, "%s: %s: %s\n", s.column, what, number(value))
}

// noteHits keeps how long the answers of a load took, and what one cost.
func (s scaling) noteHits(what string, round map[string]float64) {
	for _, measure := range []string{p50, p99, perSecond, serverCPU} {
		if v, measured := round[measure]; measured {
			s.note(what+": "+measure, v)
		}
	}
}

// noteSince keeps how long something has taken.
func (s scaling) noteSince(what string, began time.Time) {
	s.note(what+": "+seconds, s.now().Sub(began).Seconds())
}

// noteMemory keeps what a process holds.
func (s scaling) noteMemory(what string, p *process) (bytes float64, err error) {
	m, err := memoryOfAll([]int{p.pid()})
	if err == nil {
		s.note(what+": "+rssMiB+" MiB", m[rssMiB])
	}
	return m[rssMiB] * mib, err
}

// scale is what each part takes for more and more records, and for more processes. Each
// figure is measured once: a round takes many minutes.
func scale(ctx context.Context, l *lab) (f Figures, err error) {
	counts, err := l.records()
	if err != nil {
		return nil, err
	}
	for _, count := range counts {
		for _, part := range []func(scaling, context.Context) error{scaling.redis, scaling.files, scaling.stream} {
			if err := l.scaled(ctx, &f, fmt.Sprintf("records: %d", count), count, part); err != nil {
				return nil, err
			}
		}
	}
	for _, count := range []int{1, 2, 4} {
		for _, part := range []func(scaling, context.Context) error{scaling.gateways, scaling.polite, scaling.impolite} {
			if err := l.scaled(ctx, &f, fmt.Sprintf("processes: %d", count), count, part); err != nil {
				return nil, err
			}
		}
	}
	return f, nil
}

// scaled measures a part with processes of its own.
func (l *lab) scaled(ctx context.Context, f *Figures, column string, count int, part func(scaling, context.Context) error) error {
	_, err := l.measure(ctx, scenario{run: func(ctx context.Context, l *lab) (Figures, error) {
		return nil, part(scaling{lab: l, figures: f, column: column, count: count}, ctx)
	}})
	if err != nil {
		return fmt.Errorf("%s: %w", column, err)
	}
	return nil
}

// sample are a few callers who ask for some of the first records, spread over all of them,
// by chance.
func sample(addr string, records int, ask func(ruc.Number) bool) load {
	all := load{addr: addr, status: http.StatusOK, few: fewCallers}
	size := min(records, sampled)
	for _, i := range rand.New(rand.NewPCG(1, 0)).Perm(size) { //nolint:gosec // the same mix in every run
		if n := company(i * (records / size)); ask(n) {
			all.order = append(all.order, len(all.requests))
			all.requests = append(all.requests, request(http.MethodGet, path(n)))
		}
	}
	return all
}

func every(ruc.Number) bool { return true }

// askOnce has a gateway asked for the first records, each once.
func (s scaling) askOnce(ctx context.Context, addr string, count int) error {
	all := load{addr: addr, status: http.StatusOK, each: (count + callers - 1) / callers}
	for i := range count {
		all.order = append(all.order, i)
		all.requests = append(all.requests, request(http.MethodGet, path(company(i))))
	}
	_, err := all.run(ctx, scaleWait, s.now)
	return err
}

// during measures hits while something is done, in short loads: how long it takes is not
// known before.
func (s scaling) during(ctx context.Context, hits load, do func(context.Context) error) (round map[string]float64, took time.Duration, err error) {
	const slice = 100 * time.Millisecond
	began, done := s.now(), make(chan error, 1)
	go func() {
		err := do(ctx)
		took = s.now().Sub(began)
		done <- err
	}()
	var all []uint32
	for {
		part, err := hits.run(ctx, slice, s.now)
		if err != nil {
			return nil, 0, errors.Join(err, <-done)
		}
		all = append(all, part...)
		select {
		case err := <-done:
			slices.Sort(all)
			return latencies(all), took, err
		default:
		}
	}
}

// invalidate has a gateway invalidate a pattern, as the command does, and returns how many
// answers that were.
func invalidate(ctx context.Context, g server, pattern string, dryRun bool) (count int, err error) {
	var said strings.Builder
	err = admin.Invalidate(ctx, admin.Invalidation{Gateway: "http://" + g.http, Token: adminToken, Pattern: pattern, DryRun: dryRun}, &said)
	if err == nil {
		_, err = fmt.Sscanf(said.String(), "%d answers", &count)
	}
	return count, err
}

// files is of the all-in-one's cache in files.
func (s scaling) files(ctx context.Context) error {
	dir, err := s.folder("files")
	if err != nil {
		return err
	}
	const noBound = 1 << 40
	held, err := store.NewFile(dir, noBound, s.now)
	if err != nil {
		return err
	}
	if err := held.Claim(ctx, ruc.FuenteReplica); err != nil {
		return err
	}
	began := s.now()
	if err := s.put(ctx, held, s.count, fileLanes); err != nil {
		return err
	}
	s.noteSince("files: filled", began)
	size, inodes, err := diskOf(dir)
	if err != nil {
		return err
	}
	s.note("files: bytes on disk per record", size/float64(s.count))
	s.note("files: inodes per record", inodes/float64(s.count))
	if err := s.allInOne(ctx, dir, fmt.Sprint(noBound)); err != nil {
		return err
	}
	return s.sweepFiles(ctx, held)
}

// allInOne starts one on the files and asks it, while it looks through them all, as it does
// at start and every ten minutes, and after.
func (s scaling) allInOne(ctx context.Context, dir, bound string) (err error) {
	data, err := s.folder("data")
	if err != nil {
		return err
	}
	var all server
	if all.http, err = freeAddr(ctx); err != nil {
		return err
	}
	if all.ops, err = freeAddr(ctx); err != nil {
		return err
	}
	began := s.now()
	all.process, err = s.start("rucflow", "rucflow", []string{"-replica", "-replica-addr", "127.0.0.1:0"}, []string{
		"HTTP_ADDR=" + all.http, "OPS_ADDR=" + all.ops, "NATS_ADDR=", "DATA_DIR=" + data, "CACHE_DIR=" + dir, "CACHE_FILE_BYTES=" + bound, smallMemory, "LOG_LEVEL=warn",
	})
	if err != nil {
		return err
	}
	defer all.stop()
	from := ""
	err = s.await(ctx, all.process, "it should answer", func() (ok bool) {
		var err error
		from, _, err = lookup(ctx, all.http, company(s.count/2), http.StatusOK)
		return err == nil
	})
	if err != nil || !strings.Contains(from, "detail="+heldInFiles) {
		return fmt.Errorf("a hit of a file is expected: %q: %w", from, err)
	}
	s.noteSince("files: all-in-one, start to first hit", began)
	hits := hit{server: all, layer: heldInFiles, load: sample(all.http, s.count, every)}
	sweeping, err := s.hitAgain(ctx, servers{}, "files: hit while the first sweep goes on", hits)
	if err != nil {
		return err
	}
	s.noteHits("files: hit while the first sweep goes on", sweeping)
	if err := s.quiet(ctx, all.process); err != nil {
		return err
	}
	calm, err := s.hitAgain(ctx, servers{}, "files: hit", hits)
	if err != nil {
		return err
	}
	s.noteHits("files: hit", calm)
	most, err := peakOf(all.pid())
	s.note("files: all-in-one, most MiB", most/mib)
	return err
}

// quiet waits until a process takes less than a tenth of a core.
func (s scaling) quiet(ctx context.Context, p *process) error {
	const while = time.Second
	since, before := s.now(), time.Duration(0)
	var failure error
	err := s.awaitFor(ctx, scaleWait, p, "it should come to rest", func() bool {
		if s.now().Sub(since) < while {
			return false
		}
		took, err := p.cpu()
		rests := took-before < while/10
		since, before, failure = s.now(), took, err
		return rests || err != nil
	})
	if err != nil {
		return err
	}
	return failure
}

// sweepFiles looks through the files, and deletes some, as the all-in-one would.
func (s scaling) sweepFiles(ctx context.Context, held *store.File) error {
	began := s.now()
	if err := held.Sweep(ctx); err != nil {
		return err
	}
	s.noteSince("files: sweep", began)
	for _, run := range []struct {
		what, pattern string
		dryRun        bool
	}{{"files: pattern, dry run of all", allNumbers, true}, {"files: pattern, a number in eleven", someNumbers, false}} {
		began = s.now()
		count, err := held.DeletePattern(ctx, ruc.MustParsePattern(run.pattern), run.dryRun)
		if err != nil {
			return err
		}
		s.noteSince(run.what, began)
		if err := s.checkDeleted(run.pattern, count); err != nil {
			return err
		}
	}
	return nil
}

// checkDeleted looks whether a pattern has met as many records as it matches.
func (s scaling) checkDeleted(pattern string, count int) error {
	p, want := ruc.MustParsePattern(pattern), 0
	for i := range s.count {
		if p.Matches(company(i)) {
			want++
		}
	}
	if count != want {
		return fmt.Errorf("%s met %d records and not %d", pattern, count, want)
	}
	return nil
}

// diskOf is what a folder takes on the disk, in bytes and in inodes.
func diskOf(dir string) (bytes, inodes float64, err error) {
	const block = 512 // of st_blocks, whatever the file system's are
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			bytes += float64(stat.Blocks * block)
		}
		inodes++
		return nil
	})
	return bytes, inodes, err
}
