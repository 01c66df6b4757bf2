package gateway_test

import (
	"bufio"
	"context"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/micro"

	"github.com/rucflow/rucflow/gateway"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// sse is one open stream of events.
type sse struct {
	t     *testing.T
	lines *bufio.Scanner
	close func()
}

// event is one event as a browser would see it.
type event struct{ kind, id, data string }

// watch opens a stream for numbers; it is open once it returns.
func (r *rig) watch(numbers ...ruc.Number) *sse { r.t.Helper(); return r.watchWith(numbers) }

// watchWith is watch with headers, names and values in turn.
func (r *rig) watchWith(numbers []ruc.Number, header ...string) *sse {
	r.t.Helper()
	var query []string
	for _, n := range numbers {
		query = append(query, "ruc="+n.String())
	}
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+"/v1/eventos?"+strings.Join(query, "&"), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := (&http.Client{Transport: r.web.Transport}).Do(req) // no timeout: the stream stays
	if err != nil {
		r.t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "text/event-stream" || res.Header.Get("Cache-Control") != "no-store" {
		r.t.Fatalf("%d %v", res.StatusCode, res.Header)
	}
	s := &sse{t: r.t, lines: bufio.NewScanner(res.Body), close: func() { cancel(); res.Body.Close() }}
	r.t.Cleanup(s.close)
	if got, ok := s.next(); !ok || got != (event{}) {
		r.t.Errorf("the stream begins with %+v", got)
	}
	return s
}

// next returns the next event; not ok at the stream's end. What is no event, such as a
// comment, is an empty one.
func (s *sse) next() (e event, ok bool) {
	s.t.Helper()
	for s.lines.Scan() {
		name, value, _ := strings.Cut(s.lines.Text(), ": ")
		switch name {
		case "":
			return e, true
		case "event":
			e.kind = value
		case "id":
			e.id = value
		case "data":
			e.data += value
		case "retry", ":":
		default:
			s.t.Errorf("line %q", s.lines.Text())
		}
	}
	return event{}, false
}

func (s *sse) expect(want event) {
	s.t.Helper()
	if got, ok := s.next(); !ok || got != want {
		s.t.Errorf("got %+v, want %+v", got, want)
	}
}

func (r *rig) progress(p wire.Progress) {
	r.t.Helper()
	if err := r.nc.PublishMsg(p.Message()); err != nil {
		r.t.Fatal(err)
	}
}

func TestFeed_ProgressAndOutcomeOfTheNumbersAskedFor(t *testing.T) {
	r := start(t)
	queued := wire.Progress{RUC: number, Job: 7, Stage: wire.StageQueued, Position: 2}
	visiting := wire.Progress{RUC: number, Job: 7, Stage: wire.StageVisiting, Attempt: 1, Attempts: 3}

	one, both := r.watch(number), r.watch(number, second)
	r.progress(queued)
	for _, s := range []*sse{one, both} {
		s.expect(event{kind: "progress", data: string(queued.Encode())})
	}
	r.progress(wire.Progress{RUC: third, Job: 8, Stage: wire.StageQueued, Position: 1}) // nobody's
	r.progress(visiting)
	r.progress(queued) // of a front that has not seen it taken
	for _, s := range []*sse{one, both} {
		s.expect(event{kind: "progress", data: string(visiting.Encode())})
	}
	late := r.watch(number)
	late.expect(event{kind: "progress", data: string(visiting.Encode())})

	a := r.found(number)
	seq := strconv.FormatUint(r.publish(a), 10)
	for _, s := range []*sse{one, both, late} {
		s.expect(event{"resolved", seq, string(encode(t, a))})
	}
	r.publishFailure(second, &ruc.Error{Code: ruc.Unavailable})
	got, _ := both.next()
	if got.kind != "failed" || got.id != "2" || decodeProblem(t, []byte(got.data)).Code != ruc.Unavailable {
		t.Errorf("%+v", got)
	}
	r.publish(missingAt(second, r.clock.now()))
	got, _ = both.next()
	if p := decodeProblem(t, []byte(got.data)); got.kind != "resolved" || p.Code != ruc.NotFound || p.RUC != second.String() {
		t.Errorf("%+v", got)
	}

	// What is over is not told to who comes now.
	after := r.watch(number)
	r.progress(queued)
	after.expect(event{kind: "progress", data: string(queued.Encode())})

	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if e, ok := after.next(); ok {
		t.Errorf("after the end: %+v", e)
	}
}

func TestFeed_RefusesWhatItCannotFollow(t *testing.T) {
	r := start(t)
	many := strings.Repeat("&ruc="+number.String(), 21)
	for path, code := range map[string]ruc.Code{
		"/v1/eventos":                 ruc.BadBody,
		"/v1/eventos?ruc=2013":        ruc.Invalid,
		"/v1/eventos?ruc=20131312954": ruc.Invalid,
		"/v1/eventos?" + many[1:]:     ruc.BadBody,
	} {
		if p := r.get(path).problem(t); p.Code != code {
			t.Errorf("%s: %s", path, p.Code)
		}
	}
	if p := r.get("/v1/eventos?ruc="+number.String(), "Sec-Fetch-Site", "cross-site").problem(t); p.Code != ruc.Forbidden {
		t.Errorf("another site: %s", p.Code)
	}
	if got := r.do(http.MethodHead, "/v1/eventos?ruc="+number.String(), ""); got.StatusCode != http.StatusOK {
		t.Errorf("HEAD: %d", got.StatusCode)
	}
	// What is no progress harms nobody.
	s := r.watch(number)
	if err := r.nc.Publish("ruc.progress."+number.String(), []byte(`{"ruc":"20100055237","job":7,"stage":"queued","position":1}`)); err != nil {
		t.Fatal(err)
	}
	p := wire.Progress{RUC: number, Job: 7, Stage: wire.StageQueued, Position: 1}
	r.progress(p)
	s.expect(event{kind: "progress", data: string(p.Encode())})
}

func TestFeed_WantsAKeyWhereLookupsDo(t *testing.T) {
	file, key := keys(t, "uno", "")
	r := start(t, func(c *gateway.Config, _ *gateway.Deps) { c.APIKeysFile = file })
	if p := r.get("/v1/eventos?ruc=" + number.String()).problem(t); p.Code != ruc.Unauthorized {
		t.Errorf("without a key: %s", p.Code)
	}
	if got := r.do(http.MethodHead, "/v1/eventos?ruc="+number.String(), "", "X-API-Key", key["uno"]); got.StatusCode != http.StatusOK {
		t.Errorf("with one: %d", got.StatusCode)
	}
}

func TestHealth_ShowsHitsAndQueue(t *testing.T) {
	r := start(t)
	r.scraper(func(req micro.Request, n ruc.Number) { r.resolves(req, n) })
	if body := r.get("/health").body; !strings.Contains(body, `"hitRate":null`) {
		t.Errorf("before the first lookup: %s", body)
	}
	for range 4 { // one visit, three hits
		r.get("/v1/ruc/" + number.String())
	}
	if body := r.get("/health").body; !strings.Contains(body, `"hitRate":0.75`) {
		t.Errorf("after four lookups: %s", body)
	}
	if body := r.get("/health").body; !strings.Contains(body, `"queue":null`) {
		t.Errorf("nobody has made the queue: %s", body)
	}
}
