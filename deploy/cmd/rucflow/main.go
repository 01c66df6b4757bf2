// Command rucflow runs the whole pipeline in one process; its commands serve the
// operator of a fleet.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/rucflow/rucflow/deploy/admin"
	"github.com/rucflow/rucflow/deploy/allinone"
	"github.com/rucflow/rucflow/shared/service"
)

func main() {
	service.Main(all(), lookup(), events(), doctor(), health(), version(), invalidate(), forget(), deadList(), deadRetry(), replay(), key(), provision())
}

func all() service.Program[allinone.Config] {
	var replica bool
	var replicaAddr string
	return service.Program[allinone.Config]{
		Name:    "rucflow",
		Summary: "every service in one process, with an embedded NATS server",
		Flags: func(fs *flag.FlagSet) {
			fs.BoolVar(&replica, "replica", false, "start the bundled fake of SUNAT's page and ask it instead (invented data)")
			fs.StringVar(&replicaAddr, "replica-addr", allinone.DefaultReplicaAddr, "loopback `address` of the replica")
		},
		Frame: func(c *allinone.Config) service.Config { return c.Service },
		Ops:   func(c *allinone.Config) string { return c.OpsAddr },
		Check: func(c *allinone.Config) error {
			c.Replica, c.ReplicaAddr = replica, replicaAddr
			return c.Check()
		},
		Run: func(ctx context.Context, c allinone.Config, f service.Frame) error {
			return allinone.Run(ctx, c, allinone.Deps{Log: f.Log, Now: f.Now})
		},
	}
}

type invalidateConfig struct {
	Token string `env:"ADMIN_TOKEN" secret:"true" help:"token of the gateway's admin routes"`
}

func invalidate() service.Program[invalidateConfig] {
	var in admin.Invalidation
	return service.Program[invalidateConfig]{
		Name:    "rucflow invalidate",
		Summary: "makes a running gateway and all others forget answers; the next lookup asks SUNAT",
		Args:    "[<ruc> ...]",
		Flags: func(fs *flag.FlagSet) {
			gatewayFlag(fs, &in.Gateway)
			fs.StringVar(&in.Pattern, "pattern", "", "instead of numbers: a `pattern` of digits and asterisks, such as '2010*'")
			fs.BoolVar(&in.DryRun, "dry-run", false, "with -pattern: only count")
			fs.BoolVar(&in.All, "all", false, "with -pattern '*': yes, everything")
		},
		Run: func(ctx context.Context, c invalidateConfig, f service.Frame) error {
			in.Token, in.Numbers = c.Token, f.Args
			return admin.Invalidate(ctx, in, f.Out)
		},
	}
}

func gatewayFlag(fs *flag.FlagSet, address *string) {
	fs.StringVar(address, "gateway", "http://127.0.0.1:8000", "`address` of a gateway")
}

func forget() service.Program[admin.ForgetConfig] {
	var gateway string
	return service.Program[admin.ForgetConfig]{
		Name:    "rucflow forget",
		Summary: "removes all that is known of a number, its history in the streams too",
		Args:    "<ruc> ...",
		Flags:   func(fs *flag.FlagSet) { gatewayFlag(fs, &gateway) },
		Run: func(ctx context.Context, c admin.ForgetConfig, f service.Frame) error {
			return admin.Forget(ctx, c, gateway, f.Args, f.Out)
		},
	}
}

func key() service.Program[struct{}] {
	return service.Program[struct{}]{
		Name:    "rucflow key",
		Summary: "makes an API key and its line for API_KEYS_FILE; the quota, such as 1000/d, bounds the visits it may cause",
		Args:    "<name> [<quota>]",
		Run: func(_ context.Context, _ struct{}, f service.Frame) error {
			return admin.Key(f.Args, f.Out)
		},
	}
}

func provision() service.Program[admin.ProvisionConfig] {
	return service.Program[admin.ProvisionConfig]{
		Name:    "rucflow provision",
		Summary: "makes the streams and consumers of a fleet, and changes those that differ from the settings",
		Check:   (*admin.ProvisionConfig).Check,
		Run: func(ctx context.Context, c admin.ProvisionConfig, f service.Frame) error {
			return admin.Provision(ctx, c, f.Out)
		},
	}
}

// natsOnly are the settings of commands that speak NATS and nothing else.
type natsOnly struct {
	NATS service.NATSConfig
}

// output reads -o.
func output(fs *flag.FlagSet, asJSON *bool) {
	fs.Func("o", "output `format`: json, a line for each", func(format string) error {
		if format != "json" {
			return fmt.Errorf("the one format beside the usual is json")
		}
		*asJSON = true
		return nil
	})
}

func lookup() service.Program[natsOnly] {
	var a admin.Asking
	return service.Program[natsOnly]{
		Name:    "rucflow lookup",
		Summary: "asks for numbers as any client does, from the cache or at SUNAT, and prints the answers",
		Args:    "<ruc> ... (- for those on standard input)",
		Flags: func(fs *flag.FlagSet) {
			output(fs, &a.JSON)
			fs.DurationVar(&a.Wait, "wait", 45*time.Second, "how long to wait for each answer")
		},
		Run: func(ctx context.Context, c natsOnly, f service.Frame) error {
			a.NATS, a.Numbers, a.In, a.Now = c.NATS, f.Args, os.Stdin, f.Now
			return admin.Lookup(ctx, a, f.Out, f.Err)
		},
	}
}

func events() service.Program[natsOnly] {
	var w admin.Watch
	return service.Program[natsOnly]{
		Name:    "rucflow events",
		Summary: "shows answers, failures, changes and the progress of visits as they happen, until Ctrl-C",
		Flags: func(fs *flag.FlagSet) {
			output(fs, &w.JSON)
			fs.StringVar(&w.Numbers, "ruc", "", "only of these `numbers`, separated by commas")
			fs.StringVar(&w.Types, "type", "", "only these `types`, separated by commas: resolved, failed, changed, progress")
			fs.BoolVar(&w.Whole, "whole", false, "show numbers and names of natural persons too; -o json always does")
		},
		Run: func(ctx context.Context, c natsOnly, f service.Frame) error {
			w.NATS, w.Now = c.NATS, f.Now
			return w.Run(ctx, f.Out, f.Err)
		},
	}
}

func replay() service.Program[admin.StoreConfig] {
	var r admin.Replay
	return service.Program[admin.StoreConfig]{
		Name:    "rucflow replay",
		Summary: "fills Redis from the stream of events: the newest answer of each number, with the time it has left",
		Check:   (*admin.StoreConfig).Check,
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&r.Since, "since", "", "only what was stored since a `time`: 2026-11-01, 2026-11-01T08:00:00-05:00, or 72h back (default: all that can be fresh)")
			fs.StringVar(&r.Numbers, "ruc", "", "only these `numbers`, separated by commas")
			fs.BoolVar(&r.DryRun, "dry-run", false, "only count, as if Redis were empty")
		},
		Run: func(ctx context.Context, c admin.StoreConfig, f service.Frame) error {
			r.Now = f.Now
			return r.Run(ctx, c, f.Out, f.Err)
		},
	}
}

func deadList() service.Program[natsOnly] {
	var d admin.DeadList
	return service.Program[natsOnly]{
		Name:    "rucflow dead list",
		Summary: "shows the dead letters: what the cachewriter could not use, and why",
		Flags: func(fs *flag.FlagSet) {
			output(fs, &d.JSON)
			fs.IntVar(&d.Newest, "n", 50, "how many of the newest, a `count`")
			fs.BoolVar(&d.Whole, "whole", false, "show numbers of natural persons too; -o json always does")
		},
		Run: func(ctx context.Context, c natsOnly, f service.Frame) error { return d.Run(ctx, c.NATS, f.Out) },
	}
}

func deadRetry() service.Program[admin.StoreConfig] {
	var d admin.DeadRetry
	return service.Program[admin.StoreConfig]{
		Name:    "rucflow dead retry",
		Summary: "stores what of the dead letters can be used by now and deletes those letters; the others stay",
		Args:    "[<seq> ...]",
		Check:   (*admin.StoreConfig).Check,
		Flags:   func(fs *flag.FlagSet) { fs.BoolVar(&d.All, "all", false, "all of them") },
		Run: func(ctx context.Context, c admin.StoreConfig, f service.Frame) error {
			d.Letters, d.Now = f.Args, f.Now
			return d.Run(ctx, c, f.Out)
		},
	}
}

func health() service.Program[struct{}] {
	var gateway string
	return service.Program[struct{}]{
		Name:    "rucflow health",
		Summary: "says how a gateway is; exit 0 if healthy",
		Flags:   func(fs *flag.FlagSet) { gatewayFlag(fs, &gateway) },
		Run: func(ctx context.Context, _ struct{}, f service.Frame) error {
			return admin.Health(ctx, gateway, f.Out)
		},
	}
}

func doctor() service.Program[admin.DoctorConfig] {
	var d admin.Doctor
	return service.Program[admin.DoctorConfig]{
		Name:    "rucflow doctor",
		Summary: "looks at a set-up with the settings of its services, and says of each part how it is and what mends it; exit 0 if nothing fails",
		Check:   (*admin.DoctorConfig).Check,
		Flags: func(fs *flag.FlagSet) {
			output(fs, &d.JSON)
			of := strings.Join(admin.Groups(), ", ")
			fs.StringVar(&d.Only, "only", "", "only these `groups` of checks, separated by commas: "+of)
			fs.StringVar(&d.Skip, "skip", "", "all but these `groups`")
		},
		Run: func(ctx context.Context, c admin.DoctorConfig, f service.Frame) error {
			d.Now = f.Now
			return d.Run(ctx, c, f.Out)
		},
	}
}

func version() service.Program[natsOnly] {
	return service.Program[natsOnly]{
		Name:    "rucflow version",
		Summary: "the versions of this program and of the services that answer over NATS",
		Run: func(ctx context.Context, c natsOnly, f service.Frame) error {
			return admin.Version(ctx, c.NATS, f.Out, f.Err)
		},
	}
}
