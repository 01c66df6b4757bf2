package audit_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/cachewriter/audit"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

var full = flag.Bool("full", false, "the long form: 10,000 events and 20 kills")

func TestRun_WritesEveryEventOnceAndInOrder(t *testing.T) {
	r := newRig(t)
	r.store(30) // before it begins
	stop := r.start(small(r.dir), deps(r.connect("audit"), nil))
	r.store(90)
	r.has(120)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	r.store(7)
	r.start(small(r.dir), deps(r.connect("audit"), nil))
	r.store(3)
	r.has(130)
	lines := r.written()
	expectAll(t, lines, 130)
	if n := len(files(t, r.dir)); n < 3 {
		t.Errorf("%d files", n)
	}
	for _, l := range lines {
		want := wire.TypeResolved
		switch l.Seq % 10 {
		case 3:
			want = wire.TypeFailed
		case 6:
			want = wire.TypeChanged
		}
		if l.SpecVersion != "1.0" || l.Type != want || l.ID == "" || !strings.HasPrefix(l.Source, "/rucflow/") || l.Time == "" || l.Stored.IsZero() ||
			l.Subject != []string{second.String(), number.String()}[(l.Seq+1)%2] || !strings.HasSuffix(l.DataContentType, "json") {
			t.Errorf("%+v", l)
		}
		if want == wire.TypeResolved && !strings.Contains(string(l.Data), `"razonSocial":"EJEMPLO & HIJOS"`) {
			t.Errorf("%d: %s", l.Seq, l.Data)
		}
	}
	for _, name := range append(files(t, r.dir), r.dir) {
		info, err := os.Stat(name)
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

// Whatever is stored has its line, though it be no event of ours.
func TestRun_WritesWhatIsNoEvent(t *testing.T) {
	r := newRig(t)
	r.put(&nats.Msg{Subject: wire.ResolvedSubject(number), Data: []byte("\xff\nno JSON")})
	r.put(&nats.Msg{Subject: "ruc.failed.x"})
	r.start(small(r.dir), deps(r.connect("audit"), nil))
	r.has(2)
	lines := r.written()
	expectAll(t, lines, 2)
	if l := lines[0]; l.Subject != wire.ResolvedSubject(number) || l.Type != "pe.ruc.unknown" || l.ID != "1" || string(l.DataBase64) != "\xff\nno JSON" {
		t.Errorf("%+v", l)
	}
}

func TestRun_KilledAndStartedAgain(t *testing.T) {
	r := newRig(t)
	events, kills := 1000, 5
	if *full {
		events, kills = 10_000, 20
	}
	done := make(chan struct{})
	go func() { defer close(done); r.store(events) }()
	for i := range kills {
		p := r.process()
		r.has(events * (i + 1) / (kills + 1))
		if err := p.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = p.Wait() // it was killed
	}
	<-done
	r.start(small(r.dir), deps(r.connect("audit"), nil))
	r.has(events)
	expectAll(t, r.written(), events)
}

// A line that was cut off is removed and written again, whatever stands in its place.
func TestRun_MendsATornTail(t *testing.T) {
	for name, tail := range map[string]string{
		"half a line":        `{"seq":41,"stored":"2026-11-`,
		"zeros of a crash":   strings.Repeat("\x00", 300_000),
		"nothing whole, new": "",
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.store(40)
			stop := r.start(small(r.dir), deps(r.connect("audit"), nil))
			r.has(40)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			all := files(t, r.dir)
			torn := all[len(all)-1]
			if tail == "" { // a file that was begun
				torn = filepath.Join(r.dir, "99991231T000000.000000000Z-41.jsonl")
				tail = `{"seq"`
			}
			f, err := os.OpenFile(torn, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteString(tail); err != nil || f.Close() != nil {
				t.Fatal(err)
			}
			r.store(2)
			r.start(small(r.dir), deps(r.connect("audit"), nil))
			r.has(42)
			expectAll(t, r.written(), 42)
		})
	}
}

func TestRun_SaysWhatItCannotUse(t *testing.T) {
	r := newRig(t)
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(r.dir, "20261122T000000.000000000Z-1.jsonl")
	if err := os.WriteFile(path, []byte("a line of somebody else's\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := audit.Run(t.Context(), small(r.dir), deps(r.nc, nil))
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "move the file away") {
		t.Errorf("%v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	r.start(small(r.dir), deps(r.connect("audit"), nil))
	r.store(1)
	r.has(1)
	if err := audit.Run(t.Context(), small(r.dir), deps(r.nc, nil)); err == nil || !strings.Contains(err.Error(), "another audit writes to") {
		t.Errorf("a second one: %v", err)
	}
	if err := audit.Run(t.Context(), small(path+"/x/\x00"), deps(r.nc, nil)); err == nil || !strings.Contains(err.Error(), "AUDIT_DIR") {
		t.Errorf("no folder: %v", err)
	}
}

// What happens while NATS is away, or was stored by the time that it is back, is not lost.
func TestRun_GoesOnWithoutNATS(t *testing.T) {
	r := newRig(t)
	r.start(small(r.dir), deps(r.connect("audit"), nil))
	r.store(5)
	r.has(5)
	addr := strings.TrimPrefix(r.bus.URL(), "nats://")
	r.bus.Stop()
	r.startBus(addr)
	for deadline := time.After(patience); r.nc.FlushTimeout(patience) != nil; { // until it is back
		select {
		case <-deadline:
			t.Fatal("in vain")
		case <-time.After(time.Millisecond):
		}
	}
	r.store(5)
	r.has(10)
	expectAll(t, r.written(), 10)
}

// Sequences begin at one again where somebody has deleted the stream: the lines of both
// are kept, in files whose names sort by time.
func TestRun_FollowsAStreamMadeAnew(t *testing.T) {
	for name, events := range map[string]int{"shorter": 3, "longer": 9} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.store(5)
			stop := r.start(small(r.dir), deps(r.connect("audit"), nil))
			r.has(5)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			if err := r.js.DeleteStream(t.Context(), wire.StreamEvents); err != nil {
				t.Fatal(err)
			}
			r.provision()
			r.store(events)
			r.start(small(r.dir), deps(r.connect("audit"), nil))
			r.has(5 + events)
			want := "1 2 3 4 5 1 2 3 4 5 6 7 8 9"[:2*(5+events)-1]
			if got := seqs(r.written()); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
}

func TestRun_PassesOverWhatWasForgotten(t *testing.T) {
	r := newRig(t)
	r.store(4)
	stop := r.start(small(r.dir), deps(r.connect("audit"), nil))
	r.has(4)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	r.store(4)
	stream, err := r.js.Stream(t.Context(), wire.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSubject("ruc.*."+number.String())); err != nil {
		t.Fatal(err)
	}
	r.start(small(r.dir), deps(r.connect("audit"), nil))
	r.has(6)
	if got := seqs(r.written()); got != "1 2 3 4 5 7" {
		t.Errorf("%s", got)
	}
}

func TestRun_RemovesWhatIsOld(t *testing.T) {
	r := newRig(t)
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	day := func(n int) string {
		at := time.Now().AddDate(0, 0, -n).UTC()
		name := at.Format("20060102T150405.000000000Z") + "-1.jsonl"
		if err := os.WriteFile(filepath.Join(r.dir, name), []byte(`{"seq":1,"stored":"`+at.Format(time.RFC3339Nano)+`"}`+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	old, kept := day(30), day(20)
	_, newest := day(9), day(2)
	cfg := small(r.dir)
	cfg.Keep = 15 * 24 * time.Hour
	r.start(cfg, deps(r.connect("audit"), nil))
	r.store(2)
	r.has(5) // of three files before it and its own; what is old goes before it writes
	var names []string
	for _, path := range files(t, r.dir) {
		names = append(names, filepath.Base(path))
	}
	// What the second has lies between its name and the third's, so some of it is newer.
	if len(names) < 3 || names[0] != kept || strings.Contains(strings.Join(names, " "), old) || !strings.Contains(strings.Join(names, " "), newest) {
		t.Errorf("%s", names)
	}
}

func TestRun_ToStandardOutput(t *testing.T) {
	r := newRig(t)
	r.store(3)
	var out bytes.Buffer
	cfg := audit.Config{Position: filepath.Join(t.TempDir(), "position")}
	write := func(cfg audit.Config, wait uint64) {
		t.Helper()
		d := deps(r.connect("audit"), &out)
		stop := r.start(cfg, d)
		deadline := time.After(patience)
		for counter(t, d.Registry, "ruc_audit_events_total") < float64(wait) {
			select {
			case <-deadline:
				t.Fatal("in vain")
			case <-time.After(time.Millisecond):
			}
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	write(cfg, 3)
	r.store(2)
	write(cfg, 2)
	expectAll(t, parseLines(t, out.Bytes()), 5)
	if err := os.WriteFile(cfg.Position, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := audit.Run(t.Context(), cfg, deps(r.nc, &out)); err == nil || !strings.Contains(err.Error(), "AUDIT_POSITION") {
		t.Errorf("%v", err)
	}
}

func TestQuery_PrintsWhatWasKnown(t *testing.T) {
	r := newRig(t)
	r.store(6)
	between := time.Now()
	r.store(4)
	ask := func(since time.Time, numbers ...ruc.Number) string {
		t.Helper()
		var out bytes.Buffer
		if err := (audit.Query{NATS: r.nc, Since: since, Numbers: numbers}).Run(t.Context(), &out); err != nil {
			t.Fatal(err)
		}
		return seqs(parseLines(t, out.Bytes()))
	}
	for _, q := range []struct {
		since   time.Time
		numbers []ruc.Number
		want    string
	}{
		{time.Time{}, nil, "1 2 3 4 5 6 7 8 9 10"},
		{between, nil, "7 8 9 10"},
		{time.Time{}, []ruc.Number{number}, "2 4 6 8 10"},
		{between, []ruc.Number{second, number}, "7 9 8 10"},
		{time.Now().Add(time.Hour), nil, ""},
		{time.Time{}, []ruc.Number{ruc.FromPrefix("2099999999")}, ""},
	} {
		if got := ask(q.since, q.numbers...); got != q.want {
			t.Errorf("since %v of %s: %q, want %q", q.since, q.numbers, got, q.want)
		}
	}
}
