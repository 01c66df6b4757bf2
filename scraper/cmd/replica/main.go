// Command replica serves a fake of SUNAT's "Consulta RUC" site on this machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/scraper/replica"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch err := run(ctx, os.Args[1:]); {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "replica:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	var cfg replica.Config
	flags := flag.NewFlagSet("replica", flag.ContinueOnError)
	addr := flags.String("addr", "127.0.0.1:8088", "`address` to listen on")
	flags.DurationVar(&cfg.FormDelay, "form-delay", 0, "`time` before the search form is answered")
	flags.DurationVar(&cfg.ResultDelay, "result-delay", 0, "`time` before a query is answered")
	flags.DurationVar(&cfg.MinInterval, "pace", 0, "least `time` between two queries of one client; 0 = off")
	flags.IntVar(&cfg.MaxConcurrent, "max-concurrent", 0, "most queries of one client at a time; 0 = off")
	flags.DurationVar(&cfg.BlockFor, "block-for", time.Minute, "`time` for which a client that exceeds them is refused")
	flags.BoolVar(&cfg.BlockByReset, "block-reset", false, "refuse with a TCP reset instead of the firewall's page")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q (see -help)", flags.Arg(0))
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", *addr)
	if err != nil {
		return err
	}
	log := zerolog.New(zerolog.ConsoleWriter{Out: os.Stderr, TimeFormat: time.TimeOnly}).With().Timestamp().Logger()
	return replica.Run(ctx, cfg, replica.Deps{Listener: listener, Log: log, Now: time.Now})
}
