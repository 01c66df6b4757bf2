//go:build linux

// Package bench measures rucflow against what it wants to reach: each scenario starts what
// it needs as processes of its own on the loopback, measures its variants in turn, round
// after round, and gives the figures of some lines. A line holds its floor or the program
// fails; most are ratios to the least program that does the same on the same machine in the
// same minute, because the machines that this runs on differ, and each is slower at times.
// It reads /proc and asks by epoll, so it is for Linux.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Config says what to measure, and for how long.
type Config struct {
	Only    string // names of scenarios, separated by commas; "" = all
	Rounds  int
	Seconds float64 // that one variant is measured in a round, where a load lasts
	Strict  bool    // a line that is not measured counts as missed
	JSON    string  // path of the file to write; "" = none
	// Profiles is a folder for CPU profiles of the gateway's hits; "" = none.
	Profiles string
}

// Check validates the settings.
func (c Config) Check() error {
	switch {
	case c.Rounds < 1:
		return errors.New("-rounds: at least 1")
	case c.Seconds <= 0:
		return errors.New("-seconds: more than 0")
	}
	_, err := c.chosen()
	return err
}

// chosen are the scenarios that -only names.
func (c Config) chosen() ([]scenario, error) {
	if c.Only == "" {
		return scenarios, nil
	}
	var chosen []scenario
	for name := range strings.SplitSeq(c.Only, ",") {
		i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-only: there is no %q; there are %s", name, Names())
		}
		chosen = append(chosen, scenarios[i])
	}
	return chosen, nil
}

// Names are those of all scenarios.
func Names() string {
	var all []string
	for _, s := range scenarios {
		all = append(all, s.name)
	}
	return strings.Join(all, ", ")
}

// scenario measures some lines.
type scenario struct {
	name  string
	lines []line
	run   func(context.Context, *lab) (Figures, error) // nil: nobody has written it yet
}

// lab is what scenarios work with.
type lab struct {
	Config
	dir   string // of the binaries, and of what processes leave behind
	now   func() time.Time
	out   io.Writer // where it says what it is doing
	stops []func()  // of what the scenario has started
}

// duration is how long a load lasts.
func (c Config) duration() time.Duration { return time.Duration(c.Seconds * float64(time.Second)) }

// folder is a new empty one.
func (l *lab) folder(name string) (string, error) { return os.MkdirTemp(l.dir, name+"-*") }

// ErrMissed says that a line did not hold its floor.
var ErrMissed = errors.New("not all floors were held")

// Run measures and prints the lines, to out, and what it is doing meanwhile, to progress.
// It leaves no process and no file behind but what the settings name.
func Run(ctx context.Context, cfg Config, now func() time.Time, out, progress io.Writer) (err error) {
	chosen, err := cfg.chosen()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "rucflow-bench-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	l := &lab{Config: cfg, dir: dir, now: now, out: progress}
	fmt.Fprintln(progress, "building")
	if err := build(ctx, dir); err != nil {
		return err
	}
	r := Result{Machine: machine(ctx, dir), Began: now(), Rounds: cfg.Rounds, Seconds: cfg.Seconds, Scenarios: map[string]Figures{}}
	var failed error
	for _, s := range chosen {
		if s.run == nil {
			continue
		}
		fmt.Fprintln(progress, "measuring", s.name)
		figures, err := l.measure(ctx, s)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil { // the others' figures are worth having
			failed = errors.Join(failed, fmt.Errorf("%s: %w", s.name, err))
			continue
		}
		r.Scenarios[s.name] = figures
	}
	r.LoadAfter = loadAverage()
	for _, s := range chosen {
		r.Lines = append(r.Lines, s.outcomes(r.Scenarios[s.name])...)
	}
	if err := r.print(out); err != nil {
		return err
	}
	if cfg.JSON != "" {
		if err := r.write(cfg.JSON); err != nil {
			return err
		}
	}
	return errors.Join(failed, r.missed(cfg.Strict))
}

// measure runs one scenario and stops what it started.
func (l *lab) measure(ctx context.Context, s scenario) (Figures, error) {
	defer func() {
		for _, stop := range slices.Backward(l.stops) {
			stop()
		}
		l.stops = nil
	}()
	return s.run(ctx, l)
}

// module is where the packages below are.
const module = "github.com/rucflow/rucflow/"

// build makes every program that is measured, as the images have them, and those that it
// is compared with.
func build(ctx context.Context, dir string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", dir+string(filepath.Separator), //nolint:gosec // a folder of ours
		module+"gateway/cmd/gateway", module+"cachewriter/cmd/cachewriter", module+"scraper/cmd/scraper", module+"deploy/cmd/rucflow",
		module+"deploy/bench/bare", "github.com/nats-io/nats-server/v2")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building: %w\n%s", err, out)
	}
	return nil
}

// each calls measure once per variant and round, all variants in each round.
func (l *lab) each(ctx context.Context, variants []string, measure func(ctx context.Context, variant string) (map[string]float64, error)) (f Figures, err error) {
	for round := range l.Rounds {
		for _, name := range variants {
			figures, err := measure(ctx, name)
			if err != nil {
				return nil, fmt.Errorf("round %d: %s: %w", round+1, name, err)
			}
			f.add(name, figures)
		}
	}
	return f, nil
}
