package replica

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/rs/zerolog"
)

func TestTokenAtOnce(t *testing.T) {
	for _, at := range []bool{true, false} {
		script := serve(t, Config{TokenAtOnce: at}).do(t.Context(), "GET", "/"+tokenScript, "", "")
		if !strings.Contains(string(script.body), "execute: function") || strings.HasPrefix(string(script.body), "var replicaTokenAtOnce = true;") != at {
			t.Errorf("TokenAtOnce %v: %d %s", at, script.status, script.body)
		}
	}
}

func TestRoutes(t *testing.T) {
	s := serve(t, Config{})
	const noCache, aDay = "no-cache", "max-age=86400"
	tests := []struct {
		name, method, path, contentType, body string
		status                                int
		wantType, wantCache, wantText         string
	}{
		{"root leads to the form", "GET", "/", "", "", 302, "", "", ""},
		{"form", "GET", FormPath, "", "", 200, htmlLatin1, noCache, `id="btnAceptar"`},
		{"query without parameters is the form", "GET", QueryPath, "", "", 200, htmlLatin1, noCache, `id="form01"`},
		{"query by GET", "GET", QueryPath + "?accion=consPorRuc&nroRuc=" + sunat, "", "", 401, htmlLatin1, noCache, "No autorizado"},
		{"query as JSON", "POST", QueryPath, "application/json", "{}", 415, "", "", ""},
		{"query without media type", "POST", QueryPath, "", "accion=consPorRuc", 415, "", "", ""},
		{"query with a charset", "POST", QueryPath, formMediaType + "; charset=UTF-8", query(sunat).Encode(), 200, htmlLatin1, noCache, sunat + " - "},
		{"query with a broken body", "POST", QueryPath, formMediaType, "a=%zz", 400, "", "", ""},
		{"query with a body too large", "POST", QueryPath, formMediaType, "a=" + strings.Repeat("x", maxBodyBytes), 400, "", "", ""},
		{"unknown method", "PUT", QueryPath, "", "", 405, "", "", ""},
		{"captcha image", "GET", contextPath + "captcha?accion=image&nmagic=7", "", "", 200, "image/png", noCache, "PNG"},
		{"captcha random is refused", "GET", contextPath + "captcha?accion=random", "", "", 200, htmlLatin1, noCache, "Request Rejected"},
		{"jquery", "GET", "/a/js/libs/jquery/1.11.1/jquery.min.js", "", "", 200, "text/javascript; charset=utf-8", aDay, "jQuery v1.11.1"},
		{"bootstrap style", "GET", "/a/js/libs/bootstrap/3.3.1/css/bootstrap.min.css", "", "", 200, "text/css; charset=utf-8", aDay, "Bootstrap v3.3.1"},
		{"bootstrap script", "GET", "/a/js/libs/bootstrap/3.3.1/js/bootstrap.min.js", "", "", 200, "text/javascript; charset=utf-8", aDay, "Bootstrap v3.3.1"},
		{"bootstrap font", "GET", "/a/js/libs/bootstrap/3.3.1/fonts/glyphicons-halflings-regular.woff", "", "", 200, "", aDay, "wOFF"},
		{"js.js", "GET", "/a/js/js.js", "", "", 200, "text/javascript; charset=utf-8", aDay, ""},
		{"ws.js", "GET", "/a/js/apps/workspace/ws.js", "", "", 200, "text/javascript; charset=utf-8", aDay, "regresaWorkspace"},
		{"monitor", "GET", "/a/js/site24x7/monitor247RUMConsultaRuc.js", "", "", 200, "text/javascript; charset=utf-8", aDay, ""},
		{"token script", "GET", "/sunatrecaptcha/3.0.2/sunatrecaptcha3.js", "", "", 200, "text/javascript; charset=utf-8", aDay, "site_key_sunat"},
		{"logo", "GET", "/a/imagenes/logo_2015.png", "", "", 200, "image/png", aDay, "PNG"},
		{"loading", "GET", "/a/imagenes/loading.gif", "", "", 200, "image/gif", aDay, "GIF8"},
		{"no listings", "GET", "/a/js/libs/", "", "", 404, "", "", ""},
		{"unknown", "GET", "/nada", "", "", 404, "", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := s.do(t.Context(), tt.method, tt.path, tt.contentType, tt.body)
			if a.err != nil {
				t.Fatal(a.err)
			}
			if a.status != tt.status {
				t.Errorf("status %d, want %d", a.status, tt.status)
			}
			if got := a.header.Get("Content-Type"); tt.wantType != "" && got != tt.wantType {
				t.Errorf("Content-Type %q, want %q", got, tt.wantType)
			}
			if got := a.header.Get("Cache-Control"); !strings.Contains(got, tt.wantCache) {
				t.Errorf("Cache-Control %q, want %q in it", got, tt.wantCache)
			}
			if !strings.Contains(a.text(), tt.wantText) {
				t.Errorf("the body lacks %q", tt.wantText)
			}
		})
	}
}

func TestForm_HasTheFieldsInTheOrderOfTheRealOne(t *testing.T) {
	text := serve(t, Config{}).get(FormPath).text()
	form := text[strings.Index(text, "<form"):strings.Index(text, "</form>")]
	var names []string
	for _, m := range regexp.MustCompile(`<(?:input|select)[^>]* name="([^"]+)"`).FindAllStringSubmatch(form, -1) {
		names = append(names, m[1])
	}
	const want = "accion razSoc nroRuc nrodoc token contexto modo rbtnTipo search1 rbtnTipo tipdoc search2 rbtnTipo search3 codigo"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("fields:\n got %s\nwant %s", got, want)
	}
	for _, sentence := range []string{
		"Por favor, ingrese número de RUC válido.",
		"La Razón social no es válida.",
		"Sólo puede ingresar letras y/o números como criterio de búsqueda.",
		"El Número del Documento no es válido.",
		"El número de documento de identidad debe tener 8 dígitos.",
		"El número de documento de identidad debe contener solo números.",
		"1997 - 2026 SUNAT Derechos Reservados",
		"<title>SUNAT - Consulta Ruc</title>",
		`class="divCargando hidden" id="divCarga"`,
	} {
		if !strings.Contains(text, sentence) {
			t.Errorf("the form lacks %q", sentence)
		}
	}
}

func TestForm_SetsCookiesOnce(t *testing.T) {
	s := serve(t, Config{})
	cookies := map[string]string{}
	for _, line := range s.get(FormPath).header.Values("Set-Cookie") {
		c, err := http.ParseSetCookie(line)
		if err != nil {
			t.Fatal(err)
		}
		cookies[c.Name] = c.Value
	}
	if v := cookies[SessionCookie]; !regexp.MustCompile(`^[0-9a-z]{52}!-?\d+!\d+$`).MatchString(v) {
		t.Errorf("%s = %q", SessionCookie, v)
	}
	if !strings.HasPrefix(BalancerCookie, "TS01") || cookies[BalancerCookie] == "" {
		t.Errorf("%s = %q", BalancerCookie, cookies[BalancerCookie])
	}

	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+FormPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range cookies {
		req.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if again := resp.Header.Values("Set-Cookie"); len(again) > 0 {
		t.Errorf("a client with cookies gets them again: %q", again)
	}
}

func TestQuery(t *testing.T) {
	s := serve(t, Config{})
	with := func(number string, change ...string) url.Values {
		q := query(number)
		for i := 0; i < len(change); i += 2 {
			q.Set(change[i], change[i+1])
		}
		return q
	}
	const errorText, unknownText = "Surgieron problemas al procesar la consulta por número de ruc", " consultado no es válido. Debe verificar el número y volver a ingresar. "
	tests := []struct {
		name   string
		fields url.Values
		want   string
	}{
		{"found", with(sunat), sunat + " - SUPERINTENDENCIA"},
		{"token missing", with(sunat, "token", ""), errorText},
		{"token of 49", with(sunat, "token", goodToken[:49]), errorText},
		{"token of 50", with(sunat, "token", goodToken[:50]), sunat + " - "},
		{"from the list of names", with(sunat, "token", "", "actReturn", "1"), sunat + " - "},
		{"unregistered", with(unregistered), " El número de RUC " + unregistered + unknownText},
		{"wrong check digit", with(wrongDigit), " El número de RUC " + wrongDigit + unknownText},
		{"not a number", with("<b>"), "El número de RUC &lt;b&gt; consultado"},
		{"old layout", with(sunat, "modo", ""), `<td class="bgn">Estado del Contribuyente:</td>`},
		{"by document", url.Values{"accion": {actionByDocument}, "nrodoc": {"00000000"}}, "El Sistema RUC NO REGISTRA un número de RUC para el documento 00000000."},
		{"by name, as a browser sends it", url.Values{"accion": {actionByName}, "razSoc": {"CA\xd1A Y A\xd1IL"}}, `data-ruc="20880000`},
		{"by name, in UTF-8", url.Values{"accion": {actionByName}, "razSoc": {"caña y añil"}}, "Relación de contribuyentes"},
		{"by name, nobody", url.Values{"accion": {actionByName}, "razSoc": {"NADIE & NADA"}}, "NO REGISTRA un número de RUC para el nombre o razón social NADIE &amp; NADA."},
		{"history", url.Values{"accion": {"getinfHis"}, "nroRuc": {sunat}}, "DE " + sunat},
		{"debts", url.Values{"accion": {"getInfoDC"}, "nroRuc": {sunat}}, "DEUDA COACTIVA REMITIDA A CENTRALES DE RIESGO DE"},
		{"omissions", url.Values{"accion": {"getInfoOT"}, "nroRuc": {sunat}}, "no registra"},
		{"workers", url.Values{"accion": {"getCantTrab"}, "nroRuc": {sunat}}, "CANTIDAD DE TRABAJADORES"},
		{"acts", url.Values{"accion": {"getActPro"}, "nroRuc": {sunat}}, "No existe información"},
		{"paper invoices", url.Values{"accion": {"getActCPF"}, "nroRuc": {sunat}}, "Último Nro Autorización"},
		{"Reactiva", url.Values{"accion": {"getReactivaPeru"}, "nroRuc": {sunat}}, "Decreto Legislativo N° 1455"},
		{"COVID", url.Values{"accion": {"getPGarantiaCOVID19"}, "nroRuc": {sunat}}, "Ley N° 31050"},
		{"representatives", url.Values{"accion": {"getRepLeg"}, "nroRuc": {sunat}}, fakeDocument},
		{"representatives of a person", url.Values{"accion": {"getRepLeg"}, "nroRuc": {Cases()[2].Number.String()}}, "No se encontro información para representantes legales"},
		{"branches", url.Values{"accion": {"getLocAnex"}, "nroRuc": {sunat}}, "0001"},
		{"mail", url.Values{"accion": {"enviar"}, "nroRuc": {sunat}}, ".:: Pagina de Mensajes ::."},
		{"unknown query", url.Values{"accion": {"getNada"}, "nroRuc": {sunat}}, ".:: Pagina de Error ::."},
		{"sub-page of nobody", url.Values{"accion": {"getRepLeg"}, "nroRuc": {unregistered}}, errorText},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := s.post(tt.fields)
			if a.err != nil || a.status != http.StatusOK {
				t.Fatalf("status %d, error %v", a.status, a.err)
			}
			if got := a.header.Get("Content-Type"); got != htmlLatin1 {
				t.Errorf("Content-Type %q", got)
			}
			if !strings.Contains(a.text(), tt.want) {
				t.Errorf("the page lacks %q:\n%s", tt.want, a.text())
			}
		})
	}
}

func TestQuery_BytesAreLatin1UnderALyingMeta(t *testing.T) {
	s := serve(t, Config{})
	a := s.post(query(sunat))
	if utf8.Valid(a.body) {
		t.Error("the result's bytes are UTF-8")
	}
	for _, want := range []string{"Resultado de la B\xfasqueda", `<meta charset="utf-8">`} {
		if !bytes.Contains(a.body, []byte(want)) {
			t.Errorf("the result lacks the bytes %q", want)
		}
	}
	history := s.post(url.Values{"accion": {"getinfHis"}, "nroRuc": {sunat}})
	if !utf8.Valid(history.body) || !bytes.Contains(history.body, []byte("HISTÓRICA")) {
		t.Error("getinfHis is not UTF-8")
	}
	if got := history.header.Get("Content-Type"); got != htmlLatin1 {
		t.Errorf("getinfHis says %q", got)
	}
}

func TestDelays_HoldTheAnswerBack(t *testing.T) {
	const delay = 20 * time.Millisecond
	s := serve(t, Config{FormDelay: delay, ResultDelay: delay})
	for name, ask := range map[string]func() answer{
		"form":   func() answer { return s.get(FormPath) },
		"result": func() answer { return s.post(query(sunat)) },
	} {
		began := time.Now()
		if a := ask(); a.err != nil || a.status != http.StatusOK {
			t.Fatalf("%s: status %d, error %v", name, a.status, a.err)
		}
		if took := time.Since(began); took < delay {
			t.Errorf("%s after %v, want at least %v", name, took, delay)
		}
	}
}

func TestRateRule(t *testing.T) {
	rejected := func(a answer) bool { return a.err == nil && strings.Contains(a.text(), "Request Rejected") }

	t.Run("interval", func(t *testing.T) {
		s := serve(t, Config{MinInterval: time.Second, BlockFor: time.Minute})
		if a := s.post(query(sunat)); !isRecordOf(a, sunat) {
			t.Fatal("the first query is refused")
		}
		s.clock.advance(time.Second)
		if a := s.post(query(sunat)); !isRecordOf(a, sunat) {
			t.Fatal("a query after the interval is refused")
		}
		s.clock.advance(time.Second - time.Millisecond)
		if a := s.post(query(sunat)); !rejected(a) {
			t.Fatal("a query before the interval is answered")
		}
		s.clock.advance(time.Minute - time.Millisecond)
		if a := s.get(FormPath); !rejected(a) {
			t.Error("the form is served during the block")
		}
		if a := s.post(query(sunat)); !rejected(a) {
			t.Error("a query is answered during the block")
		}
		s.clock.advance(time.Millisecond)
		if a := s.post(query(sunat)); !isRecordOf(a, sunat) {
			t.Error("a query after the block is refused")
		}
		if got := s.Stats().Blocked; got != 3 {
			t.Errorf("blocked %d, want 3", got)
		}
	})

	t.Run("concurrency", func(t *testing.T) {
		s := serve(t, Config{MaxConcurrent: 1})
		s.setFault(Fault{Kind: FaultHang, Times: 1})
		first := s.inBackground(sunat)
		until(t, "the first query hangs", func() bool { return len(s.Faults()) == 0 })
		if a := s.post(query(company)); !rejected(a) {
			t.Error("a second query at a time is answered")
		}
		s.ClearFaults()
		if a := receive(t, first); !isRecordOf(a, sunat) {
			t.Error("the first query is not answered")
		}
		if a := s.post(query(company)); !isRecordOf(a, company) {
			t.Error("without BlockFor the block outlives the request")
		}
	})

	t.Run("reset", func(t *testing.T) {
		s := serve(t, Config{MinInterval: time.Second, BlockFor: time.Minute, BlockByReset: true})
		s.post(query(sunat))
		if a := s.post(query(sunat)); a.err == nil {
			t.Errorf("status %d, want a reset", a.status)
		}
	})
}

func TestPacer_RemembersABoundedNumberOfClients(t *testing.T) {
	p := newPacer(Config{MinInterval: time.Second})
	at := newClock()
	for i := range maxClients + 10 {
		at.advance(time.Second)
		p.post("client "+strconv.Itoa(i), at.now())
	}
	if len(p.clients) != maxClients {
		t.Errorf("%d clients, want %d", len(p.clients), maxClients)
	}
}

func TestStats(t *testing.T) {
	s := serve(t, Config{})
	if got := s.Stats(); got.MinGapMs != nil || got.Visits == nil {
		t.Errorf("before any query: %+v", got)
	}
	s.get(FormPath)
	for _, gap := range []time.Duration{0, 1500 * time.Millisecond, 250 * time.Millisecond, 2 * time.Second} {
		s.clock.advance(gap)
		s.post(query(sunat))
	}
	s.post(query(wrongDigit))
	s.post(query("abc"))
	s.post(url.Values{"accion": {"getRepLeg"}, "nroRuc": {sunat}})

	var got struct {
		Forms         int            `json:"forms"`
		Posts         int            `json:"posts"`
		Visits        map[string]int `json:"visits"`
		MaxConcurrent int            `json:"maxConcurrent"`
		MinGapMs      *float64       `json:"minGapMs"`
		Blocked       int            `json:"blocked"`
	}
	if err := json.Unmarshal(s.get(StatsPath).body, &got); err != nil {
		t.Fatal(err)
	}
	if got.Forms != 1 || got.Posts != 7 || got.MaxConcurrent != 1 || got.Blocked != 0 {
		t.Errorf("stats %+v", got)
	}
	if len(got.Visits) != 2 || got.Visits[sunat] != 4 || got.Visits[wrongDigit] != 1 {
		t.Errorf("visits %v", got.Visits)
	}
	if got.MinGapMs == nil || *got.MinGapMs != 0 {
		t.Errorf("minGapMs %v, want 0", got.MinGapMs)
	}

	if a := s.do(t.Context(), http.MethodDelete, StatsPath, "", ""); a.status != http.StatusNoContent {
		t.Errorf("DELETE answers %d", a.status)
	}
	s.post(query(sunat))
	s.clock.advance(250 * time.Millisecond)
	s.post(query(sunat))
	if after := s.Stats(); after.Posts != 2 || after.Forms != 0 || after.MinGapMs == nil || *after.MinGapMs != 250 {
		t.Errorf("after the reset: %+v", after)
	}
}

func TestStats_CountsQueriesInProgressAtTheirArrival(t *testing.T) {
	s := serve(t, Config{})
	s.setFault(Fault{Kind: FaultHang})
	first, second := s.inBackground(sunat), s.inBackground(sunat)
	until(t, "both are counted", func() bool { return s.Stats().Visits[sunat] == 2 })
	if got := s.Stats().MaxConcurrent; got != 2 {
		t.Errorf("maxConcurrent %d, want 2", got)
	}
	s.ClearFaults()
	receive(t, first)
	receive(t, second)
}

func TestStats_AreBounded(t *testing.T) {
	var c counters
	c.stats.Visits = make(map[string]int, maxCountedRUCs)
	for i := range maxCountedRUCs {
		c.stats.Visits[strconv.Itoa(i)] = 1
	}
	c.visit(sunat)
	if got := c.snapshot(); len(got.Visits) != maxCountedRUCs || got.Uncounted != 1 {
		t.Errorf("%d numbers, %d uncounted", len(got.Visits), got.Uncounted)
	}
}

func TestControl_AnswersLoopbackOnly(t *testing.T) {
	s := New(Config{}, newClock().now)
	for address, want := range map[string]int{
		"127.0.0.1:1": http.StatusOK, "[::1]:1": http.StatusOK,
		"192.0.2.7:1": http.StatusForbidden, "nonsense": http.StatusForbidden,
	} {
		for _, path := range []string{StatsPath, FaultsPath} {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
			r.RemoteAddr = address
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			if w.Code != want {
				t.Errorf("%s from %s: %d, want %d", path, address, w.Code, want)
			}
		}
	}
}

func TestRun_StopsWithHungRequests(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ran := make(chan error, 1)
	go func() { ran <- Run(ctx, Config{}, Deps{Listener: listener, Log: zerolog.Nop()}) }()

	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	s := &site{t: t, url: "http://" + listener.Addr().String(), client: &http.Client{Transport: transport, Timeout: patience}}
	a := s.do(ctx, http.MethodPost, FaultsPath, "application/json", `{"fault":"hang"}`)
	if a.err != nil || a.status != http.StatusOK {
		t.Fatalf("set the fault: status %d, error %v", a.status, a.err)
	}
	hung := make(chan answer, 1)
	go func() {
		hung <- s.do(context.WithoutCancel(ctx), http.MethodPost, QueryPath, formMediaType, query(sunat).Encode())
	}()
	until(t, "the query hangs", func() bool { return strings.Contains(s.get(StatsPath).text(), sunat) })

	stop()
	select {
	case err := <-ran:
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(stopTimeout):
		t.Fatal("Run does not stop")
	}
	if a := receive(t, hung); a.err == nil {
		t.Errorf("the hung query is answered with %d", a.status)
	}
}

func TestRun_ReturnsTheListenersError(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = listener.Close()
	if err := Run(t.Context(), Config{}, Deps{Listener: listener, Log: zerolog.Nop()}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Run: %v, want net.ErrClosed", err)
	}
}
