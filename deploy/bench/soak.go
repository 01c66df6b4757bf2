//go:build linux

package bench

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
)

// Soak is what the soak found, as its test writes it with -figures.
type Soak struct {
	Visits    int      `json:"visits"`
	PerSecond float64  `json:"perSecond"` // of the visits
	Grown     []Growth `json:"grown"`
}

// Growth is of one thing that processes hold near the soak's start and at its end.
type Growth struct {
	What   string  `json:"what"`
	Memory bool    `json:"memory"` // in bytes, which may grow by a share; else a count, which may not
	Before float64 `json:"before"`
	After  float64 `json:"after"`
	Held   bool    `json:"held"` // it has not grown by more than it may
}

// Share is by how much memory has grown, of what it was; less than 0 where it has shrunk.
func (g Growth) Share() float64 { return g.After/g.Before - 1 }

// More is by how many a count has grown.
func (g Growth) More() float64 { return max(0, g.After-g.Before) }

// allVisits is the variant that has the figures of the whole soak; the others are what is
// held.
const allVisits = "all visits"

// The measures of a soak.
const (
	soakVisits   = "visits"
	grownPercent = "growth %"
	mibBefore    = "MiB before"
	mibAfter     = "MiB after"
	grownCount   = "more"
	countBefore  = "before"
	countAfter   = "after"
)

const mib = 1 << 20

func soak(ctx context.Context, l *lab) (Figures, error) { return l.soak(ctx, "-full") }

// soak runs the soak, which is a test, and takes its figures. That the test fails is an
// error unless its figures say why: then the lines do.
func (l *lab) soak(ctx context.Context, flags ...string) (Figures, error) {
	path := filepath.Join(l.dir, "soak.json")
	args := append([]string{"test", "-tags", "soak", "-count=1", "-timeout", "60m", "-v", "-run", "^TestSoak$", module + "deploy/e2e", "-figures", path}, flags...)
	cmd := exec.CommandContext(ctx, "go", args...) //nolint:gosec // a test of ours, and a file of ours
	cmd.Stdout, cmd.Stderr = l.out, l.out          // half an hour without a word would be long
	// Whoever ends it ends the test and its processes too, which go test would leave.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = stopWait
	failure := cmd.Run()
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, errors.Join(failure, err)
	}
	var s Soak
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, err
	}
	if s.held() && failure != nil {
		return nil, failure
	}
	return s.figures(), nil
}

// held reports whether nothing has grown by more than it may.
func (s Soak) held() bool {
	return !slices.ContainsFunc(s.Grown, func(g Growth) bool { return !g.Held })
}

func (s Soak) figures() (f Figures) {
	f.add(allVisits, map[string]float64{soakVisits: float64(s.Visits), perSecond: s.PerSecond})
	for _, g := range s.Grown {
		if g.Memory {
			f.add(g.What, map[string]float64{grownPercent: 100 * g.Share(), mibBefore: g.Before / mib, mibAfter: g.After / mib})
		} else {
			f.add(g.What, map[string]float64{grownCount: g.More(), countBefore: g.Before, countAfter: g.After})
		}
	}
	return f
}

// highest is a line's figure that must hold for every variant that has it.
func highest(measure string) func(Figures) float64 {
	return func(f Figures) float64 {
		var all []float64
		for _, v := range f {
			all = append(all, v.Rounds[measure]...)
		}
		if len(all) == 0 {
			return math.NaN()
		}
		return slices.Max(all)
	}
}
