//go:build linux

// Command bench measures rucflow against what it wants to reach.
package main

import (
	"context"
	"flag"
	"fmt"

	"github.com/rucflow/rucflow/deploy/bench"
	"github.com/rucflow/rucflow/shared/service"
)

func main() { service.Main(measure(), compare()) }

func measure() service.Program[struct{}] {
	var cfg bench.Config
	return service.Program[struct{}]{
		Name:    "bench",
		Summary: "measures every number that rucflow wants to reach and exits 1 where a floor is not held",
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&cfg.Only, "only", "", "only these `scenarios`, separated by commas: "+bench.Names())
			fs.IntVar(&cfg.Rounds, "rounds", 5, "`count` of rounds; lost, soak and scale have one")
			fs.Float64Var(&cfg.Seconds, "seconds", 3, "how many `seconds` each variant is measured in a round")
			fs.StringVar(&cfg.Records, "records", bench.DefaultRecords, "`counts` of records that scale is measured with, separated by commas")
			fs.BoolVar(&cfg.Strict, "strict", false, "a line that is not measured yet counts as missed")
			fs.StringVar(&cfg.JSON, "json", "", "write all figures to this `file`")
			fs.StringVar(&cfg.Profiles, "profiles", "", "write CPU profiles of the gateway's hits into this `folder`")
		},
		Check: func(*struct{}) error { return cfg.Check() },
		Run: func(ctx context.Context, _ struct{}, f service.Frame) error {
			return bench.Run(ctx, cfg, f.Now, f.Out, f.Err)
		},
	}
}

func compare() service.Program[struct{}] {
	return service.Program[struct{}]{
		Name:    "bench compare",
		Summary: "prints the figures of two files that -json wrote side by side",
		Args:    "<file> <file>",
		Run: func(_ context.Context, _ struct{}, f service.Frame) error {
			if len(f.Args) != 2 {
				return fmt.Errorf("two files are expected; %w", service.ErrUsage)
			}
			return bench.Compare(f.Args[0], f.Args[1], f.Out)
		},
	}
}
