package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/micro"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rucflow/rucflow/gateway"
	"github.com/rucflow/rucflow/shared/ruc"
)

// batchLine is one line of a batch's answer.
type batchLine struct {
	RUC      string          `json:"ruc"`
	Status   int             `json:"status"`
	Registro json.RawMessage `json:"registro"`
	Problema json.RawMessage `json:"problema"`
}

// openBatch asks for many numbers and reads lines until the caller has enough.
func (r *rig) openBatch(texts []string, header ...string) (next func() (batchLine, bool), hangUp func()) {
	r.t.Helper()
	body, err := json.Marshal(map[string]any{"rucs": texts})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+"/v1/ruc/lote", strings.NewReader(string(body)))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := (&http.Client{Transport: r.web.Transport}).Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	hangUp = func() { cancel(); res.Body.Close() }
	r.t.Cleanup(hangUp)
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "application/x-ndjson" || res.Header.Get("Cache-Control") != "no-store" {
		r.t.Fatalf("%d %v", res.StatusCode, res.Header)
	}
	lines := bufio.NewScanner(res.Body)
	return func() (l batchLine, ok bool) {
		if !lines.Scan() {
			return l, false
		}
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			r.t.Errorf("%v: %q", err, lines.Text())
		}
		return l, true
	}, hangUp
}

// gauge returns a gauge without labels.
func gauge(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}

// batch asks for many numbers and returns all lines.
func (r *rig) batch(texts []string, header ...string) (all []batchLine) {
	r.t.Helper()
	next, _ := r.openBatch(texts, header...)
	for l, ok := next(); ok; l, ok = next() {
		all = append(all, l)
	}
	return all
}

func TestBatch_WhatIsHeldAtOnceAndTheRestOneByOne(t *testing.T) {
	r := start(t)
	var held, cold, texts []string
	for i := range 40 {
		n := ruc.FromPrefix(fmt.Sprintf("20%08d", 700+i))
		texts = append(texts, n.String())
		if i%2 == 0 {
			a := r.found(n)
			r.publish(a)
			r.holds(a)
			held = append(held, n.String())
		} else {
			cold = append(cold, n.String())
		}
	}
	absent, broken := cold[3], cold[7]
	var under, most atomic.Int64
	var visited []string // in their order; one at a time
	r.scraper(func(req micro.Request, n ruc.Number) {
		most.Store(max(most.Load(), under.Add(1)))
		visited = append(visited, n.String())
		r.flush(r.nc) // time for a second one
		under.Add(-1)
		switch n.String() {
		case absent:
			r.reply(req, missingAt(n, r.clock.now()))
		case broken:
			r.refuses(req, n, &ruc.Error{Code: ruc.Changed, Attempts: 2})
		default:
			r.resolves(req, n)
		}
	})
	texts = append(texts, texts[0], " "+texts[1]+" ", "2013<", "20131312954")

	got := map[string]batchLine{}
	var order []string
	for _, l := range r.batch(texts) {
		got[l.RUC] = l
		order = append(order, l.RUC)
	}
	if len(order) != 42 || len(got) != 42 {
		t.Fatalf("%d lines for %d numbers", len(order), len(got))
	}
	slices.Sort(order[2 : 2+len(held)]) // which are read side by side
	if want := slices.Concat([]string{"2013<", "20131312954"}, held, cold); !slices.Equal(order, want) {
		t.Errorf("lines in the order\n%s\nwant\n%s", order, want)
	}
	if most.Load() != 1 || !slices.Equal(visited, cold) {
		t.Errorf("%d visits at a time; visited %s", most.Load(), visited)
	}
	for text, l := range got {
		want, code := http.StatusOK, ruc.Code("")
		switch text {
		case absent:
			want, code = http.StatusNotFound, ruc.NotFound
		case broken:
			want, code = http.StatusBadGateway, ruc.Changed
		case "2013<", "20131312954":
			want, code = http.StatusBadRequest, ruc.Invalid
		}
		if l.Status != want || (l.Registro == nil) == (l.Problema == nil) {
			t.Errorf("%s: %+v", text, l)
			continue
		}
		if code != "" {
			if p := decodeProblem(t, l.Problema); p.Code != code || p.Status != want {
				t.Errorf("%s: %s", text, l.Problema)
			}
			continue
		}
		if body := r.get("/v1/ruc/" + text).body; body != string(l.Registro) {
			t.Errorf("%s: %s, alone %s", text, l.Registro, body)
		}
	}
}

// A client that has gone is found by a blank that cannot be written.
func TestBatch_EndsWithItsClient(t *testing.T) {
	t.Parallel()
	var reg *prometheus.Registry
	r := start(t, func(_ *gateway.Config, d *gateway.Deps) { reg = d.Registry })
	asked, answer := make(chan ruc.Number, 10), make(chan struct{})
	r.scraper(func(req micro.Request, n ruc.Number) {
		asked <- n
		<-answer
		r.resolves(req, n)
	})
	_, hangUp := r.openBatch([]string{number.String(), second.String(), third.String()})
	if n := <-asked; n != number {
		t.Errorf("first %s", n)
	}
	hangUp()
	eventually(t, "the batch ends", func() bool { return gauge(t, reg, "ruc_batches") == 0 })
	close(answer)
	r.flush(r.nc)
	select {
	case n := <-asked:
		t.Errorf("%s was asked for when nobody waited", n)
	case <-time.After(50 * time.Millisecond):
	}
}

func TestBatch_WaitsForRoomInTheQueue(t *testing.T) {
	t.Parallel()
	r := start(t)
	var asked atomic.Int64
	r.scraper(func(req micro.Request, n ruc.Number) {
		if asked.Add(1) == 1 {
			r.refuses(req, n, &ruc.Error{Code: ruc.Overloaded, RetryAfter: time.Second})
			return
		}
		r.resolves(req, n)
	})
	if got := r.batch([]string{number.String()}); len(got) != 1 || got[0].Status != http.StatusOK {
		t.Errorf("%+v", got)
	}
}

// A gateway that stops finishes the number it is at and says of the others that they are
// to be asked for again.
func TestBatch_LosesNothingWhenTheGatewayStops(t *testing.T) {
	r := start(t)
	asked, answer := make(chan struct{}, 3), make(chan struct{})
	r.scraper(func(req micro.Request, n ruc.Number) {
		asked <- struct{}{}
		<-answer
		r.resolves(req, n)
	})
	next, _ := r.openBatch([]string{number.String(), second.String(), third.String()})
	<-asked
	stopped := make(chan error)
	go func() { stopped <- r.stop() }()
	eventually(t, "the gateway stops", func() bool {
		res, err := r.web.Get(r.url + "/livez")
		if err == nil {
			res.Body.Close()
		}
		return err != nil
	})
	close(answer)
	if l, ok := next(); !ok || l.RUC != number.String() || l.Status != http.StatusOK {
		t.Errorf("%v %+v", ok, l)
	}
	for _, n := range []ruc.Number{second, third} {
		l, ok := next()
		if !ok || l.RUC != n.String() || l.Status != http.StatusServiceUnavailable {
			t.Fatalf("%v %+v", ok, l)
		}
		if p := decodeProblem(t, l.Problema); p.Code != ruc.Unavailable || p.RetryAfter == 0 {
			t.Errorf("%+v", p)
		}
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestBatch_HonoursCacheControl(t *testing.T) {
	r := start(t)
	a := r.found(number)
	r.publish(a)
	r.holds(a)
	f := r.scraper(r.resolves)
	status := map[string]int{}
	for _, l := range r.batch([]string{number.String(), second.String()}, "Cache-Control", "only-if-cached") {
		status[l.RUC] = l.Status
	}
	if status[number.String()] != http.StatusOK || status[second.String()] != http.StatusGatewayTimeout || f.asked.Load() != 0 {
		t.Errorf("%v, %d visits", status, f.asked.Load())
	}
	if got := r.batch([]string{number.String()}, "Cache-Control", "no-cache"); len(got) != 1 || got[0].Status != http.StatusOK || f.asked.Load() != 1 {
		t.Errorf("%d lines, %d visits", len(got), f.asked.Load())
	}
}

func TestBatch_RefusesWhatIsNoBatch(t *testing.T) {
	r := start(t)
	many := strings.Repeat(`"20131312955",`, 1001)
	for body, code := range map[string]ruc.Code{
		"":                                      ruc.BadBody,
		`{}`:                                    ruc.BadBody,
		`{"rucs":[]}`:                           ruc.BadBody,
		`{"rucs":"20131312955"}`:                ruc.BadBody,
		`{"rucs":[20131312955]}`:                ruc.BadBody,
		`{"rucs":["20131312955"],"otro":1}`:     ruc.BadBody,
		`{"rucs":["20131312955"]} {}`:           ruc.BadBody,
		`{"rucs":[` + many[:len(many)-1] + `]}`: ruc.BadBody,
		`{"rucs":["` + strings.Repeat("1", 70_000): ruc.TooLarge,
	} {
		if p := r.do(http.MethodPost, "/v1/ruc/lote", body, "Content-Type", "application/json").problem(t); p.Code != code {
			t.Errorf("%.60s: %s", body, p.Code)
		}
	}
	if p := r.do(http.MethodPost, "/v1/ruc/lote", `{"rucs":["20131312955"]}`, "Content-Type", "text/plain").problem(t); p.Code != ruc.MediaType {
		t.Errorf("text/plain: %s", p.Code)
	}
	file, _ := keys(t, "uno", "")
	locked := start(t, func(c *gateway.Config, _ *gateway.Deps) { c.APIKeysFile = file })
	if p := locked.do(http.MethodPost, "/v1/ruc/lote", `{"rucs":["20131312955"]}`, "Content-Type", "application/json").problem(t); p.Code != ruc.Unauthorized {
		t.Errorf("without a key: %s", p.Code)
	}
}

// What a batch costs counts on the key's quota, number by number.
func TestBatch_CountsItsVisits(t *testing.T) {
	file, key := keys(t, "dos", "2/d")
	r := start(t, func(c *gateway.Config, _ *gateway.Deps) { c.APIKeysFile = file })
	r.scraper(r.resolves)
	var got []int
	for _, l := range r.batch([]string{number.String(), second.String(), third.String()}, "X-API-Key", key["dos"]) {
		got = append(got, l.Status)
	}
	if want := []int{200, 200, http.StatusTooManyRequests}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
