//go:build linux

package bench

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/store"
)

// TestScaling measures what Redis and NATS hold in its smallest form, with every check that
// it has of what was measured.
func TestScaling(t *testing.T) {
	l := newLab(t, module+"gateway/cmd/gateway", natsServer)
	l.Seconds = 0.3 // in less, a moment without the processor is most of it
	const column = "records: 1000"
	f := measured(t, l, func(ctx context.Context, l *lab) (f Figures, err error) {
		stream := func(s scaling, ctx context.Context) error { // but for its readers, which have tests of their own
			_, js, err := s.filledStream(ctx)
			if err != nil {
				return err
			}
			return s.forget(ctx, js)
		}
		for _, part := range []func(scaling, context.Context) error{scaling.redis, stream} {
			err = errors.Join(err, l.scaled(ctx, &f, column, minRecords, part))
		}
		return f, errors.Join(err, l.scaled(ctx, &f, column, 2, scaling.gateways))
	})
	for what, bounds := range map[string][2]float64{
		"Redis: bytes per record, with its version":    {2000, 3000},
		"Redis: bytes per record, its version alone":   {50, 500},
		"Redis: hit: " + p99:                           {0.01, 1000},
		"memory, all records: records held":            {minRecords, minRecords},
		"memory, all records: hit: " + p50:             {0.001, 1000},
		"Redis: killed, until it serves: s":            {0.001, 60},
		"Redis: pattern, dry run of all: s":            {0.0001, 60},
		"gateways: redis hit: " + serverCPU:            {1, 10_000},
		"stream: bytes on disk per event":              {1800, 4000},
		"stream: NATS killed, until it can be read: s": {0.001, 60},
		"stream: a number is forgotten: " + p50:        {0.01, 10_000},
	} {
		if got := of(what, column)(f); !(got >= bounds[0] && got <= bounds[1]) {
			t.Errorf("%s: %v is not from %v to %v", what, got, bounds[0], bounds[1])
		}
	}
	left, err := filepath.Glob(filepath.Join(l.dir, "redis-*[0-9]"))
	if err != nil || len(left) > 0 {
		t.Errorf("%v stay, %v", left, err)
	}
}

func TestScaling_sweepFiles(t *testing.T) {
	dir := t.TempDir()
	held, err := store.NewFile(dir, 1<<40, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	const count = 30
	l := &lab{now: time.Now, out: io.Discard}
	if err := l.put(t.Context(), held, count, 2); err != nil {
		t.Fatal(err)
	}
	var f Figures
	s := scaling{lab: l, figures: &f, column: "x", count: count}
	if err := s.sweepFiles(t.Context(), held); err != nil {
		t.Error(err)
	}
	for _, what := range []string{"files: sweep: s", "files: pattern, dry run of all: s", "files: pattern, a number in eleven: s"} {
		if got := of(what, "x")(f); !(got > 0) {
			t.Errorf("%s: %v", what, got)
		}
	}
	if err := s.sweepFiles(t.Context(), held); err == nil || !strings.Contains(err.Error(), "met") {
		t.Errorf("some are deleted, and the dry run finds all: %v", err)
	}
}

func TestSample(t *testing.T) {
	spared := ruc.MustParsePattern(someNumbers)
	all := sample("", 3*sampled, func(n ruc.Number) bool { return !spared.Matches(n) })
	asked := map[string]bool{}
	for _, r := range all.requests {
		asked[string(r)] = true
	}
	if len(asked) != len(all.requests) || len(all.order) != len(asked) || len(asked) >= sampled || len(asked) < sampled*9/11 || all.few != fewCallers {
		t.Errorf("%d requests, %d different, %d in order, %d callers", len(all.requests), len(asked), len(all.order), all.few)
	}
	last, beyond := company(3*(sampled-1)), company(1)
	for n, want := range map[ruc.Number]bool{last: !spared.Matches(last), beyond: false} {
		if got := asked[string(request(http.MethodGet, path(n)))]; got != want {
			t.Errorf("%s: %v", n, got)
		}
	}
}

func TestScaling_during(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) }))
	defer server.Close()
	s := scaling{lab: &lab{now: time.Now}}
	hits := load{addr: strings.TrimPrefix(server.URL, "http://"), requests: [][]byte{request(http.MethodGet, "/")}, order: []int{0}, status: http.StatusOK, few: 1}
	round, took, err := s.during(t.Context(), hits, func(context.Context) error { return nil })
	if err != nil || round[p99] <= 0 || took <= 0 {
		t.Errorf("%v, %v, %v", round, took, err)
	}
	if _, _, err := s.during(t.Context(), hits, func(context.Context) error { return ErrMissed }); !errors.Is(err, ErrMissed) {
		t.Errorf("what is done fails: %v", err)
	}
	hits.status = http.StatusNotFound
	if _, _, err := s.during(t.Context(), hits, func(context.Context) error { return nil }); err == nil {
		t.Error("the hits fail, and nobody says so")
	}
}

func TestDiskOf(t *testing.T) {
	dir := t.TempDir()
	empty, _, err := diskOf(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), make([]byte, 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	size, inodes, err := diskOf(dir)
	if err != nil || inodes != 2 || size-empty < 5000 || size-empty > 64<<10 {
		t.Errorf("%v bytes after %v, %v inodes, %v", size, empty, inodes, err)
	}
	if _, _, err := diskOf(filepath.Join(dir, "none")); err == nil {
		t.Error("there is no such folder")
	}
}

func TestUsedMemory(t *testing.T) {
	if got, err := usedMemory("# Memory\r\nused_memory:2048\r\nused_memory_human:2K\r\n"); err != nil || got != 2048 {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "# Memory\r\nused_memory:2048", "# Memory\r\nused_memory:x\r\n", "# Memory\r\nused_memory_rss:1\r\n"} {
		if got, err := usedMemory(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func TestMost(t *testing.T) {
	l := &lab{dir: t.TempDir(), now: time.Now}
	f := measured(t, l, func(ctx context.Context, l *lab) (f Figures, err error) {
		p, err := l.start("sleep", "sleep", []string{"0.3"}, nil)
		if err != nil {
			return nil, err
		}
		bytes, err := l.most(ctx, p)
		f.add("sleep", map[string]float64{mostMiB: bytes / mib})
		return f, err
	})
	if got := of("sleep", mostMiB)(f); got < 0.1 || got > 20 {
		t.Errorf("%v MiB", got)
	}
}

func TestTogether(t *testing.T) {
	got := together([]map[string]float64{
		{perSecond: 300, serverCPU: 10, p50: 1, p99: 4},
		{perSecond: 100, serverCPU: 30, p50: 2, p99: 3},
	})
	if diff := cmp.Diff(map[string]float64{perSecond: 400, serverCPU: 15, p50: 2, p99: 4}, got); diff != "" {
		t.Error(diff)
	}
}
