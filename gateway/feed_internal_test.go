package gateway

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

var watchedNumber = ruc.MustParse("20131312955")

func testFeed(t *testing.T, now func() time.Time) *feed {
	t.Helper()
	m, err := newMetrics(prometheus.NewRegistry(), "memory")
	if err != nil {
		t.Fatal(err)
	}
	return newFeed(now, m)
}

func enter(t *testing.T, f *feed, i interest) (r *reader, leave func()) {
	t.Helper()
	r, leave, err := f.enter(i)
	if err != nil {
		t.Fatal(err)
	}
	return r, leave
}

func TestFeed_DropsAReaderThatDoesNotRead(t *testing.T) {
	f := testFeed(t, time.Now)
	r, leave := enter(t, f, interest{numbers: []ruc.Number{watchedNumber}})
	defer leave()
	f.skipTo(0)
	f.attachNow(r)
	for i := range readerBuffer + 1 {
		select {
		case <-r.dropped:
			t.Fatalf("dropped after %d events", i)
		default:
		}
		f.stored(stored{eventResolved, watchedNumber, uint64(i + 1), time.Now(), []byte("{}")})
	}
	select {
	case <-r.dropped:
	default:
		t.Error("not dropped")
	}
}

func TestFeed_Bounds(t *testing.T) {
	now := time.Now()
	f := testFeed(t, func() time.Time { return now })
	for range maxReaders {
		if _, _, err := f.enter(interest{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := f.enter(interest{}); ruc.CodeOf(err) != ruc.Overloaded {
		t.Errorf("one reader more: %v", err)
	}
	at := func(i int) wire.Progress {
		return wire.Progress{RUC: ruc.FromPrefix(fmt.Sprintf("20%08d", i)), Job: 7, Stage: wire.StageQueued, Position: 1}
	}
	for i := range 2 * maxProgress {
		f.progress(at(i))
	}
	if len(f.under) != maxProgress {
		t.Errorf("%d jobs remembered", len(f.under))
	}
	now = now.Add(2 * progressAge)
	f.progress(at(2 * maxProgress))
	if len(f.under) != 1 {
		t.Errorf("%d jobs remembered when they are old", len(f.under))
	}
}

// A quiet stream says something now and then, by which a reader that has gone is found.
func TestFeed_Heartbeat(t *testing.T) {
	f := testFeed(t, time.Now)
	f.skipTo(7)
	s := newStreams(t.Context(), nil, f)
	s.heartbeat = time.Millisecond
	r, leave := enter(t, f, interest{})
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer leave()
		s.write(r, nil, ours, bufio.NewWriter(ours))
	}()
	got := make([]byte, 64)
	n, err := theirs.Read(got)
	if err != nil || string(got[:n]) != "retry: 2000\nid: 7\n\n" {
		t.Errorf("%q, %v", got[:n], err)
	}
	if n, err = theirs.Read(got); err != nil || string(got[:n]) != ":\nid: 7\n\n" {
		t.Errorf("%q, %v", got[:n], err)
	}
	_ = theirs.Close()
	<-done
	if f.count != 0 || len(f.readers)+len(f.all) != 0 {
		t.Errorf("%d readers left", f.count)
	}
}

// No data can end an event or begin another.
func TestFrame_KeepsDataInItsPlace(t *testing.T) {
	got := frame(eventResolved, 7, []byte("{\n\"a\":1\r\n\revent: failed\n\n}"))
	want := "event: resolved\nid: 7\ndata: {\ndata: \"a\":1\ndata: event: failed\ndata: }\n\n"
	if !bytes.Equal(got, []byte(want)) {
		t.Errorf("%q", got)
	}
}

// TestBurst: all that has come by now, in its order, and not a copy of it.
func TestBurst(t *testing.T) {
	frames := make(chan []byte, 3)
	first, second, third := []byte("1"), []byte("2"), []byte("3")
	frames <- second
	frames <- third
	got := burst(first, frames)
	if string(bytes.Join(got, nil)) != "123" || &got[1][0] != &second[0] || len(frames) != 0 {
		t.Errorf("%q", got)
	}
	if got := burst(first, frames); len(got) != 1 {
		t.Errorf("%q", got)
	}
}
