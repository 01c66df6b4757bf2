//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rucflow/rucflow/shared/ruc"
)

// The measures of a footprint, all of them in MiB.
const (
	binaryMiB = "binary"
	rssMiB    = "RSS"
	pssMiB    = "PSS"
)

// loadedVisits is how many visits a scraper has made when it counts as loaded.
const loadedVisits = 30

// sampleEvery is how often a process at work is looked at; the most that it holds counts.
const sampleEvery = 50 * time.Millisecond

// footprint is what each program takes on the disk, and in memory with nothing to do and
// at work.
func footprint(ctx context.Context, l *lab) (f Figures, err error) {
	for _, program := range []string{"gateway", "scraper", "cachewriter", "audit", "prewarm", "rucflow"} {
		info, err := os.Stat(filepath.Join(l.dir, program))
		if err != nil {
			return nil, err
		}
		f.add(program, map[string]float64{binaryMiB: float64(info.Size()) / mib})
	}
	err = l.apart(ctx, &f, gatewayFootprint, readersFootprint, scraperFootprint, allFootprint)
	return f, err
}

func gatewayFootprint(ctx context.Context, l *lab, f *Figures) error {
	s, err := l.startServers(ctx)
	if err != nil {
		return err
	}
	if err := l.fill(ctx, s); err != nil {
		return err
	}
	js, err := l.connect(ctx, s)
	if err != nil {
		return err
	}
	if err := l.answerAtOnce(js.Conn()); err != nil { // where Redis is late
		return err
	}
	g, err := l.startService(ctx, "gateway", s)
	if err != nil {
		return err
	}
	if err := f.addMemory("gateway, idle", g.pid()); err != nil {
		return err
	}
	for i := range many {
		if _, _, err := lookup(ctx, g.http, company(i), http.StatusOK); err != nil {
			return err
		}
	}
	if err := f.addMemory("gateway, 10,000 records in its memory", g.pid()); err != nil {
		return err
	}
	all := load{addr: g.http, requests: everyNumber(), order: zipf(), status: http.StatusOK}
	return f.addMost(ctx, "gateway, and 64 callers", g.pid(), func(ctx context.Context) error {
		_, err := all.run(ctx, l.duration(), l.now)
		return err
	})
}

// readersFootprint is of those who read events: the cachewriter and the audit.
func readersFootprint(ctx context.Context, l *lab, f *Figures) error {
	s, err := l.startServers(ctx)
	if err != nil {
		return err
	}
	js, err := l.connect(ctx, s)
	if err != nil {
		return err
	}
	bodies, err := l.bodies(0)
	if err != nil {
		return err
	}
	w, err := l.startService(ctx, "cachewriter", s)
	if err != nil {
		return err
	}
	if err := f.addMemory("cachewriter, idle", w.pid()); err != nil {
		return err
	}
	err = f.addMost(ctx, fmt.Sprintf("cachewriter, catching up with %d events", writerEvents), w.pid(), func(ctx context.Context) error {
		_, err := l.catchUp(ctx, s, js, w, 0, bodies)
		return err
	})
	if err != nil {
		return err
	}
	folder, err := l.folder("audit")
	if err != nil {
		return err
	}
	a, err := l.startAudit(ctx, s, folder)
	if err != nil {
		return err
	}
	err = f.addMost(ctx, fmt.Sprintf("audit, catching up with %d events", writerEvents), a.pid(), func(ctx context.Context) error {
		return l.audited(ctx, a, folder, writerEvents)
	})
	if err != nil {
		return err
	}
	return f.addMemory("audit, idle then", a.pid())
}

// scraperFootprint is of a scraper at work, alone and with its browser, and of a prewarm
// that asks it.
func scraperFootprint(ctx context.Context, l *lab, f *Figures) error {
	fleet, err := l.startFleet(ctx)
	if err != nil {
		return err
	}
	pid := fleet.scraper.pid()
	if err := f.addMemory("scraper, idle", pid); err != nil {
		return err
	}
	if err := f.addTree("scraper, idle, with its browser", pid); err != nil {
		return err
	}
	visit := func(ctx context.Context) error {
		for range loadedVisits {
			if _, err := l.resolve(ctx, fleet); err != nil {
				return err
			}
		}
		return nil
	}
	if err := f.addMost(ctx, fmt.Sprintf("scraper, after %d visits", loadedVisits), pid, visit); err != nil {
		return err
	}
	if err := f.addTree(fmt.Sprintf("scraper, after %d visits, with its browser", loadedVisits), pid); err != nil {
		return err
	}
	if _, err := l.startService(ctx, "gateway", fleet.servers, fleet.settings()...); err != nil {
		return err
	}
	list := filepath.Join(l.dir, "list")
	var numbers strings.Builder
	for range loadedVisits {
		fmt.Fprintln(&numbers, fleet.cold())
	}
	if err := os.WriteFile(list, []byte(numbers.String()), 0o600); err != nil {
		return err
	}
	p, err := l.start("prewarm", "prewarm", []string{"-watch", list}, []string{"NATS_URL=nats://" + fleet.natsAddr, "OPS_ADDR="})
	if err != nil {
		return err
	}
	visited := fleet.Stats().Posts + 3
	return f.addMost(ctx, "prewarm, at work", p.pid(), func(ctx context.Context) error {
		return l.await(ctx, p, "it should have numbers visited", func() bool { return fleet.Stats().Posts >= visited })
	})
}

// allFootprint is of the all-in-one on its replica.
func allFootprint(ctx context.Context, l *lab, f *Figures) error {
	data, err := l.folder("data")
	if err != nil {
		return err
	}
	addr, err := freeAddr(ctx)
	if err != nil {
		return err
	}
	p, err := l.start("rucflow", "rucflow", []string{"-replica", "-replica-addr", "127.0.0.1:0"},
		[]string{"HTTP_ADDR=" + addr, "OPS_ADDR=", "NATS_ADDR=", "DATA_DIR=" + data, "SUNAT_PACE=0"})
	if err != nil {
		return err
	}
	answered := func(n ruc.Number) error {
		return l.await(ctx, p, "it should answer", func() bool {
			_, _, err := lookup(ctx, addr, n, http.StatusOK)
			return err == nil
		})
	}
	if err := answered(cold(0)); err != nil {
		return err
	}
	if err := f.addMemory("all-in-one, after its first visit", p.pid()); err != nil {
		return err
	}
	err = f.addMost(ctx, fmt.Sprintf("all-in-one, after %d visits", loadedVisits), p.pid(), func(context.Context) error {
		for i := range loadedVisits {
			if err := answered(cold(i + 1)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return f.addTree(fmt.Sprintf("all-in-one, after %d visits, with its browser", loadedVisits), p.pid())
}

// addMemory adds what a process holds now.
func (f *Figures) addMemory(name string, pids ...int) error {
	m, err := memoryOfAll(pids)
	if err == nil {
		f.add(name, m)
	}
	return err
}

// addTree adds what a process and all below it hold now.
func (f *Figures) addTree(name string, pid int) error {
	below, err := descendants(pid)
	if err != nil {
		return err
	}
	return f.addMemory(name, append(below, pid)...)
}

// addMost adds the most that a process holds while something is done.
func (f *Figures) addMost(ctx context.Context, name string, pid int, do func(context.Context) error) error {
	done := make(chan error, 1)
	go func() { done <- do(ctx) }()
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	most := map[string]float64{}
	for working := true; working; {
		var err error
		select {
		case <-tick.C:
		case err = <-done:
			working = false
		}
		if err != nil {
			return err
		}
		now, err := memoryOfAll([]int{pid})
		if err != nil && !working { // one that ends at work fails what is done
			return err
		}
		for measure, v := range now {
			most[measure] = max(most[measure], v)
		}
	}
	f.add(name, most)
	return nil
}

// memoryOfAll is what processes hold together. Pages that several share count for each in
// RSS, and once in PSS.
func memoryOfAll(pids []int) (map[string]float64, error) {
	sum := map[string]float64{}
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return nil, err
		}
		rss, pss, err := memoryOf(string(b))
		if err != nil {
			return nil, err
		}
		sum[rssMiB] += rss / mib
		sum[pssMiB] += pss / mib
	}
	if len(sum) == 0 {
		return nil, errors.New("all of the processes have ended")
	}
	return sum, nil
}

// memoryOf reads the text of /proc/<pid>/smaps_rollup, in bytes.
func memoryOf(rollup string) (rss, pss float64, err error) {
	if rss, err = rollupField(rollup, "Rss"); err != nil {
		return 0, 0, err
	}
	pss, err = rollupField(rollup, "Pss")
	return rss, pss, err
}

// peakOf is the most that a process has held in its memory so far, in bytes.
func peakOf(pid int) (float64, error) {
	return rollupField(fileText(fmt.Sprintf("/proc/%d/status", pid)), "VmHWM")
}

func rollupField(rollup, field string) (bytes float64, err error) {
	_, after, _ := strings.Cut(rollup, "\n"+field+":")
	value, _, found := strings.Cut(after, " kB\n")
	if !found {
		return 0, fmt.Errorf("no %s of the process: %q", field, rollup)
	}
	kib, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
	return kib * 1024, err
}
