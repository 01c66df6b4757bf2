package storetest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/store"
)

// RedisServer is a redis-server process that a test owns. It keeps nothing on
// disk and ends with the test.
type RedisServer struct {
	t    testing.TB
	args []string
	port int
	tls  bool
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	once sync.Once     // the process ends once
}

const (
	startTimeout = 10 * time.Second
	// Another process may take the free port before redis-server does.
	startAttempts = 5
)

// readyLines are the last words of a start, of a server and of a sentinel.
var readyLines = []string{"Ready to accept connections", "+monitor master"}

// StartRedis starts redis-server with args on a free port of 127.0.0.1 and waits
// until it accepts connections. With "--tls-port" among the args, whose value is
// replaced, it speaks TLS only. A first argument that is no option is the path of
// a configuration, which a sentinel needs, or of a shell script (.sh) that starts
// redis-server with the arguments after it. Without redis-server on the PATH the
// test fails.
func StartRedis(t testing.TB, args ...string) *RedisServer {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Fatal("redis-server is not on the PATH: apt-get install redis-server")
	}
	s := &RedisServer{t: t, args: args, tls: slices.Contains(args, "--tls-port")}
	t.Cleanup(s.Kill)
	var err error
	for range startAttempts {
		if s.port, err = freePort(); err != nil {
			break
		}
		if err = s.start(); err == nil {
			return s
		}
	}
	t.Fatalf("redis-server did not start: %v", err)
	return nil
}

func freePort() (int, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// start runs the process on s.port and waits for its word that it is ready.
func (s *RedisServer) start() error {
	plain, secure := strconv.Itoa(s.port), "0"
	if s.tls {
		plain, secure = secure, plain
	}
	var args []string
	rest := slices.Clone(s.args)
	if len(rest) > 0 && !strings.HasPrefix(rest[0], "--") {
		args, rest = rest[:1:1], rest[1:]
	}
	if i := slices.Index(rest, "--tls-port"); i >= 0 {
		rest[i+1] = secure
	}
	args = append(args, "--bind", "127.0.0.1", "--port", plain, "--save", "", "--appendonly", "no", "--dir", s.t.TempDir())
	args = append(args, rest...)
	program := "redis-server"
	if strings.HasSuffix(args[0], ".sh") {
		program = "sh"
	}
	cmd := exec.CommandContext(context.Background(), program, args...)
	// A test binary that is killed or runs into its timeout makes no clean-up.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = cmd.Stdout // what is wrong with an option is said there
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmd, s.done, s.once = cmd, make(chan struct{}), sync.Once{}
	ready, said := make(chan struct{}), make(chan string, 1)
	go func() {
		defer close(s.done)
		var lines []string
		isReady := false
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			if !isReady {
				lines = append(lines, scanner.Text())
			}
			if !isReady && slices.ContainsFunc(readyLines, func(l string) bool { return strings.Contains(scanner.Text(), l) }) {
				isReady = true
				close(ready)
			}
		}
		said <- strings.Join(lines, "\n")
		_ = cmd.Wait() // killed, as a rule
	}()
	select {
	case <-ready:
		return nil
	case text := <-said:
		return fmt.Errorf("it said:\n%s", text)
	case <-time.After(startTimeout):
		s.Kill()
		return fmt.Errorf("it was not ready within %v", startTimeout)
	}
}

// Addr is where the server listens, host:port.
func (s *RedisServer) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// Port is the port of Addr.
func (s *RedisServer) Port() int { return s.port }

// Freeze stops the process without ending it: the kernel goes on accepting
// connections and nobody answers. Thaw lets it go on.
func (s *RedisServer) Freeze() { s.signal(syscall.SIGSTOP) }

// Thaw ends what Freeze began.
func (s *RedisServer) Thaw() { s.signal(syscall.SIGCONT) }

func (s *RedisServer) signal(sig os.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Errorf("signalling redis-server: %v", err)
	}
}

// Kill ends the process at once and waits until it is gone.
func (s *RedisServer) Kill() {
	if s.cmd == nil {
		return
	}
	s.once.Do(func() {
		if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			s.t.Errorf("killing redis-server: %v", err)
		}
		<-s.done
	})
}

// Restart starts a killed server again, empty, at the same address.
func (s *RedisServer) Restart() {
	s.t.Helper()
	if err := s.start(); err != nil {
		s.t.Fatalf("redis-server did not start again: %v", err)
	}
}

// Client returns a plain client of the server for a test's own use, closed with
// the test. change may adapt its options.
func (s *RedisServer) Client(change ...func(*redis.Options)) *redis.Client {
	o := &redis.Options{Addr: s.Addr(), Protocol: 2, DisableIdentity: true}
	for _, c := range change {
		c(o)
	}
	c := redis.NewClient(o)
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// Advance lets d pass for every key: what has less to live is deleted, the rest
// has so much less left. The server's own clock cannot be moved.
func Advance(t testing.TB, c *redis.Client, d time.Duration) {
	t.Helper()
	ctx := context.Background()
	for keys := c.Scan(ctx, 0, "*", 0).Iterator(); keys.Next(ctx); {
		left, err := c.PTTL(ctx, keys.Val()).Result()
		if err == nil && left >= 0 { // -1 has no expiry, -2 has gone
			err = c.PExpire(ctx, keys.Val(), left-d).Err() // not positive: Redis deletes it
		}
		if err != nil {
			t.Fatalf("advancing Redis' time: %v", err)
		}
	}
}

// Eventually waits until condition holds and fails the test when it does not
// within d.
func Eventually(t testing.TB, d time.Duration, what string, condition func() bool) {
	t.Helper()
	deadline := time.NewTimer(d)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline.C:
			t.Fatalf("not within %v: %s", d, what)
		case <-tick.C:
		}
	}
}

// Numbers returns count different numbers of legal entities.
func Numbers(count int) []ruc.Number {
	numbers := make([]ruc.Number, count)
	for i := range numbers {
		numbers[i] = ruc.FromPrefix(fmt.Sprintf("20%08d", i))
	}
	return numbers
}

// RedisConfig is how a test reaches the server. Its REDIS_TIMEOUT is wide, for a
// machine that runs tests in parallel; a test of the times themselves narrows it.
func (s *RedisServer) RedisConfig() store.RedisConfig {
	return store.RedisConfig{Host: "127.0.0.1", Port: s.port, Timeout: time.Second}
}
