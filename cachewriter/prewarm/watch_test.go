package prewarm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rucflow/rucflow/shared/ruc"
)

// lists writes the file of a watched list, in place of the one before.
func lists(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func (r *running) metric(name, label string) float64 {
	r.t.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return -1
}

// TestWatch_RefreshesBeforeExpiry: found and not registered, each in its own time; and the
// list is read again when it has changed.
func TestWatch_RefreshesBeforeExpiry(t *testing.T) {
	t.Parallel()
	f := newFleet(t, takes(5*time.Millisecond))
	cfg := settings
	cfg.CacheTTL, cfg.NegativeTTL, cfg.RefreshAt = 5*time.Second, 2500*time.Millisecond, 0.4
	f.policy = cfg.Policy()
	cfg.Watch = filepath.Join(t.TempDir(), "list.txt")
	numbers, _ := numbersOf(prewarmed, 4)
	found, missing, added, person := numbers[0], numbers[1], numbers[2], number(interactive, 0)
	f.missing[missing] = true
	wrong := "10" + "123456780" // a person's, but for its check digit
	lists(t, cfg.Watch, found.String()+"\n"+missing.String()+"\n")
	f.ask(found) // held already
	r := f.start(cfg, "")
	eventually(t, "it is looked after", func() bool {
		return r.metric("ruc_prewarm_numbers_total", "not-registered") == 1 && r.metric("ruc_prewarm_numbers_total", "held") == 1
	})
	if v := f.visits(is(found)); v != 1 {
		t.Errorf("%d visits of what was held", v)
	}
	lists(t, cfg.Watch, found.String()+"\n"+missing.String()+"\n"+added.String()+"\n"+person.String()+"\n"+wrong+"\n")
	eventually(t, "all were visited again", func() bool {
		return f.visits(is(found)) >= 2 && f.visits(is(missing)) >= 2 && f.visits(is(added)) >= 1 && f.visits(is(person)) >= 1
	})
	eventually(t, "it is up to date", func() bool { return r.metric("ruc_prewarm_overdue_seconds", "") == 0 })
	if numbers, invalid := r.metric("ruc_prewarm_list_numbers", ""), r.metric("ruc_prewarm_list_invalid_lines", ""); numbers != 4 || invalid != 1 {
		t.Errorf("%v numbers, %v invalid lines", numbers, invalid)
	}
	// An unreadable list leaves the one before.
	if err := os.Remove(cfg.Watch); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the added one is visited again", func() bool { return f.visits(is(added)) >= 2 })
	r.stop()
	log := r.log.String()
	if strings.Count(log, "a line of the list is invalid") != 1 || strings.Count(log, "the list cannot be read") != 1 || strings.Count(log, "the list was read") != 2 {
		t.Errorf("the log: %s", log)
	}
	if strings.Contains(log, person.String()) || strings.Contains(log, wrong) || !strings.Contains(log, person.Masked()) {
		t.Errorf("the log shows a person's number: %s", log)
	}
	for _, n := range []ruc.Number{found, missing, added} {
		f.refreshed(n, cfg)
	}
}

// refreshed checks that each further visit of n began while the answer before was fresh,
// and not before it was due.
func (f *fleet) refreshed(n ruc.Number, cfg Config) {
	f.t.Helper()
	life := cfg.CacheTTL
	if f.missing[n] {
		life = cfg.NegativeTTL
	}
	var ended time.Time
	for _, s := range f.history() {
		switch {
		case s.n != n:
		case s.what == "ended":
			ended = s.at
		case s.what == "put" && !ended.IsZero():
			// An answer's own time is in whole milliseconds.
			if age := s.at.Sub(ended); age < time.Duration(cfg.RefreshAt*float64(life))-time.Millisecond || age > life {
				f.t.Errorf("%s, fresh for %v, was visited again after %v", n, life, age)
			}
		}
	}
}

// TestWatch_TriesAgainWhatFailed: and goes on with the others meanwhile.
func TestWatch_TriesAgainWhatFailed(t *testing.T) {
	t.Parallel()
	f := newFleet(t, takes(time.Millisecond))
	numbers, text := numbersOf(prewarmed, 2)
	f.refuse = func(n ruc.Number, asked int) error {
		if n == numbers[0] && asked == 1 {
			return &ruc.Error{Code: ruc.Changed}
		}
		return nil
	}
	cfg := settings
	cfg.CacheTTL = 20 * time.Second // tried again after a twentieth of nine tenths, at least 1 s
	cfg.Watch = filepath.Join(t.TempDir(), "list.txt")
	lists(t, cfg.Watch, text)
	r := f.start(cfg, "")
	eventually(t, "both are fetched", func() bool { return r.metric("ruc_prewarm_numbers_total", "fetched") == 2 })
	r.stop()
	if failed := r.metric("ruc_prewarm_numbers_total", "failed"); failed != 1 || f.asked[numbers[0]] != 2 || f.asked[numbers[1]] != 1 {
		t.Errorf("%v failed, asked %v", failed, f.asked)
	}
}
