package store_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/rucflow/rucflow/shared/certtest"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/store"
	"github.com/rucflow/rucflow/shared/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var number = ruc.MustParse("20131312955")

// narrow is REDIS_TIMEOUT as it is by default.
const narrow = 30 * time.Millisecond

// patience is how long a test waits for what should take milliseconds.
const patience = 15 * time.Second

func openRedis(t testing.TB, cfg store.RedisConfig, log zerolog.Logger) *store.Redis {
	t.Helper()
	r, err := store.NewRedis(cfg, ruc.FuenteReplica, time.Now, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return r
}

func entry(n ruc.Number, value string, seq uint64) store.Entry {
	return store.Entry{RUC: n, Value: []byte(value), Version: store.Version{Epoch: 100, Seq: seq}, TTL: time.Hour}
}

func putRedis(t testing.TB, r *store.Redis, entries ...store.Entry) {
	t.Helper()
	if err := r.Put(t.Context(), entries); err != nil {
		t.Fatalf("Put: %v", err)
	}
}

func wantRedis(t testing.TB, r *store.Redis, n ruc.Number, value string) {
	t.Helper()
	got, ok, err := r.Get(t.Context(), n)
	if err != nil || ok != (value != "") || string(got) != value {
		t.Errorf("Get = %q, %v, %v; want %q", got, ok, err, value)
	}
}

// answers reports whether a Get succeeds.
func answers(t testing.TB, r *store.Redis) func() bool {
	return func() bool {
		_, _, err := r.Get(t.Context(), number)
		return err == nil
	}
}

// logBuffer collects a log. It is safe for concurrent use.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) count(sentence string) int { return strings.Count(l.String(), sentence) }

const (
	sentenceDown = "Redis does not answer and lookups go on without it"
	sentenceUp   = "Redis answers and is used again"
)

// conforms runs the suite on one server, emptied for each part.
func conforms(t *testing.T, server *storetest.RedisServer, cfg store.RedisConfig) {
	c := server.Client()
	storetest.Run(t, func(t *testing.T) (storetest.Store, func(time.Duration)) {
		if err := c.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		return openRedis(t, cfg, zerolog.Nop()), func(d time.Duration) { storetest.Advance(t, c, d) }
	})
}

func TestRedis_Conforms(t *testing.T) {
	server := storetest.StartRedis(t)
	conforms(t, server, server.RedisConfig())
}

func TestRedis_ConformsWithoutScripts(t *testing.T) {
	server := storetest.StartRedis(t, withoutScripts...)
	conforms(t, server, server.RedisConfig())
}

func TestRedis_ConformsInACluster(t *testing.T) {
	for name, args := range map[string][]string{"by script": nil, "by transaction": withoutScripts} {
		t.Run(name, func(t *testing.T) {
			server := startCluster(t, args...)
			conforms(t, server, store.RedisConfig{Addrs: server.Addr(), Cluster: true, Timeout: time.Second})
		})
	}
}

// startCluster starts a cluster of one node. Its second port would be the first
// plus 10,000, which may be no port.
func startCluster(t *testing.T, args ...string) *storetest.RedisServer {
	t.Helper()
	bus, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := bus.Addr().(*net.TCPAddr).Port
	if err := bus.Close(); err != nil {
		t.Fatal(err)
	}
	server := storetest.StartRedis(t, append(args, "--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(port))...)
	c := server.Client()
	if err := c.ClusterAddSlotsRange(t.Context(), 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	storetest.Eventually(t, patience, "the cluster is ready", func() bool {
		info, err := c.ClusterInfo(t.Context()).Result()
		return err == nil && strings.Contains(info, "cluster_state:ok")
	})
	return server
}

func TestRedis_ConformsBehindASentinel(t *testing.T) {
	server := storetest.StartRedis(t)
	conf := filepath.Join(t.TempDir(), "sentinel.conf")
	text := fmt.Sprintf("sentinel monitor main 127.0.0.1 %d 1\n", server.Port())
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	sentinel := storetest.StartRedis(t, conf, "--sentinel")
	conforms(t, server, store.RedisConfig{Addrs: sentinel.Addr(), SentinelMaster: "main", Timeout: time.Second})
}

func TestRedis_KeepsTheAnswerAsItIs(t *testing.T) {
	server := storetest.StartRedis(t)
	c := server.Client()
	r := openRedis(t, server.RedisConfig(), zerolog.Nop())
	value := `{"ruc":"20131312955","encontrado":true,"razonSocial":"PEÑA & <HIJOS>"}`
	e := entry(number, value, 7)
	e.TTL = 7 * 24 * time.Hour
	putRedis(t, r, e)

	raw, err := c.Get(t.Context(), "sunat:ruc:20131312955").Result()
	if err != nil || raw != value {
		t.Errorf("GET = %q, %v; want %q", raw, err, value)
	}
	for _, key := range []string{"sunat:ruc:20131312955", "seq:{sunat:ruc:20131312955}"} {
		ttl, err := c.TTL(t.Context(), key).Result()
		if err != nil || ttl <= 604_700*time.Second || ttl > 604_800*time.Second {
			t.Errorf("TTL %s = %v, %v", key, ttl, err)
		}
	}
	e = entry(ruc.MustParse("20100055237"), "short", 1)
	e.TTL = time.Millisecond
	putRedis(t, r, e)
	if ttl, err := c.PTTL(t.Context(), "sunat:ruc:20100055237").Result(); err != nil || ttl <= 0 || ttl > time.Second {
		t.Errorf("PTTL of the shortest life = %v, %v; want one second", ttl, err)
	}
	if source, err := c.Get(t.Context(), "sunat:fuente").Result(); err != nil || source != ruc.FuenteReplica {
		t.Errorf("sunat:fuente = %q, %v", source, err)
	}
}

func TestRedis_TwoWritersLeaveTheNewest(t *testing.T) {
	server := storetest.StartRedis(t)
	const versions, batch = 2000, 50
	numbers := storetest.Numbers(40) // so that most are in each batch
	entries := make([]store.Entry, versions)
	for i := range entries {
		entries[i] = entry(numbers[i%len(numbers)], fmt.Sprintf("v%d", i/len(numbers)), uint64(i+1))
	}
	var wg sync.WaitGroup
	for _, backwards := range []bool{false, true} {
		mine := slices.Clone(entries)
		if backwards {
			slices.Reverse(mine)
		}
		r := openRedis(t, server.RedisConfig(), zerolog.Nop())
		wg.Go(func() {
			for part := range slices.Chunk(mine, batch) {
				if err := r.Put(t.Context(), part); err != nil {
					t.Errorf("Put: %v", err)
				}
			}
		})
	}
	wg.Wait()
	r := openRedis(t, server.RedisConfig(), zerolog.Nop())
	for _, n := range numbers {
		wantRedis(t, r, n, fmt.Sprintf("v%d", versions/len(numbers)-1))
	}
}

func TestRedis_LoadsTheScriptAgain(t *testing.T) {
	server := storetest.StartRedis(t)
	r := openRedis(t, server.RedisConfig(), zerolog.Nop())
	for i := range 3 {
		if err := server.Client().ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		for _, n := range storetest.Numbers(3) {
			putRedis(t, r, entry(n, fmt.Sprint(i), uint64(i+1)), entry(n, "older", uint64(i)))
			wantRedis(t, r, n, fmt.Sprint(i))
		}
	}
}

// withoutScripts are the arguments of a server that knows neither EVAL nor EVALSHA.
var withoutScripts = []string{"--rename-command", "EVAL", "", "--rename-command", "EVALSHA", "", "--rename-command", "SCRIPT", ""}

// waysToPut are the ways in which answers get into Redis: few by the script, or where
// there are none by a transaction each, and many by a transaction together.
var waysToPut = map[string]struct {
	args    []string
	entries int
}{
	"by script": {nil, 4}, "by transaction": {withoutScripts, 4}, "together": {nil, 300}, "together or by transaction": {withoutScripts, 300},
}

// A foreign key in the place of a version would otherwise fail its number, or keep
// every answer of it out, until a person finds it.
func TestRedis_ForeignKeysGiveWay(t *testing.T) {
	for name, tc := range waysToPut {
		t.Run(name, func(t *testing.T) {
			server := storetest.StartRedis(t, tc.args...)
			c := server.Client()
			r := openRedis(t, server.RedisConfig(), zerolog.Nop())
			n := storetest.Numbers(tc.entries)
			for _, err := range []error{
				c.RPush(t.Context(), "seq:{sunat:ruc:"+n[0].String()+"}", "x").Err(),
				c.Set(t.Context(), "seq:{sunat:ruc:"+n[1].String()+"}", "zzz", 0).Err(),
				c.HSet(t.Context(), "sunat:ruc:"+n[2].String(), "a", "b").Err(),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			var entries []store.Entry
			for _, n := range n {
				entries = append(entries, entry(n, "a", 2))
			}
			putRedis(t, r, entries...)
			for i := range entries {
				entries[i] = entry(n[i], "older", 1) // the version stands again
			}
			putRedis(t, r, entries...)
			for _, n := range n {
				wantRedis(t, r, n, "a")
			}
		})
	}
}

func TestRedis_OneEntryThatFailsLeavesTheOthers(t *testing.T) {
	for name, tc := range waysToPut {
		t.Run(name, func(t *testing.T) {
			n := storetest.Numbers(tc.entries)
			// The user may not touch the second number's keys.
			user := []string{"--user", "default", "on", "nopass", "+@all", "~sunat:fuente"}
			var entries []store.Entry
			for i, n := range n {
				entries = append(entries, entry(n, "a", 1))
				if i != 1 {
					user = append(user, "~*"+n.String()+"*")
				}
			}
			log := &logBuffer{}
			server := storetest.StartRedis(t, slices.Concat(tc.args, user)...)
			r := openRedis(t, server.RedisConfig(), zerolog.New(log))
			err := r.Put(t.Context(), entries)
			var p *store.PutError
			if !errors.As(err, &p) || len(p.Failed) != 1 || p.Failed[1] == nil || errors.Is(err, store.ErrRefused) {
				t.Errorf("Put = %v; want the entry at 1 to be put again", err)
			}
			if strings.Contains(err.Error(), n[1].String()) {
				t.Errorf("the error names a number: %v", err)
			}
			for i, n := range n {
				if i != 1 {
					wantRedis(t, r, n, "a")
				}
			}
			if !r.Connected() || tc.args == nil && log.String() != "" {
				t.Errorf("Connected = %v; log:\n%s", r.Connected(), log)
			}
		})
	}
}

func TestRedis_APatternLeavesForeignKeysAlone(t *testing.T) {
	server := storetest.StartRedis(t)
	c := server.Client()
	r := openRedis(t, server.RedisConfig(), zerolog.Nop())
	putRedis(t, r, entry(number, "a", 1))
	if err := c.Set(t.Context(), "sunat:ruc:nota", "x", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if n, err := r.DeletePattern(t.Context(), ruc.MustParsePattern("*"), false); n != 1 || err != nil {
		t.Errorf("DeletePattern = %d, %v; want 1", n, err)
	}
	if held, err := c.Exists(t.Context(), "sunat:ruc:nota", "seq:{sunat:ruc:20131312955}", "sunat:fuente").Result(); err != nil || held != 3 {
		t.Errorf("%d of the 3 other keys are left, %v", held, err)
	}
}

// failing returns a store that is in use and then cut off by cut.
func failing(t *testing.T, server *storetest.RedisServer, cut func()) (*store.Redis, *logBuffer) {
	t.Helper()
	log := &logBuffer{}
	cfg := server.RedisConfig()
	cfg.Timeout = narrow
	r := openRedis(t, cfg, zerolog.New(log))
	storetest.Eventually(t, patience, "a value is stored", func() bool {
		return r.Put(t.Context(), []store.Entry{entry(number, "a", 1)}) == nil
	})
	storetest.Eventually(t, patience, "Redis is in use", func() bool { return answers(t, r)() && r.Connected() })
	cut()
	return r, log
}

// goesOn checks that lookups lose little time to a Redis that fails and none
// once the breaker is open.
func goesOn(t *testing.T, r *store.Redis, log *logBuffer) {
	t.Helper()
	quickest := time.Hour
	for range 5 {
		start := time.Now()
		if _, ok, err := r.Get(t.Context(), number); ok || err == nil || errors.Is(err, store.ErrResting) {
			t.Errorf("Get of a failing Redis = %v, %v", ok, err)
		}
		quickest = min(quickest, time.Since(start))
	}
	if quickest > 60*time.Millisecond {
		t.Errorf("the quickest of 5 lookups lost %v", quickest)
	}
	resting, start := 0, time.Now()
	for range 100 {
		if _, _, err := r.Get(t.Context(), number); errors.Is(err, store.ErrResting) {
			resting++
		}
	}
	if took := time.Since(start); resting < 95 || took > 500*time.Millisecond {
		t.Errorf("behind the open breaker %d of 100 lookups were refused, in %v", resting, took)
	}
	if r.Connected() || log.count(sentenceDown) != 1 {
		t.Errorf("Connected = %v; log:\n%s", r.Connected(), log)
	}
}

// comesBack checks that Redis is used again by itself.
func comesBack(t *testing.T, r *store.Redis, log *logBuffer) {
	t.Helper()
	storetest.Eventually(t, patience, "Redis is in use again", func() bool { return answers(t, r)() && r.Connected() })
	if log.count(sentenceDown) != 1 || log.count(sentenceUp) != 1 {
		t.Errorf("log:\n%s", log)
	}
}

func TestRedis_GoesOnWithoutAFrozenServer(t *testing.T) {
	server := storetest.StartRedis(t)
	r, log := failing(t, server, server.Freeze)
	goesOn(t, r, log)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.Put(ctx, []store.Entry{entry(number, "b", 2)}); err == nil {
		t.Error("Put into a frozen Redis succeeded")
	}
	server.Thaw()
	comesBack(t, r, log)
	putRedis(t, r, entry(number, "c", 3))
	wantRedis(t, r, number, "c")
}

func TestRedis_GoesOnWithoutAKilledServer(t *testing.T) {
	server := storetest.StartRedis(t)
	r, log := failing(t, server, server.Kill)
	goesOn(t, r, log)
	if err := r.Put(t.Context(), []store.Entry{entry(number, "b", 2)}); err == nil {
		t.Error("Put into a killed Redis succeeded")
	}
	server.Restart()
	comesBack(t, r, log)
	putRedis(t, r, entry(number, "c", 3))
	wantRedis(t, r, number, "c")
}

func TestRedis_GoesOnWithoutAMuteServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	log := &logBuffer{}
	r := openRedis(t, store.RedisConfig{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, Timeout: narrow}, zerolog.New(log))
	goesOn(t, r, log)
	start := time.Now()
	if err := r.Claim(t.Context(), ruc.FuenteReplica); err == nil || errors.Is(err, store.ErrOtherSource) {
		t.Errorf("Claim = %v", err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("a start waited %v for a mute Redis", took)
	}
}

func TestRedis_StartsWithoutAServerAndUsesItOnceItIsThere(t *testing.T) {
	server := storetest.StartRedis(t)
	server.Kill()
	cfg := server.RedisConfig()
	cfg.Timeout = narrow
	r := openRedis(t, cfg, zerolog.Nop())
	if err := r.Claim(t.Context(), ruc.FuenteReplica); err == nil || errors.Is(err, store.ErrOtherSource) {
		t.Errorf("Claim without a server = %v", err)
	}
	if r.Connected() {
		t.Error("connected to nobody")
	}
	server.Restart()
	storetest.Eventually(t, patience, "Redis is in use", func() bool { return answers(t, r)() && r.Connected() })
	if source, err := server.Client().Get(t.Context(), "sunat:fuente").Result(); err != nil || source != ruc.FuenteReplica {
		t.Errorf("sunat:fuente = %q, %v", source, err)
	}
}

// run runs r until the test ends or stop is called.
func run(t *testing.T, r *store.Redis) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { r.Run(ctx) })
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return stop
}

func TestRedis_RunKnowsWhetherItIsConnectedThoughNobodyAsks(t *testing.T) {
	server := storetest.StartRedis(t)
	r := openRedis(t, server.RedisConfig(), zerolog.Nop())
	run(t, r)
	storetest.Eventually(t, patience, "connected", r.Connected)
	if err := server.Client().FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	storetest.Eventually(t, patience, "a flushed Redis is marked again", func() bool {
		return server.Client().Exists(t.Context(), "sunat:fuente").Val() == 1
	})
	server.Kill()
	storetest.Eventually(t, patience, "disconnected", func() bool { return !r.Connected() })
	server.Restart()
	storetest.Eventually(t, patience, "connected again", r.Connected)
}

func TestRedis_RefusesAnotherSourcesDataForGood(t *testing.T) {
	server := storetest.StartRedis(t)
	c := server.Client()
	if err := c.Set(t.Context(), "sunat:fuente", ruc.FuenteSunat, 0).Err(); err != nil {
		t.Fatal(err)
	}
	log := &logBuffer{}
	r := openRedis(t, server.RedisConfig(), zerolog.New(log))
	refuses := func() {
		t.Helper()
		_, _, get := r.Get(t.Context(), number)
		_, pattern := r.DeletePattern(t.Context(), ruc.MustParsePattern("*"), false)
		for name, err := range map[string]error{
			"Get": get, "DeletePattern": pattern,
			"Put":    r.Put(t.Context(), []store.Entry{entry(number, "a", 1)}),
			"Delete": r.Delete(t.Context(), number),
			"Claim":  r.Claim(t.Context(), ruc.FuenteReplica),
		} {
			if !errors.Is(err, store.ErrOtherSource) {
				t.Errorf("%s = %v, want ErrOtherSource", name, err)
			}
		}
		if r.Connected() {
			t.Error("Connected to another source's data")
		}
	}
	refuses()
	if err := c.Del(t.Context(), "sunat:fuente").Err(); err != nil {
		t.Fatal(err)
	}
	refuses()
	stop := run(t, r)
	storetest.Eventually(t, patience, "the log says so", func() bool { return log.count("Redis is not used") == 1 })
	stop()
	if keys := c.DBSize(t.Context()).Val(); keys != 0 {
		t.Errorf("%d keys were written", keys)
	}
}

func TestRedis_CallersWhoLeaveDoNotOpenTheBreaker(t *testing.T) {
	server := storetest.StartRedis(t)
	log := &logBuffer{}
	r := openRedis(t, server.RedisConfig(), zerolog.New(log))
	wantRedis(t, r, number, "")
	left, leave := context.WithCancel(t.Context())
	leave()
	hurried, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	for range 50 {
		for _, ctx := range []context.Context{left, hurried} {
			if _, _, err := r.Get(ctx, number); !errors.Is(err, ctx.Err()) {
				t.Errorf("Get = %v, want %v", err, ctx.Err())
			}
		}
	}
	wantRedis(t, r, number, "")
	if !r.Connected() || log.String() != "" {
		t.Errorf("Connected = %v; log:\n%s", r.Connected(), log)
	}
}

// Reads that are under way together share round trips, and each gets its own answer.
func TestRedis_ReadsOfManyAtOnce(t *testing.T) {
	s := storetest.StartRedis(t)
	r := openRedis(t, s.RedisConfig(), zerolog.Nop())
	const held, readers = 200, 50
	numbers := storetest.Numbers(2 * held)
	var entries []store.Entry
	for i, n := range numbers[:held] {
		entries = append(entries, entry(n, "answer to "+n.String(), uint64(i+1)))
	}
	putRedis(t, r, entries...)
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			for _, i := range rand.Perm(len(numbers))[:held] {
				want := ""
				if i < held {
					want = "answer to " + numbers[i].String()
				}
				got, ok, err := r.Get(t.Context(), numbers[i])
				if err != nil || string(got) != want || ok != (want != "") {
					t.Errorf("%q, %v, %v; want %q", got, ok, err, want)
					return
				}
			}
		})
	}
	wg.Wait()
	trips, err := s.Client().Info(t.Context(), "stats").Result()
	if err != nil {
		t.Fatal(err)
	}
	// The server reads several commands at a time only where they came together.
	var reads int
	for line := range strings.Lines(trips) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "total_reads_processed:"); ok {
			if reads, err = strconv.Atoi(text); err != nil {
				t.Fatal(err)
			}
		}
	}
	if reads == 0 || reads > readers*held/2 {
		t.Errorf("%d round trips for %d reads", reads, readers*held)
	}
}

func TestRedis_ClosedIsAnError(t *testing.T) {
	r := openRedis(t, store.RedisConfig{Host: "127.0.0.1", Port: 1, Timeout: narrow}, zerolog.Nop())
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Get(t.Context(), number); !errors.Is(err, redis.ErrClosed) {
		t.Errorf("Get after Close = %v", err)
	}
	if err := r.Put(t.Context(), []store.Entry{entry(number, "a", 1)}); !errors.Is(err, redis.ErrClosed) {
		t.Errorf("Put after Close = %v", err)
	}
}

const secret = "s3cr3t-p4ss"

func TestRedis_KnowsUsersAndPasswords(t *testing.T) {
	// The least rights that a reader and a writer need.
	server := storetest.StartRedis(t,
		"--user", "default", "on", ">"+secret, "~*", "+@all",
		"--user", "lector", "on", ">"+secret, "~sunat:*", "+get",
		"--user", "escritor", "on", ">"+secret, "~sunat:*", "~seq:*", "+get", "+set", "+del", "+scan", "+eval", "+evalsha",
		"--user", "sinscripts", "on", ">"+secret, "~sunat:*", "~seq:*", "+get", "+set", "+del", "+watch", "+unwatch", "+multi", "+exec",
	)
	with := func(user, password string) store.RedisConfig {
		cfg := server.RedisConfig()
		cfg.Username, cfg.Password = user, password
		return cfg
	}
	url := func(user string) store.RedisConfig {
		return store.RedisConfig{URL: "redis://" + user + ":" + secret + "@" + server.Addr() + "/0", Timeout: time.Second}
	}
	seq := uint64(0)
	for name, cfg := range map[string]store.RedisConfig{
		"password": with("", secret), "writer": with("escritor", secret), "no scripts": with("sinscripts", secret),
		"password in the URL": url(""), "user in the URL": url("escritor"),
	} {
		t.Run(name, func(t *testing.T) {
			r := openRedis(t, cfg, zerolog.Nop())
			seq++
			putRedis(t, r, entry(number, name, seq))
			wantRedis(t, r, number, name)
			var many []store.Entry
			for _, n := range storetest.Numbers(30) {
				many = append(many, entry(n, name, seq))
			}
			putRedis(t, r, many...)
			wantRedis(t, r, many[29].RUC, name)
			reader := openRedis(t, with("lector", secret), zerolog.Nop())
			wantRedis(t, reader, number, name)
			if err := reader.Put(t.Context(), []store.Entry{entry(number, "x", 1000)}); err == nil {
				t.Error("a reader could write")
			}
			if err := r.Delete(t.Context(), number); err != nil {
				t.Error(err)
			}
		})
	}
	for name, cfg := range map[string]store.RedisConfig{
		"none": with("", ""), "wrong": with("", secret+"!"), "unknown user": with("nadie", secret+"!"),
	} {
		t.Run(name, func(t *testing.T) {
			log := &logBuffer{}
			r := openRedis(t, cfg, zerolog.New(log))
			for range 10 {
				if _, _, err := r.Get(t.Context(), number); err == nil || strings.Contains(err.Error(), secret) {
					t.Errorf("Get = %v", err)
				}
			}
			if log.count(sentenceDown) != 1 || log.count(secret) != 0 {
				t.Errorf("log:\n%s", log)
			}
		})
	}
}

func TestRedis_PutTold(t *testing.T) {
	server := storetest.StartRedis(t,
		"--user", "default", "on", "nopass", "~*", "+@all",
		"--user", "sinscripts", "on", ">"+secret, "~sunat:*", "~seq:*", "+get", "+set", "+del", "+watch", "+unwatch", "+multi", "+exec",
	)
	without := server.RedisConfig()
	without.Username, without.Password = "sinscripts", secret
	for i, cfg := range []store.RedisConfig{server.RedisConfig(), without} {
		r := openRedis(t, cfg, zerolog.Nop())
		numbers := storetest.Numbers(2*i + 4)[2*i:]
		putRedis(t, r, entry(numbers[0], "held", 5), entry(numbers[1], "held", 5))
		large := entry(numbers[2], strings.Repeat("x", store.MaxValueBytes+1), 1)
		gone := entry(numbers[3], "gone", 1)
		gone.TTL = 0
		wrote, err := r.PutTold(t.Context(), []store.Entry{entry(numbers[0], "newer", 6), entry(numbers[1], "same", 5), large, gone, entry(numbers[3], "first", 1)})
		if want := []bool{true, false, false, false, true}; !slices.Equal(wrote, want) {
			t.Errorf("wrote %v, want %v", wrote, want)
		}
		if !errors.Is(store.EntryError(err, 2), store.ErrRefused) || store.EntryError(err, 0) != nil || store.EntryError(err, 1) != nil {
			t.Errorf("%v", err)
		}
	}
}

func TestRedis_ErrorsNameNobody(t *testing.T) {
	server := storetest.StartRedis(t, "--rename-command", "DEL", "")
	r := openRedis(t, server.RedisConfig(), zerolog.Nop())
	err := r.Delete(t.Context(), number)
	if err == nil || strings.Contains(err.Error(), number.String()) || !strings.Contains(err.Error(), "unknown command") {
		t.Errorf("Delete without DEL = %v", err)
	}
}

// TestRedis_SpeaksTLS goes by the settings. It gives Redis the longest time there is, and
// waits for the error that it wants: before the first handshake has failed, which loads
// the system's authorities and takes a second on a crowded machine, a Get only says that
// its time was over.
func TestRedis_SpeaksTLS(t *testing.T) {
	ours, others := certtest.NewAuthority(t, "our authority"), certtest.NewAuthority(t, "another authority")
	cert, key := ours.Issue("127.0.0.1")
	clientCert, clientKey := ours.Issue()
	otherCert, otherKey := others.Issue()
	elsewhere, elsewhereKey := ours.Issue("redis.example.com")
	start := func(cert, key, authClients string) *storetest.RedisServer {
		return storetest.StartRedis(t, "--tls-port", "0", "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ours.File, "--tls-auth-clients", authClients)
	}
	oneSided, mutual, wrongName := start(cert, key, "no"), start(cert, key, "yes"), start(elsewhere, elsewhereKey, "no")
	ca, certificate := "REDIS_CA="+ours.File, []string{"REDIS_CERT=" + clientCert, "REDIS_KEY=" + clientKey}
	for name, tc := range map[string]struct {
		server  *storetest.RedisServer
		environ []string
		want    []string // of the error; nil = it works
	}{
		"the authority is known":                 {oneSided, []string{ca}, nil},
		"a certificate that nobody asks for":     {oneSided, append(certificate, ca), nil},
		"the authority is not known":             {oneSided, nil, []string{`"CN=our authority"`, "REDIS_CA", "x509"}},
		"another authority":                      {oneSided, []string{"REDIS_CA=" + others.File}, []string{`"CN=our authority"`, "REDIS_CA"}},
		"another host's certificate":             {wrongName, []string{ca}, []string{"x509", "127.0.0.1"}},
		"mutual":                                 {mutual, append(certificate, ca), nil},
		"mutual, no certificate":                 {mutual, []string{ca}, []string{"REDIS_CERT", "REDIS_KEY"}},
		"mutual, another authority's":            {mutual, []string{ca, "REDIS_CERT=" + otherCert, "REDIS_KEY=" + otherKey}, []string{"REDIS_CERT", "REDIS_KEY"}},
		"mutual, the server's authority unknown": {mutual, certificate, []string{`"CN=our authority"`, "REDIS_CA"}},
		"TLS where none is spoken":               {oneSided, []string{"REDIS_TLS=false"}, []string{"REDIS_TLS=true"}},
	} {
		t.Run(name, func(t *testing.T) {
			scheme := "rediss://"
			if slices.Contains(tc.environ, "REDIS_TLS=false") {
				scheme = "redis://"
			}
			for form, environ := range map[string][]string{
				"URL":  {"REDIS_URL=" + scheme + tc.server.Addr()},
				"host": {"REDIS_HOST=127.0.0.1", "REDIS_PORT=" + strconv.Itoa(tc.server.Port()), "REDIS_TLS=true"},
			} {
				t.Run(form, func(t *testing.T) {
					log := &logBuffer{}
					r := openRedis(t, load(t, slices.Concat(environ, []string{"REDIS_TIMEOUT=5s"}, tc.environ)...), zerolog.New(log))
					if tc.want == nil {
						putRedis(t, r, entry(number, form, 1))
						wantRedis(t, r, number, form)
						if err := tc.server.Client(func(o *redis.Options) { o.TLSConfig = trusting(t, ours, clientCert, clientKey) }).FlushAll(t.Context()).Err(); err != nil {
							t.Fatal(err)
						}
						return
					}
					var err error
					storetest.Eventually(t, patience, "an error that says "+strings.Join(tc.want, ", "), func() bool {
						_, _, err = r.Get(t.Context(), number)
						return err != nil && !slices.ContainsFunc(tc.want, func(want string) bool { return !strings.Contains(err.Error(), want) })
					})
					storetest.Eventually(t, patience, "the log says so", func() bool {
						_, _, _ = r.Get(t.Context(), number)
						return log.count(sentenceDown) > 0
					})
				})
			}
		})
	}
}

// trusting is a test's own way to a server with TLS.
func trusting(t *testing.T, ours *certtest.Authority, cert, key string) *tls.Config {
	t.Helper()
	cfg, err := service.ClientTLS("REDIS", ours.File, cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestRedis_SpeaksThroughAUnixSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "redis") // t.TempDir may be longer than the 107 bytes of a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "redis.sock")
	server := storetest.StartRedis(t, "--unixsocket", socket)
	r := openRedis(t, store.RedisConfig{URL: "unix://" + socket + "?db=3", Timeout: time.Second}, zerolog.Nop())
	putRedis(t, r, entry(number, "a", 1))
	wantRedis(t, r, number, "a")
	third := server.Client(func(o *redis.Options) { o.DB = 3 })
	if held, err := third.Exists(t.Context(), "sunat:ruc:"+number.String()).Result(); err != nil || held != 1 {
		t.Errorf("database 3 holds %d, %v", held, err)
	}
}

// BenchmarkRedis_Put compares a Put of 250 answers of 2 KB with a pipeline of as
// many plain SETs.
func BenchmarkRedis_Put(b *testing.B) {
	const batch = 250
	server := storetest.StartRedis(b)
	numbers := storetest.Numbers(20 * batch)
	value := bytes.Repeat([]byte("x"), 2048)
	b.Run("put", func(b *testing.B) {
		r := openRedis(b, server.RedisConfig(), zerolog.Nop())
		seq := uint64(0)
		for b.Loop() {
			entries := make([]store.Entry, batch)
			for i := range entries {
				seq++
				n := numbers[int(seq)%len(numbers)]
				entries[i] = store.Entry{RUC: n, Value: value, Version: store.Version{Epoch: 200, Seq: seq}, TTL: time.Hour}
			}
			putRedis(b, r, entries...)
		}
		b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "answers/s")
	})
	b.Run("set", func(b *testing.B) {
		c := server.Client()
		i := 0
		for b.Loop() {
			_, err := c.Pipelined(b.Context(), func(p redis.Pipeliner) error {
				for range batch {
					i++
					p.Set(b.Context(), "sunat:ruc:"+numbers[i%len(numbers)].String(), value, time.Hour)
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "answers/s")
	})
}

// BenchmarkRedis_Get is one lookup's read of 2 KB, and the same read by go-redis alone, as
// the store sets it up but without its budget and its breaker.
func BenchmarkRedis_Get(b *testing.B) {
	server := storetest.StartRedis(b)
	r := openRedis(b, server.RedisConfig(), zerolog.Nop())
	putRedis(b, r, entry(number, strings.Repeat("x", 2048), 1))
	b.Run("store", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if v, ok, err := r.Get(b.Context(), number); err != nil || !ok || len(v) != 2048 {
				b.Fatal(len(v), ok, err)
			}
		}
	})
	b.Run("go-redis", func(b *testing.B) {
		c := server.Client()
		key := "sunat:ruc:" + number.String()
		b.ReportAllocs()
		for b.Loop() {
			if v, err := c.Get(b.Context(), key).Bytes(); err != nil || len(v) != 2048 {
				b.Fatal(len(v), err)
			}
		}
	})
}
