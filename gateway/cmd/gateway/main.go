// Command gateway answers lookups over HTTP and on ruc.lookup.
package main

import (
	"context"
	"errors"
	"runtime"

	"github.com/rucflow/rucflow/gateway"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/store"
)

type settings struct {
	Service service.Config
	NATS    service.NATSConfig
	Site    service.Site
	Store   store.Config
	Gateway gateway.Config

	HTTPAddr string `env:"HTTP_ADDR" help:"where HTTP listens; :8000 by default"`
	Port     string `env:"PORT" envDefault:"8000" help:"the port alone, where a platform sets it; HTTP_ADDR wins"`
	OpsAddr  string `env:"OPS_ADDR" envDefault:"127.0.0.1:9100" empty:"keep" help:"where /metrics, /livez and /readyz listen; empty = nowhere"`
}

func (s *settings) check() error {
	if s.HTTPAddr == "" {
		s.HTTPAddr = ":" + s.Port
	}
	return errors.Join(s.Site.Check(), s.Store.Check(), s.Gateway.Check())
}

func main() {
	service.Main(service.Program[settings]{
		Name:    "gateway",
		Summary: "answers lookups from memory, the cache, or the scrapers",
		Frame:   func(s *settings) service.Config { return s.Service },
		Check:   (*settings).check,
		Ops:     func(s *settings) string { return s.OpsAddr },
		Run:     run,
	})
}

func run(ctx context.Context, s settings, f service.Frame) error {
	ballast := make([]byte, gateway.BallastBytes)
	defer runtime.KeepAlive(ballast)
	web, err := service.Listen(ctx, "HTTP_ADDR", s.HTTPAddr)
	if err != nil {
		return err
	}
	ops, err := service.Listen(ctx, "OPS_ADDR", s.OpsAddr)
	if err != nil {
		return err
	}
	answers, keep, err := store.Open(ctx, s.Store, s.Site.Source(), f.Now, f.Log)
	if err != nil {
		return err
	}
	defer service.Background(ctx, keep)()
	nc, err := s.NATS.Connect("gateway", f.Log)
	if err != nil {
		return errors.Join(err, answers.Close())
	}
	defer nc.Close()
	return errors.Join(gateway.Run(ctx, s.Gateway, gateway.Deps{
		NATS: nc, Store: answers, HTTP: web, Ops: ops, Log: f.Log, Now: f.Now,
		Registry: service.NewRegistry(), Pprof: s.Service.OpsPprof, ShutdownTimeout: s.Service.ShutdownTimeout,
	}), answers.Close())
}
