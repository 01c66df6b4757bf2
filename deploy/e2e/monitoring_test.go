package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v4"

	"github.com/rucflow/rucflow/shared/ruc"
)

// alert is one rule of deploy/prometheus/rules.yml.
type alert struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func alerts(t *testing.T) (all []alert) {
	t.Helper()
	b, err := os.ReadFile("../prometheus/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string  `yaml:"name"`
			Rules []alert `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.Load(b, &file, yaml.WithKnownFields()); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// panel is as much of a Grafana panel as is checked.
type panel struct {
	ID          int    `json:"id"`
	Type        string `json:"type"`
	Title       string `json:"title"`
	Description string `json:"description"`
	GridPos     struct{ X, Y, W, H int }
	Datasource  struct {
		Type, UID string
	} `json:"datasource"`
	Targets []struct {
		RefID string `json:"refId"`
		Expr  string `json:"expr"`
	} `json:"targets"`
}

func dashboard(t *testing.T) (title string, panels []panel) {
	t.Helper()
	b, err := os.ReadFile("../grafana/dashboards/rucflow.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Title  string  `json:"title"`
		UID    string  `json:"uid"`
		Panels []panel `json:"panels"`
	}
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	return d.Title, d.Panels
}

// TestMonitoring_NamesWhatIsExported: each expression of the dashboard and of the alerts is
// PromQL about metrics and labels that there are.
func TestMonitoring_NamesWhatIsExported(t *testing.T) {
	known := map[string][]string{"up": nil} // Prometheus' own
	for name, m := range exported(t) {
		known[name] = m.labels
	}
	unused := map[string]bool{}
	for name := range known {
		if strings.HasPrefix(name, "ruc_") {
			unused[name] = true
		}
	}
	check := func(t *testing.T, expr string) {
		t.Helper()
		tree, err := parser.NewParser(parser.Options{}).ParseExpr(strings.ReplaceAll(expr, "$__rate_interval", "5m"))
		if err != nil {
			t.Errorf("%s: %v", expr, err)
			return
		}
		allowed := []string{"job", "instance"}
		parser.Inspect(tree, func(node parser.Node, _ []parser.Node) error {
			v, ok := node.(*parser.VectorSelector)
			if !ok {
				return nil
			}
			name := v.Name
			if _, ok := known[name]; !ok {
				base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
				if strings.HasSuffix(name, "_bucket") {
					allowed = append(allowed, "le")
				}
				name = base
			}
			if _, ok := known[name]; !ok {
				t.Errorf("nobody exports %s, of %s", v.Name, expr)
			}
			delete(unused, name)
			own := append([]string{"job", "instance"}, known[name]...)
			allowed = append(allowed, own...)
			for _, m := range v.LabelMatchers {
				if m.Name != model.MetricNameLabel && !slices.Contains(own, m.Name) {
					t.Errorf("%s has no label %s, of %s", name, m.Name, expr)
				}
				if m.Name == "outcome" {
					for word := range strings.SplitSeq(m.Value, "|") {
						if word != "found" && !ruc.Code(word).Known() {
							t.Errorf("no outcome is %q, of %s", word, expr)
						}
					}
				}
			}
			return nil
		})
		parser.Inspect(tree, func(node parser.Node, _ []parser.Node) error {
			if a, ok := node.(*parser.AggregateExpr); ok {
				for _, label := range a.Grouping {
					if !slices.Contains(allowed, label) {
						t.Errorf("grouped by %s, which nothing in it has: %s", label, expr)
					}
				}
			}
			return nil
		})
	}
	for _, a := range alerts(t) {
		check(t, a.Expr)
	}
	_, panels := dashboard(t)
	for _, p := range panels {
		for _, target := range p.Targets {
			check(t, target.Expr)
		}
	}
	for name := range unused {
		switch name {
		case "ruc_memory_entries", "ruc_pending_lookups", "ruc_cache_write_batch_events": // details, for who looks for them
		default:
			t.Errorf("%s is exported, and neither shown nor watched", name)
		}
	}
}

// TestMonitoring_AlertsSayWhatToDo: in both languages, with a name of their own.
func TestMonitoring_AlertsSayWhatToDo(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range alerts(t) {
		if !strings.HasPrefix(a.Alert, "Rucflow") || seen[a.Alert] {
			t.Errorf("an alert named %q, twice: %v", a.Alert, seen[a.Alert])
		}
		seen[a.Alert] = true
		if !slices.Contains([]string{"alta", "media", "baja"}, a.Labels["urgencia"]) || len(a.Labels) != 1 {
			t.Errorf("%s: labels %v", a.Alert, a.Labels)
		}
		for _, name := range []string{"summary", "runbook", "runbook_en"} {
			if len(a.Annotations[name]) < 20 {
				t.Errorf("%s: no %s", a.Alert, name)
			}
		}
		if len(a.Annotations) != 3 {
			t.Errorf("%s: annotations %v", a.Alert, a.Annotations)
		}
		for _, m := range regexp.MustCompile(`Rucflow\w+`).FindAllString(a.Annotations["runbook"]+a.Annotations["runbook_en"], -1) {
			if !slices.ContainsFunc(alerts(t), func(b alert) bool { return b.Alert == m }) {
				t.Errorf("%s names %s", a.Alert, m)
			}
		}
		for _, m := range regexp.MustCompile(`«([^»]+)»|"([^"]+)"`).FindAllStringSubmatch(a.Annotations["runbook"], -1) {
			if quoted := m[1] + m[2]; strings.Contains(a.Annotations["runbook"], "panel «"+quoted+"»") {
				if _, panels := dashboard(t); !slices.ContainsFunc(panels, func(p panel) bool { return p.Title == quoted }) {
					t.Errorf("%s names the panel %q", a.Alert, quoted)
				}
			}
		}
	}
}

// TestMonitoring_DashboardIsWhole: its panels have what Grafana needs, and do not overlap.
func TestMonitoring_DashboardIsWhole(t *testing.T) {
	title, panels := dashboard(t)
	if title != "rucflow" {
		t.Errorf("its title is %q", title)
	}
	b, err := os.ReadFile(filepath.Join("..", "grafana", "provisioning", "datasources", "prometheus.yml"))
	if err != nil {
		t.Fatal(err)
	}
	taken, ids := map[[2]int]string{}, map[int]bool{}
	for _, p := range panels {
		if p.Title == "" || ids[p.ID] {
			t.Errorf("panel %d %q", p.ID, p.Title)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("%q lies at %d,%d over %q, or outside", p.Title, x, y, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Description == "" || len(p.Targets) == 0 || p.Datasource.UID == "" || !strings.Contains(string(b), "uid: "+p.Datasource.UID+" ") {
			t.Errorf("%q: description %q, %d targets, datasource %q", p.Title, p.Description, len(p.Targets), p.Datasource.UID)
		}
	}
}
