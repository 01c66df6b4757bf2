package client_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"go.uber.org/goleak"

	"github.com/rucflow/rucflow/shared/client"
	"github.com/rucflow/rucflow/shared/embedded"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	known   = ruc.MustParse("20131312955")
	unknown = ruc.MustParse("20100055237")
	refused = ruc.MustParse("20100017491")
)

const wait = 3 * time.Second

// connect connects to a server of its own.
func connect(t *testing.T) *nats.Conn {
	t.Helper()
	bus, err := embedded.Start(t.Context(), embedded.Config{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(bus.Stop)
	nc, err := nats.Connect("", bus.InProcess())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// serve answers as a gateway does. It notes what it was asked.
func serve(t *testing.T, nc *nats.Conn) (asked chan micro.Headers) {
	t.Helper()
	asked = make(chan micro.Headers, 10)
	at := time.Now()
	svc, err := micro.AddService(nc, micro.Config{
		Name: wire.GatewayService, Version: service.Version,
		Endpoint: &micro.EndpointConfig{Subject: wire.SubjectLookup, QueueGroup: wire.GatewayQueue, Handler: wire.Handler(func(req micro.Request) {
			asked <- req.Headers()
			n, err := wire.ParseRequest(req.Data())
			if err != nil {
				t.Error(err)
			}
			answer := ruc.Found(n, ruc.Record{RazonSocial: "SUNAT"}, at, ruc.FuenteReplica, ruc.MotorChrome)
			switch n {
			case unknown:
				answer = ruc.Missing(n, at, ruc.FuenteReplica, ruc.MotorChrome)
			case refused:
				if err := wire.NewProblem(n, &ruc.Error{Code: ruc.Overloaded, RetryAfter: 7 * time.Second}).Respond(req); err != nil {
					t.Error(err)
				}
				return
			}
			body, err := answer.Encode()
			if err == nil {
				err = wire.RespondAnswer(req, body, answer.Record != nil, 5)
			}
			if err != nil {
				t.Error(err)
			}
		})},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = svc.Stop() })
	return asked
}

func TestLookup(t *testing.T) {
	nc := connect(t)
	asked := serve(t, nc)
	r, err := client.Lookup(t.Context(), nc, known, client.Request{})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := r.Answer()
	if err != nil || !r.Prefix.Found || r.Seq != 5 || answer.Record == nil || answer.RazonSocial != "SUNAT" || answer.Huella != r.Prefix.Huella {
		t.Errorf("%+v, %+v, %v", r, answer, err)
	}
	if h := <-asked; wire.Wait(h.Get) != wire.DefaultWait || h.Get(wire.HeaderCacheControl) != "" {
		t.Errorf("asked with %v", h)
	}

	r, err = client.Lookup(t.Context(), nc, unknown, client.Request{Wait: wait, CacheControl: "max-age=60"})
	if err != nil {
		t.Fatal(err)
	}
	if answer, err = r.Answer(); err != nil || r.Prefix.Found || answer.Record != nil || answer.RUC != unknown || time.Since(r.Prefix.ObtainedAt) > wait {
		t.Errorf("%+v, %+v, %v", r, answer, err)
	}
	if h := <-asked; wire.Wait(h.Get) != wait || h.Get(wire.HeaderCacheControl) != "max-age=60" {
		t.Errorf("asked with %v", h)
	}

	var e *ruc.Error
	if _, err = client.Lookup(t.Context(), nc, refused, client.Request{Wait: wait}); !errors.As(err, &e) || e.Code != ruc.Overloaded || e.RetryAfter != 7*time.Second {
		t.Errorf("%+v", err)
	}
}

func TestLookup_WithoutAnAnswer(t *testing.T) {
	nc := connect(t)
	lookup := func(ctx context.Context, code ruc.Code, cause error) {
		t.Helper()
		_, err := client.Lookup(ctx, nc, known, client.Request{Wait: time.Millisecond})
		if ruc.CodeOf(err) != code || !errors.Is(err, cause) {
			t.Errorf("%v, want %s of %v", err, code, cause)
		}
	}
	lookup(t.Context(), ruc.Unavailable, nats.ErrNoResponders)
	if _, err := nc.SubscribeSync(wire.SubjectLookup); err != nil { // it never answers
		t.Fatal(err)
	}
	lookup(t.Context(), ruc.Timeout, context.DeadlineExceeded)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	lookup(ended, ruc.Unavailable, context.Canceled)
	nc.Close()
	lookup(t.Context(), ruc.Unavailable, nats.ErrConnectionClosed)
}
