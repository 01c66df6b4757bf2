package e2e

import (
	"context"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/deploy/allinone"
	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
)

// lookupAll asks for several unknown numbers at once.
func (r *rig) lookupAll(from, count int) {
	r.t.Helper()
	var wg sync.WaitGroup
	for i := range count {
		wg.Go(func() {
			n := fresh(from + i)
			status, _, body := r.lookup(n)
			r.answer(n, status, body)
		})
	}
	wg.Wait()
}

func TestSettings_PaceHoldsBetweenPOSTs(t *testing.T) {
	const pace = 400 * time.Millisecond
	// A POST travels a while after its turn was given back, longer on a busy machine;
	// without a pace they would come together.
	const slack = pace / 2
	r := start(t, t.TempDir(), "SUNAT_PACE=0.4", "SUNAT_MAX_CONCURRENT=4", "SUNAT_SLOTS=4")
	r.lookupAll(200, 6)
	s := r.stats()
	if s.Posts != 6 || s.MinGapMs == nil {
		t.Fatalf("%+v", s)
	}
	if gap := time.Duration(*s.MinGapMs * float64(time.Millisecond)); gap < pace-slack {
		t.Errorf("two queries came %v apart, the pace is %v", gap, pace)
	}
}

func TestSettings_MaxConcurrentAndSlots(t *testing.T) {
	for _, tt := range []struct {
		concurrent, slots string
		want              int
	}{{"1", "3", 1}, {"3", "3", 3}, {"8", "2", 2}} {
		t.Run(tt.concurrent+" of "+tt.slots, func(t *testing.T) {
			r := start(t, t.TempDir(), "SUNAT_MAX_CONCURRENT="+tt.concurrent, "SUNAT_SLOTS="+tt.slots)
			r.fault(replica.Fault{Kind: replica.FaultSlow, DelayMs: 400})
			r.lookupAll(300, 5)
			if got := r.stats().MaxConcurrent; got != tt.want {
				t.Errorf("%d at one time, want %d", got, tt.want)
			}
		})
	}
}

func TestSettings_AreAppliedToADataFolderThatHasOthers(t *testing.T) {
	data := t.TempDir()
	start(t, data, "SUNAT_MAX_CONCURRENT=1", "SUNAT_SLOTS=2").stop()
	r := start(t, data, "SUNAT_MAX_CONCURRENT=2", "SUNAT_SLOTS=2")
	r.fault(replica.Fault{Kind: replica.FaultSlow, DelayMs: 400})
	r.lookupAll(400, 4)
	if got := r.stats().MaxConcurrent; got != 2 {
		t.Errorf("%d at one time, want 2", got)
	}
}

func TestSettings_ListenersCanBeSwitchedOff(t *testing.T) {
	r := start(t, t.TempDir(), "NATS_ADDR=", "OPS_ADDR=")
	if r.NATS != "" || r.Ops != "" {
		t.Errorf("%+v", r.Addrs)
	}
	status, _, body := r.lookup(sunat)
	r.answer(sunat, status, body)
}

func TestSettings_NATSWantsItsToken(t *testing.T) {
	data := t.TempDir()
	r := start(t, data, "NATS_TOKEN=")
	if nc, err := nats.Connect(r.NATS); err == nil {
		nc.Close()
		t.Error("connected without a token")
	}
	path := filepath.Join(data, "replica", "nats-token")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	nc, err := nats.Connect(r.NATS, nats.Token(strings.TrimSpace(string(b))))
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
}

// run runs the program until it ends by itself or started is called.
func run(t *testing.T, started func(ctx context.Context, stop func(), a allinone.Addrs), useReplica bool, settings ...string) error {
	t.Helper()
	var cfg allinone.Config
	environ := append([]string{"HTTP_ADDR=127.0.0.1:0", "OPS_ADDR=", "NATS_ADDR=", "DATA_DIR=" + t.TempDir(), "CHROME_PATH=" + os.Getenv("CHROME_PATH")}, settings...)
	if err := service.Load(&cfg, environ); err != nil {
		return err
	}
	cfg.Replica, cfg.ReplicaAddr = useReplica, "127.0.0.1:0"
	if err := cfg.Check(); err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(t.Context(), readyWait)
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	return allinone.Run(ctx, cfg, allinone.Deps{Log: zerolog.Nop(), Now: time.Now, Started: func(a allinone.Addrs) {
		if started != nil {
			wg.Go(func() { started(ctx, stop, a) })
		}
	}})
}

func TestSettings_AnyServerThatBehavesLikeSUNATs(t *testing.T) {
	site := replica.New(replica.Config{}, time.Now)
	server := httptest.NewServer(site)
	defer func() { site.Close(); server.Close() }()
	err := run(t, func(_ context.Context, stop func(), a allinone.Addrs) {
		defer stop()
		r := &rig{Addrs: a, t: t}
		r.eventually("a scraper answers", readyWait, func() bool {
			_, _, body := r.get("/health")
			return strings.Contains(body, `"scrapers":1`)
		})
		status, _, body := r.lookup(sunat)
		if got := r.answer(sunat, status, body); got.Fuente != ruc.FuenteReplica {
			t.Errorf("fuente %q for a server that is not SUNAT's", got.Fuente)
		}
	}, false, "SUNAT_URL="+server.URL+replica.FormPath)
	if err != nil {
		t.Error(err)
	}
}

// TestSettings_EachEngineAnswers: and http where there is no Chromium.
func TestSettings_EachEngineAnswers(t *testing.T) {
	for engine, setting := range map[string]string{ruc.MotorFetch: "CHROME_FLAGS=", ruc.MotorHTTP: "CHROME_PATH=/nowhere/chromium"} {
		err := run(t, func(_ context.Context, stop func(), a allinone.Addrs) {
			defer stop()
			r := &rig{Addrs: a, t: t}
			r.eventually("a scraper answers", readyWait, func() bool {
				_, _, body := r.get("/health")
				return strings.Contains(body, `"scrapers":1`)
			})
			for _, n := range []ruc.Number{sunat, fresh(7)} {
				status, _, body := r.lookup(n)
				if got := r.answer(n, status, body); got.Motor != engine {
					t.Errorf("motor %q, want %q", got.Motor, engine)
				}
			}
		}, true, "SUNAT_ENGINE="+engine, setting)
		if err != nil {
			t.Errorf("%s: %v", engine, err)
		}
	}
}

func TestSettings_FailuresAtStartAreClear(t *testing.T) {
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	other := t.TempDir()
	if err := os.MkdirAll(filepath.Join(other, "cache"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, "cache", "fuente"), []byte("sunat\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct{ setting, want string }{
		"no Chromium":           {"CHROME_PATH=/nowhere/chromium", "cannot be run"},
		"taken HTTP port":       {"HTTP_ADDR=" + taken.Addr().String(), "HTTP_ADDR"},
		"taken NATS port":       {"NATS_ADDR=" + taken.Addr().String(), "address already in use"},
		"data of SUNAT itself":  {"CACHE_DIR=" + filepath.Join(other, "cache"), "another source"},
		"bad pace":              {"SUNAT_PACE=often", "SUNAT_PACE"},
		"no slots":              {"SUNAT_SLOTS=0", "SUNAT_SLOTS"},
		"no address":            {"SUNAT_URL=sunat", "SUNAT_URL"},
		"an engine there isn't": {"SUNAT_ENGINE=lynx", "SUNAT_ENGINE"},
		"events that die early": {"EVENTS_MAX_AGE=1h", "EVENTS_MAX_AGE"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := run(t, nil, true, tt.setting)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one that says %q", err, tt.want)
			}
		})
	}
}

func TestSettings_OneProcessPerDataFolder(t *testing.T) {
	data := t.TempDir()
	start(t, data)
	err := run(t, nil, true, "DATA_DIR="+data)
	if err == nil || !strings.Contains(err.Error(), "another rucflow") {
		t.Errorf("error %v", err)
	}
}
