// Command cachewriter persists every answer that is stored as an event.
package main

import (
	"context"
	"errors"
	"os"
	"runtime/debug"

	"github.com/rucflow/rucflow/cachewriter"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/store"
)

type settings struct {
	Service     service.Config
	NATS        service.NATSConfig
	Site        service.Site
	Store       store.Config
	Cachewriter cachewriter.Config
	OpsAddr     string `env:"OPS_ADDR" envDefault:"127.0.0.1:9102" empty:"keep" help:"where /metrics, /livez and /readyz listen; empty = nowhere"`
}

func (s *settings) check() error {
	err := errors.Join(s.Site.Check(), s.Store.Check(), s.Cachewriter.Check())
	if err == nil && !s.Store.Redis.Configured() && !s.Store.UseFile {
		err = errors.New("REDIS_URL: a cachewriter needs a cache that others can read: set REDIS_URL or REDIS_HOST, or USE_FILE_CACHE=true")
	}
	return err
}

func main() {
	service.Main(service.Program[settings]{
		Name:    "cachewriter",
		Summary: "writes every answer to the cache",
		Frame:   func(s *settings) service.Config { return s.Service },
		Check:   (*settings).check,
		Ops:     func(s *settings) string { return s.OpsAddr },
		Run:     run,
	})
}

// gcPercent is GOGC's default. The heap is a few MiB, so that collecting it took a quarter
// of the processor time of a cachewriter that catches up.
const gcPercent = 400

func run(ctx context.Context, s settings, f service.Frame) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
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
	nc, err := s.NATS.Connect("cachewriter", f.Log)
	if err != nil {
		return errors.Join(err, answers.Close())
	}
	defer nc.Close()
	return errors.Join(cachewriter.Run(ctx, s.Cachewriter, cachewriter.Deps{
		NATS: nc, Store: answers, Log: f.Log, Now: f.Now, Registry: service.NewRegistry(), Ops: ops, Pprof: s.Service.OpsPprof,
		Provision: s.NATS.Provision, Source: s.Site.Source(),
	}), answers.Close())
}
