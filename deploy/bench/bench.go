//go:build linux

// Package bench measures rucflow against what it wants to reach: each scenario starts what
// it needs as processes of its own on the loopback, measures its variants in turn, round
// after round, and gives the figures of some lines. A line holds its floor or the program
// fails; most are ratios to the least program that does the same on the same machine in the
// same minute, because the machines that this runs on differ, and each is slower at times.
// It reads /proc and asks by epoll, so it is for Linux.
package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Config says what to measure, and for how long.
type Config struct {
	Only    string // names of scenarios, separated by commas; "" = all that have lines
	Rounds  int
	Seconds float64 // that one variant is measured in a round, where a load lasts
	Strict  bool    // a line that is not measured counts as missed
	JSON    string  // path of the file to write; "" = none
	// Records are the numbers of records that scale is measured with, separated by commas;
	// "" = DefaultRecords.
	Records string
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
	if _, err := c.records(); err != nil {
		return err
	}
	_, err := c.chosen()
	return err
}

// DefaultRecords are what scale is measured with by default.
const DefaultRecords = "1000,100000,1000000"

// records reads Records.
func (c Config) records() (counts []int, err error) {
	for text := range strings.SplitSeq(cmp.Or(c.Records, DefaultRecords), ",") {
		count, err := strconv.Atoi(text)
		if err != nil || count < minRecords || count > maxRecords {
			return nil, fmt.Errorf("-records: %q is no number from %d to %d", text, minRecords, maxRecords)
		}
		counts = append(counts, count)
	}
	return counts, nil
}

// chosen are the scenarios that -only names; all that have lines by default.
func (c Config) chosen() ([]scenario, error) {
	if c.Only == "" {
		return slices.DeleteFunc(slices.Clone(scenarios), func(s scenario) bool { return len(s.lines) == 0 }), nil
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
	var withLines, without []string
	for _, s := range scenarios {
		if len(s.lines) > 0 {
			withLines = append(withLines, s.name)
		} else {
			without = append(without, s.name)
		}
	}
	return strings.Join(withLines, ", ") + ", and without a number to reach, so only when named: " + strings.Join(without, ", ")
}

// scenario measures some lines, or figures that no line has.
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

// folder is a new empty one, which goes when what has been started after it is stopped.
func (l *lab) folder(name string) (string, error) {
	dir, err := os.MkdirTemp(l.dir, name+"-*")
	if err == nil {
		l.stops = append(l.stops, func() { _ = os.RemoveAll(dir) }) // else it goes with the run's own
	}
	return dir, err
}

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
	if err := build(ctx, dir, programs...); err != nil {
		return err
	}
	r := Result{Machine: machine(ctx, dir), Began: now(), Rounds: cfg.Rounds, Seconds: cfg.Seconds, Scenarios: map[string]Figures{}}
	before := processorTime()
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
	r.Stolen = processorTime().stolenSince(before)
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

// programs are those that are measured and those that they are compared with.
var programs = []string{
	module + "gateway/cmd/gateway", module + "scraper/cmd/scraper", module + "cachewriter/cmd/cachewriter", module + "cachewriter/cmd/audit",
	module + "cachewriter/cmd/prewarm", module + "deploy/cmd/rucflow", module + "deploy/bench/bare", natsServer,
}

const natsServer = "github.com/nats-io/nats-server/v2"

// build makes programs as the images have them.
func build(ctx context.Context, dir string, packages ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-trimpath", "-ldflags=-s -w", "-o", dir + string(filepath.Separator)}, packages...)...) //nolint:gosec // packages that are named here
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

// apart runs parts of a scenario, round after round, each with processes of its own.
func (l *lab) apart(ctx context.Context, f *Figures, parts ...func(context.Context, *lab, *Figures) error) error {
	for range l.Rounds {
		for _, part := range parts {
			run := func(ctx context.Context, l *lab) (Figures, error) { return nil, part(ctx, l, f) }
			if _, err := l.measure(ctx, scenario{run: run}); err != nil {
				return err
			}
		}
	}
	return nil
}
