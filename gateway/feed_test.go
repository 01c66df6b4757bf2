package gateway_test

import (
	"bufio"
	"context"
	"flag"
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

// watch opens a stream for numbers, or all; it is open once it returns.
func (r *rig) watch(numbers ...ruc.Number) *sse { r.t.Helper(); return r.watchWith(numbers) }

// watchWith is watch with headers, names and values in turn.
func (r *rig) watchWith(numbers []ruc.Number, header ...string) *sse {
	r.t.Helper()
	var query []string
	for _, n := range numbers {
		query = append(query, "ruc="+n.String())
	}
	return r.stream(strings.Join(query, "&"), header...)
}

func (r *rig) stream(query string, header ...string) *sse {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+"/v1/eventos?"+query, nil)
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
	if got, ok := s.next(); !ok || got.kind+got.data != "" {
		r.t.Errorf("the stream begins with %+v", got)
	}
	return s
}

// nextEvent is next without what is no event.
func (s *sse) nextEvent() (e event, ok bool) {
	s.t.Helper()
	for {
		if e, ok = s.next(); !ok || e.kind != "" {
			return e, ok
		}
	}
}

// next returns the next event; not ok at the stream's end. What is no event, such as a
// comment, has no kind.
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
		"/v1/eventos?tipo=otro":       ruc.BadBody,
		"/v1/eventos?ruc=2013":        ruc.Invalid,
		"/v1/eventos?ruc=20131312954": ruc.Invalid,
		"/v1/eventos?" + many[1:]:     ruc.BadBody,
	} {
		if p := r.get(path).problem(t); p.Code != code {
			t.Errorf("%s: %s", path, p.Code)
		}
	}
	if p := r.get("/v1/eventos", "Last-Event-ID", "uno").problem(t); p.Code != ruc.BadBody {
		t.Errorf("no id of an event: %s", p.Code)
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

// publishChange stores the change from one answer to another, whose sequence seq is.
func (r *rig) publishChange(before, after ruc.Answer, seq uint64) {
	r.t.Helper()
	fields, err := ruc.Changes(before, after)
	if err != nil {
		r.t.Fatal(err)
	}
	body, err := wire.Changed{RUC: after.RUC, Antes: encode(r.t, before), Despues: encode(r.t, after), Cambios: fields}.Encode()
	if err != nil {
		r.t.Fatal(err)
	}
	r.store(wire.ChangedEvent(after.RUC, seq, body, nil, after.Fuente, r.clock.now()))
}

func TestFeed_EveryKindOfEveryNumberOrSome(t *testing.T) {
	r := start(t)
	all, changes := r.stream(""), r.stream("tipo=changed&tipo=failed&ruc="+number.String())
	queued := wire.Progress{RUC: third, Job: 7, Stage: wire.StageQueued, Position: 2}
	r.progress(queued)
	if got, _ := all.nextEvent(); got != (event{kind: "progress", data: string(queued.Encode())}) {
		t.Errorf("%+v", got)
	}
	first := r.publish(r.found(number))
	r.publish(r.found(second))
	for _, n := range []ruc.Number{second, number} {
		r.publishChange(foundAt(n, "ANTES S.A.C.", r.clock.now()), r.found(n), first)
	}
	r.publishFailure(number, &ruc.Error{Code: ruc.Blocked})
	r.publish(missingAt(third, r.clock.now()))
	again := r.stream("", "Last-Event-ID", "0")
	for i, kind := range []string{"resolved", "resolved", "changed", "changed", "failed", "resolved"} {
		got, _ := all.nextEvent()
		if got.kind != kind || got.id != strconv.Itoa(i+1) {
			t.Errorf("%d: %s %s, want %s", i+1, got.kind, got.id, kind)
		}
		if stored, _ := again.nextEvent(); stored != got {
			t.Errorf("%+v was read as %+v", got, stored)
		}
	}
	for _, want := range []event{{kind: "changed", id: "4"}, {kind: "failed", id: "5"}} {
		if got, _ := changes.nextEvent(); got.kind != want.kind || got.id != want.id || !strings.Contains(got.data, number.String()) {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}

var full = flag.Bool("full", false, "the long form: 10,000 events for a reader that is cut off")

// A client that is cut off, gives the id of the last event that it had and sees each event
// once and in order, whether it was stored before it came back or after.
func TestFeed_ResumesWithoutAGap(t *testing.T) {
	const cuts = 20
	events := uint64(1000)
	if *full {
		events = 10_000
	}
	r := start(t)
	written := make(chan struct{})
	go func() {
		defer close(written)
		body, numbers := encode(t, r.found(number)), []ruc.Number{number, second}
		other := encode(t, r.found(second))
		for i := range events {
			m := wire.ResolvedEvent(numbers[i%2], r.job(), [][]byte{body, other}[i%2], ruc.FuenteReplica, r.clock.now())
			if _, err := r.js.PublishMsgAsync(m); err != nil {
				t.Error(err)
			}
			if i%100 == 0 {
				<-r.js.PublishAsyncComplete()
			}
		}
		<-r.js.PublishAsyncComplete()
	}()
	for name, query := range map[string]string{"every number": "", "one of two": "ruc=" + second.String()} {
		t.Run(name, func(t *testing.T) {
			step := uint64(1)
			if query != "" {
				step = 2
			}
			last, opened, lived := "0", 0, events/cuts
			for have := uint64(0); have < events; opened++ {
				s := r.stream(query, "Last-Event-ID", last)
				for cut := min(events, have+lived); have < cut; have += step {
					e, ok := s.nextEvent()
					if !ok {
						break // it was too slow, which is no loss
					}
					if e.id != strconv.FormatUint(have+step, 10) {
						t.Fatalf("event %s after %d", e.id, have)
					}
					last = e.id
				}
				s.close()
			}
			if opened < cuts {
				t.Errorf("opened %d times", opened)
			}
		})
	}
	<-written
}

// What the gateway does not hear itself, it reads.
func TestFeed_MissesNothingWhileTheConnectionIsLost(t *testing.T) {
	const events, losses = 300, 6
	r := start(t)
	s := r.stream("")
	for i := range events {
		if i%(events/losses) == 10 {
			if err := r.mine.ForceReconnect(); err != nil {
				t.Fatal(err)
			}
		}
		r.publish(r.found(number))
	}
	for i := range events {
		if e, ok := s.nextEvent(); !ok || e.id != strconv.Itoa(i+1) {
			t.Fatalf("%v: %s after %d", ok, e.id, i)
		}
	}
}

func TestFeed_AThousandReaders(t *testing.T) {
	const readers = 1000
	r := start(t)
	var all []*sse
	for range readers {
		all = append(all, r.stream(""))
	}
	seq := strconv.FormatUint(r.publish(r.found(number)), 10)
	for _, s := range all {
		if e, ok := s.nextEvent(); !ok || e.id != seq {
			t.Fatalf("%v: %+v", ok, e)
		}
	}
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
