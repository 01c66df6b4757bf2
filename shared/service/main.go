package service

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"
)

// Config is what every process has: its log, its ops listener, its end.
type Config struct {
	LogLevel        string        `env:"LOG_LEVEL" envDefault:"info" help:"debug, info, warn or error"`
	LogFormat       string        `env:"LOG_FORMAT" help:"json or console; console by default on a terminal"`
	OpsPprof        bool          `env:"OPS_PPROF" envDefault:"false" help:"serve /debug/pprof on OPS_ADDR"`
	ShutdownTimeout time.Duration `env:"SHUTDOWN_TIMEOUT" envDefault:"15s" help:"how long an orderly stop may take"`
}

// Frame is what Main hands to a program beside its settings.
type Frame struct {
	Name string
	Log  zerolog.Logger
	Now  func() time.Time
	Args []string  // what stands after the flags
	Out  io.Writer // where a command prints its result
	Err  io.Writer // where it says what else there is to say
}

// Program is one binary, or one command of a binary that has several.
type Program[C any] struct {
	Name    string
	Summary string              // one line for -help
	Args    string              // the arguments after the flags, for -help; "" = there are none
	Frame   func(cfg *C) Config // where the frame's settings are; nil for a command without
	Check   func(cfg *C) error  // further validation, may be nil
	Ops     func(cfg *C) string // address of the ops listener, which -health asks; nil for a command
	Flags   func(fs *flag.FlagSet)
	Run     func(ctx context.Context, cfg C, f Frame) error // returns nil when told to stop
}

// Command is a Program that another's first arguments choose.
type Command interface {
	about() (name, summary string)
	main(args, environ []string, stdout, stderr io.Writer) int
}

func (p Program[C]) about() (name, summary string) { return p.Name, p.Summary }

// ErrUsage makes Main exit as for bad settings: a command was called wrongly.
var ErrUsage = errors.New("see -help")

// clockOffset is empty in every program but those that the chaos tests link, to see what
// a machine whose clock is wrong does to the others.
var clockOffset string

func clock() func() time.Time {
	offset, err := time.ParseDuration(clockOffset)
	if err != nil {
		return time.Now
	}
	return func() time.Time { return time.Now().Add(offset) }
}

// Main runs a program, or the one of its commands that the first arguments name, to
// its end and exits: 0 after an orderly stop, 1 after a failure, 2 for bad settings.
// The first SIGINT or SIGTERM stops it orderly, a second one at once.
func Main[C any](p Program[C], commands ...Command) {
	os.Exit(choose(p, commands, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

func choose(p Command, commands []Command, args, environ []string, stdout, stderr io.Writer) int {
	if len(commands) == 0 || len(args) == 0 {
		return p.main(args, environ, stdout, stderr)
	}
	name, _ := p.about()
	for _, c := range commands {
		full, _ := c.about()
		words := strings.Fields(strings.TrimPrefix(full, name))
		if len(args) >= len(words) && slices.Equal(args[:len(words)], words) {
			return c.main(args[len(words):], environ, stdout, stderr)
		}
	}
	code := p.main(args, environ, stdout, stderr)
	if slices.ContainsFunc(args, isHelp) {
		fmt.Fprintf(stderr, "\nCommands (each has -help):\n")
		for _, c := range commands {
			full, summary := c.about()
			fmt.Fprintf(stderr, "  %s\n    \t%s\n", full, summary)
		}
	}
	return code
}

func isHelp(arg string) bool { return slices.Contains([]string{"-h", "-help", "--h", "--help"}, arg) }

func (p Program[C]) main(args, environ []string, stdout, stderr io.Writer) int {
	var cfg C
	fs := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() { p.usage(fs, stderr, &cfg) }
	check := fs.Bool("check-config", false, "check the settings, print the effective ones and exit")
	health := new(bool)
	if p.Ops != nil {
		fs.BoolVar(health, "health", false, "ask the running process whether it is ready; exit 0 if so")
	}
	if p.Flags != nil {
		p.Flags(fs)
	}
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if fs.NArg() > 0 && p.Args == "" {
		fmt.Fprintf(stderr, "%s: unexpected argument %q; see -help\n", p.Name, fs.Arg(0))
		return 2
	}
	err := Load(&cfg, environ)
	if err == nil && p.Check != nil {
		err = p.Check(&cfg)
	}
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", p.Name, err)
		return 2
	}
	frame := Config{LogLevel: zerolog.LevelInfoValue}
	if p.Frame != nil {
		frame = p.Frame(&cfg)
	}
	log, err := frame.logger(stderr)
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", p.Name, err)
		return 2
	}
	if *check {
		if err := Print(stdout, &cfg); err != nil {
			return 1
		}
		return 0
	}

	if *health {
		if err := askReady(p.Ops(&cfg)); err != nil {
			fmt.Fprintf(stderr, "%s: %v\n", p.Name, err)
			return 1
		}
		return 0
	}

	if !frame.OpsPprof {
		runtime.MemProfileRate = 0 // nobody can ask for the samples, whose table grows to 1.4 MiB
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// Once told to stop, the default action of a further signal is back.
	context.AfterFunc(ctx, stop)
	err = p.Run(ctx, cfg, Frame{Name: p.Name, Log: log, Now: clock(), Args: fs.Args(), Out: stdout, Err: stderr})
	switch {
	case p.Ops == nil && err != nil: // a person reads what a command says
		fmt.Fprintf(stderr, "%s: %v\n", p.Name, err)
	case err != nil:
		log.Error().Err(err).Msg("stopped by a failure")
	case p.Ops != nil:
		log.Info().Msg("stopped")
	}
	switch {
	case errors.Is(err, ErrUsage):
		return 2
	case err != nil:
		return 1
	}
	return 0
}

func (p Program[C]) usage(fs *flag.FlagSet, w io.Writer, cfg *C) {
	fmt.Fprintf(w, "%s: %s\n\n", p.Name, p.Summary)
	if p.Args != "" {
		fmt.Fprintf(w, "Usage: %s [flags] %s\n\n", p.Name, p.Args)
	}
	fmt.Fprintf(w, "Flags:\n")
	fs.PrintDefaults()
	fmt.Fprintf(w, "\nSettings (environment variable, default, meaning; a duration may be a bare number of seconds):\n")
	if err := Help(w, cfg); err != nil {
		fmt.Fprintln(w, err)
	}
}

// logger makes the process's log on w.
func (c Config) logger(w io.Writer) (zerolog.Logger, error) {
	level, err := zerolog.ParseLevel(c.LogLevel)
	if err != nil {
		return zerolog.Nop(), fmt.Errorf("LOG_LEVEL: %q is not a level", c.LogLevel)
	}
	format := c.LogFormat
	if format == "" {
		format = "json"
		if f, ok := w.(*os.File); ok && isatty.IsTerminal(f.Fd()) {
			format = "console"
		}
	}
	zerolog.TimeFieldFormat = "2006-01-02T15:04:05.000Z07:00"
	switch format {
	case "json":
	case "console":
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly}
	default:
		return zerolog.Nop(), fmt.Errorf("LOG_FORMAT: %q is neither json nor console", c.LogFormat)
	}
	return zerolog.New(w).Level(level).With().Timestamp().Logger(), nil
}

// Background runs f until stop is called, which waits for its end.
func Background(ctx context.Context, f func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}
