//go:build linux

package bench

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestReader_take: however the stream is cut.
func TestReader_take(t *testing.T) {
	const text = "HTTP/1.1 200 OK\r\nX: {}\r\n\r\nc\r\nretry: 2000\n\n\r\nevent: a\ndata: {\"b\":{}}\n\n"
	for cut := range len(text) {
		var one reader
		one.take([]byte(text[:cut]))
		one.take([]byte(text[cut:]))
		if !one.begun || one.marks != 2 {
			t.Errorf("cut at %d: %+v", cut, one)
		}
	}
}

func TestFollow(t *testing.T) {
	const events, count = 3, 5
	body, err := answer(company(7), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/eventos" {
			t.Errorf("%s", r.URL)
		}
		_, _ = w.Write([]byte("retry: 2000\n\n"))
		for i := range events {
			fmt.Fprintf(w, "event: resolved\nid: %d\ndata: %s\n\n", i+1, body)
		}
		w.(http.Flusher).Flush()
		<-over
	}))
	defer gateway.Close()
	defer close(over)
	l := &lab{now: time.Now}
	r, err := l.follow(t.Context(), strings.TrimPrefix(gateway.URL, "http://"), count)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	r.due = events
	if err := r.await(t.Context(), l.now, r.haveAll); err != nil {
		t.Error(err)
	}
	for _, one := range r.all {
		if one.marks != events*r.marks {
			t.Errorf("%d marks and not %d of each of %d", one.marks, r.marks, events)
		}
	}
	if r.marks == 0 || len(r.all) != count {
		t.Errorf("%d marks, %d readers", r.marks, len(r.all))
	}
	r.due++
	clock := time.Now()
	late := func() time.Time { clock = clock.Add(readyWait / 2); return clock }
	if err := r.await(t.Context(), late, r.haveAll); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%d of %d readers", count, count)) {
		t.Errorf("an event that never comes: %v", err)
	}
}

func TestLinesOf(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"2.jsonl": "c\n", "1.jsonl": "a\nb\n", "lock": "x\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	lines, err := linesOf(dir)
	if got := fmt.Sprintf("%q", lines); err != nil || got != `["a\n" "b\n" "c\n"]` {
		t.Errorf("%s, %v", got, err)
	}
	long := filepath.Join(dir, "long")
	if err := os.WriteFile(long, []byte(strings.Repeat("x", 1<<20)+"end"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{long: "end", filepath.Join(dir, "1.jsonl"): "a\nb\n"} {
		if b, err := endOf(path); err != nil || !strings.HasSuffix(string(b), want) || len(b) > 64<<10 {
			t.Errorf("%s: %d bytes, %v", path, len(b), err)
		}
	}
}
