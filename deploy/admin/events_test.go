package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/rucflow/rucflow/deploy/admin"
	"github.com/rucflow/rucflow/shared/embedded"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/store/storetest"
	"github.com/rucflow/rucflow/shared/wire"
)

// screen is what a command has written so far.
type screen struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// watch runs w until the test ends and returns once it listens.
func watch(t *testing.T, w admin.Watch) (out, errs *screen) {
	t.Helper()
	out, errs, w.Now = new(screen), new(screen), time.Now
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx, out, errs) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("it ended with: %v", err)
		}
	})
	storetest.Eventually(t, patience, "it listens", func() bool { return strings.Contains(errs.String(), "listening") })
	return out, errs
}

// happen lets one event of each type happen.
func (b *bus) happen() {
	b.t.Helper()
	b.found(company, "SUNAT", 0)
	b.found(person, "PEREZ PEREZ JUAN", 0)
	b.missing(another, 0)
	b.store(wire.FailedEvent(company, b.job(), wire.NewProblem(company, &ruc.Error{Code: ruc.Blocked, Attempts: 3}), ruc.FuenteReplica, time.Now()))
	b.store(wire.ChangedEvent(company, 4, []byte(`{"ruc":"20131312955","cambios":[{"campo":"estado"},{"campo":"condicion"}]}`), nats.Header{}, ruc.FuenteReplica, time.Now()))
	for _, p := range []wire.Progress{{RUC: company, Job: 7, Stage: wire.StageQueued, Position: 2}, {RUC: company, Job: 7, Stage: wire.StageVisiting, Attempt: 1, Attempts: 3}} {
		if err := b.nc.PublishMsg(p.Message()); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := b.nc.Publish(wire.SubjectResolved, []byte("\x1bnonsense")); err != nil {
		b.t.Fatal(err)
	}
}

// shown are the lines without their times.
func shown(out *screen) (lines []string) {
	for line := range strings.Lines(out.String()) {
		_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		lines = append(lines, blanks.ReplaceAllString(rest, "|"))
	}
	return lines
}

func TestWatch_ShowsALineForEachEvent(t *testing.T) {
	b := newBus(t)
	for name, tc := range map[string]struct {
		watch admin.Watch
		want  []string
	}{
		"all": {admin.Watch{}, []string{
			"resolved|20131312955|SUNAT|seq 1", "resolved|10*******" + person.String()[9:] + "|(persona natural)|seq 2",
			"resolved|20100055237|not-found|seq 3", "failed|20131312955|blocked|attempts 3|seq 4", "changed|20131312955|estado, condicion|seq 5",
			"progress|20131312955|queued|place 2", "progress|20131312955|visiting|attempt 1 of 3",
			"resolved|wire.ParseEvent: not a valid event: bad-subject: Nats-Time-Stamp",
		}},
		"whole, of a number, of a type": {admin.Watch{Whole: true, Numbers: person.String(), Types: "resolved,failed"}, []string{
			"resolved|" + person.String() + "|PEREZ PEREZ JUAN|seq 2",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBus(t)
			tc.watch.NATS = b.cfg
			out, _ := watch(t, tc.watch)
			b.happen()
			storetest.Eventually(t, patience, "all is shown", func() bool { return len(shown(out)) >= len(tc.want) })
			if diff := cmp.Diff(tc.want, shown(out)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for want, w := range map[string]admin.Watch{"-type": {Types: "resolved,all"}, "debería ser 6": {Numbers: "20123456789"}} {
		w.NATS, w.Now = b.cfg, time.Now
		if err := w.Run(t.Context(), io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, service.ErrUsage) != (want == "-type") {
			t.Errorf("%v", err)
		}
	}
}

func TestWatch_PrintsWholeEvents(t *testing.T) {
	b := newBus(t)
	out, _ := watch(t, admin.Watch{NATS: b.cfg, JSON: true})
	_, body := b.found(person, "PEREZ & CÍA", 0)
	if err := b.nc.Publish(wire.SubjectResolved, []byte("nonsense")); err != nil {
		t.Fatal(err)
	}
	storetest.Eventually(t, patience, "both are shown", func() bool { return strings.Count(out.String(), "\n") == 2 })
	type line struct {
		Type, RUC, ID, Error string
		Seq                  uint64
		Time                 time.Time
		Data                 json.RawMessage
	}
	var lines [2]line
	for i, text := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		if err := json.Unmarshal([]byte(text), &lines[i]); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
	first := lines[0]
	if first.Type != "resolved" || first.RUC != person.String() || first.Seq != 1 || first.ID == "" || first.Error != "" || time.Since(first.Time) > time.Minute || string(first.Data) != string(body) {
		t.Errorf("%+v, data %s", first, first.Data)
	}
	if lines[1].Error == "" || string(lines[1].Data) != `"nonsense"` {
		t.Errorf("%+v, data %s", lines[1], lines[1].Data)
	}
}

func TestWatch_SaysThatTheConnectionWasLostAndIsBack(t *testing.T) {
	cfg := embedded.Config{StoreDir: t.TempDir(), Addr: "127.0.0.1:0", Token: token}
	s, err := embedded.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, errs := watch(t, admin.Watch{NATS: service.NATSConfig{URL: s.URL(), Token: token}})
	cfg.Addr = strings.TrimPrefix(s.URL(), "nats://")
	s.Stop()
	storetest.Eventually(t, patience, "the loss is told", func() bool { return strings.Contains(errs.String(), "was lost") })
	if s, err = embedded.Start(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	storetest.Eventually(t, patience, "the return is told", func() bool { return strings.Contains(errs.String(), "is back") })
}
