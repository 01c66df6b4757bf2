package audit

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/embedded"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// full is a disk that takes part of a page, and has room again after a while.
type full struct {
	*journal
	failures int
}

var errFull = errors.New("no space left on device")

func (f *full) write(lines []byte, first, last position) error {
	if f.failures == 0 {
		return f.journal.write(lines, first, last)
	}
	f.failures--
	part := lines[:len(lines)*2/3] // the last line of it is not whole
	if err := f.journal.write(part, first, last); err != nil {
		return err
	}
	return errFull
}

func TestAuditor_WaitsForAFullDisk(t *testing.T) {
	s, err := embedded.Start(t.Context(), embedded.Config{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	nc, err := nats.Connect("", s.InProcess())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := (wire.Provisioner{JS: js, Source: ruc.FuenteReplica}).Events(t.Context(), 45*24*time.Hour); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := js.Publish(t.Context(), wire.ResolvedSubject(ruc.MustParse("20131312955")), []byte(`{"a":1}`)); err != nil {
			t.Fatal(err)
		}
	}
	j, err := openJournal(t.TempDir(), 1<<20, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := j.close(); err != nil {
			t.Error(err)
		}
	}()
	m, err := newMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	a := &auditor{nc: nc, sink: &full{journal: j, failures: 2}, now: time.Now, metrics: m, log: zerolog.Nop()}
	for range 2 {
		if err := a.write(t.Context()); !errors.Is(err, errFull) {
			t.Fatalf("%v", err)
		}
	}
	if at := j.position(); at.Seq == 0 || at.Seq >= 10 {
		t.Errorf("%d whole lines after two writes of a part", at.Seq)
	}
	if err := a.write(t.Context()); err != nil || j.position().Seq != 10 {
		t.Errorf("%v, %+v", err, j.position())
	}
	last, _, err := lastLine(j.file)
	if err != nil {
		t.Fatal(err)
	}
	if at, err := decode(last); err != nil || at.Seq != 10 {
		t.Errorf("%+v, %v", at, err)
	}
	names, err := j.files()
	if err != nil || len(names) != 1 {
		t.Errorf("%v, %q", err, names)
	}
}
