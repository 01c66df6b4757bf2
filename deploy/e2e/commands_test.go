package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// command prepares a command of rucflow as one of the users. Redis knows no operator:
// what fills it is the cachewriter there.
func (f *fleet) command(user string, args ...string) *exec.Cmd {
	f.t.Helper()
	dir, err := binaries()
	if err != nil {
		f.t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, "rucflow"), args...)
	keep := func(of, prefix string) []string {
		return slices.DeleteFunc(f.as(of), func(v string) bool { return !strings.HasPrefix(v, prefix) })
	}
	cmd.Env = slices.Concat(f.environ, keep(user, "NATS_"), keep("cachewriter", "REDIS_"))
	return cmd
}

// does runs a command and returns what it printed and its exit status.
func (f *fleet) does(user string, args ...string) (stdout, stderr string, status int) {
	f.t.Helper()
	cmd := f.command(user, args...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		f.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// TestCommands_OnAFleet: the commands do what they are for, each with the rights of the
// user that it is for; and what was lost with Redis comes back from the stream.
func TestCommands_OnAFleet(t *testing.T) {
	f := newFleetOn(t, servers{redis: []string{"+flushall"}}) // of the test's own user
	f.start(1, 1, 1)
	f.eventually("Redis is used", readyWait, func() bool {
		_, _, body := f.get("/health")
		return strings.Contains(body, `"status":"healthy"`)
	})
	if out, errs, status := f.does("client", "health", "-gateway", "http://"+f.HTTP); status != 0 || !strings.Contains(out, "scrapers  1\n") {
		t.Errorf("health: %d %s%s", status, out, errs)
	}
	if out, errs, status := f.does("admin", "version"); status != 0 || !strings.Contains(out, "ruc-gateway") || !strings.Contains(out, "ruc-scraper") {
		t.Errorf("version: %d %s%s", status, out, errs)
	}

	shown, said := filepath.Join(t.TempDir(), "out"), filepath.Join(t.TempDir(), "err")
	stop := f.follow(shown, said)
	numbers := []ruc.Number{fresh(9700), fresh(9701), fresh(9702)}
	out, errs, status := f.does("client", "lookup", numbers[0].String(), numbers[1].String(), numbers[2].String())
	if lines := strings.Split(strings.TrimSpace(out), "\n"); status != 0 || len(lines) != 4 || !strings.HasPrefix(lines[3], numbers[2].String()) {
		t.Errorf("lookup: %d %s%s", status, out, errs)
	}
	_, _, body := f.lookup(numbers[0])
	if out, errs, status := f.does("client", "lookup", "-o", "json", numbers[0].String()); status != 0 || out != body+"\n" {
		t.Errorf("lookup -o json: %d %s%s", status, out, errs)
	}
	if out, errs, status := f.does("client", "lookup", "20123456789", "x"); status != 1 || out != "" || !strings.Contains(errs, "debería ser 6") || !strings.Contains(errs, `"x"`) {
		t.Errorf("lookup of wrong numbers: %d %s%s", status, out, errs)
	}
	f.eventually("the events are shown", readyWait, func() bool { return strings.Count(contents(t, shown), "  resolved  ") == len(numbers) })
	stop()

	t.Run("replay", func(t *testing.T) { f.replayed(t, numbers) })
	t.Run("dead letters", func(t *testing.T) { f.deadLetters(t) })

	f.nothingRefused()
	f.mayRefuse = true
	f.examined("admin", 1)   // how Redis is set up, which its cachewriter may not ask
	f.examined("scraper", 5) // that, and what only the operator may ask NATS
	if out, errs, status := f.does("admin", "lookup", numbers[0].String()); status != 1 || out != "" || !strings.Contains(errs, "the user for this is client") {
		t.Errorf("lookup by the operator's user: %d %s%s", status, out, errs)
	}
}

// follow starts `rucflow events` and returns when it listens; stop ends it as Ctrl-C does.
func (f *fleet) follow(shown, said string) (stop func()) {
	f.t.Helper()
	cmd := f.command("client", "events", "-type", "resolved")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	for path, to := range map[string]func(*os.File){shown: func(o *os.File) { cmd.Stdout = o }, said: func(o *os.File) { cmd.Stderr = o }} {
		file, err := os.Create(path)
		if err != nil {
			f.t.Fatal(err)
		}
		defer file.Close()
		to(file)
	}
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.eventually("it listens", readyWait, func() bool { return strings.Contains(contents(f.t, said), "listening") })
	return func() {
		f.t.Helper()
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			f.t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			f.t.Errorf("events: %v: %s", err, contents(f.t, said))
		}
	}
}

func contents(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// replayed: after Redis lost everything, each record is back with the time it had left.
func (f *fleet) replayed(t *testing.T, numbers []ruc.Number) {
	redis := f.reader()
	key := func(n ruc.Number) string { return "sunat:ruc:" + n.String() }
	before, left := map[ruc.Number]string{}, map[ruc.Number]time.Duration{}
	for _, n := range numbers {
		f.eventually("it is in Redis", readyWait, func() bool {
			before[n] = redis.Get(t.Context(), key(n)).Val()
			left[n] = redis.TTL(t.Context(), key(n)).Val()
			return before[n] != ""
		})
	}
	if err := f.redisAs("test", token).FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if out, errs, status := f.does("admin", "replay", "-dry-run"); status != 0 || out != "3 to write, 0 there already or newer, 0 expired, 0 bad\n" {
		t.Errorf("replay -dry-run: %d %s%s", status, out, errs)
	}
	if redis.Exists(t.Context(), key(numbers[0])).Val() != 0 {
		t.Error("a dry run has written")
	}
	if out, errs, status := f.does("admin", "replay"); status != 0 || out != "3 written, 0 there already or newer, 0 expired, 0 bad\n" {
		t.Errorf("replay: %d %s%s", status, out, errs)
	}
	for _, n := range numbers {
		value, ttl := redis.Get(t.Context(), key(n)).Val(), redis.TTL(t.Context(), key(n)).Val()
		// Redis rounds to seconds, up or down, so that one more may show.
		if value != before[n] || ttl > left[n]+time.Second || ttl < left[n]-time.Minute {
			t.Errorf("%s lives %v, of %v before: %s", n, ttl, left[n], value)
		}
	}
}

func (f *fleet) deadLetters(t *testing.T) {
	if err := f.connectAs("scraper").Publish(wire.ResolvedSubject(fresh(9703)), []byte("{}")); err != nil {
		t.Fatal(err)
	}
	f.eventually("a dead letter is shown", readyWait, func() bool {
		out, _, status := f.does("admin", "dead", "list")
		return status == 0 && strings.Contains(out, "not-an-answer")
	})
	if out, errs, status := f.does("admin", "dead", "retry", "-all"); status != 1 || !strings.HasPrefix(out, "1 stays: ") {
		t.Errorf("dead retry: %d %s%s", status, out, errs)
	}
}
