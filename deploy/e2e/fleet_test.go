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
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/store/storetest"
	"github.com/rucflow/rucflow/shared/wire"
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
		{"..", "./cmd/rucflow"},
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
	args   []string
	env    []string
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
	p := &process{t: t, name: filepath.Base(name), args: args, env: environ, log: &lines{}, exited: make(chan struct{})}
	p.cmd = exec.Command(filepath.Join(dir, name), args...)
	// A test binary that is killed or runs into its timeout makes no clean-up.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
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

// again starts the process anew, after its end.
func (p *process) again() *process {
	p.t.Helper()
	return launch(p.t, p.name, p.args, p.env...)
}

// signal sends the process what it need not end by.
func (p *process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Errorf("%s: %v", p.name, err)
	}
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

// fleet is several of each service as processes of their own, on a real NATS server
// and a real Redis.
type fleet struct {
	*rig
	redis     *storetest.RedisServer
	closeSite func() // the replica answers nobody any more
	nats      *process
	natsDir   string // where it stores
	environ   []string
	gateways  []*process
	scrapers  []*process
	writers   []*process
}

// newFleet starts what the services need and none of them.
func newFleet(t *testing.T, settings ...string) *fleet {
	t.Helper()
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	site := replica.New(replica.Config{}, time.Now)
	server := httptest.NewServer(site)
	f := &fleet{rig: &rig{t: t, tmp: tmp}, natsDir: t.TempDir()}
	f.closeSite = sync.OnceFunc(func() { site.Close(); server.CloseClientConnections(); server.Close() })
	t.Cleanup(f.closeSite)
	// What Redis has acknowledged survives its end.
	f.redis = storetest.StartRedis(t, "--appendonly", "yes", "--dir", t.TempDir())

	addr := freeAddr(t)
	host, port, _ := net.SplitHostPort(addr)
	config := filepath.Join(tmp, "nats.conf")
	err := os.WriteFile(config, fmt.Appendf(nil, "host: %s\nport: %s\nauthorization { token: %q }\njetstream { store_dir: %q }\n", host, port, token, f.natsDir), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	f.nats = launch(t, "nats-server", []string{"-c", config})
	f.NATS, f.Replica = "nats://"+addr, strings.TrimPrefix(server.URL, "http://")
	f.environ = append([]string{
		"NATS_URL=" + f.NATS, "NATS_TOKEN=" + token, "REDIS_URL=redis://" + f.redis.Addr(), "OPS_ADDR=127.0.0.1:0", "HTTP_ADDR=127.0.0.1:0",
		"SUNAT_URL=" + server.URL + replica.FormPath, "SUNAT_PACE=0", "SUNAT_PAUSE=0", "SUNAT_MAX_CONCURRENT=8", "CHROME_PATH=" + os.Getenv("CHROME_PATH"),
		"ADMIN_TOKEN=" + token, "SUNAT_CHANGED_DIR=" + filepath.Join(t.TempDir(), "changed"),
	}, settings...)
	return f
}

// startFleet starts so many of each service and waits until they work.
func startFleet(t *testing.T, gateways, scrapers, writers int, settings ...string) *fleet {
	t.Helper()
	f := newFleet(t, settings...)
	f.start(gateways, scrapers, writers)
	f.eventually("Redis is used", readyWait, func() bool {
		_, _, body := f.get("/health")
		return strings.Contains(body, `"status":"healthy"`)
	})
	return f
}

func (f *fleet) start(gateways, scrapers, writers int) {
	f.t.Helper()
	for range scrapers {
		f.scrapers = append(f.scrapers, launch(f.t, "scraper", nil, f.environ...))
	}
	for range writers {
		f.writers = append(f.writers, launch(f.t, "cachewriter", nil, f.environ...))
	}
	for range gateways {
		f.gateways = append(f.gateways, launch(f.t, "gateway", nil, f.environ...))
	}
	f.whole()
	f.HTTP = f.gateways[0].addr("http")
}

// whole waits until every process serves and every gateway sees every scraper.
func (f *fleet) whole() {
	f.t.Helper()
	for _, p := range slices.Concat(f.scrapers, f.writers, f.gateways) {
		f.eventually("a "+p.name+" serves", readyWait, func() bool { return p.addr("ops") != "" })
	}
	for _, p := range f.gateways {
		f.eventually("every scraper answers", readyWait, func() bool {
			_, _, body := f.through(p).get("/health")
			return strings.Contains(body, fmt.Sprintf(`"scrapers":%d`, len(f.scrapers)))
		})
	}
}

// through is the rig with another gateway.
func (f *fleet) through(gateway *process) *rig {
	r := *f.rig
	r.HTTP = gateway.addr("http")
	return &r
}

// addr is an address that the process said to listen on; "" before it did.
func (p *process) addr(kind string) string { return p.log.field(p.name+" serves", kind) }

// metric returns the sum over all series of a metric that begin with series, such as
// name{label="value"; 0 where there is none.
func (p *process) metric(series string) float64 {
	p.t.Helper()
	resp, err := client.Get("http://" + p.addr("ops") + "/metrics")
	if err != nil {
		return 0 // it has ended
	}
	defer resp.Body.Close()
	sum := 0.0
	for s := bufio.NewScanner(resp.Body); s.Scan(); {
		if name, value, ok := strings.Cut(s.Text(), " "); ok && strings.HasPrefix(name, series) {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				p.t.Errorf("%s: %v", s.Text(), err)
			}
			sum += v
		}
	}
	return sum
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
	t.Run("invalidation", func(t *testing.T) { f.invalidation(t) })
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
		if status, _, other := f.through(f.gateways[1]).lookup(sunat); status != http.StatusOK || other != body {
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
			for _, gateway := range f.gateways {
				r := f.through(gateway)
				for range each {
					wg.Go(func() {
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

// invalidation: what `rucflow invalidate` names is visited again whichever gateway is
// asked next.
func (f *fleet) invalidation(t *testing.T) {
	first, other, kept := fresh(7001), fresh(7002), ruc.FromPrefix("2066000001")
	everywhere := func(n ruc.Number, visits int) {
		t.Helper()
		for _, gateway := range f.gateways {
			f.eventually("a gateway brings the answer of the right visit", readyWait, func() bool {
				status, _, body := f.through(gateway).lookup(n)
				f.answer(n, status, body)
				return f.visits(n) == visits
			})
		}
	}
	inRedis := func(n ruc.Number) bool {
		return f.redis.Client().Exists(t.Context(), "sunat:ruc:"+n.String()).Val() == 1
	}
	for _, n := range []ruc.Number{first, other, kept} {
		everywhere(n, 1)
		f.eventually("it is in Redis", readyWait, func() bool { return inRedis(n) })
	}
	// An answer younger than two seconds counts as the visit that an invalidation asks for.
	<-time.After(2100 * time.Millisecond)
	command := func(name, want string, args ...string) {
		t.Helper()
		dir, err := binaries()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(filepath.Join(dir, "rucflow"), append([]string{name, "-gateway", "http://" + f.HTTP}, args...)...)
		cmd.Env = []string{"ADMIN_TOKEN=" + token}
		if name == "forget" {
			cmd.Env = append(cmd.Env, "NATS_URL="+f.NATS, "NATS_TOKEN="+token)
		}
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != want {
			t.Errorf("%q: %v: %s", args, err, out)
		}
	}
	command("invalidate", first.String()+" invalidated\n", first.String())
	if inRedis(first) || !inRedis(other) {
		t.Error("not exactly that number was deleted from Redis")
	}
	everywhere(first, 2)
	everywhere(other, 1)
	command("invalidate", "2 answers would be invalidated\n", "-dry-run", "-pattern", "20550070*")
	command("invalidate", "2 answers invalidated\n", "-pattern", "20550070*")
	everywhere(other, 2)
	everywhere(kept, 1)

	command("forget", first.String()+" forgotten\n", first.String())
	if inRedis(first) || !inRedis(kept) {
		t.Error("not exactly that number was deleted from Redis")
	}
	if left := f.storedAbout(first); left != 0 {
		t.Errorf("%d events of it are left", left)
	}
	everywhere(first, 3)
	f.eventually("it is in Redis", readyWait, func() bool { return inRedis(first) })
	req, err := http.NewRequest(http.MethodDelete, "http://"+f.HTTP+"/v1/ruc/"+first.String()+"?olvidar=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	status, _, body := f.do(req)
	if status != http.StatusNoContent || inRedis(first) || f.storedAbout(first) != 0 {
		t.Errorf("?olvidar=true: %d %s", status, body)
	}
}

// storedAbout returns how many events of n the stream holds.
func (f *fleet) storedAbout(n ruc.Number) (count uint64) {
	f.t.Helper()
	s, err := f.jetStream().Stream(f.t.Context(), wire.StreamEvents)
	if err != nil {
		f.t.Fatal(err)
	}
	info, err := s.Info(f.t.Context(), jetstream.WithSubjectFilter("ruc.*."+n.String()))
	if err != nil {
		f.t.Fatal(err)
	}
	for _, stored := range info.State.Subjects {
		count += stored
	}
	return count
}
