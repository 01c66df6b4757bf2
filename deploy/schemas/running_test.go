package schemas

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/rucflow/rucflow/deploy/allinone/allinonetest"
	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/store/storetest"
	"github.com/rucflow/rucflow/shared/wire"
)

// patience is how long something may take that must come, on a busy machine.
const patience = 20 * time.Second

// tap hears everything that is said under ruc., and checks it.
type tap struct {
	t    *testing.T
	all  map[string]*jsonschema.Schema
	nc   *nats.Conn
	mu   sync.Mutex
	seen map[string]bool
}

// saw reports whether something of that kind was heard.
func (p *tap) saw(what string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[what]
}

// schemaOf is the schema of what is heard on a subject that other programs may hear.
func schemaOf(subject string) string {
	if strings.HasPrefix(subject, "ruc.progress.") {
		return "progress"
	}
	return map[string]string{
		wire.SubjectResolved: "answer", wire.SubjectFailed: "failed", wire.SubjectChanged: "changed",
		wire.SubjectInvalidated: "invalidated", wire.SubjectDropped: "dropped",
	}[subject]
}

func (p *tap) hear(m *nats.Msg) {
	schema := schemaOf(m.Subject)
	if schema == "" {
		return // a request, a job or what is stored
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	conforms(p.t, p.all[schema], m.Subject, m.Data)
	p.seen[schema] = true
	for _, mark := range []string{`"encontrado":true`, `"encontrado":false`, quoted(wire.StageQueued), quoted(wire.StageVisiting)} {
		if bytes.Contains(m.Data, []byte(mark)) {
			p.seen[schema+" "+mark] = true
		}
	}
}

func quoted(s wire.Stage) string { return `"stage":"` + string(s) + `"` }

// ask makes a request, in one form or the other, and checks the reply. It returns the code
// of the error.
func (p *tap) ask(subject string, payload string) ruc.Code {
	p.t.Helper()
	m, err := p.nc.Request(subject, []byte(payload), patience)
	if err != nil {
		p.t.Errorf("%s %s: %v", subject, payload, err)
		return ""
	}
	conforms(p.t, p.all["reply"], subject+" "+payload, m.Data)
	return ruc.Code(m.Header.Get(wire.HeaderError))
}

// TestSchemas_FitWhatAProgramSays: what the whole pipeline says, with a real Chromium and
// the replica of SUNAT's page.
func TestSchemas_FitWhatAProgramSays(t *testing.T) {
	admin := strings.Repeat("a", 32)
	program := allinonetest.Start(t, t.TempDir(), "SUNAT_ATTEMPTS=1", "SUNAT_SLOTS=1", "SUNAT_MAX_CONCURRENT=1", "ADMIN_TOKEN="+admin)
	nc, err := nats.Connect(program.NATS, nats.Token(allinonetest.Token))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	p := &tap{t: t, all: schemas(t), nc: nc, seen: map[string]bool{}}
	if _, err := nc.Subscribe("ruc.>", p.hear); err != nil {
		t.Fatal(err)
	}
	number, nobody, broken := ruc.MustParse("20131312955"), ruc.FromPrefix("2099000000"), ruc.FromPrefix("2055000000")
	request, err := json.Marshal(map[string]any{"ruc": number})
	if err != nil {
		t.Fatal(err)
	}
	conforms(t, p.all["request"], "a request", request)
	for _, service := range []string{wire.ScraperService, wire.GatewayService} {
		storetest.Eventually(t, patience, service+" answers", func() bool {
			_, err := nc.Request("$SRV.PING."+service, nil, time.Second)
			return err == nil
		})
	}
	for payload, want := range map[string]ruc.Code{string(request): "", nobody.String(): ruc.NotFound, "20123456789": ruc.Invalid, "{": ruc.BadBody} {
		if got := p.ask(wire.SubjectLookup, payload); got != want {
			t.Errorf("%s: %q, want %q", payload, got, want)
		}
	}

	// A visit that fails and, while one lasts, another that waits.
	call(t, http.MethodPost, "http://"+program.Replica+replica.FaultsPath, "", `{"fault":"error","ruc":"`+broken.String()+`"}`)
	call(t, http.MethodPost, "http://"+program.Replica+replica.FaultsPath, "", `{"fault":"slow","delayMs":500}`)
	var wg sync.WaitGroup
	for n, want := range map[ruc.Number]ruc.Code{broken: ruc.Unavailable, ruc.FromPrefix("2055000001"): "", ruc.FromPrefix("2055000002"): ""} {
		wg.Go(func() {
			if got := p.ask(wire.SubjectResolve, n.String()); got != want {
				t.Errorf("%s: %q, want %q", n, got, want)
			}
		})
	}
	wg.Wait()

	// An answer that says something else than the one before, a job that it made needless,
	// and an invalidation.
	body, err := ruc.Missing(number, time.Now(), ruc.FuenteReplica, ruc.MotorChrome).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*nats.Msg{wire.ResolvedEvent(number, wire.Job{Seq: 1}, body, ruc.FuenteReplica, time.Now()), nats.NewMsg(wire.VisitSubject(number))} {
		if _, err := nc.RequestMsg(m, patience); err != nil {
			t.Fatal(err)
		}
	}
	call(t, http.MethodDelete, "http://"+program.HTTP+"/v1/ruc/"+number.String(), admin, "")

	for _, what := range []string{
		`answer "encontrado":true`, `answer "encontrado":false`, "failed", "changed", "dropped", "invalidated",
		"progress " + quoted(wire.StageQueued), "progress " + quoted(wire.StageVisiting),
	} {
		storetest.Eventually(t, patience, "heard: "+what, func() bool { return p.saw(what) })
	}
}

// call makes a request over HTTP that must succeed.
func call(t *testing.T, method, url, token, body string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := web.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode >= http.StatusBadRequest {
		t.Errorf("%s %s: %s", method, url, res.Status)
	}
}
