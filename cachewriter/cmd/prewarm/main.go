// Command prewarm fills the cache with the numbers of a list before anybody asks.
package main

import (
	"context"
	"flag"
	"net"
	"os"
	"time"

	"github.com/mattn/go-isatty"

	"github.com/rucflow/rucflow/cachewriter/prewarm"
	"github.com/rucflow/rucflow/shared/service"
)

type settings struct {
	Service service.Config
	NATS    service.NATSConfig
	Prewarm prewarm.Config
	OpsAddr string `env:"OPS_ADDR" envDefault:"127.0.0.1:9104" empty:"keep" help:"where /metrics, /livez and /readyz listen; empty = nowhere"`
}

func main() {
	var given prewarm.Config
	service.Main(service.Program[settings]{
		Name:    "prewarm",
		Summary: "looks up the numbers of a list, one at a time and while nobody else wants a visit",
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&given.File, "file", "", "fetch what of this `list` is not held, and end; - for standard input")
			fs.StringVar(&given.Watch, "watch", "", "keep the numbers of this `list` fresh until told to stop; it is read again when it changes")
			fs.StringVar(&given.Column, "column", "1", "where a CSV list has the numbers: a `column`, counted from 1, or its name in the first line")
			fs.Var(&given.Hours, "hours", "visit only within these `hours` of Lima, such as 20-7; all day by default")
			fs.DurationVar(&given.Wait, "wait", 45*time.Second, "how long to wait for each answer")
		},
		Frame: func(s *settings) service.Config { return s.Service },
		Check: func(s *settings) error {
			c := &s.Prewarm
			c.File, c.Watch, c.Column, c.Hours, c.Wait = given.File, given.Watch, given.Column, given.Hours, given.Wait
			return c.Check()
		},
		Ops: func(s *settings) string { return s.OpsAddr },
		Run: run,
	})
}

func run(ctx context.Context, s settings, f service.Frame) (err error) {
	var ops net.Listener
	if s.Prewarm.Watch != "" {
		if ops, err = service.Listen(ctx, "OPS_ADDR", s.OpsAddr); err != nil {
			return err
		}
	}
	nc, err := s.NATS.Connect("prewarm", f.Log)
	if err != nil {
		return err
	}
	defer nc.Close()
	return prewarm.Run(ctx, s.Prewarm, prewarm.Deps{
		NATS: nc, Log: f.Log, Now: f.Now, In: os.Stdin, Out: f.Out, Err: f.Err, Terminal: isatty.IsTerminal(os.Stderr.Fd()),
		Registry: service.NewRegistry(), Ops: ops, Pprof: s.Service.OpsPprof,
	})
}
