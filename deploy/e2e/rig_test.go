// Package e2e drives the whole program: the all-in-one as its main starts it, a
// real headless Chromium, the replica of SUNAT's page.
package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/rucflow/rucflow/deploy/allinone"
	"github.com/rucflow/rucflow/deploy/allinone/allinonetest"
	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.Cleanup(func(code int) {
			if built != "" {
				_ = os.RemoveAll(built) // in the temporary folder anyway
			}
			os.Exit(code)
		}),
		// fasthttp keeps one goroutine per process for the Date header, for ever, and
		// one per stopped server for up to ten seconds.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
	)
}

const (
	token     = allinonetest.Token
	readyWait = 20 * time.Second // Chromium's start under the race detector, on a busy machine
	pollEvery = 5 * time.Millisecond
)

// client keeps no connection, so that a test leaves no goroutine behind.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// rig is one running all-in-one on its replica.
type rig struct {
	allinone.Addrs
	t       *testing.T
	reg     *prometheus.Registry
	tmp     string // TMPDIR of the program: what it leaves there is a leak
	secrets string // folder of the users' passwords; "" where NATS has a token
	stop    func()
}

// start runs the program with the settings, beyond those that every test needs,
// and stops it when the test ends.
func start(t *testing.T, data string, settings ...string) *rig {
	t.Helper()
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	p := allinonetest.Start(t, data, settings...)
	r := &rig{Addrs: p.Addrs, t: t, tmp: tmp, reg: p.Registry, stop: p.Stop}
	r.eventually("a scraper answers", readyWait, func() bool {
		_, _, body := r.get("/health")
		return strings.Contains(body, `"scrapers":1`)
	})
	return r
}

func (r *rig) eventually(what string, within time.Duration, ok func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(within)
	for !ok() {
		if time.Now().After(deadline) {
			r.t.Fatalf("not within %v: %s", within, what)
		}
		<-time.After(pollEvery)
	}
}

// get asks the gateway.
func (r *rig) get(path string) (status int, h http.Header, body string) {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+r.HTTP+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.do(req)
}

func (r *rig) do(req *http.Request) (status int, h http.Header, body string) {
	r.t.Helper()
	resp, err := client.Do(req)
	if err != nil {
		r.t.Errorf("%s %.80s: %v", req.Method, req.URL.Path, err)
		return 0, nil, ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Errorf("%s %.80s: %v", req.Method, req.URL.Path, err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

func (r *rig) lookup(n ruc.Number) (status int, h http.Header, body string) {
	r.t.Helper()
	return r.get("/obtener-ruc/" + n.String())
}

// answer decodes a 200 and checks that it is about n.
func (r *rig) answer(n ruc.Number, status int, body string) ruc.Answer {
	r.t.Helper()
	var a ruc.Answer
	if status != http.StatusOK {
		r.t.Errorf("%s: status %d: %s", n, status, body)
		return a
	}
	if err := json.Unmarshal([]byte(body), &a); err != nil || a.RUC != n || a.Record == nil {
		r.t.Errorf("%s: %v in %s", n, err, body)
	}
	return a
}

// problem decodes a problem document and checks what every one has.
func (r *rig) problem(h http.Header, status int, body string) wire.Problem {
	r.t.Helper()
	var p wire.Problem
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		r.t.Errorf("not a problem: %v: %.200s", err, body)
		return p
	}
	if p.Status != status || !p.Code.Known() || p.Title == "" || p.Detail == "" || p.Message != "Error al consultar RUC" ||
		p.RequestID == "" && p.Code != ruc.NotFound || !strings.HasPrefix(h.Get("Content-Type"), wire.ProblemType) {
		r.t.Errorf("status %d, %s: incomplete problem: %s", status, h.Get("Content-Type"), body)
	}
	return p
}

// control talks to the replica.
func (r *rig) control(method, path string, in, out any) {
	r.t.Helper()
	b, err := json.Marshal(in)
	if err != nil {
		r.t.Fatal(err)
	}
	req, err := http.NewRequest(method, "http://"+r.Replica+path, bytes.NewReader(b))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		r.t.Fatalf("%s %s: status %d", method, path, resp.StatusCode)
	}
	if out != nil {
		if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rig) fault(f replica.Fault) { r.t.Helper(); r.control("POST", replica.FaultsPath, f, nil) }
func (r *rig) clear()                { r.t.Helper(); r.control("DELETE", replica.FaultsPath, nil, nil) }

func (r *rig) stats() replica.Stats {
	r.t.Helper()
	var s replica.Stats
	r.control("GET", replica.StatsPath, nil, &s)
	return s
}

// visits is how often the replica was asked for n.
func (r *rig) visits(n ruc.Number) int { r.t.Helper(); return r.stats().Visits[n.String()] }

// connect speaks NATS as any client does.
func (r *rig) connect() *nats.Conn {
	r.t.Helper()
	return r.connectAs("client")
}

// connectAs speaks NATS as one of the users does, where NATS has users.
func (r *rig) connectAs(user string, extra ...nats.Option) *nats.Conn {
	r.t.Helper()
	opts := append([]nats.Option{nats.Token(token)}, extra...)
	if r.secrets != "" {
		opts[0] = nats.UserInfo(user, r.secret("nats_"+user))
		if user != "client" {
			opts = append(opts, nats.CustomInboxPrefix("_INBOX_"+user))
		}
	}
	nc, err := nats.Connect(r.NATS, opts...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(nc.Close)
	return nc
}

// jetStream is JetStream for who may do everything with it.
func (r *rig) jetStream() jetstream.JetStream {
	r.t.Helper()
	js, err := jetstream.New(r.connectAs("setup"))
	if err != nil {
		r.t.Fatal(err)
	}
	return js
}

func (r *rig) secret(name string) string {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join(r.secrets, name))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

// fresh returns the i-th of a row of numbers of which nothing is known.
func fresh(i int) ruc.Number { return ruc.FromPrefix(fmt.Sprintf("2055%06d", i)) }

// browserProcesses lists the pids of this rig's Chromium whose command line holds
// what; "" for all of them. The browser is known by its temporary folder, its helpers
// by the process group that it leads.
func (r *rig) browserProcesses(what string) []int {
	r.t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		r.t.Fatal(err)
	}
	cmdlines := map[int]string{}
	groups := map[int]bool{}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		pid, numErr := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil || numErr != nil {
			continue // it ended
		}
		cmdlines[pid] = string(b)
		if strings.Contains(cmdlines[pid], r.tmp) {
			groups[pid] = true
		}
	}
	var pids []int
	for pid, cmdline := range cmdlines {
		if group, err := syscall.Getpgid(pid); err == nil && groups[group] && strings.Contains(cmdline, what) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
		t.Errorf("kill %d: %v", pid, err)
	}
}
