package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/micro"

	"github.com/rucflow/rucflow/deploy/admin"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/wire"
)

// serve answers ruc.lookup as a gateway does: what it knows, and else that SUNAT cannot be
// asked. It returns how often it was asked.
func (b *bus) serve(known map[ruc.Number]ruc.Answer) *atomic.Int64 {
	b.t.Helper()
	asked := new(atomic.Int64)
	svc, err := micro.AddService(b.nc, micro.Config{
		Name: wire.GatewayService, Version: service.Version, Metadata: service.Build(),
		Endpoint: &micro.EndpointConfig{Subject: wire.SubjectLookup, QueueGroup: wire.GatewayQueue, Handler: wire.Handler(func(req micro.Request) {
			asked.Add(1)
			n, err := wire.ParseRequest(req.Data())
			if err != nil {
				b.t.Error(err)
			}
			if wait := wire.Wait(req.Headers().Get); wait != patience {
				b.t.Errorf("the asker waits %v", wait)
			}
			if a, ok := known[n]; ok {
				err = wire.RespondAnswer(req, encode(b.t, a), a.Record != nil, 0)
			} else {
				err = wire.NewProblem(n, &ruc.Error{Code: ruc.Unavailable}).Respond(req)
			}
			if err != nil {
				b.t.Error(err)
			}
		})},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = svc.Stop() })
	if err := b.nc.FlushTimeout(patience); err != nil { // the server knows of it
		b.t.Fatal(err)
	}
	return asked
}

var blanks = regexp.MustCompile(`  +`)

func TestLookup_PrintsATable(t *testing.T) {
	b := newBus(t)
	b.serve(map[ruc.Number]ruc.Answer{
		company: ruc.Found(company, record("SUNAT &\x1b[31mCÍA"), time.Now().Add(-3*day), ruc.FuenteReplica, ruc.MotorHTTP),
		another: ruc.Missing(another, time.Now().Add(-5*time.Minute), ruc.FuenteReplica, ruc.MotorHTTP),
	})
	var out, errs strings.Builder
	in := strings.NewReader("20100055237, 20131312955\n" + person.String())
	err := admin.Lookup(t.Context(), admin.Asking{
		NATS: b.cfg, Numbers: []string{company.String(), "-"}, In: in, Wait: patience, Now: time.Now,
	}, &out, &errs)
	if err == nil || err.Error() != "1 of 3 without an answer" {
		t.Errorf("%v", err)
	}
	want := `RUC|RAZÓN SOCIAL|ESTADO|CONDICIÓN|DISTRITO/PROVINCIA/DEPARTAMENTO|AGE|SOURCE
20131312955|SUNAT & [31mCÍA|ACTIVO|HABIDO|SAN ISIDRO/LIMA/LIMA|3d|replica
20100055237|not registered at SUNAT|5m|replica
`
	if diff := cmp.Diff(want, blanks.ReplaceAllString(out.String(), "|")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if want := person.String() + ": unavailable: No es posible consultar a SUNAT en este momento. Intente de nuevo en unos minutos.\n"; errs.String() != want {
		t.Errorf("%q", errs.String())
	}
}

func TestLookup_PrintsAnswersAsTheyCame(t *testing.T) {
	b := newBus(t)
	answer := ruc.Found(company, record("SUNAT & CÍA"), time.Now(), ruc.FuenteReplica, ruc.MotorHTTP)
	b.serve(map[ruc.Number]ruc.Answer{company: answer})
	var out, errs strings.Builder
	err := admin.Lookup(t.Context(), admin.Asking{NATS: b.cfg, Numbers: []string{company.String()}, Wait: patience, JSON: true, Now: time.Now}, &out, &errs)
	if err != nil || out.String() != string(encode(t, answer))+"\n" || errs.Len() > 0 {
		t.Errorf("%v, %q, %q", err, out.String(), errs.String())
	}
	out.Reset()
	missing := ruc.Missing(another, time.Now(), ruc.FuenteReplica, ruc.MotorHTTP)
	b2 := newBus(t)
	b2.serve(map[ruc.Number]ruc.Answer{another: missing})
	err = admin.Lookup(t.Context(), admin.Asking{NATS: b2.cfg, Numbers: []string{another.String()}, Wait: patience, JSON: true, Now: time.Now}, &out, &errs)
	var got ruc.Answer
	if err != nil || json.Unmarshal([]byte(out.String()), &got) != nil || got.Encontrado || got.Huella != missing.Huella {
		t.Errorf("%v, %q", err, out.String())
	}
}

func TestLookup_NamesAllThatIsWrongAndAsksNothing(t *testing.T) {
	b := newBus(t)
	asked := b.serve(nil)
	for name, tc := range map[string]struct {
		asking admin.Asking
		want   []string
		usage  bool
	}{
		"wrong numbers": {admin.Asking{Numbers: []string{company.String(), "20123456789", "-"}, In: strings.NewReader("abc"), Wait: patience}, []string{`"20123456789"`, "debería ser 6", `"abc"`, "11 dígitos"}, false},
		"none":          {admin.Asking{Wait: patience}, []string{"give numbers"}, true},
		"none to read":  {admin.Asking{Numbers: []string{"-"}, In: strings.NewReader("\n"), Wait: patience}, []string{"give numbers"}, true},
		"too many":      {admin.Asking{Numbers: []string{"-"}, In: strings.NewReader(strings.Repeat(company.String()+"\n", 10_001)), Wait: patience}, []string{"at most 10000"}, false},
		"no wait":       {admin.Asking{Numbers: []string{company.String()}}, []string{"-wait"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs strings.Builder
			tc.asking.NATS, tc.asking.Now = b.cfg, time.Now
			err := admin.Lookup(t.Context(), tc.asking, &out, &errs)
			if err == nil || errors.Is(err, service.ErrUsage) != tc.usage || out.Len() > 0 {
				t.Fatalf("%v, %q", err, out.String())
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v does not say %s", err, want)
				}
			}
		})
	}
	if asked.Load() != 0 {
		t.Errorf("asked %d times", asked.Load())
	}
}

func TestLookup_SaysWhenNobodyAnswers(t *testing.T) {
	b := newBus(t)
	asking := admin.Asking{NATS: b.cfg, Numbers: []string{company.String()}, Wait: patience, Now: time.Now}
	var out, errs strings.Builder
	if err := admin.Lookup(t.Context(), asking, &out, &errs); err == nil || !strings.Contains(errs.String(), "unavailable: Ningún gateway") {
		t.Errorf("%v, %q", err, errs.String())
	}
	silent, err := b.nc.SubscribeSync(wire.SubjectLookup)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Unsubscribe() }()
	errs.Reset()
	asking.Wait = time.Millisecond
	if err := admin.Lookup(t.Context(), asking, &out, &errs); err == nil || !strings.Contains(errs.String(), "timeout: ") {
		t.Errorf("%v, %q", err, errs.String())
	}
	ctx, stop := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, stop)
	errs.Reset()
	asking.Wait = patience
	if err := admin.Lookup(ctx, asking, &out, &errs); !errors.Is(err, context.Canceled) || errs.Len() > 0 || out.Len() > 0 {
		t.Errorf("%v, %q", err, errs.String())
	}
	asking.NATS.URL = "nats://127.0.0.1:1"
	if err := admin.Lookup(t.Context(), asking, &out, &errs); err == nil || !strings.Contains(err.Error(), "no servers available") {
		t.Errorf("%v", err)
	}
}
