package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/cachewriter"
	"github.com/rucflow/rucflow/scraper"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/wire"
)

const provisionTimeout = time.Minute

// ProvisionConfig is what the streams and consumers of a fleet are made of: the
// settings of its services that meet on the NATS server.
type ProvisionConfig struct {
	NATS        service.NATSConfig
	Scraper     scraper.Config
	Cachewriter cachewriter.Config
}

// Check validates the settings; the error names the variable.
func (c *ProvisionConfig) Check() error {
	return errors.Join(c.Scraper.Check(), c.Cachewriter.Check())
}

// Provision creates what is missing on the NATS server and changes what differs from
// the settings. It is the only one that changes what exists, and prints a line for
// each thing that it did.
func Provision(ctx context.Context, cfg ProvisionConfig, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, provisionTimeout)
	defer cancel()
	// Who waits for a command wants to be told that nobody answers.
	nc, err := cfg.NATS.Connect("setup", zerolog.Nop(), nats.RetryOnFailedConnect(false))
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := wire.AwaitServer(ctx, nc); err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	did := false
	p := wire.Provisioner{
		JS: js, Source: cfg.Scraper.Source(), Update: true,
		Created: func(what string) {
			did = true
			fmt.Fprintf(out, "%s: created\n", what)
		},
		Changed: func(what, field, want, found string) {
			did = true
			fmt.Fprintf(out, "%s: %s changed from %s to %s\n", what, field, found, want)
		},
	}
	err = provisionAll(ctx, p, cfg.Scraper, cfg.Cachewriter)
	if err == nil && !did {
		fmt.Fprintln(out, "everything is as the settings say")
	}
	return err
}

// provisionAll has p make, or look at, everything that a fleet has on the NATS server.
func provisionAll(ctx context.Context, p wire.Provisioner, site scraper.Config, writer cachewriter.Config) error {
	err := p.Events(ctx, writer.EventsMaxAge)
	if err == nil {
		err = p.Visits(ctx, site.Queue, site.MaxConcurrent, site.Pace)
	}
	if err == nil {
		err = p.State(ctx)
	}
	if err == nil {
		err = p.Cachewriter(ctx)
	}
	if err == nil {
		err = p.Dead(ctx)
	}
	return err
}
