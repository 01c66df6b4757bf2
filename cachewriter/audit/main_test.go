package audit_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/rucflow/rucflow/cachewriter/audit"
	"github.com/rucflow/rucflow/shared/embedded"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/wire"
)

// asProcess makes the test's own binary an audit, to be killed: its value is the address of
// the NATS server, and AUDIT_DIR its folder.
const asProcess = "RUCFLOW_TEST_AUDIT"

func TestMain(m *testing.M) {
	if url := os.Getenv(asProcess); url != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		nc, err := service.NATSConfig{URL: url, Token: token}.Connect("audit", zerolog.Nop())
		if err == nil {
			err = audit.Run(ctx, small(os.Getenv("AUDIT_DIR")), deps(nc, nil))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

const (
	token    = "t0ken"
	patience = 20 * time.Second // how long a test waits for what must come
)

var (
	number = ruc.MustParse("20131312955")
	second = ruc.MustParse("20100055237")
)

// small has files of a few dozen lines.
func small(dir string) audit.Config { return audit.Config{Dir: dir, FileBytes: 20 << 10} }

func deps(nc *nats.Conn, out *bytes.Buffer) audit.Deps {
	return audit.Deps{NATS: nc, Log: zerolog.Nop(), Now: time.Now, Out: out, Registry: prometheus.NewRegistry()}
}

// rig is a NATS server with a stream of events.
type rig struct {
	t    *testing.T
	dir  string // the audit's
	data string // the server's
	bus  *embedded.Server
	nc   *nats.Conn
	js   jetstream.JetStream
	jobs uint64
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, dir: filepath.Join(t.TempDir(), "audit"), data: t.TempDir()}
	r.startBus("127.0.0.1:0")
	t.Cleanup(func() { r.bus.Stop() })
	r.nc = r.connect("test")
	var err error
	if r.js, err = jetstream.New(r.nc); err != nil {
		t.Fatal(err)
	}
	r.provision()
	return r
}

func (r *rig) startBus(addr string) {
	r.t.Helper()
	var err error
	if r.bus, err = embedded.Start(context.Background(), embedded.Config{StoreDir: r.data, Addr: addr, Token: token}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) connect(role string) *nats.Conn {
	r.t.Helper()
	nc, err := service.NATSConfig{URL: r.bus.URL(), Token: token}.Connect(role, zerolog.Nop())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(nc.Close)
	return nc
}

func (r *rig) provision() {
	r.t.Helper()
	if err := (wire.Provisioner{JS: r.js, Source: ruc.FuenteReplica}).Events(r.t.Context(), 45*24*time.Hour); err != nil {
		r.t.Fatal(err)
	}
}

// store stores n events of every kind in turn.
func (r *rig) store(n int) {
	r.t.Helper()
	for range n {
		r.jobs++
		job := wire.Job{Seq: r.jobs, Time: time.Now()}
		about := []ruc.Number{number, second}[r.jobs%2]
		answer, err := ruc.Found(about, ruc.Record{RazonSocial: "EJEMPLO & HIJOS", Estado: "ACTIVO"}, time.Now(), ruc.FuenteReplica, ruc.MotorChrome).Encode()
		if err != nil {
			r.t.Fatal(err)
		}
		m := wire.ResolvedEvent(about, job, answer, ruc.FuenteReplica, time.Now())
		switch r.jobs % 10 {
		case 3:
			m = wire.FailedEvent(about, job, wire.NewProblem(about, &ruc.Error{Code: ruc.Blocked}), ruc.FuenteReplica, time.Now())
		case 6:
			m = wire.ChangedEvent(about, r.jobs, []byte(`{"ruc":"`+about.String()+`"}`), nil, ruc.FuenteReplica, time.Now())
		}
		r.put(m)
	}
}

func (r *rig) put(m *nats.Msg) {
	r.t.Helper()
	if _, err := r.js.PublishMsg(r.t.Context(), m); err != nil {
		r.t.Fatal(err)
	}
}

// start runs an audit until stop, which returns what Run returned.
func (r *rig) start(cfg audit.Config, d audit.Deps) (stop func() error) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- audit.Run(ctx, cfg, d) }()
	stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(patience):
			r.t.Error("Run did not return")
			return nil
		}
	})
	r.t.Cleanup(func() {
		if err := stop(); err != nil {
			r.t.Errorf("Run: %v", err)
		}
	})
	return stop
}

func (r *rig) process() *exec.Cmd {
	r.t.Helper()
	self, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	p := exec.Command(self)
	p.Env = append(os.Environ(), asProcess+"="+r.bus.URL(), "AUDIT_DIR="+r.dir)
	p.Stderr = os.Stderr
	if err := p.Start(); err != nil {
		r.t.Fatal(err)
	}
	return p
}

// line is what every line must have.
type line struct {
	Seq    uint64    `json:"seq"`
	Stored time.Time `json:"stored"`

	SpecVersion     string          `json:"specversion"`
	ID              string          `json:"id"`
	Type            string          `json:"type"`
	Source          string          `json:"source"`
	Subject         string          `json:"subject"`
	Time            string          `json:"time"`
	DataContentType string          `json:"datacontenttype"`
	TraceParent     string          `json:"traceparent"`
	Data            json.RawMessage `json:"data"`
	DataBase64      []byte          `json:"data_base64"`
}

func parseLines(t *testing.T, text []byte) (all []line) {
	t.Helper()
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		dec := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		dec.DisallowUnknownFields()
		var l line
		if err := dec.Decode(&l); err != nil {
			t.Fatalf("%v: %q", err, lines.Text())
		}
		all = append(all, l)
	}
	return all
}

func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// written returns the lines of all files, one after the other.
func (r *rig) written() []line {
	r.t.Helper()
	var text []byte
	for _, name := range files(r.t, r.dir) {
		b, err := os.ReadFile(name)
		if err != nil {
			r.t.Fatal(err)
		}
		text = append(text, b...)
	}
	return parseLines(r.t, text)
}

// has waits until the files have that many whole lines.
func (r *rig) has(lines int) {
	r.t.Helper()
	deadline := time.After(patience)
	for {
		have := 0
		for _, name := range files(r.t, r.dir) {
			b, err := os.ReadFile(name)
			if err != nil && !errors.Is(err, os.ErrNotExist) { // one without a whole line is removed
				r.t.Fatal(err)
			}
			have += bytes.Count(b, []byte("\n"))
		}
		if have >= lines {
			return
		}
		select {
		case <-deadline:
			r.t.Fatalf("in vain: %d lines of %d", have, lines)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// expectAll checks that the lines are those of the first n events, each once and in order.
func expectAll(t *testing.T, lines []line, n int) {
	t.Helper()
	if len(lines) != n {
		t.Errorf("%d lines for %d events", len(lines), n)
	}
	for i, l := range lines {
		if l.Seq != uint64(i+1) {
			t.Fatalf("line %d is of event %d", i+1, l.Seq)
		}
	}
}

func seqs(lines []line) string {
	var all []string
	for _, l := range lines {
		all = append(all, strconv.FormatUint(l.Seq, 10))
	}
	return strings.Join(all, " ")
}

// counter returns a counter without labels.
func counter(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return 0
}
