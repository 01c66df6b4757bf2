//go:build linux

package bench

import (
	"context"
	"errors"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMedian(t *testing.T) {
	for _, tc := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3},
		{[]float64{9, 1, 5}, 5},
		{[]float64{9, 1, 5, 7}, 6},
	} {
		if got := median(tc.values); got != tc.want {
			t.Errorf("%v: %v, not %v", tc.values, got, tc.want)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("of none: %v", got)
	}
	values := []float64{3, 1, 2}
	median(values)
	if values[0] != 3 {
		t.Error("the rounds changed their order")
	}
}

func TestPercentile(t *testing.T) {
	var hundred []int
	for i := range 100 {
		hundred = append(hundred, i+1)
	}
	for _, tc := range []struct {
		sorted []int
		p      float64
		want   int
	}{
		{hundred, 50, 50}, {hundred, 99, 99}, {hundred, 100, 100}, {hundred, 0, 1},
		{[]int{7}, 50, 7}, {[]int{7, 8}, 50, 7}, {[]int{7, 8, 9}, 99, 9},
	} {
		if got := percentile(tc.sorted, tc.p); got != tc.want {
			t.Errorf("p%v of %d values: %d, not %d", tc.p, len(tc.sorted), got, tc.want)
		}
	}
}

// TestRatio: of each round, not of the medians; here those would say 0.75.
func TestRatio(t *testing.T) {
	var f Figures
	for _, round := range [][2]float64{{10, 40}, {40, 80}, {30, 10}} {
		f.add("ours", map[string]float64{perSecond: round[0]})
		f.add("bare", map[string]float64{perSecond: round[1]})
	}
	if got := ratio("ours", "bare", perSecond)(f); got != 0.5 {
		t.Errorf("%v", got)
	}
	if got := of("bare", perSecond)(f); got != 40 {
		t.Errorf("median %v", got)
	}
	if got := most(perSecond, "ours", "bare")(f); got != 80 {
		t.Errorf("most %v", got)
	}
	for name, none := range map[string]float64{
		"ratio": ratio("ours", "nobody", perSecond)(f), "of": of("nobody", perSecond)(f), "most": most("nothing", "ours")(f),
	} {
		if !math.IsNaN(none) {
			t.Errorf("%s of what was not measured: %v", name, none)
		}
	}
}

func TestStat(t *testing.T) {
	const stat = "1234 (a (b) 7 8) S 77 1234 1234 0 -1 4194560 1020 0 0 0 250 31 0 0 20 0 9 0 12345 1000000 500 1844"
	if got, err := cpuOf(stat); err != nil || got != 2810*time.Millisecond {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := parentOf(stat); err != nil || got != 77 {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "1234 (a) S 77", strings.Replace(stat, " 250 ", " x ", 1), strings.Replace(stat, " 31 ", " x ", 1)} {
		if got, err := cpuOf(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
	if got, err := cpuOfPid(os.Getpid()); err != nil || got < 0 {
		t.Errorf("this process: %v, %v", got, err)
	}
}

func TestResponse(t *testing.T) {
	const head = "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nAge: 1\r\n\r\n"
	for _, tc := range []struct {
		text         string
		bodiless     bool
		status, size int
		ok           bool
	}{
		{head + "hello", false, 404, len(head) + 5, true},
		{head, false, 404, len(head) + 5, true},
		{head, true, 404, len(head), true},
		{head[:len(head)-1], false, 0, 0, false},
		{"", false, 0, 0, false},
	} {
		status, size, ok, err := response([]byte(tc.text), tc.bodiless)
		if err != nil || status != tc.status || size != tc.size || ok != tc.ok {
			t.Errorf("%q: %d %d %v %v", tc.text, status, size, ok, err)
		}
	}
	for _, bad := range []string{"HTTP/1.1 2\r\n\r\n", "HTTP/1.1 abc x\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"} {
		if _, _, ok, err := response([]byte(bad), false); err == nil {
			t.Errorf("%q: %v", bad, ok)
		}
	}
}

func TestLoad(t *testing.T) {
	var asked [2]atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/a":
			asked[0].Add(1)
		case "/b":
			asked[1].Add(1)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = w.Write([]byte(strings.Repeat("x", 2000))) // with more, net/http would not say how much
	}))
	defer server.Close()
	addr := server.Listener.Addr().String()
	const times = 3
	mix := load{addr: addr, order: []int{0, 1, 1, 0}, each: times, status: 200, requests: [][]byte{request("GET", "/a"), request("GET", "/b", "Accept: x")}}
	took, err := mix.run(t.Context(), time.Minute, time.Now)
	if err != nil || len(took) != times*callers {
		t.Fatalf("%d responses, %v", len(took), err)
	}
	if a, b := asked[0].Load(), asked[1].Load(); a != times*callers/2 || b != a {
		t.Errorf("/a was asked for %d times, /b %d times", a, b)
	}
	for i := range took[1:] {
		if took[i] > took[i+1] {
			t.Fatal("the times are not sorted")
		}
	}

	few := load{addr: addr, order: []int{0, 1}, each: times, status: 200, requests: mix.requests, few: 3}
	before := asked[0].Load() + asked[1].Load()
	if took, err := few.run(t.Context(), time.Minute, time.Now); err != nil || len(took) != 3*times || asked[0].Load()+asked[1].Load()-before != 3*times {
		t.Errorf("three callers: %d responses, %v", len(took), err)
	}

	head := load{addr: addr, order: []int{0}, status: 200, bodiless: true, requests: [][]byte{request("HEAD", "/a")}}
	const while = 20 * time.Millisecond
	began := time.Now()
	if took, err := head.run(t.Context(), while, time.Now); err != nil || len(took) < callers || time.Since(began) < while {
		t.Errorf("HEAD: %d responses, %v", len(took), err)
	}

	other := load{addr: addr, order: []int{0}, each: 1, status: 200, requests: [][]byte{request("GET", "/c")}}
	if _, err := other.run(t.Context(), time.Minute, time.Now); err == nil || !strings.Contains(err.Error(), "status 404") {
		t.Errorf("another status: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(ErrMissed)
	if _, err := mix.run(ctx, time.Minute, time.Now); !errors.Is(err, ErrMissed) {
		t.Errorf("told to stop: %v", err)
	}
	server.Close()
	if _, err := mix.run(t.Context(), time.Minute, time.Now); err == nil {
		t.Error("nobody listens")
	}
}

func TestVerdict(t *testing.T) {
	none := func(Figures) float64 { return 0 }
	more := line{floor: 0.75, goal: 0.9, of: none}
	less := line{floor: 60, goal: 50, atMost: true, of: none}
	must := line{floor: 1, goal: math.NaN(), atMost: true, of: none}
	wish := line{floor: math.NaN(), goal: 5, atMost: true, of: none}
	for _, tc := range []struct {
		line   line
		figure float64
		want   verdict
	}{
		{more, 0.9, goalReached}, {more, 0.89, floorHeld}, {more, 0.75, floorHeld}, {more, 0.74, missed},
		{less, 50, goalReached}, {less, 51, floorHeld}, {less, 60, floorHeld}, {less, 61, missed},
		{must, 1, goalReached}, {must, 1.1, missed},
		{wish, 5, goalReached}, {wish, 5.1, goalMissed},
		{less, math.NaN(), failed}, {line{}, math.NaN(), notMeasured},
	} {
		if got := tc.line.verdict(tc.figure); got != tc.want {
			t.Errorf("%v of %+v: %s, not %s", tc.figure, tc.line, got, tc.want)
		}
	}
}

// TestScenarios: no line can be forgotten by being half written.
func TestScenarios(t *testing.T) {
	what := map[string]bool{}
	for _, s := range scenarios {
		if s.name == "" || len(s.lines) == 0 && s.run == nil {
			t.Errorf("%+v", s)
		}
		for _, l := range s.lines {
			if (l.of == nil) != (s.run == nil) {
				t.Errorf("%s: a run and no figure, or the other way round", l.what)
			}
			if l.what == "" || what[l.what] {
				t.Errorf("%s: two lines of that name", l.what)
			}
			what[l.what] = true
			if both := l.floor + l.goal; !math.IsNaN(both) && l.atMost != (l.goal < l.floor) {
				t.Errorf("%s: the goal is easier than the floor", l.what)
			}
			if math.IsNaN(l.floor) && math.IsNaN(l.goal) {
				t.Errorf("%s: neither a floor nor a goal", l.what)
			}
		}
	}
}

func TestConfig_Check(t *testing.T) {
	for _, tc := range []struct {
		cfg  Config
		want string
	}{
		{Config{Rounds: 1, Seconds: 1}, ""},
		{Config{Rounds: 1, Seconds: 0.5, Only: "hits,frozen"}, ""},
		{Config{Rounds: 1, Seconds: 1, Only: "hits,nothing"}, `-only: there is no "nothing"; there are hits, `},
		{Config{Seconds: 1}, "-rounds: "},
		{Config{Rounds: 1}, "-seconds: "},
		{Config{Rounds: 1, Seconds: 1, Records: "1000,10000000"}, ""},
		{Config{Rounds: 1, Seconds: 1, Records: "1000,999"}, `-records: "999" is no number from 1000 to `},
		{Config{Rounds: 1, Seconds: 1, Records: "10000001"}, "-records: "},
		{Config{Rounds: 1, Seconds: 1, Records: "1000,"}, `-records: "" is no number`},
	} {
		err := tc.cfg.Check()
		if (err == nil) != (tc.want == "") || err != nil && !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("%+v: %v", tc.cfg, err)
		}
	}
}

// TestConfig_chosen: what has no number to reach is measured when it is named, and the
// soak after all others.
func TestConfig_chosen(t *testing.T) {
	names := func(only string) (names []string) {
		t.Helper()
		chosen, err := Config{Only: only}.chosen()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range chosen {
			names = append(names, s.name)
		}
		return names
	}
	all := names("")
	for _, named := range []string{"overload", "footprint", "events", "scale"} {
		if slices.Contains(all, named) || !slices.Equal(names(named), []string{named}) {
			t.Errorf("%s: %v, %v", named, all, names(named))
		}
	}
	if all[len(all)-1] != "soak" {
		t.Errorf("%v", all)
	}
	if want := "start,hits"; strings.Join(names(want), ",") != want {
		t.Errorf("%v", names(want))
	}
}

// result is one of two variants in two rounds.
func result(commit string, ours, bare float64) Result {
	var f Figures
	for range 2 {
		f.add("ours", map[string]float64{perSecond: ours})
		f.add("bare", map[string]float64{perSecond: bare})
	}
	s := scenario{name: "hits", run: hits, lines: []line{{what: "ours ÷ bare", floor: 0.5, goal: 0.9, of: ratio("ours", "bare", perSecond)}}}
	return Result{
		Machine: Machine{Commit: commit, CPU: "Quick", Cores: 2}, Began: time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC), Rounds: 2, Seconds: 3, Stolen: ticks{75, 2000}.stolenSince(ticks{25, 0}),
		Lines: s.outcomes(f), Scenarios: map[string]Figures{s.name: f},
	}
}

func TestResult_Missed(t *testing.T) {
	open := scenario{name: "later", lines: []line{{what: "later", floor: 1, goal: 2}}}.outcomes(nil)
	held, not := result("a", 60, 100), result("a", 40, 100)
	if err := not.missed(false); !errors.Is(err, ErrMissed) {
		t.Errorf("a floor was not held: %v", err)
	}
	if err := held.missed(true); err != nil {
		t.Error(err)
	}
	held.Lines = append(held.Lines, open...)
	if err := held.missed(false); err != nil {
		t.Error(err)
	}
	if err := held.missed(true); !errors.Is(err, ErrMissed) {
		t.Errorf("not measured: %v", err)
	}
	broken := scenario{name: "hits", run: hits, lines: scenarios[0].lines}.outcomes(nil)
	if err := (Result{Lines: broken}).missed(false); !errors.Is(err, ErrMissed) {
		t.Errorf("a scenario broke off: %v", err)
	}
}

func TestResult_Print(t *testing.T) {
	r := result("abc+", 60, 100)
	r.Lines = append(r.Lines, scenario{name: "later", lines: []line{{what: "later", unit: "ms", atMost: true, floor: 60, goal: math.NaN()}}}.outcomes(nil)...)
	var out strings.Builder
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Quick, 2 cores, load  before and  after, 2.50 % of their time taken by the host; commit abc+",
		"HITS  per second\nours  60.0\nbare  100\n",
		"ours ÷ bare  ≥ 0.50     ≥ 0.90  0.60  floor held\n",
		"later        ≤ 60.0 ms  same    -     not measured yet\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestCompare(t *testing.T) {
	dir := t.TempDir()
	before, after := filepath.Join(dir, "before.json"), filepath.Join(dir, "after.json")
	a, b := result("abc", 60, 100), result("def", 90, 100)
	a.Scenarios["gone"] = Figures{{Name: "gone", Rounds: map[string][]float64{seconds: {0.5}}}}
	b.Scenarios["new"] = Figures{{Name: "new", Rounds: map[string][]float64{seconds: {0}}}}
	for path, r := range map[string]Result{before: a, after: b} {
		if err := r.write(path); err != nil {
			t.Fatal(err)
		}
		read, err := read(path)
		if diff := cmp.Diff(r, read); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	}
	var out strings.Builder
	if err := Compare(before, after, &out); err != nil {
		t.Fatal(err)
	}
	_, figures, _ := strings.Cut(out.String(), "\n\n")
	const want = `                        A     B     change
ours ÷ bare             0.60  0.90  +50.0 %
hits: ours: per second  60.0  90.0  +50.0 %
hits: bare: per second  100   100   +0.0 %
new: new: s             -     0.00  
gone: gone: s           0.50  -     
`
	if diff := cmp.Diff(want, figures); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(out.String(), "commit                abc                   def\n") {
		t.Error(out.String())
	}
	if err := os.WriteFile(after, []byte(`{"figures":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][2]string{{before, after}, {after, before}, {filepath.Join(dir, "none"), before}} {
		if err := Compare(bad[0], bad[1], &out); err == nil {
			t.Errorf("%v: no error", bad)
		}
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0.00", 0.756: "0.76", 12.34: "12.3", 66832.4: "66832", -12.34: "-12.3", math.NaN(): "-"} {
		if got := number(v); got != want {
			t.Errorf("%v: %s, not %s", v, got, want)
		}
	}
}
