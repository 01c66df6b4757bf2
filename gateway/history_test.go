package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/rucflow/rucflow/gateway"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

const historyPath = "/v1/ruc/20131312955/historial"

// historia is a history as a client reads it.
type historia struct {
	RUC       string `json:"ruc"`
	Versiones []struct {
		Huella       string
		Desde, Hasta time.Time
		Consultas    int
		Respuesta    json.RawMessage
	} `json:"versiones"`
	Completo bool `json:"completo"`
}

func (r *rig) history(header ...string) (h historia) {
	r.t.Helper()
	got := r.get(historyPath, header...)
	if got.StatusCode != http.StatusOK {
		r.t.Fatalf("%d %s", got.StatusCode, got.body)
	}
	if err := json.Unmarshal([]byte(got.body), &h); err != nil {
		r.t.Fatal(err)
	}
	return h
}

func TestHistory_VersionsNewestFirst(t *testing.T) {
	r := start(t)
	began := r.clock.now().Truncate(time.Millisecond).UTC()
	at := func(days int) time.Time { return began.Add(time.Duration(days) * day) }
	named := func(name ruc.Text, days int) ruc.Answer { return foundAt(number, name, at(days)) }
	last := map[string]ruc.Answer{"tres": named("A & B", -1), "dos": named("C", -4), "cero": missingAt(number, at(-5)), "uno": named("A & B", -6)}
	for _, a := range []ruc.Answer{
		named("A & B", -8), named("A & B", -7), last["uno"], last["cero"], last["dos"], named("A & B", -3), named("A & B", -2), last["tres"],
	} {
		r.publish(a)
		r.publish(foundAt(second, "OTRO", a.ObtenidoEn))
	}
	r.publishFailure(number, &ruc.Error{Code: ruc.Blocked})
	got := r.get(historyPath)
	var want []string
	for _, v := range []struct {
		name      string
		desde     int
		consultas int
	}{{"tres", -3, 3}, {"dos", -4, 1}, {"cero", -5, 1}, {"uno", -8, 3}} {
		a := last[v.name]
		from, _ := json.Marshal(at(v.desde))
		to, _ := json.Marshal(a.ObtenidoEn)
		want = append(want, fmt.Sprintf(`{"huella":"%s","desde":%s,"hasta":%s,"consultas":%d,"respuesta":%s}`, a.Huella, from, to, v.consultas, encode(t, a)))
	}
	text := `{"ruc":"20131312955","versiones":[` + strings.Join(want, ",") + `],"completo":true}`
	if diff := cmp.Diff(text, got.body); diff != "" {
		t.Error(diff)
	}
	for name, want := range map[string]string{"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-store", "X-Request-Id": ""} {
		if got := got.Header.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := r.do(http.MethodHead, historyPath, "", "X-Request-Id", "pedido-4711"); got.StatusCode != http.StatusOK || got.Header.Get("X-Request-Id") != "pedido-4711" {
		t.Errorf("HEAD: %d %v", got.StatusCode, got.Header)
	}
}

func TestHistory_OfANumberThatNobodyAskedFor(t *testing.T) {
	r := start(t)
	if got := r.get(historyPath); got.StatusCode != http.StatusOK || got.body != `{"ruc":"20131312955","versiones":[],"completo":true}` {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
	if got := r.get("/v1/ruc/20131312954/historial"); got.problem(t).Code != ruc.Invalid {
		t.Errorf("%s", got.body)
	}
}

func TestHistory_AtMost100Versions(t *testing.T) {
	r := start(t)
	for i := range 103 {
		r.publish(foundAt(number, ruc.Text(fmt.Sprint("VERSIÓN ", i)), r.clock.now()))
	}
	h := r.history()
	if len(h.Versiones) != 100 || h.Completo || !strings.Contains(string(h.Versiones[0].Respuesta), "VERSIÓN 102") || !strings.Contains(string(h.Versiones[99].Respuesta), `"VERSIÓN 3"`) {
		t.Errorf("%d versions, whole: %v", len(h.Versiones), h.Completo)
	}
}

// What anybody may have stored under the number's subject is no version, or nothing could
// be read any more.
func TestHistory_PassesOverWhatIsNoAnswer(t *testing.T) {
	r := start(t)
	good := r.found(number)
	for _, body := range []string{`{}`, strings.Replace(string(encode(t, good)), `"activo":true`, `"activo":tru`, 1), string(encode(t, r.found(second)))} {
		r.store(wire.ResolvedEvent(number, r.job(), []byte(body), ruc.FuenteReplica, r.clock.now()))
	}
	r.publish(good)
	if h := r.history(); len(h.Versiones) != 1 || h.Versiones[0].Huella != good.Huella {
		t.Errorf("%+v", h)
	}
}

func TestHistory_WithoutTheStream(t *testing.T) {
	r := start(t)
	startAgain := r.stopBus()
	eventually(t, "the connection is lost", func() bool { return r.mine.Status() != nats.CONNECTED })
	got := r.get(historyPath)
	if p := got.problem(t); p.Code != ruc.Unavailable || p.RetryAfter == 0 || p.RUC != number.String() {
		t.Errorf("%s", got.body)
	}
	startAgain()
}

// It costs no visit, so a page of another site gets it; a key is wanted as for lookups.
func TestHistory_AccessAsToALookup(t *testing.T) {
	file, key := keys(t, "uno", "1/d")
	r := start(t, func(cfg *gateway.Config, _ *gateway.Deps) { cfg.APIKeysFile, cfg.RateLimit = file, "5/d" })
	if got := r.get(historyPath); got.problem(t).Code != ruc.Unauthorized {
		t.Errorf("without a key: %s", got.body)
	}
	for range 5 {
		got := r.get(historyPath, "X-API-Key", key["uno"], "Origin", "https://other.example", "Sec-Fetch-Site", "cross-site")
		if got.StatusCode != http.StatusOK || !strings.Contains(got.Header.Get("RateLimit"), `"visits";r=1;`) {
			t.Errorf("%d %s %v", got.StatusCode, got.body, got.Header)
		}
	}
	if got := r.get(historyPath, "X-API-Key", key["uno"]); got.problem(t).Code != ruc.RateLimited {
		t.Errorf("beyond the limit: %s", got.body)
	}
}

// A refresh that finds nothing new leaves the ETag as it was, and who has the record is
// told so.
func TestETag_UnchangedByARefreshThatFindsNothingNew(t *testing.T) {
	r := start(t)
	minute := r.clock.now()
	name := ruc.Text("EJEMPLO S.A.C.")
	r.scraper(func(req micro.Request, n ruc.Number) {
		minute = minute.Add(time.Minute) // each visit's page has another one at its foot
		r.reply(req, ruc.Found(n, ruc.Record{RazonSocial: name, FechaConsultaSunat: &minute}, r.clock.now(), ruc.FuenteReplica, ruc.MotorHTTP))
	})
	path := "/obtener-ruc/" + number.String()
	first := r.get(path)
	tag := first.Header.Get("ETag")
	r.clock.advance(time.Hour)
	again := r.get(path, "Cache-Control", "no-cache", "If-None-Match", tag)
	if again.StatusCode != http.StatusNotModified || again.body != "" || again.Header.Get("ETag") != tag || !strings.Contains(again.Header.Get("Cache-Status"), "fwd=miss") {
		t.Errorf("%d %v %s", again.StatusCode, again.Header, again.body)
	}
	if got := r.get(path); got.body == first.body || got.Header.Get("ETag") != tag || got.Header.Get("Last-Modified") == first.Header.Get("Last-Modified") {
		t.Errorf("the record is not of the second visit: %v", got.Header)
	}
	if h := r.history(); len(h.Versiones) != 1 || h.Versiones[0].Consultas != 2 {
		t.Errorf("%+v", h)
	}
	name = "EJEMPLO S.A.A."
	r.clock.advance(time.Hour)
	if got := r.get(path, "Cache-Control", "no-cache", "If-None-Match", tag); got.StatusCode != http.StatusOK || got.Header.Get("ETag") == tag {
		t.Errorf("%d %v", got.StatusCode, got.Header)
	}
	if h := r.history(); len(h.Versiones) != 2 {
		t.Errorf("%+v", h)
	}
}
