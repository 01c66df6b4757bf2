package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/shared/store/storetest"
)

// systemTemp is the temporary folder outside any test, which each set their own.
var systemTemp = os.TempDir()

// built is where binaries has put them; TestMain removes it.
var built string

// binaries builds every service and a NATS server, once.
var binaries = sync.OnceValues(func() (dir string, err error) {
	dir, err = os.MkdirTemp(systemTemp, "rucflow-e2e-*")
	if err != nil {
		return "", err
	}
	built = dir
	for _, build := range []struct{ module, pkg string }{
		{"../../gateway", "./cmd/gateway"},
		{"../../scraper", "./cmd/scraper"},
		{"../../cachewriter", "./cmd/cachewriter"},
		{"..", "github.com/nats-io/nats-server/v2"},
	} {
		cmd := exec.Command("go", "build", "-o", dir+"/", build.pkg)
		cmd.Dir = build.module
		if out, err := cmd.CombinedOutput(); err != nil {
			return dir, fmt.Errorf("building %s: %w\n%s", build.pkg, err, out)
		}
	}
	return dir, nil
})

// process is one running binary.
type process struct {
	t      *testing.T
	name   string
	cmd    *exec.Cmd
	log    *lines
	exited chan struct{}
}

// lines keeps what a process logs and finds a field in it.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) add(s string) { l.mu.Lock(); l.all = append(l.all, s); l.mu.Unlock() }

func (l *lines) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.all[max(0, len(l.all)-15):], "\n")
}

// field returns a field of the first line with a message; "" while there is none.
func (l *lines) field(message, field string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.all {
		var line map[string]any
		if json.Unmarshal([]byte(s), &line) == nil && line["message"] == message {
			value, _ := line[field].(string)
			return value
		}
	}
	return ""
}

// launch starts a binary and stops it orderly when the test ends.
func launch(t *testing.T, name string, args []string, environ ...string) *process {
	t.Helper()
	dir, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, name: name, log: &lines{}, exited: make(chan struct{})}
	p.cmd = exec.Command(filepath.Join(dir, name), args...)
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "TMPDIR=" + os.Getenv("TMPDIR")}, environ...)
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.exited)
		for s := bufio.NewScanner(stderr); s.Scan(); {
			p.log.add(s.Text())
		}
		_ = p.cmd.Wait() // how it ended is looked at where it matters
	}()
	t.Cleanup(func() {
		p.stop(syscall.SIGTERM)
		if t.Failed() {
			t.Logf("end of %s's log:\n%s", name, p.log.tail())
		}
	})
	return p
}

// stop signals the process and waits for its end.
func (p *process) stop(sig syscall.Signal) {
	p.t.Helper()
	_ = p.cmd.Process.Signal(sig) // it may have ended
	select {
	case <-p.exited:
	case <-time.After(readyWait):
		p.t.Errorf("%s did not end", p.name)
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

// fleet is several of each service as processes of their own.
type fleet struct {
	*rig
	redis    *storetest.RedisServer
	gateways []string // addresses
	scrapers []*process
}

// startFleet starts the services on a real NATS server and a real Redis.
func startFleet(t *testing.T, gateways, scrapers, writers int, settings ...string) *fleet {
	t.Helper()
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	site := replica.New(replica.Config{}, time.Now)
	server := httptest.NewServer(site)
	t.Cleanup(func() { site.Close(); server.Close() })
	redis := storetest.StartRedis(t)

	addr := freeAddr(t)
	host, port, _ := net.SplitHostPort(addr)
	config := filepath.Join(tmp, "nats.conf")
	err := os.WriteFile(config, fmt.Appendf(nil, "host: %s\nport: %s\nauthorization { token: %q }\njetstream { store_dir: %q }\n", host, port, token, t.TempDir()), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	launch(t, "nats-server", []string{"-c", config})

	url := "nats://" + addr
	environ := append([]string{
		"NATS_URL=" + url, "NATS_TOKEN=" + token, "REDIS_URL=redis://" + redis.Addr(), "OPS_ADDR=127.0.0.1:0", "HTTP_ADDR=127.0.0.1:0",
		"SUNAT_URL=" + server.URL + replica.FormPath, "SUNAT_PACE=0", "SUNAT_MAX_CONCURRENT=8", "CHROME_PATH=" + os.Getenv("CHROME_PATH"),
	}, settings...)
	f := &fleet{redis: redis, rig: &rig{t: t, tmp: tmp}}
	f.NATS, f.Replica = url, strings.TrimPrefix(server.URL, "http://")
	for range scrapers {
		f.scrapers = append(f.scrapers, launch(t, "scraper", nil, environ...))
	}
	for range writers {
		launch(t, "cachewriter", nil, environ...)
	}
	for range gateways {
		p := launch(t, "gateway", nil, environ...)
		f.eventually("a gateway serves", readyWait, func() bool { return p.log.field("gateway serves", "http") != "" })
		f.gateways = append(f.gateways, p.log.field("gateway serves", "http"))
	}
	f.HTTP = f.gateways[0]
	f.eventually("every scraper answers", readyWait, func() bool {
		_, _, body := f.get("/health")
		return strings.Contains(body, fmt.Sprintf(`"scrapers":%d`, scrapers)) && strings.Contains(body, `"status":"healthy"`)
	})
	return f
}

func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func TestFleet_AnswersAsTheAllInOneDoes(t *testing.T) {
	f := startFleet(t, 2, 2, 2)
	t.Run("every case", func(t *testing.T) { everyCase(t, f.rig) })
	t.Run("not found", func(t *testing.T) { notFoundIsKept(t, f.rig) })
	t.Run("NATS", func(t *testing.T) { natsSpeaks(t, f.rig) })
	t.Run("one visit", func(t *testing.T) { oneVisitAroundTheAck(t, f.rig) })
	t.Run("the record in Redis is the answer, with the time it has left", func(t *testing.T) {
		_, _, body := f.lookup(sunat)
		client := f.redis.Client()
		key := "sunat:ruc:" + sunat.String()
		f.eventually("the answer is in Redis", 5*time.Second, func() bool {
			b, err := client.Get(t.Context(), key).Bytes()
			return err == nil && bytes.Equal(b, []byte(body))
		})
		if ttl := client.TTL(t.Context(), key).Val(); ttl <= 604700*time.Second || ttl > 604800*time.Second {
			t.Errorf("TTL %v", ttl)
		}
		// The other gateway has it from the events, or else from Redis.
		second := &rig{Addrs: f.Addrs, t: t}
		second.HTTP = f.gateways[1]
		if status, _, other := second.lookup(sunat); status != http.StatusOK || other != body {
			t.Errorf("the other gateway: %d %s", status, other)
		}
	})
}

// TestFleet_OneVisit: many gateways and many callers of a cold number make one visit,
// with Redis and without.
func TestFleet_OneVisit(t *testing.T) {
	const gateways, each, numbers = 4, 50, 20
	f := startFleet(t, gateways, 2, 2)
	f.fault(replica.Fault{Kind: replica.FaultSlow, DelayMs: 100})
	storm := func(from, count int) {
		var wg sync.WaitGroup
		for i := range count {
			n := fresh(from + i)
			for _, addr := range f.gateways {
				for range each {
					wg.Go(func() {
						r := &rig{Addrs: f.Addrs, t: t}
						r.HTTP = addr
						status, _, body := r.lookup(n)
						r.answer(n, status, body)
					})
				}
			}
			wg.Wait()
			if v := f.visits(n); v != 1 {
				t.Errorf("%s: %d visits", n, v)
			}
		}
	}
	storm(5000, numbers)
	f.redis.Kill()
	storm(6000, numbers)
}

// TestFleet_ScraperKilled: callers of a visit whose scraper is killed get their answer
// from another one.
func TestFleet_ScraperKilled(t *testing.T) {
	f := startFleet(t, 1, 2, 1)
	f.fault(replica.Fault{Kind: replica.FaultSlow, DelayMs: 1500})
	n := fresh(7000)
	var wg sync.WaitGroup
	began := time.Now()
	for range 10 {
		wg.Go(func() {
			status, _, body := f.lookup(n)
			f.answer(n, status, body)
		})
	}
	f.eventually("the visit is under way", readyWait, func() bool { return f.visits(n) == 1 })
	// Which one has it is not known from outside: the first is as good as any.
	f.scrapers[0].stop(syscall.SIGKILL)
	wg.Wait()
	// AckWait, a visit, and time to come round.
	if took := time.Since(began); took > 10*time.Second+2*1500*time.Millisecond+5*time.Second {
		t.Errorf("answered after %v", took)
	}
	if v := f.visits(n); v > 2 {
		t.Errorf("%d visits", v)
	}
}
