// Command rucflow runs the whole pipeline in one process; its commands serve the
// operator of a fleet.
package main

import (
	"context"
	"flag"

	"github.com/rucflow/rucflow/deploy/admin"
	"github.com/rucflow/rucflow/deploy/allinone"
	"github.com/rucflow/rucflow/shared/service"
)

func main() {
	service.Main(all(), invalidate(), forget(), key(), provision())
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
