// Command audit writes every event down, or prints what was known of numbers and when.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"

	"github.com/rucflow/rucflow/cachewriter/audit"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/wire"
)

type settings struct {
	Service service.Config
	NATS    service.NATSConfig
	Audit   audit.Config
	OpsAddr string `env:"OPS_ADDR" envDefault:"127.0.0.1:9103" empty:"keep" help:"where /metrics, /livez and /readyz listen; empty = nowhere"`
}

// question is what the flags ask; the zero question is none.
type question struct{ since, numbers string }

func main() {
	var q question
	service.Main(service.Program[settings]{
		Name:    "audit",
		Summary: "writes every event down as a line of JSON; with -since or -ruc it prints those of the past from the stream, and ends",
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&q.since, "since", "", "print what was stored since a `time`: 2026-11-01, 2026-11-01T08:00:00-05:00, or 72h back")
			fs.StringVar(&q.numbers, "ruc", "", "print what was stored about these `numbers`, separated by commas")
		},
		Frame: func(s *settings) service.Config { return s.Service },
		Check: func(s *settings) error { return s.Audit.Check() },
		Ops:   func(s *settings) string { return s.OpsAddr },
		Run: func(ctx context.Context, s settings, f service.Frame) error {
			if q != (question{}) {
				return ask(ctx, q, s, f)
			}
			return write(ctx, s, f)
		},
	})
}

func write(ctx context.Context, s settings, f service.Frame) error {
	ops, err := service.Listen(ctx, "OPS_ADDR", s.OpsAddr)
	if err != nil {
		return err
	}
	nc, err := s.NATS.Connect("audit", f.Log)
	if err != nil {
		return err
	}
	defer nc.Close()
	return audit.Run(ctx, s.Audit, audit.Deps{
		NATS: nc, Log: f.Log, Now: f.Now, Out: f.Out, Registry: service.NewRegistry(), Ops: ops, Pprof: s.Service.OpsPprof,
	})
}

func ask(ctx context.Context, q question, s settings, f service.Frame) error {
	since, err := service.ParseSince(q.since, f.Now())
	if err != nil {
		return err
	}
	numbers, err := parse(q.numbers)
	if err != nil {
		return err
	}
	nc, err := s.NATS.Connect("audit", f.Log)
	if err != nil {
		return err
	}
	defer nc.Close()
	return audit.Query{NATS: nc, Since: since, Numbers: numbers}.Run(ctx, f.Out)
}

// parse reads numbers; all that are wrong are named.
func parse(texts string) (numbers []ruc.Number, err error) {
	if texts == "" {
		return nil, nil
	}
	var wrong []error
	for text := range strings.SplitSeq(texts, ",") {
		n, err := ruc.Parse(strings.TrimSpace(text))
		if err != nil {
			wrong = append(wrong, fmt.Errorf("-ruc: %q: %s", text, wire.NewProblem(n, err).Detail))
			continue
		}
		numbers = append(numbers, n)
	}
	if len(wrong) > 0 {
		return nil, fmt.Errorf("%w; %w", errors.Join(wrong...), service.ErrUsage)
	}
	return numbers, nil
}
