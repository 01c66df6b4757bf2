//go:build linux

package bench

import (
	"bufio"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/rucflow/rucflow/scraper/browser"
)

// Result is what one run measured, and where: the content of the JSON file.
type Result struct {
	Machine   Machine            `json:"machine"`
	Began     time.Time          `json:"began"`
	LoadAfter string             `json:"loadAfter"` // the machine's load average when it was over
	Stolen    float64            `json:"stolen"`    // percent of the processors' time that the host gave to others meanwhile
	Rounds    int                `json:"rounds"`
	Seconds   float64            `json:"seconds"` // of each variant in a round
	Lines     []Outcome          `json:"lines"`
	Scenarios map[string]Figures `json:"scenarios"`
}

// Outcome is one line as it was measured.
type Outcome struct {
	What    string   `json:"what"`
	Floor   string   `json:"floor"`
	Goal    string   `json:"goal"`
	Ours    string   `json:"ours"`
	Figure  *float64 `json:"figure"` // null where nothing was measured
	Verdict verdict  `json:"verdict"`
}

// Machine is what was measured, and on what.
type Machine struct {
	Commit   string `json:"commit"` // with + where the checkout had changes
	CPU      string `json:"cpu"`
	Cores    int    `json:"cores"`
	Load     string `json:"load"` // the load average before
	Kernel   string `json:"kernel"`
	Go       string `json:"go"`
	Redis    string `json:"redis"`
	NATS     string `json:"nats"`
	Chromium string `json:"chromium"`
}

func machine(ctx context.Context, dir string) Machine {
	m := Machine{
		CPU: cpuModel(), Cores: runtime.NumCPU(), Load: loadAverage(), Kernel: fileText("/proc/sys/kernel/osrelease"),
		NATS: said(ctx, filepath.Join(dir, "nats-server"), "--version"),
	}
	m.Redis, _, _ = strings.Cut(said(ctx, "redis-server", "--version"), " sha=")
	if chrome, err := browser.FindChrome(os.Getenv("CHROME_PATH")); err == nil {
		m.Chromium = said(ctx, chrome, "--version")
	}
	m.Commit = said(ctx, "git", "rev-parse", "HEAD")
	if said(ctx, "git", "status", "--porcelain") != "" {
		m.Commit += "+"
	}
	if info, err := buildinfo.ReadFile(filepath.Join(dir, "gateway")); err == nil {
		m.Go = info.GoVersion
	}
	return m
}

// said is what a program says of itself; what is unknown stays empty.
func said(ctx context.Context, program string, args ...string) string {
	out, err := exec.CommandContext(ctx, program, args...).Output() //nolint:gosec // the programs that are measured
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

func fileText(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func loadAverage() string {
	text, _, _ := strings.Cut(fileText("/proc/loadavg"), " ") // of the last minute
	return text
}

// ticks are what all processors have had since the start, and how much of it a host gave to
// others.
type ticks struct{ stolen, all float64 }

// processorTime reads them; they are 0 where they are not known.
func processorTime() (t ticks) {
	const steal = 7 // its place in the line; what follows is counted in those before
	line, _, _ := strings.Cut(fileText("/proc/stat"), "\n")
	for i, field := range strings.Fields(strings.TrimPrefix(line, "cpu")) {
		v, err := strconv.ParseFloat(field, 64)
		if err != nil || i > steal {
			break
		}
		if t.all += v; i == steal {
			t.stolen = v
		}
	}
	return t
}

// stolenSince is the share that the host gave to others since then, in percent.
func (t ticks) stolenSince(before ticks) float64 {
	if t.all <= before.all {
		return 0
	}
	return 100 * (t.stolen - before.stolen) / (t.all - before.all)
}

func cpuModel() string {
	for line := range strings.Lines(fileText("/proc/cpuinfo")) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// print shows the variants, then the lines.
func (r Result) print(out io.Writer) error {
	fmt.Fprintf(out, "%s, %d cores, load %s before and %s after, %s %% of their time taken by the host; commit %s, %s\n%d rounds, %s s each; medians of the rounds\n",
		r.Machine.CPU, r.Machine.Cores, r.Machine.Load, r.LoadAfter, number(r.Stolen), r.Machine.Commit, r.Machine.Go, r.Rounds, number(r.Seconds))
	for _, name := range slices.Sorted(maps.Keys(r.Scenarios)) {
		if err := r.Scenarios[name].print(out, name); err != nil {
			return err
		}
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "LINE\tFLOOR\tGOAL\tOURS\t")
	for _, o := range r.Lines {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", o.What, o.Floor, o.Goal, o.Ours, o.Verdict)
	}
	return w.Flush()
}

// print shows the medians of a scenario's variants.
func (f Figures) print(out io.Writer, scenario string) error {
	measures := f.measures()
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s\t%s\n", strings.ToUpper(scenario), strings.Join(measures, "\t"))
	for _, v := range f {
		fmt.Fprint(w, v.Name)
		for _, m := range measures {
			fmt.Fprintf(w, "\t%s", number(median(v.Rounds[m])))
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

// measures are all that the variants have, in the order of the alphabet.
func (f Figures) measures() []string {
	all := map[string]bool{}
	for _, v := range f {
		for m := range v.Rounds {
			all[m] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

func (r Result) write(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644) //nolint:gosec // figures, for everybody
}

// missed returns ErrMissed where a floor was not held, or strictly where one is not known
// to be.
func (r Result) missed(strict bool) error {
	for _, o := range r.Lines {
		if o.Verdict == missed || o.Verdict == failed || strict && o.Verdict == notMeasured {
			return ErrMissed
		}
	}
	return nil
}

// Compare prints two results side by side.
func Compare(before, after string, out io.Writer) error {
	a, err := read(before)
	if err != nil {
		return err
	}
	b, err := read(after)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, row := range [][3]string{
		{"", "A", "B"},
		{"commit", a.Machine.Commit, b.Machine.Commit},
		{"began", a.Began.Format(time.RFC3339), b.Began.Format(time.RFC3339)},
		{"CPU", a.Machine.CPU, b.Machine.CPU},
		{"cores", strconv.Itoa(a.Machine.Cores), strconv.Itoa(b.Machine.Cores)},
		{"load before, after", a.Machine.Load + ", " + a.LoadAfter, b.Machine.Load + ", " + b.LoadAfter},
		{"taken by the host, %", number(a.Stolen), number(b.Stolen)},
		{"kernel", a.Machine.Kernel, b.Machine.Kernel},
		{"Go", a.Machine.Go, b.Machine.Go},
		{"Redis", a.Machine.Redis, b.Machine.Redis},
		{"NATS", a.Machine.NATS, b.Machine.NATS},
		{"Chromium", a.Machine.Chromium, b.Machine.Chromium},
		{"rounds × seconds", fmt.Sprintf("%d × %s", a.Rounds, number(a.Seconds)), fmt.Sprintf("%d × %s", b.Rounds, number(b.Seconds))},
	} {
		fmt.Fprintf(w, "%s\t%s\t%s\n", row[0], row[1], row[2])
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	w = tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tA\tB\tchange")
	was := a.medians()
	for _, m := range b.medians() {
		i := slices.IndexFunc(was, func(o named) bool { return o.name == m.name })
		if i < 0 {
			fmt.Fprintf(w, "%s\t-\t%s\t\n", m.name, number(m.value))
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", m.name, number(was[i].value), number(m.value), change(was[i].value, m.value))
		was = slices.Delete(was, i, i+1)
	}
	for _, m := range was {
		fmt.Fprintf(w, "%s\t%s\t-\t\n", m.name, number(m.value))
	}
	return w.Flush()
}

type named struct {
	name  string
	value float64
}

// medians are all figures of a result: the lines that were measured, then every measure of
// every variant.
func (r Result) medians() (all []named) {
	for _, o := range r.Lines {
		if o.Figure != nil {
			all = append(all, named{o.What, *o.Figure})
		}
	}
	for _, scenario := range slices.Sorted(maps.Keys(r.Scenarios)) {
		f := r.Scenarios[scenario]
		for _, v := range f {
			for _, m := range slices.Sorted(maps.Keys(v.Rounds)) {
				all = append(all, named{scenario + ": " + v.Name + ": " + m, median(v.Rounds[m])})
			}
		}
	}
	return all
}

// change is by how much b differs from a.
func change(a, b float64) string {
	if a == 0 {
		return "" // of nothing there are no percents
	}
	return fmt.Sprintf("%+.1f %%", (b/a-1)*100)
}

func read(path string) (r Result, err error) {
	f, err := os.Open(path)
	if err != nil {
		return r, err
	}
	defer func() { _ = f.Close() }()
	d := json.NewDecoder(bufio.NewReader(f))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return r, fmt.Errorf("%s is no result of a benchmark: %w", path, err)
	}
	return r, nil
}
