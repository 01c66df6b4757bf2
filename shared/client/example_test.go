package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/shared/client"
	"github.com/rucflow/rucflow/shared/embedded"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// Hears whatever becomes known of two numbers, and ends after the first failure.
func ExampleSubscribe() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	nc, stop := rucflow(ctx) // nats.Connect("nats://127.0.0.1:4222", nats.UserInfo("client", password))
	defer stop()

	wanted := client.Subscription{
		Numbers:   []ruc.Number{ruc.MustParse("20131312955"), ruc.MustParse("20100055237")},
		Kinds:     []client.Kind{client.Resolved, client.Failed},
		Listening: func() { happen(ctx, nc) },
		Gap: func(err error) error {
			fmt.Println("look again with client.Lookup:", err)
			return nil
		},
	}
	enough := errors.New("enough")
	err := client.Subscribe(ctx, nc, wanted, func(e client.Event) error {
		switch {
		case e.Kind == client.Failed:
			fmt.Println(e.RUC, e.Problem.Code)
			return enough
		case e.Answer.Record == nil:
			fmt.Println(e.RUC, "is not registered")
		default:
			fmt.Println(e.RUC, e.Answer.RazonSocial)
		}
		return nil
	})
	if !errors.Is(err, enough) {
		log.Print(err)
	}
	// Output:
	// 20131312955 SUNAT
	// 20100055237 is not registered
	// 20131312955 blocked
}

// rucflow stands for a fleet, as far as events go.
func rucflow(ctx context.Context) (nc *nats.Conn, stop func()) {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Panic(err)
	}
	bus, err := embedded.Start(ctx, embedded.Config{StoreDir: dir})
	if err != nil {
		log.Panic(err)
	}
	if nc, err = nats.Connect("", bus.InProcess()); err != nil {
		log.Panic(err)
	}
	return nc, func() {
		nc.Close()
		bus.Stop()
		_ = os.RemoveAll(dir)
	}
}

// happen lets three visits end.
func happen(ctx context.Context, nc *nats.Conn) {
	js, err := jetstream.New(nc)
	if err == nil {
		err = wire.Provisioner{JS: js, Source: ruc.FuenteReplica}.Events(ctx, time.Hour)
	}
	now := time.Now()
	store := func(job uint64, n ruc.Number, a ruc.Answer) {
		m := wire.FailedEvent(n, wire.Job{Seq: job, Time: now}, wire.NewProblem(n, &ruc.Error{Code: ruc.Blocked}), ruc.FuenteReplica, now)
		if !a.RUC.IsZero() {
			body, _ := a.Encode() // it was made by the package
			m = wire.ResolvedEvent(n, wire.Job{Seq: job, Time: now}, body, ruc.FuenteReplica, now)
		}
		if err == nil {
			_, err = js.PublishMsg(ctx, m)
		}
	}
	one, two := ruc.MustParse("20131312955"), ruc.MustParse("20100055237")
	store(1, one, ruc.Found(one, ruc.Record{RazonSocial: "SUNAT"}, now, ruc.FuenteReplica, ruc.MotorChrome))
	store(2, two, ruc.Missing(two, now, ruc.FuenteReplica, ruc.MotorChrome))
	store(3, one, ruc.Answer{})
	if err != nil {
		log.Panic(err)
	}
}
