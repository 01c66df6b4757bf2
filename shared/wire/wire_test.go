package wire_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

var (
	number = ruc.MustParse("20131312955")
	at     = time.Date(2026, 11, 21, 15, 20, 30, 120_000_000, time.UTC)
	found  = ruc.Found(number, ruc.Record{RazonSocial: `A "B" & C`}, at, ruc.FuenteSunat, ruc.MotorChrome)
	absent = ruc.Missing(number, at, ruc.FuenteSunat, ruc.MotorChrome)
)

func encode(t testing.TB, a ruc.Answer) []byte {
	t.Helper()
	b, err := a.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReadPrefix_ReadsWhatEncodeWrites(t *testing.T) {
	for _, a := range []ruc.Answer{found, absent} {
		got, err := wire.ReadPrefix(encode(t, a))
		if err != nil {
			t.Fatal(err)
		}
		want := wire.Prefix{RUC: number, Found: a.Encontrado, ObtainedAt: at, Huella: a.Huella}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b ruc.Number) bool { return a == b })); diff != "" {
			t.Error(diff)
		}
	}
}

func TestReadPrefix_RefusesEverythingElse(t *testing.T) {
	good := string(encode(t, found))
	for name, in := range map[string]string{
		"nothing":         "",
		"null":            "null",
		"other order":     `{"encontrado":true,"ruc":"20131312955"}`,
		"bad number":      strings.Replace(good, "20131312955", "20131312956", 1),
		"not a boolean":   strings.Replace(good, "true", `"si"`, 1),
		"bad time":        strings.Replace(good, "2026-11-21T", "ayer", 1),
		"bad huella":      strings.Replace(good, found.Huella, strings.ToUpper(found.Huella[:1])+"!"+found.Huella[2:], 1),
		"short":           good[:60],
		"cut in the body": good[:len(good)-1],
		"blanks":          " " + good,
	} {
		if p, err := wire.ReadPrefix([]byte(in)); err == nil {
			t.Errorf("%s was read as %+v", name, p)
		}
	}
}

func FuzzReadPrefix(f *testing.F) {
	f.Add(encode(f, found))
	f.Add(encode(f, absent))
	f.Add([]byte(`{"ruc":"20131312955","encontrado":true,"obtenidoEn":"`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := wire.ReadPrefix(b)
		if err != nil {
			return
		}
		for _, part := range []string{p.RUC.String(), p.Huella, fmt.Sprint(p.Found)} {
			if !strings.Contains(string(b), part) {
				t.Errorf("%q is not in %q", part, b)
			}
		}
	})
}

func TestParseRequest(t *testing.T) {
	for in, want := range map[string]ruc.Code{
		"20131312955":              "",
		" 20131312955\n":           "",
		`{"ruc":"20131312955"}`:    "",
		`{"ruc":"20123456789"}`:    ruc.Invalid,
		`{"ruc":20131312955}`:      ruc.BadBody,
		`{`:                        ruc.BadBody,
		`{}`:                       ruc.Invalid,
		"":                         ruc.Invalid,
		"hola":                     ruc.Invalid,
		strings.Repeat("2", 1<<20): ruc.TooLarge,
	} {
		n, err := wire.ParseRequest([]byte(in))
		if ruc.CodeOf(err) != want || (err == nil) != (n == number) {
			t.Errorf("ParseRequest(%.30q) = %v, %v; want code %q", in, n, err, want)
		}
	}
}

func TestWait(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"":        wire.DefaultWait,
		"x":       wire.DefaultWait,
		"1500":    1500 * time.Millisecond,
		"0":       time.Millisecond,
		"-5":      time.Millisecond,
		"9999999": 10 * time.Minute,
	} {
		h := nats.Header{}
		h.Set(wire.HeaderWait, in)
		if got := wire.Wait(h.Get); got != want {
			t.Errorf("Wait(%q) = %v, want %v", in, got, want)
		}
	}
	h := nats.Header{}
	wire.SetWait(h, 1500*time.Microsecond)
	if got := wire.Wait(h.Get); got != 2*time.Millisecond {
		t.Errorf("a wait of 1.5 ms travels as %v", got)
	}
}

func TestProblem_EveryCodeHasItsText(t *testing.T) {
	for _, code := range ruc.Codes() {
		p := wire.NewProblem(number, &ruc.Error{Code: code, Err: errors.New("secret cause")})
		if p.Code != code || p.Title == "" || p.Detail == "" || p.Message != "Error al consultar RUC" || p.RUC != number.String() ||
			p.Status < 400 || p.Status != wire.Status(code) || p.Type != "urn:rucflow:problem:"+string(code) {
			t.Errorf("%s: %+v", code, p)
		}
		if strings.Contains(string(p.Encode()), "secret") {
			t.Errorf("%s: the cause shows", code)
		}
		if back := p.Err(); back.Code != code || back.Detail != p.Detail {
			t.Errorf("%s comes back as %v", code, back)
		}
	}
	for _, err := range []error{errors.New("x"), &ruc.Error{Code: "made-up"}} {
		if p := wire.NewProblem(ruc.Number{}, err); p.Code != ruc.Internal || p.Status != http.StatusInternalServerError {
			t.Errorf("%v: %+v", err, p)
		}
	}
}

func reply(body []byte, headers ...string) *nats.Msg {
	m := nats.NewMsg("_INBOX.x")
	m.Data = body
	for i := 0; i < len(headers); i += 2 {
		m.Header.Set(headers[i], headers[i+1])
	}
	return m
}

func TestReadReply(t *testing.T) {
	r, err := wire.ReadReply(number, reply(encode(t, found), wire.HeaderSeq, "7"))
	if err != nil || !r.Prefix.Found || r.Seq != 7 {
		t.Errorf("found: %+v, %v", r, err)
	}
	r, err = wire.ReadReply(number, reply(wire.NotFoundProblem(absent).Encode(), wire.HeaderError, "not-found", wire.HeaderErrorCode, "404"))
	if err != nil || r.Prefix.Found || string(r.Body) != string(encode(t, absent)) {
		t.Errorf("not found: %+v, %v; the answer must come back byte by byte", r, err)
	}
	for code, m := range map[ruc.Code]*nats.Msg{
		ruc.Blocked:    reply(wire.NewProblem(number, &ruc.Error{Code: ruc.Blocked}).Encode(), wire.HeaderError, "blocked"),
		ruc.NotFound:   reply(wire.NewProblem(number, &ruc.Error{Code: ruc.NotFound}).Encode(), wire.HeaderError, "not-found"),
		ruc.Overloaded: reply(wire.NewProblem(number, &ruc.Error{Code: ruc.Overloaded}).Encode(), wire.HeaderErrorCode, "503"),
		ruc.Internal:   reply([]byte("500 oops"), wire.HeaderErrorCode, "500"),
	} {
		if _, err := wire.ReadReply(number, m); ruc.CodeOf(err) != code {
			t.Errorf("%v, want %q", err, code)
		}
	}
	if _, err := wire.ReadReply(ruc.MustParse("20100055237"), reply(encode(t, found))); ruc.CodeOf(err) != ruc.Internal {
		t.Errorf("another number's reply: %v", err)
	}
}

// republished is an event as the stream republishes it.
func republished(subject string, body []byte, headers ...string) *nats.Msg {
	m := reply(body, append([]string{
		"Nats-Subject", subject, "Nats-Sequence", "12", "Nats-Time-Stamp", at.Format(time.RFC3339Nano),
	}, headers...)...)
	m.Subject = wire.SubjectResolved
	return m
}

func TestParseEvent(t *testing.T) {
	job := wire.Job{Seq: 5, Time: at}
	original := wire.ResolvedEvent(number, job, encode(t, found), ruc.FuenteSunat, at)
	if id := original.Header.Get(nats.MsgIdHdr); id != fmt.Sprintf("20131312955-5-%d", at.UnixNano()) || original.Header.Get("ce-id") != id {
		t.Errorf("id %q", id)
	}
	e, err := wire.ParseEvent(republished(original.Subject, original.Data, wire.HeaderJob, original.Header.Get(wire.HeaderJob)))
	if err != nil || e.RUC != number || e.Seq != 12 || e.Job != 5 || e.Failed || !e.Stored.Equal(at) || e.Prefix.Huella != found.Huella {
		t.Errorf("%+v, %v", e, err)
	}
	problem := wire.NewProblem(number, &ruc.Error{Code: ruc.Blocked})
	e, err = wire.ParseEvent(republished(wire.FailedSubject(number), problem.Encode()))
	if err != nil || !e.Failed {
		t.Errorf("%+v, %v", e, err)
	}
	good := encode(t, found)
	for name, m := range map[string]*nats.Msg{
		"another number's subject": republished("ruc.resolved.20100055237", good),
		"no number":                republished("ruc.resolved", good),
		"bad number":               republished("ruc.resolved.20123456789", good),
		"another kind":             republished("ruc.invalid.20131312955", good),
		"no answer":                republished("ruc.resolved.20131312955", []byte("{}")),
		"too large":                republished("ruc.resolved.20131312955", make([]byte, wire.MaxAnswerBytes+1)),
		"never stored":             reply(good, "Nats-Subject", "ruc.resolved.20131312955"),
	} {
		if e, err := wire.ParseEvent(m); !errors.Is(err, wire.ErrBadEvent) {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
}

func TestJobThere(t *testing.T) {
	seq, there := wire.JobThere(&jetstream.APIError{ErrorCode: 10071, Description: "wrong last sequence: 42"})
	if !there || seq != 42 {
		t.Errorf("%d, %v", seq, there)
	}
	if seq, there := wire.JobThere(&jetstream.APIError{ErrorCode: 10071, Description: "wrong last sequence"}); !there || seq != 0 {
		t.Errorf("without its number: %d, %v", seq, there)
	}
	if _, there := wire.JobThere(&jetstream.APIError{ErrorCode: 10077}); there {
		t.Error("a full queue was taken for a job that is there")
	}
	if !wire.IsQueueFull(fmt.Errorf("x: %w", &jetstream.APIError{ErrorCode: 10077})) {
		t.Error("a full queue was not seen")
	}
}

// BenchmarkReadPrefix is all that is read of an answer on its way from the store to the
// caller, who gets 2 KB.
func BenchmarkReadPrefix(b *testing.B) {
	body := encode(b, ruc.Found(number, ruc.Record{Avisos: []string{strings.Repeat("aviso ", 200)}}, at, ruc.FuenteSunat, ruc.MotorChrome))
	b.ReportAllocs()
	for b.Loop() {
		if p, err := wire.ReadPrefix(body); err != nil || p.RUC != number {
			b.Fatal(p, err)
		}
	}
}
