// Command rucflow runs the whole pipeline in one process.
package main

import (
	"context"
	"flag"

	"github.com/rucflow/rucflow/deploy/allinone"
	"github.com/rucflow/rucflow/shared/service"
)

func main() {
	var replica bool
	var replicaAddr string
	service.Main(service.Program[allinone.Config]{
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
	})
}
