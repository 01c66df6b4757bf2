package allinone

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"github.com/rucflow/rucflow/cachewriter"
	"github.com/rucflow/rucflow/gateway"
	"github.com/rucflow/rucflow/scraper"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/store"
)

// Config is what the all-in-one is told by its environment: the settings of every
// service, and its own.
type Config struct {
	Service     service.Config
	Gateway     gateway.Config
	Scraper     scraper.Config
	Cachewriter cachewriter.Config

	HTTPAddr  string `env:"HTTP_ADDR" help:"where HTTP listens; :8000, with -replica 127.0.0.1:8000"`
	Port      string `env:"PORT" help:"the port alone, where a platform sets it; HTTP_ADDR wins"`
	OpsAddr   string `env:"OPS_ADDR" envDefault:"127.0.0.1:9100" empty:"keep" help:"where /metrics, /livez and /readyz listen; empty = nowhere"`
	DataDir   string `env:"DATA_DIR" envDefault:"./data" help:"folder of the streams, the cache and the token"`
	NATSAddr  string `env:"NATS_ADDR" envDefault:"127.0.0.1:4222" empty:"keep" help:"where the embedded NATS server listens; empty = nowhere"`
	NATSToken string `env:"NATS_TOKEN" secret:"true" help:"token of the embedded NATS server; made at the first start and kept in DATA_DIR by default"`
	// The file cache is on by default here, and lies in DATA_DIR.
	UseFileCache bool   `env:"USE_FILE_CACHE" envDefault:"true" help:"keep answers in files where no Redis is configured; false = in memory only"`
	CacheDir     string `env:"CACHE_DIR" help:"folder of the file cache; DATA_DIR/cache by default"`
	Store        store.Config

	// Replica starts the bundled fake of SUNAT's page at ReplicaAddr and aims at it.
	Replica     bool
	ReplicaAddr string
}

const (
	defaultPort      = "8000"
	loopback         = "127.0.0.1"
	replicaDataDir   = "replica"
	changedDir       = "changed"
	errReplicaRemote = "-replica-addr: %q is not on this machine's loopback: the replica is for testing only"
)

// DefaultReplicaAddr is where the replica listens, so that its faults can be
// switched by hand.
const DefaultReplicaAddr = "127.0.0.1:8088"

// Check completes and validates the settings; the error names the variable.
func (c *Config) Check() error {
	if c.HTTPAddr == "" {
		port := c.Port
		if port == "" {
			port = defaultPort
		}
		c.HTTPAddr = ":" + port
		if c.Replica {
			c.HTTPAddr = net.JoinHostPort(loopback, port)
		}
	}
	if c.DataDir == "" {
		return errors.New("DATA_DIR: not empty")
	}
	if c.Replica {
		host, _, err := net.SplitHostPort(c.ReplicaAddr)
		if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
			return fmt.Errorf(errReplicaRemote, c.ReplicaAddr)
		}
		// Invented data never shares a folder with real data.
		c.DataDir = filepath.Join(c.DataDir, replicaDataDir)
	}
	if c.CacheDir == "" {
		c.CacheDir = filepath.Join(c.DataDir, CacheDir)
	}
	if c.Scraper.ChangedDir == "" {
		c.Scraper.ChangedDir = filepath.Join(c.DataDir, changedDir)
	}
	c.Store.UseFile, c.Store.Dir = c.UseFileCache, c.CacheDir
	return errors.Join(c.Store.Check(), c.Gateway.Check(), c.Scraper.Check(), c.Cachewriter.Check())
}
