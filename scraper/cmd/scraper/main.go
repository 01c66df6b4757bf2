// Command scraper visits SUNAT's page and emits what it learns.
package main

import (
	"context"

	"github.com/rucflow/rucflow/scraper"
	"github.com/rucflow/rucflow/shared/service"
)

type settings struct {
	Service service.Config
	NATS    service.NATSConfig
	Scraper scraper.Config
	OpsAddr string `env:"OPS_ADDR" envDefault:"127.0.0.1:9101" empty:"keep" help:"where /metrics, /livez and /readyz listen; empty = nowhere"`
}

func main() {
	service.Main(service.Program[settings]{
		Name:    "scraper",
		Summary: "asks SUNAT, through a headless Chromium or by plain requests",
		Frame:   func(s *settings) service.Config { return s.Service },
		Check:   func(s *settings) error { return s.Scraper.Check() },
		Ops:     func(s *settings) string { return s.OpsAddr },
		Run:     run,
	})
}

func run(ctx context.Context, s settings, f service.Frame) error {
	ops, err := service.Listen(ctx, "OPS_ADDR", s.OpsAddr)
	if err != nil {
		return err
	}
	nc, err := s.NATS.Connect("scraper", f.Log)
	if err != nil {
		return err
	}
	defer nc.Close()
	return scraper.Run(ctx, s.Scraper, scraper.Deps{
		NATS: nc, Log: f.Log, Now: f.Now, Registry: service.NewRegistry(), Ops: ops, Pprof: s.Service.OpsPprof,
		Provision: s.NATS.Provision, ShutdownTimeout: s.Service.ShutdownTimeout,
	})
}
