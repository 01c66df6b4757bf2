// Package examples runs the examples in other languages than Go.
package examples

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"go.uber.org/goleak"

	"github.com/rucflow/rucflow/shared/embedded"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	token    = "t/k n" // what an URL has to write in another way
	patience = 20 * time.Second
)

var (
	known   = ruc.MustParse("20131312955")
	unknown = ruc.MustParse("20100055237")
	refused = ruc.MustParse("20100017491")
	person  = ruc.FromPrefix("1012345678")
)

// bus is a NATS server with the stream of events.
type bus struct {
	t    *testing.T
	cfg  embedded.Config
	stop func()
	nc   *nats.Conn
	js   jetstream.JetStream
	url  string // with the token, as the programs take it
	jobs uint64
}

func newBus(t *testing.T) *bus {
	t.Helper()
	b := &bus{t: t, cfg: embedded.Config{StoreDir: t.TempDir(), Addr: "127.0.0.1:0", Token: token}}
	b.start()
	t.Cleanup(func() { b.stop() })
	if err := (wire.Provisioner{JS: b.js, Source: ruc.FuenteReplica}).Events(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bus) start() {
	b.t.Helper()
	s, err := embedded.Start(b.t.Context(), b.cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	if b.nc, err = nats.Connect(s.URL(), nats.Token(token)); err == nil {
		b.js, err = jetstream.New(b.nc)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	b.cfg.Addr = strings.TrimPrefix(s.URL(), "nats://") // to start it again
	b.url = "nats://" + strings.NewReplacer("/", "%2F", " ", "%20").Replace(token) + "@" + b.cfg.Addr
	b.stop = func() { b.nc.Close(); s.Stop() }
}

// serve answers as gateways and scrapers do. It notes what it was asked.
func (b *bus) serve() (asked chan micro.Request) {
	b.t.Helper()
	asked = make(chan micro.Request, 10)
	handler := wire.Handler(func(req micro.Request) {
		asked <- req
		n, err := wire.ParseRequest(req.Data())
		switch {
		case err == nil && n == refused:
			err = &ruc.Error{Code: ruc.Overloaded, RetryAfter: 7 * time.Second}
		case err == nil:
			answer := b.found(n, "SUNAT")
			if n == unknown {
				answer = ruc.Missing(n, time.Now(), ruc.FuenteReplica, ruc.MotorChrome)
			}
			if err = wire.RespondAnswer(req, b.encode(answer), answer.Encontrado, 5); err != nil {
				b.t.Error(err)
			}
			return
		}
		if err := wire.NewProblem(n, err).Respond(req); err != nil {
			b.t.Error(err)
		}
	})
	for name, subject := range map[string]string{wire.GatewayService: wire.SubjectLookup, wire.ScraperService: wire.SubjectResolve} {
		if _, err := micro.AddService(b.nc, micro.Config{
			Name: name, Version: service.Version, Endpoint: &micro.EndpointConfig{Subject: subject, Handler: handler},
		}); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := b.nc.Flush(); err != nil {
		b.t.Fatal(err)
	}
	return asked
}

func (b *bus) found(n ruc.Number, name string) ruc.Answer {
	return ruc.Found(n, ruc.Record{RazonSocial: ruc.Text(name)}, time.Now(), ruc.FuenteReplica, ruc.MotorChrome)
}

func (b *bus) encode(a ruc.Answer) []byte {
	body, err := a.Encode()
	if err != nil {
		b.t.Error(err)
	}
	return body
}

// store stores the event of a visit: a problem where there is no answer.
func (b *bus) store(n ruc.Number, a ruc.Answer) {
	b.t.Helper()
	b.jobs++
	job, now := wire.Job{Seq: b.jobs, Time: time.Now()}, time.Now()
	m := wire.FailedEvent(n, job, wire.NewProblem(n, &ruc.Error{Code: ruc.Blocked}), ruc.FuenteReplica, now)
	if !a.RUC.IsZero() {
		m = wire.ResolvedEvent(n, job, b.encode(a), ruc.FuenteReplica, now)
	}
	b.put(m)
}

func (b *bus) put(m *nats.Msg) {
	b.t.Helper()
	if _, err := b.js.PublishMsg(b.t.Context(), m); err != nil {
		b.t.Fatal(err)
	}
}

// happen lets events of each kind happen.
func (b *bus) happen() {
	b.t.Helper()
	b.store(known, b.found(known, "SUNAT"))
	b.store(person, b.found(person, "PEREZ JUAN"))
	b.store(unknown, ruc.Missing(unknown, time.Now(), ruc.FuenteReplica, ruc.MotorChrome))
	b.store(refused, ruc.Answer{})
	b.put(wire.ChangedEvent(known, 1, []byte(`{"ruc":"20131312955","antes":null,"despues":null,"cambios":[{"campo":"estado"},{"campo":"activo"}]}`), nats.Header{}, ruc.FuenteReplica, time.Now()))
	for _, p := range []wire.Progress{{RUC: known, Job: 7, Stage: wire.StageQueued, Position: 2}, {RUC: known, Job: 7, Stage: wire.StageVisiting, Attempt: 1, Attempts: 3}} {
		if err := b.nc.PublishMsg(p.Message()); err != nil {
			b.t.Fatal(err)
		}
	}
}

// node is a copy of the example with its packages, as `npm ci` gets them.
func node(t *testing.T) (dir string) {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%v: apt-get update && apt-get install -y --no-install-recommends nodejs npm", err)
		}
	}
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("node")); err != nil {
		t.Fatal(err)
	}
	npm := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	npm.Dir = dir
	if out, err := npm.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	return dir
}

// command is a program of an example, with nothing of ours in its environment but url.
func command(ctx context.Context, dir, url, name string, arguments ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, name, arguments...)
	c.Dir = dir
	c.Env = append(slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "NATS_") }), "NATS_URL="+url)
	return c
}

// lookup runs the example.
func lookup(t *testing.T, dir, url string, arguments ...string) (out, errs string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := command(ctx, dir, url, "node", append([]string{"lookup.mjs"}, arguments...)...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := c.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return stdout.String(), stderr.String(), c.ProcessState.ExitCode()
}

func TestNode(t *testing.T) {
	dir := node(t)
	t.Run("Lookup", func(t *testing.T) { nodeLookup(t, dir) })
	t.Run("Subscribe", func(t *testing.T) { nodeSubscribe(t, dir) })
}

func nodeLookup(t *testing.T, dir string) {
	b := newBus(t)
	if out, errs, status := lookup(t, dir, b.url, known.String()); status != 1 || out != "" || !strings.Contains(errs, "no gateway answers") {
		t.Errorf("without a gateway: %d, %q, %q", status, out, errs)
	}
	asked := b.serve()
	out, errs, status := lookup(t, dir, b.url, known.String())
	var answer ruc.Answer
	if err := json.Unmarshal([]byte(out), &answer); err != nil || status != 0 || errs != "" || answer.RUC != known || answer.RazonSocial != "SUNAT" {
		t.Errorf("%d, %q, %q, %v", status, out, errs, err)
	}
	if req := <-asked; wire.Wait(req.Headers().Get) != 45*time.Second {
		t.Errorf("asked with %v", req.Headers())
	}
	for _, tc := range []struct {
		number string
		status int
		want   string
	}{
		{unknown.String(), 3, "not-found: SUNAT indica"},
		{"20123456789", 2, "invalid: "},
		{refused.String(), 1, "overloaded: .* \\(again in 7 s\\)"},
	} {
		if out, errs, status := lookup(t, dir, b.url, tc.number); status != tc.status || out != "" || !regexp.MustCompile("^"+tc.want).MatchString(errs) {
			t.Errorf("%s: %d, %q, %q", tc.number, status, out, errs)
		}
	}
	if _, errs, status := lookup(t, dir, b.url); status != 2 || !strings.Contains(errs, "usage") {
		t.Errorf("without a number: %d, %q", status, errs)
	}
	if _, errs, status := lookup(t, dir, strings.Replace(b.url, "t%2F", "u%2F", 1), known.String()); status != 1 || !strings.Contains(strings.ToLower(errs), "authorization") {
		t.Errorf("with another token: %d, %q", status, errs)
	}
}

// lines gives what is written, line by line.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		l <- strings.TrimSuffix(line, "\n")
	}
	return len(b), nil
}

func (l lines) next(t *testing.T) string {
	t.Helper()
	select {
	case line := <-l:
		return line
	case <-time.After(patience):
		t.Fatal("nothing more is printed")
		return ""
	}
}

func nodeSubscribe(t *testing.T, dir string) {
	b := newBus(t)
	out, errs := make(lines, 100), make(lines, 100)
	c := command(t.Context(), dir, b.url, "node", "subscribe.mjs")
	c.Stdout, c.Stderr = out, errs
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if line := errs.next(t); line != "listening" {
		t.Fatal(line)
	}
	b.happen()
	want := []string{
		"resolved  20131312955  SUNAT  seq 1", "resolved  " + person.Masked() + "  (persona natural)  seq 2", "resolved  20100055237  not-found  seq 3",
		"failed  20100017491  blocked  seq 4", "changed  20131312955  estado, activo  seq 5",
		"progress  20131312955  place 2", "progress  20131312955  attempt 1 of 3",
	}
	var got []string
	for range want {
		got = append(got, out.next(t))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("printed (-want +got):\n%s", diff)
	}
	if err := b.nc.Publish(wire.SubjectResolved, []byte("nonsense")); err != nil {
		t.Fatal(err)
	}
	if line := errs.next(t); !strings.HasPrefix(line, "no event of rucflow's") {
		t.Error(line)
	}
	b.stop()
	if line := errs.next(t); line != "the connection was lost" {
		t.Error(line)
	}
	b.start()
	for line := ""; line != "the connection is back; events may be missing"; { // the server says why it went
		line = errs.next(t)
	}
	b.store(known, b.found(known, "OTRA VEZ"))
	if line := out.next(t); line != "resolved  20131312955  OTRA VEZ  seq 6" {
		t.Error(line)
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("told to end: %v", err)
	}
}

// TestShell: what the script tells the nats command to send is answered. The command is a
// stand-in that notes its arguments.
func TestShell(t *testing.T) {
	b := newBus(t)
	asked := b.serve()
	path, note := t.TempDir(), filepath.Join(t.TempDir(), "arguments")
	const standIn = "#!/bin/bash\nprintf '%s\\n' \"$@\" > \"$NOTE\"\n"
	if err := os.WriteFile(filepath.Join(path, "nats"), []byte(standIn), 0o755); err != nil {
		t.Fatal(err)
	}
	run := func(arguments ...string) []string {
		t.Helper()
		c := command(t.Context(), ".", b.url, "shell/rucflow.sh", arguments...)
		c.Env = append(c.Env, "PATH="+path+":"+os.Getenv("PATH"), "NOTE="+note)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", arguments, err, out)
		}
		said, err := os.ReadFile(note)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSpace(string(said)), "\n")
	}
	for what, tc := range map[string]struct {
		subject string
		wait    time.Duration
		cache   string
	}{
		"lookup":  {wire.SubjectLookup, 45 * time.Second, ""},
		"held":    {wire.SubjectLookup, wire.DefaultWait, "only-if-cached"},
		"resolve": {wire.SubjectResolve, 45 * time.Second, ""},
	} {
		said := run(what, known.String())
		if len(said) != 7 || said[0] != "request" || said[1] != "--timeout" || said[3] != "--header" {
			t.Fatalf("%s: %q", what, said)
		}
		timeout, err := time.ParseDuration(said[2])
		if err != nil {
			t.Fatal(err)
		}
		if tc.cache == "" && timeout <= tc.wait {
			t.Errorf("%s: it gives up after %v, before the answer", what, timeout)
		}
		m := nats.NewMsg(said[5])
		m.Data = []byte(said[6])
		name, value, _ := strings.Cut(said[4], ":")
		m.Header.Set(name, value)
		reply, err := b.nc.RequestMsg(m, timeout)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if r, err := wire.ReadReply(known, reply); err != nil || !r.Prefix.Found {
			t.Errorf("%s: %+v, %v", what, r, err)
		}
		if req := <-asked; req.Subject() != tc.subject || wire.Wait(req.Headers().Get) != tc.wait || req.Headers().Get(wire.HeaderCacheControl) != tc.cache {
			t.Errorf("%s asked on %s with %v", what, req.Subject(), req.Headers())
		}
	}
	subs := map[string]*nats.Subscription{}
	for _, kind := range []string{"", "resolved", "failed", "changed", "progress.*"} {
		said := run("events", kind)
		if len(said) != 2 || said[0] != "subscribe" {
			t.Fatalf("events %s: %q", kind, said)
		}
		var err error
		if subs[kind], err = b.nc.SubscribeSync(said[1]); err != nil {
			t.Fatal(err)
		}
	}
	b.happen()
	for kind, sub := range subs {
		if _, err := sub.NextMsg(patience); err != nil {
			t.Errorf("events %s: nothing is heard: %v", kind, err)
		}
	}
	wrong := command(t.Context(), ".", b.url, "shell/rucflow.sh")
	if out, err := wrong.CombinedOutput(); err == nil || !strings.Contains(string(out), "usage") {
		t.Errorf("without arguments: %v, %s", err, out)
	}
}
