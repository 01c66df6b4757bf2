package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestFaults_OnResults(t *testing.T) {
	has := func(text string) func(answer) bool {
		return func(a answer) bool {
			return a.err == nil && a.status == http.StatusOK && strings.Contains(a.text(), text)
		}
	}
	status := func(want int) func(answer) bool {
		return func(a answer) bool { return a.err == nil && a.status == want }
	}
	right := func(a answer) bool { return isRecordOf(a, sunat) }
	both := func(f, g func(answer) bool) func(answer) bool {
		return func(a answer) bool { return f(a) && g(a) }
	}
	tests := map[string]func(answer) bool{
		FaultSlow: right,
		FaultHalf: func(a answer) bool {
			return has("Estado del Contribuyente:")(a) && !strings.Contains(a.text(), "Padrones") && !strings.Contains(a.text(), "</html>")
		},
		FaultOtherRUC:      func(a answer) bool { return has("Fecha consulta")(a) && !strings.Contains(a.text(), sunat) },
		FaultNotFoundOther: func(a answer) bool { return has("consultado no es válido")(a) && !strings.Contains(a.text(), sunat) },
		FaultError:         has(".:: Pagina de Error ::."),
		FaultWAF:           has("Your support ID is: "),
		FaultEmpty:         func(a answer) bool { return status(200)(a) && len(a.body) == 0 },
		FaultReset:         func(a answer) bool { return errors.Is(a.err, syscall.ECONNRESET) },
		FaultAlert:         both(right, has("<script>alert(")),
		FaultAlertLoad:     both(right, has("'load', function () { alert(")),
		FaultPopup:         both(right, has("window.open(")),
		FaultLoop:          both(right, has("for (;;)")),
		FaultRename:        func(a answer) bool { return right(a) && !strings.Contains(a.text(), "Estado del Contribuyente:") },
		FaultBounce:        has(`id="form01"`),
		"401":              both(status(401), func(a answer) bool { return strings.Contains(a.text(), "No autorizado") }),
		"403":              status(403),
		"429":              status(429),
		"500":              status(500),
		"502":              status(502),
		"503":              status(503),
		"504":              status(504),
	}
	held := map[string]bool{FaultHang: true, FaultHalfOpen: true} // tested below
	for _, kind := range faultKinds() {
		if tests[kind] == nil && !held[kind] {
			t.Errorf("fault %s has no test", kind)
		}
	}
	for kind, want := range tests {
		t.Run(kind, func(t *testing.T) {
			s := serve(t, Config{})
			s.setFault(Fault{Kind: kind, Times: 1, DelayMs: 1})
			if a := s.post(query(sunat)); !want(a) {
				t.Errorf("status %d, error %v, page:\n%s", a.status, a.err, a.text())
			}
			if a := s.post(query(sunat)); !right(a) {
				t.Errorf("the fault outlives its one time: status %d, error %v", a.status, a.err)
			}
		})
	}
}

func TestFaults_OnForm(t *testing.T) {
	s := serve(t, Config{})
	s.setFault(Fault{Kind: FaultAlert, On: OnForm, Times: 1})
	if a := s.post(query(sunat)); strings.Contains(a.text(), "<script>alert(") {
		t.Error("a fault of the form shows in a result")
	}
	if a := s.get(FormPath); !strings.Contains(a.text(), "<script>alert(") || !strings.Contains(a.text(), "btnAceptar") {
		t.Error("the form does not alert")
	}
	s.setFault(Fault{Kind: FaultHalf, On: OnForm, Times: 1})
	if a := s.get(FormPath); a.err != nil || strings.Contains(a.text(), "</html>") || len(a.body) == 0 {
		t.Errorf("half a form has %d bytes, error %v", len(a.body), a.err)
	}
	if a := s.get(FormPath); !strings.Contains(a.text(), "</html>") {
		t.Error("the form is not whole again")
	}
}

func TestFault_HangEnds(t *testing.T) {
	hang := func(t *testing.T) (*site, context.CancelFunc, <-chan answer) {
		t.Helper()
		s := serve(t, Config{})
		s.setFault(Fault{Kind: FaultHang, Times: 1})
		ctx, leave := context.WithCancel(t.Context())
		t.Cleanup(leave)
		hung := make(chan answer, 1)
		go func() {
			hung <- s.do(ctx, http.MethodPost, QueryPath, formMediaType, query(sunat).Encode())
		}()
		until(t, "the query hangs", func() bool { return len(s.Faults()) == 0 })
		select {
		case a := <-hung:
			t.Fatalf("answered with %d", a.status)
		default:
		}
		return s, leave, hung
	}
	t.Run("when the faults are cleared", func(t *testing.T) {
		s, _, hung := hang(t)
		s.ClearFaults()
		if a := receive(t, hung); !isRecordOf(a, sunat) {
			t.Errorf("status %d, error %v", a.status, a.err)
		}
	})
	t.Run("when the client leaves", func(t *testing.T) {
		s, leave, hung := hang(t)
		leave()
		if a := receive(t, hung); !errors.Is(a.err, context.Canceled) {
			t.Errorf("status %d, error %v", a.status, a.err)
		}
		until(t, "nothing is in progress", func() bool {
			s.ResetStats()
			return s.Stats().MaxConcurrent == 0
		})
	})
	t.Run("when the site is closed", func(t *testing.T) {
		s, _, hung := hang(t)
		s.Close()
		if a := receive(t, hung); a.err == nil {
			t.Errorf("status %d, want an error", a.status)
		}
	})
}

func TestFault_HalfOpenSendsHalfAndWaits(t *testing.T) {
	s := serve(t, Config{})
	s.setFault(Fault{Kind: FaultHalfOpen, Times: 1})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+QueryPath, strings.NewReader(query(sunat).Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", formMediaType)
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()

	whole := Render(mustLookup(t, sunat), s.clock.now())
	half := make([]byte, middle(whole))
	if _, err := io.ReadFull(resp.Body, half); err != nil {
		t.Fatal(err)
	}
	more := make(chan []byte, 1)
	go func() {
		rest, _ := io.ReadAll(resp.Body)
		more <- rest
	}()
	select {
	case rest := <-more:
		t.Fatalf("%d more bytes, the connection does not stay open", len(rest))
	case <-time.After(10 * time.Millisecond): // a moment in which nothing may come
	}
	s.ClearFaults()
	if rest := <-more; string(half)+string(rest) != string(whole) {
		t.Error("the page is not whole after the faults are cleared")
	}
}

func TestFaults_MeetTheirNumberOnly(t *testing.T) {
	s := serve(t, Config{})
	s.setFault(Fault{Kind: "500", RUC: company, Times: 2})
	for i, want := range []struct {
		number string
		status int
	}{{sunat, 200}, {company, 500}, {sunat, 200}, {company, 500}, {company, 200}} {
		if a := s.post(query(want.number)); a.status != want.status {
			t.Errorf("query %d for %s: %d, want %d", i, want.number, a.status, want.status)
		}
	}
}

func TestFaults_OtherTaxpayerIsRegisteredAndAnother(t *testing.T) {
	s := serve(t, Config{})
	s.setFault(Fault{Kind: FaultOtherRUC})
	for _, number := range []string{sunat, unregistered, knownNumber, wrongDigit, "abc"} {
		if a := s.post(query(number)); !strings.Contains(a.text(), "Fecha consulta") || strings.Contains(a.text(), number+" - ") {
			t.Errorf("asked %s: status %d, error %v", number, a.status, a.err)
		}
	}
}

func TestFaults_Control(t *testing.T) {
	s := serve(t, Config{})
	set := func(body string) answer {
		return s.do(t.Context(), http.MethodPost, FaultsPath, "application/json", body)
	}

	for body, want := range map[string]string{
		`{"fault":"hangs"}`:              `fault "hangs" is not one of `,
		`{}`:                             `fault "" is not one of `,
		`{"fault":"500","on":"page"}`:    `on "page" is neither "result" nor "form"`,
		`{"fault":"rename","on":"form"}`: `fault "rename" is for results only`,
		`{"fault":"500","on":"form","ruc":"` + sunat + `"}`: "leave ruc empty",
		`{"fault":"500","ruc":"12"}`:                        `ruc "12" is not 11 digits`,
		`{"fault":"500","times":-1}`:                        "times -1 is negative",
		`{"fault":"slow","delayMs":-1}`:                     "delayMs -1 is not between 0 and 600000",
		`{"fault":"slow","delayMs":9000000000000000000}`:    "is not between 0 and 600000",
		`{"fault":"500","time":1}`:                          `unknown field "time"`,
		`nonsense`:                                          "invalid character",
	} {
		if a := set(body); a.status != http.StatusBadRequest || !strings.Contains(a.text(), want) {
			t.Errorf("%s: %d %s, want 400 %s", body, a.status, a.text(), want)
		}
	}

	set(`{"fault":"waf","ruc":"` + sunat + `","times":3}`)
	set(`{"fault":"waf","ruc":"` + sunat + `","times":5,"delayMs":1}`)
	a := set(`{"fault":"500","on":"form"}`)
	const want = `[{"fault":"waf","ruc":"20131312955","times":5,"delayMs":1,"on":"result"},{"fault":"500","ruc":"","times":0,"delayMs":0,"on":"form"}]`
	if got := strings.TrimSpace(a.text()); a.status != http.StatusOK || got != want {
		t.Errorf("active faults:\n got %s\nwant %s", got, want)
	}
	if got := strings.TrimSpace(s.get(FaultsPath).text()); got != want {
		t.Errorf("GET: %s", got)
	}
	if a := s.do(t.Context(), http.MethodDelete, FaultsPath, "", ""); a.status != http.StatusNoContent {
		t.Errorf("DELETE answers %d", a.status)
	}
	if got := strings.TrimSpace(s.get(FaultsPath).text()); got != "[]" {
		t.Errorf("after DELETE: %s", got)
	}
}

func TestFaults_AreBounded(t *testing.T) {
	s := New(Config{}, newClock().now)
	for i := range maxFaults {
		if err := s.SetFault(Fault{Kind: FaultWAF, RUC: fmt.Sprintf("20%09d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.SetFault(Fault{Kind: FaultWAF}); err == nil {
		t.Error("one more is accepted")
	}
}
