package gateway_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// ask makes one request on ruc.lookup; header holds names and values in turn.
func (r *rig) ask(payload string, header ...string) *nats.Msg {
	r.t.Helper()
	m := nats.NewMsg(wire.SubjectLookup)
	m.Data = []byte(payload)
	for i := 0; i < len(header); i += 2 {
		m.Header.Set(header[i], header[i+1])
	}
	reply, err := r.nc.RequestMsg(m, patience)
	if err != nil {
		r.t.Fatal(err)
	}
	return reply
}

func TestNATSLookup_Answers(t *testing.T) {
	r := start(t)
	a, absent := r.found(number), missingAt(second, r.clock.now())
	fleet := r.scraper(func(req micro.Request, n ruc.Number) {
		if n == number {
			r.reply(req, a)
		} else {
			r.reply(req, absent)
		}
	})
	for _, payload := range []string{number.String(), ` {"ruc":"20131312955"} ` + "\n", number.String()} {
		m := r.ask(payload)
		if string(m.Data) != string(encode(t, a)) || m.Header.Get(wire.HeaderSeq) != "1" || m.Header.Get(wire.HeaderError) != "" {
			t.Errorf("%q: %v %s", payload, m.Header, m.Data)
		}
	}
	for range 2 {
		m := r.ask(second.String())
		if m.Header.Get(wire.HeaderErrorCode) != "404" || m.Header.Get(wire.HeaderError) != string(ruc.NotFound) {
			t.Errorf("%v", m.Header)
		}
		if p := decodeProblem(t, m.Data); p.RUC != second.String() || p.Huella != absent.Huella {
			t.Errorf("%s", m.Data)
		}
		if reply, err := wire.ReadReply(second, m); err != nil || string(reply.Body) != string(encode(t, absent)) {
			t.Errorf("%s, %v", reply.Body, err)
		}
	}
	if n := fleet.asked.Load(); n != 2 {
		t.Errorf("the scraper was asked %d times", n)
	}
}

func TestNATSLookup_Errors(t *testing.T) {
	r := start(t)
	r.scraper(func(req micro.Request, n ruc.Number) {
		if n == second {
			r.refuses(req, n, &ruc.Error{Code: ruc.Blocked, RetryAfter: time.Minute})
		}
	})
	for name, tc := range map[string]struct {
		payload string
		wait    string
		status  string
		code    ruc.Code
		detail  string
	}{
		"nothing":           {"", "", "400", ruc.Invalid, wrongFormat},
		"check digit":       {"20123456789", "", "400", ruc.Invalid, "El RUC 20123456789 no es válido: el dígito de verificación es 9 y debería ser 6."},
		"broken object":     {`{"ruc":`, "", "400", ruc.BadBody, `La solicitud no se entiende. Envíe el RUC solo o como {"ruc":"20131312955"}.`},
		"number in object":  {`{"ruc":20131312955}`, "", "400", ruc.BadBody, `La solicitud no se entiende. Envíe el RUC solo o como {"ruc":"20131312955"}.`},
		"too large":         {string(make([]byte, 257)), "", "413", ruc.TooLarge, "La solicitud es demasiado grande."},
		"refused by SUNAT":  {second.String(), "", "503", ruc.Blocked, "SUNAT rechaza temporalmente las consultas. Intente de nuevo en unos minutos."},
		"the wait is over":  {number.String(), "200", "504", ruc.Timeout, "SUNAT no respondió a tiempo. Intente de nuevo en unos segundos."},
		"a wait of nothing": {number.String(), "-5", "504", ruc.Timeout, "SUNAT no respondió a tiempo. Intente de nuevo en unos segundos."},
	} {
		t.Run(name, func(t *testing.T) {
			m := r.ask(tc.payload, wire.HeaderWait, tc.wait)
			p := decodeProblem(t, m.Data)
			if m.Header.Get(wire.HeaderErrorCode) != tc.status || m.Header.Get(wire.HeaderError) != string(tc.code) ||
				p.Code != tc.code || p.Detail != tc.detail || m.Header.Get("Content-Type") != wire.ProblemType {
				t.Errorf("%v %s", m.Header, m.Data)
			}
		})
	}
}

func TestNATSLookup_ManyAtOnce(t *testing.T) {
	const callers = 300
	r := start(t)
	absent := missingAt(number, r.clock.now())
	r.publish(absent)
	r.holds(absent)
	replies := make(chan *nats.Msg, callers)
	if _, err := r.nc.ChanSubscribe("replies", replies); err != nil {
		t.Fatal(err)
	}
	for range callers {
		if err := r.nc.PublishRequest(wire.SubjectLookup, "replies", number.AppendTo(nil)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range callers {
		select {
		case m := <-replies:
			if m.Header.Get(wire.HeaderError) != string(ruc.NotFound) {
				t.Fatalf("%v %s", m.Header, m.Data)
			}
		case <-time.After(patience):
			t.Fatalf("%d replies for %d requests", i, callers)
		}
	}
}

func TestNATSLookup_IsAMicroService(t *testing.T) {
	r := start(t)
	m, err := r.nc.Request("$SRV.PING."+wire.GatewayService, nil, patience)
	if err != nil || len(m.Data) == 0 {
		t.Errorf("%v, %v", m, err)
	}
}
