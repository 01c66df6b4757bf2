// Package allinone runs every service of rucflow in one process: the same Run of
// each, on an embedded NATS server and a store of this machine.
package allinone

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/rucflow/rucflow/cachewriter"
	"github.com/rucflow/rucflow/gateway"
	"github.com/rucflow/rucflow/scraper"
	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/shared/embedded"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/store"
)

const (
	dirPerm    = 0o700
	filePerm   = 0o600
	natsDir    = "nats"
	lockFile   = "rucflow.lock"
	tokenBytes = 24
)

// What is where in DATA_DIR, for who looks at an all-in-one from outside.
const (
	CacheDir  = "cache"      // the file cache, where CACHE_DIR says nothing else
	TokenFile = "nats-token" // the embedded server's token, where NATS_TOKEN says nothing else
)

// Addrs are the addresses that a running all-in-one listens on; "" where it does
// not.
type Addrs struct{ HTTP, Ops, NATS, Replica string }

// Deps are the live things of the all-in-one.
type Deps struct {
	Log zerolog.Logger
	Now func() time.Time
	// Registry takes the metrics of every service; nil = one of its own.
	Registry *prometheus.Registry
	// Started is called once everything listens; nil is allowed.
	Started func(Addrs)
}

// Run works until ctx ends and returns nil exactly then. It leaves no goroutine,
// process or temporary file behind.
func Run(ctx context.Context, cfg Config, deps Deps) (err error) {
	if err := os.MkdirAll(cfg.DataDir, dirPerm); err != nil {
		return fmt.Errorf("allinone.Run: DATA_DIR: %w", err)
	}
	unlock, err := lockDir(cfg.DataDir)
	if err != nil {
		return err
	}
	defer unlock()
	token, err := natsToken(cfg)
	if err != nil {
		return err
	}

	// Everything that listens does so before anything is started, so that a taken
	// port is one clear error.
	var ls listeners
	defer ls.close()
	web := ls.listen(ctx, "HTTP_ADDR", cfg.HTTPAddr)
	ops := ls.listen(ctx, "OPS_ADDR", cfg.OpsAddr)
	addrs := Addrs{HTTP: service.Addr(web), Ops: service.Addr(ops)}
	parts := &parts{log: deps.Log}
	if cfg.Replica {
		site := ls.listen(ctx, "-replica-addr", cfg.ReplicaAddr)
		if ls.err == nil {
			addrs.Replica = service.Addr(site)
			cfg.Scraper.URL = "http://" + addrs.Replica + replica.FormPath
			parts.add("replica", func(ctx context.Context) error {
				return replica.Run(ctx, replica.Config{}, replica.Deps{Listener: site, Log: deps.Log.With().Str("service", "replica").Logger(), Now: deps.Now})
			})
		}
	}
	if ls.err != nil {
		return ls.err
	}
	source := cfg.Scraper.Source()

	server, err := embedded.Start(ctx, embedded.Config{StoreDir: filepath.Join(cfg.DataDir, natsDir), Addr: cfg.NATSAddr, Token: token})
	if err != nil {
		return err
	}
	defer server.Stop()
	if cfg.NATSAddr != "" {
		addrs.NATS = server.URL()
	}
	answers, keep, err := store.Open(ctx, cfg.Store, source, deps.Now, deps.Log)
	if err != nil {
		return err
	}
	parts.add("cache", func(ctx context.Context) error {
		keep(ctx)
		return nil
	})
	defer func() { err = errors.Join(err, answers.Close()) }()

	bus := service.NATSConfig{Token: token}
	connect := func(role string) (*nats.Conn, zerolog.Logger, error) {
		log := deps.Log.With().Str("service", role).Logger()
		nc, err := bus.Connect(role, log, server.InProcess())
		return nc, log, err
	}
	registry := deps.Registry
	if registry == nil {
		registry = service.NewRegistry()
	}

	writerConn, writerLog, err := connect("cachewriter")
	if err != nil {
		return err
	}
	defer writerConn.Close()
	scraperConn, scraperLog, err := connect("scraper")
	if err != nil {
		return err
	}
	defer scraperConn.Close()
	gatewayConn, gatewayLog, err := connect("gateway")
	if err != nil {
		return err
	}
	defer gatewayConn.Close()

	// Stopped in the reverse order: the gateway stops taking requests first.
	parts.add("cachewriter", func(ctx context.Context) error {
		return cachewriter.Run(ctx, cfg.Cachewriter, cachewriter.Deps{
			NATS: writerConn, Store: answers, Log: writerLog, Now: deps.Now, Registry: registry,
			Provision: true, Update: true, Source: source,
		})
	})
	parts.add("scraper", func(ctx context.Context) error {
		return scraper.Run(ctx, cfg.Scraper, scraper.Deps{
			NATS: scraperConn, Log: scraperLog, Now: deps.Now, Registry: registry,
			Provision: true, Update: true, ShutdownTimeout: cfg.Service.ShutdownTimeout,
		})
	})
	parts.add("gateway", func(ctx context.Context) error {
		return gateway.Run(ctx, cfg.Gateway, gateway.Deps{
			NATS: gatewayConn, Store: answers, HTTP: web, Ops: ops, Log: gatewayLog, Now: deps.Now,
			Registry: registry, Pprof: cfg.Service.OpsPprof, ShutdownTimeout: cfg.Service.ShutdownTimeout,
		})
	})
	deps.Log.Info().Str("http", addrs.HTTP).Str("nats", addrs.NATS).Str("ops", addrs.Ops).Str("cache", answers.Kind()).
		Str("data", cfg.DataDir).Str("source", source).Msg("rucflow starts")
	if deps.Started != nil {
		deps.Started(addrs)
	}
	ls.release() // the parts close them from here on
	return parts.run(ctx)
}

// lockDir makes this process the only one that uses the folder.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, filePerm)
	if err != nil {
		return nil, fmt.Errorf("allinone.lockDir: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close() // the lock's own error says more
		return nil, fmt.Errorf("allinone.lockDir: another rucflow works with DATA_DIR %s: stop it or choose another folder", dir)
	}
	return func() { _ = f.Close() }, nil // closing releases it
}

// natsToken returns the token of the embedded server, which is made at the first
// start and kept readable to its owner only.
func natsToken(cfg Config) (string, error) {
	if cfg.NATSToken != "" {
		return cfg.NATSToken, nil
	}
	path := filepath.Join(cfg.DataDir, TokenFile)
	b, err := os.ReadFile(path)
	if token := strings.TrimSpace(string(b)); err == nil && token != "" {
		return token, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("allinone.natsToken: %w", err)
	}
	raw := make([]byte, tokenBytes)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	token := hex.EncodeToString(raw)
	if err := renameio.WriteFile(path, []byte(token+"\n"), filePerm); err != nil {
		return "", fmt.Errorf("allinone.natsToken: %w", err)
	}
	return token, nil
}

// listeners opens several listeners and keeps the first error.
type listeners struct {
	open []net.Listener
	err  error
}

// listen listens on addr; nil where it is empty or something failed.
func (l *listeners) listen(ctx context.Context, setting, addr string) net.Listener {
	if l.err != nil {
		return nil
	}
	ln, err := service.Listen(ctx, setting, addr)
	if ln == nil {
		l.err = err
		return nil
	}
	l.open = append(l.open, ln)
	return ln
}

func (l *listeners) release() { l.open = nil }

func (l *listeners) close() {
	for _, ln := range l.open {
		_ = ln.Close() // nothing was served yet
	}
}
