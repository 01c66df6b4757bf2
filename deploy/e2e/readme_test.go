package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/cachewriter"
	"github.com/rucflow/rucflow/cachewriter/audit"
	"github.com/rucflow/rucflow/cachewriter/prewarm"
	"github.com/rucflow/rucflow/deploy/allinone"
	"github.com/rucflow/rucflow/gateway"
	"github.com/rucflow/rucflow/scraper"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/store"
)

// update makes the tests of the README write its tables; `make docs` does.
var update = flag.Bool("update", false, "write the README's tables")

const readme = "../../README.md"

// table compares what stands between two marks of the README with what should.
func table(t *testing.T, name, want string) {
	t.Helper()
	b, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := "<!-- "+name+", by make docs -->\n", "<!-- /"+name+" -->"
	head, rest, ok := strings.Cut(string(b), begin)
	got, tail, ended := strings.Cut(rest, end)
	if !ok || !ended {
		t.Fatalf("README.md has no marks for the table of %s", name)
	}
	if got == want {
		return
	}
	if *update {
		if err := os.WriteFile(readme, []byte(head+begin+want+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("README.md's table of %s is not what the code says; `make docs` writes it. It should be:\n%s", name, want)
}

// programs are the binaries with settings.
var programs = []string{"gateway", "scraper", "cachewriter", "audit", "prewarm", "rucflow"}

// effective returns the settings that a program prints, and their values.
func effective(t *testing.T, program string) map[string]string {
	t.Helper()
	dir, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, program), "-check-config")
	cmd.Env = []string{"REDIS_HOST=redis"} // which a cachewriter needs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s -check-config: %v", program, err)
	}
	values := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[name] = value
	}
	if _, ok := values["REDIS_HOST"]; ok {
		values["REDIS_HOST"] = ""
	}
	return values
}

func TestReadme_ListsEverySetting(t *testing.T) {
	values := map[string]map[string]string{} // by program
	unlisted := map[string]bool{}
	for _, p := range programs {
		values[p] = effective(t, p)
		for name := range values[p] {
			unlisted[name] = true
		}
	}
	var b strings.Builder
	b.WriteString("| variable | default | of | meaning |\n|---|---|---|---|\n")
	for _, cfg := range []any{
		&service.Config{}, &service.NATSConfig{}, &store.Config{}, &gateway.Config{}, &scraper.Config{}, &cachewriter.Config{}, &audit.Config{}, &prewarm.Config{}, &allinone.Config{},
	} {
		for _, s := range service.Settings(cfg) {
			if !unlisted[s.Name] {
				continue // listed already
			}
			delete(unlisted, s.Name)
			of := map[string][]string{} // programs by value
			var all []string
			for _, p := range programs {
				if value, ok := values[p][s.Name]; ok {
					of[value] = append(of[value], p)
					all = append(all, p)
				}
			}
			def := code(s.Default)
			if len(of) > 1 {
				byProgram := slices.SortedFunc(maps.Keys(of), func(v, w string) int { return cmp.Compare(of[v][0], of[w][0]) })
				for i, value := range byProgram {
					byProgram[i] = cmp.Or(code(value), "none") + " (" + strings.Join(of[value], ", ") + ")"
				}
				def = strings.Join(byProgram, ", ")
			}
			name := code(s.Name)
			if s.Secret {
				name += " or " + code(s.Name+"_FILE")
			}
			users := strings.Join(all, ", ")
			if len(all) == len(programs) {
				users = "all"
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", name, def, users, s.Help)
		}
	}
	if len(unlisted) > 0 {
		t.Errorf("settings of a binary that no package describes: %v", slices.Sorted(maps.Keys(unlisted)))
	}
	table(t, "settings", b.String())
}

// TestReadme_FiguresAreThoseMeasured: what `make bench` wrote into its file, and nothing else.
func TestReadme_FiguresAreThoseMeasured(t *testing.T) {
	b, err := os.ReadFile("../bench/figures.json")
	if err != nil {
		t.Fatal(err)
	}
	var measured struct {
		Machine struct {
			Commit, CPU, Load, Go, Redis, Chromium string
			Cores                                  int
		}
		Began     time.Time
		LoadAfter string
		Stolen    float64
		Lines     []struct{ What, Floor, Goal, Ours, Verdict string }
	}
	if err := json.Unmarshal(b, &measured); err != nil {
		t.Fatal(err)
	}
	m := measured.Machine
	var w strings.Builder
	fmt.Fprintf(&w, "%s, commit %.10s, %d cores (%s), load %s before and %s after, %.1f %% of their time taken by the host, %s, %s, %s:\n\n",
		measured.Began.Format(time.DateOnly), m.Commit, m.Cores, m.CPU, m.Load, measured.LoadAfter, measured.Stolen, m.Go, m.Redis, m.Chromium)
	w.WriteString("| what | must | aimed at | measured |\n|---|---|---|---|\n")
	for _, l := range measured.Lines {
		if l.Verdict == "not measured yet" || l.Verdict == "FAILED" {
			t.Errorf("%s: %s", l.What, l.Verdict)
		}
		fmt.Fprintf(&w, "| %s | %s | %s | %s |\n", l.What, l.Floor, l.Goal, l.Ours)
	}
	table(t, "figures", w.String())
}

// describedAs reads how a metric describes itself, for there is no other way to it.
var describedAs = regexp.MustCompile(`fqName: "([^"]+)", help: "([^"]*)", (?:unit: "[^"]*", )?constLabels: \{([^}]*)\}, variableLabels: \{([^}]*)\}`)

// metric is how a metric describes itself.
type metric struct {
	help   string
	labels []string // sorted
}

// exported are the metrics of all services together, by name.
func exported(t *testing.T) map[string]metric {
	t.Helper()
	r := start(t, t.TempDir())
	list := filepath.Join(t.TempDir(), "list.txt")
	if err := os.WriteFile(list, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	defer beside(t, r, "prewarm", func(ctx context.Context, nc *nats.Conn, log zerolog.Logger) error {
		return prewarm.Run(ctx, prewarm.Config{Watch: list, Column: "1"}, prewarm.Deps{NATS: nc, Log: log, Now: time.Now, Registry: r.reg})
	})()
	defer beside(t, r, "audit", func(ctx context.Context, nc *nats.Conn, log zerolog.Logger) error {
		return audit.Run(ctx, audit.Config{Dir: t.TempDir()}, audit.Deps{NATS: nc, Log: log, Now: time.Now, Registry: r.reg})
	})()
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		r.reg.Describe(descs)
	}()
	all := map[string]metric{}
	for d := range descs {
		m := describedAs.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("cannot be read: %s", d)
		}
		name, help, constant, variable := m[1], m[2], m[3], m[4]
		var labels []string
		for label := range strings.SplitSeq(constant, ",") {
			if label, _, ok := strings.Cut(label, "="); ok {
				labels = append(labels, label)
			}
		}
		for label := range strings.SplitSeq(variable, ",") {
			if label != "" {
				labels = append(labels, label)
			}
		}
		slices.Sort(labels)
		all[name] = metric{help, labels}
	}
	return all
}

// beside runs a service beside the all-in-one, which has none of its kind, with its registry.
func beside(t *testing.T, r *rig, name string, run func(context.Context, *nats.Conn, zerolog.Logger) error) (stop func()) {
	t.Helper()
	serves := make(chan struct{})
	log := zerolog.New(io.Discard).Hook(zerolog.HookFunc(func(_ *zerolog.Event, _ zerolog.Level, message string) {
		if message == name+" serves" {
			close(serves)
		}
	}))
	nc := r.connect()
	stop = service.Background(t.Context(), func(ctx context.Context) {
		if err := run(ctx, nc, log); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-serves:
	case <-time.After(readyWait):
		t.Errorf("%s does not serve", name)
	}
	return stop
}

func TestReadme_ListsEveryMetric(t *testing.T) {
	all := exported(t)
	var b strings.Builder
	b.WriteString("| metric | labels | meaning |\n|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !strings.HasPrefix(name, "ruc_") {
			continue // of the Go runtime and the process
		}
		var labels []string
		for _, label := range all[name].labels {
			labels = append(labels, code(label))
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", code(name), strings.Join(labels, ", "), all[name].help)
	}
	table(t, "metrics", b.String())
}

// testName is a test that the text names, and testFunc where a test begins.
var (
	testName = regexp.MustCompile(`\bTest[A-Z]\w*`)
	testFunc = regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)
)

// TestReadme_NamesTestsThatExist: both languages say of the same tests that they hold
// what "What happens when…" promises, and each is there.
func TestReadme_NamesTestsThatExist(t *testing.T) {
	exists := map[string]bool{}
	for _, module := range []string{"cachewriter", "deploy", "gateway", "scraper", "shared"} {
		err := filepath.WalkDir(filepath.Join("../..", module), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			b, err := os.ReadFile(path)
			for _, m := range testFunc.FindAllSubmatch(b, -1) {
				exists[string(m[1])] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	named := func(path string) []string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		names := testName.FindAllString(string(b), -1)
		if len(names) == 0 {
			t.Errorf("%s names no test", path)
		}
		for _, name := range names {
			if !exists[name] {
				t.Errorf("%s names %s, which no module has", path, name)
			}
		}
		return names
	}
	const spanish = "../../README.es.md"
	if en, es := named(readme), named(spanish); !slices.Equal(en, es) {
		t.Errorf("the two READMEs do not name the same tests in the same order:\n%q\n%q", en, es)
	}
}

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}
