package e2e

import (
	"bufio"
	"bytes"
	"context"
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
	"github.com/redis/go-redis/v9"

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
		{"../../cachewriter", "./cmd/audit"},
		{"../../cachewriter", "./cmd/prewarm"},
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
	line   []string // the command
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

// with returns the lines that hold a text.
func (l *lines) with(text string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(l.all), func(s string) bool { return !strings.Contains(s, text) })
}

func (l *lines) has(text string) bool { return len(l.with(text)) > 0 }

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
func launch(t *testing.T, name string, environ ...string) *process {
	t.Helper()
	return launchCommand(t, name, []string{name}, environ...)
}

// launchCommand is launch for a command line. Programs that were built here are found
// before others.
func launchCommand(t *testing.T, name string, command []string, environ ...string) *process {
	t.Helper()
	dir, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, name: name, line: command, env: environ, log: &lines{}, exited: make(chan struct{})}
	path := filepath.Join(dir, command[0])
	if _, err := os.Stat(path); err != nil {
		path = command[0]
	}
	p.cmd = exec.Command(path, command[1:]...)
	// A test binary that is killed or runs into its timeout makes no clean-up.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.Env = append([]string{"PATH=" + dir + ":" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "TMPDIR=" + os.Getenv("TMPDIR")}, environ...)
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
	return launchCommand(p.t, p.name, p.line, p.env...)
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
// and a real Redis. Both run as they are deployed, with the users of deploy/nats and
// deploy/redis, and at the end of each test neither may have refused anything.
type fleet struct {
	*rig
	redis     *storetest.RedisServer
	closeSite func() // the replica answers nobody any more
	nats      *process
	natsArgs  []string
	natsLogs  []*lines
	mayRefuse bool // the test provokes it
	environ   []string
	gateways  []*process
	scrapers  []*process
	writers   []*process
}

// newFleet starts what the services need and none of them.
func newFleet(t *testing.T, settings ...string) *fleet { return newFleetOn(t, servers{}, settings...) }

// servers are further options of NATS and Redis, and how the replica behaves.
type servers struct {
	nats, redis []string
	site        replica.Config
}

// newFleetOn is newFleet with such options.
func newFleetOn(t *testing.T, with servers, settings ...string) *fleet {
	t.Helper()
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	site := replica.New(with.site, time.Now)
	server := httptest.NewServer(site)
	f := &fleet{rig: &rig{t: t, tmp: tmp, secrets: filepath.Join(tmp, "secrets")}}
	f.closeSite = sync.OnceFunc(func() { site.Close(); server.CloseClientConnections(); server.Close() })
	t.Cleanup(f.closeSite)
	if out, err := exec.Command("../secrets.sh", tmp).CombinedOutput(); err != nil {
		t.Fatalf("secrets.sh: %v\n%s", err, out)
	}
	// The test's own user may see what was refused.
	t.Setenv("SECRETS_DIR", f.secrets)
	f.redis = storetest.StartRedis(t, append([]string{
		"../redis/start.sh", "--appendonly", "yes", "--dir", t.TempDir(), "--user", "test", "on", ">" + token, "+acl|log", "+ping",
	}, with.redis...)...)
	f.startNATS(with.nats...)
	f.Replica = strings.TrimPrefix(server.URL, "http://")
	f.environ = append([]string{
		"NATS_URL=" + f.NATS, "NATS_PROVISION=false", "REDIS_URL=redis://" + f.redis.Addr(), "OPS_ADDR=127.0.0.1:0", "HTTP_ADDR=127.0.0.1:0",
		"SUNAT_URL=" + server.URL + replica.FormPath, "SUNAT_PACE=0", "SUNAT_PAUSE=0", "SUNAT_MAX_CONCURRENT=8", "CHROME_PATH=" + os.Getenv("CHROME_PATH"),
		"ADMIN_TOKEN=" + token, "SUNAT_CHANGED_DIR=" + filepath.Join(t.TempDir(), "changed"),
	}, settings...)
	f.provision()
	t.Cleanup(f.nothingRefused)
	return f
}

// startNATS starts the NATS server as its container does, again with the same options
// and streams after it was stopped.
func (f *fleet) startNATS(options ...string) {
	f.t.Helper()
	if f.natsArgs == nil {
		addr := freeAddr(f.t)
		host, port, _ := net.SplitHostPort(addr)
		f.NATS = "nats://" + addr
		f.natsArgs = append([]string{"sh", "../nats/start.sh", "--addr", host, "--port", port, "--http_port", "-1"}, options...)
	}
	f.nats = launchCommand(f.t, "nats-server", f.natsArgs, "SECRETS_DIR="+f.secrets, "STORE_DIR="+f.natsDir())
	f.natsLogs = append(f.natsLogs, f.nats.log)
}

// natsDir is where the NATS server stores.
func (f *fleet) natsDir() string { return filepath.Join(f.tmp, "nats") }

// provision does what compose.yaml's container of that name does.
func (f *fleet) provision() {
	f.t.Helper()
	dir, err := binaries()
	if err != nil {
		f.t.Fatal(err)
	}
	f.eventually("the NATS server listens", readyWait, func() bool { return f.nats.log.has("Server is ready") })
	cmd := exec.Command(filepath.Join(dir, "rucflow"), "provision")
	cmd.Env = append(f.as("setup"), f.environ...)
	if out, err := cmd.CombinedOutput(); err != nil {
		f.t.Fatalf("rucflow provision: %v\n%s", err, out)
	}
}

// as is who a service is to NATS and Redis.
func (f *fleet) as(user string) []string {
	return []string{
		"NATS_USER=" + user, "NATS_PASSWORD_FILE=" + filepath.Join(f.secrets, "nats_"+user),
		"REDIS_USERNAME=" + user, "REDIS_PASSWORD_FILE=" + filepath.Join(f.secrets, "redis_"+user),
	}
}

// launch starts one more of a service, with further settings.
func (f *fleet) launch(name string, settings ...string) *process {
	f.t.Helper()
	return launch(f.t, name, slices.Concat(f.as(name), f.environ, settings)...)
}

// reader looks into Redis as people do.
func (f *fleet) reader() *redis.Client { return f.redisAs("reader", f.secret("redis_reader")) }

func (f *fleet) redisAs(user, password string) *redis.Client {
	return f.redis.Client(func(o *redis.Options) { o.Username, o.Password = user, password })
}

// nothingRefused: every service did its work within its rights.
func (f *fleet) nothingRefused() {
	if f.mayRefuse {
		return
	}
	for _, log := range f.natsLogs {
		for _, line := range log.with("Violation") {
			f.t.Errorf("the NATS server refused: %s", line)
		}
	}
	if conn, err := net.Dial("tcp", f.redis.Addr()); err != nil {
		return // the test has stopped it
	} else if err := conn.Close(); err != nil {
		f.t.Error(err)
	}
	log, err := f.redisAs("test", token).ACLLog(context.Background(), 100).Result()
	if err != nil {
		f.t.Error(err)
	}
	for _, entry := range log {
		if entry.Username == "gateway" && entry.Object == "set" {
			continue // of the marker, which is the cachewriter's to set: see store.mark
		}
		f.t.Errorf("Redis refused: %+v", *entry)
	}
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
		f.scrapers = append(f.scrapers, f.launch("scraper"))
	}
	for range writers {
		f.writers = append(f.writers, f.launch("cachewriter"))
	}
	for range gateways {
		f.gateways = append(f.gateways, f.launch("gateway"))
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
		client := f.reader()
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
		return f.reader().Exists(t.Context(), "sunat:ruc:"+n.String()).Val() == 1
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
			cmd.Env = append(cmd.Env, append(f.as("admin"), "NATS_URL="+f.NATS)...)
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
