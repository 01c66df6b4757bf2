package ruc_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rucflow/rucflow/shared/ruc"
)

var (
	number = ruc.MustParse("20131312955")
	at     = time.Date(2026, 11, 21, 10, 20, 30, 123_456_789, ruc.Lima)
)

func encode(t *testing.T, a ruc.Answer) string {
	t.Helper()
	b, err := a.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestAnswer_BeginsWithTheFixedFields(t *testing.T) {
	a := ruc.Found(number, ruc.Record{RazonSocial: "PEÑA & <HIJOS>"}, at, ruc.FuenteSunat, ruc.MotorChrome)
	got := encode(t, a)
	prefix := `{"ruc":"20131312955","encontrado":true,"obtenidoEn":"2026-11-21T15:20:30.123Z","huella":"` + a.Huella + `","razonSocial":"PEÑA & <HIJOS>",`
	if !strings.HasPrefix(got, prefix) {
		t.Errorf("got  %s\nwant %s…", got, prefix)
	}
	if !strings.HasSuffix(got, `,"fuente":"sunat","motor":"chrome"}`) {
		t.Errorf("got %s", got)
	}
}

func TestAnswer_AbsentIsNullAndListsAreNever(t *testing.T) {
	got := encode(t, ruc.Found(number, ruc.Record{}, at, ruc.FuenteSunat, ruc.MotorChrome))
	for _, want := range []string{
		`"nombreComercial":null`, `"fechaBaja":null`, `"afectoNuevoRus":null`, `"fechaConsultaSunat":null`,
		`"padrones":[]`, `"avisos":[]`, `"actividadesEconomicas":[]`, `"comprobantesPago":[]`,
		`"comprobantesElectronicos":[]`, `"sistemaEmisionElectronica":[]`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
}

func TestAnswer_SurvivesItsEncoding(t *testing.T) {
	yes := true
	minute := time.Date(2026, 11, 21, 10, 20, 0, 0, ruc.Lima)
	for _, a := range []ruc.Answer{
		ruc.Missing(number, at, ruc.FuenteReplica, ruc.MotorHTTP),
		ruc.Found(number, ruc.Record{RazonSocial: "X", AfectoNuevoRus: &yes, FechaConsultaSunat: &minute, Padrones: []string{"a"}}, at, ruc.FuenteSunat, ruc.MotorFetch),
	} {
		first := encode(t, a)
		var back ruc.Answer
		if err := json.Unmarshal([]byte(first), &back); err != nil {
			t.Fatal(err)
		}
		if second := encode(t, back); second != first {
			t.Errorf("got  %s\nwant %s", second, first)
		}
	}
}

func TestAnswer_HuellaCoversWhatIsMaterial(t *testing.T) {
	minute := at.Add(time.Hour)
	base := ruc.Found(number, ruc.Record{Estado: "ACTIVO"}, at, ruc.FuenteSunat, ruc.MotorChrome)
	same := ruc.Found(number, ruc.Record{Estado: "ACTIVO", FechaConsultaSunat: &minute}, at.Add(time.Hour), ruc.FuenteReplica, ruc.MotorHTTP)
	if base.Huella != same.Huella {
		t.Error("time, source or engine changed the huella")
	}
	if len(base.Huella) != ruc.HuellaLen {
		t.Errorf("huella %q", base.Huella)
	}
	for name, other := range map[string]ruc.Answer{
		"state":     ruc.Found(number, ruc.Record{Estado: "BAJA"}, at, ruc.FuenteSunat, ruc.MotorChrome),
		"list":      ruc.Found(number, ruc.Record{Estado: "ACTIVO", Avisos: []string{"x"}}, at, ruc.FuenteSunat, ruc.MotorChrome),
		"not found": ruc.Missing(number, at, ruc.FuenteSunat, ruc.MotorChrome),
		"number":    ruc.Found(ruc.MustParse("20100055237"), ruc.Record{Estado: "ACTIVO"}, at, ruc.FuenteSunat, ruc.MotorChrome),
	} {
		if other.Huella == base.Huella {
			t.Errorf("another %s has the same huella", name)
		}
	}
}

func TestSourceOf(t *testing.T) {
	for host, want := range map[string]string{
		"e-consultaruc.sunat.gob.pe": ruc.FuenteSunat,
		"sunat.gob.pe":               ruc.FuenteSunat,
		"WWW.SUNAT.GOB.PE.":          ruc.FuenteSunat,
		"xsunat.gob.pe":              ruc.FuenteReplica,
		"sunat.gob.pe.example.org":   ruc.FuenteReplica,
		"127.0.0.1":                  ruc.FuenteReplica,
	} {
		if got := ruc.SourceOf(host); got != want {
			t.Errorf("SourceOf(%q) = %q, want %q", host, got, want)
		}
	}
}

func TestPolicy_Freshness(t *testing.T) {
	p := ruc.Policy{TTL: 100 * time.Second, NegativeTTL: 10 * time.Second, Grace: 50 * time.Second}
	tests := []struct {
		found bool
		age   time.Duration
		state ruc.State
		left  time.Duration
	}{
		{true, 0, ruc.Fresh, 100 * time.Second},
		{true, 99 * time.Second, ruc.Fresh, time.Second},
		{true, 100 * time.Second, ruc.Stale, 0},
		{true, 149 * time.Second, ruc.Stale, -49 * time.Second},
		{true, 150 * time.Second, ruc.Expired, -50 * time.Second},
		{false, 9 * time.Second, ruc.Fresh, time.Second},
		{false, 10 * time.Second, ruc.Stale, 0},
		{false, 60 * time.Second, ruc.Expired, -50 * time.Second},
		{true, -time.Hour, ruc.Fresh, 100 * time.Second}, // another machine's clock
	}
	for _, tt := range tests {
		f := p.Freshness(tt.found, at, at.Add(tt.age))
		if f.State != tt.state || f.Left != tt.left || f.Age != max(0, tt.age) {
			t.Errorf("found %v, age %v: %+v; want %v, left %v", tt.found, tt.age, f, tt.state, tt.left)
		}
	}
}

func TestCodeOf(t *testing.T) {
	for want, err := range map[ruc.Code]error{
		"":              nil,
		ruc.Blocked:     fmt.Errorf("wrapped: %w", &ruc.Error{Code: ruc.Blocked, Err: context.DeadlineExceeded}),
		ruc.Timeout:     fmt.Errorf("wrapped: %w", context.DeadlineExceeded),
		ruc.Internal:    errors.New("anything"),
		ruc.Unavailable: &ruc.Error{Code: ruc.Unavailable},
	} {
		if got := ruc.CodeOf(err); got != want {
			t.Errorf("CodeOf(%v) = %q, want %q", err, got, want)
		}
	}
}
