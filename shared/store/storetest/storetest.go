// Package storetest is the conformance suite of package store: what every
// implementation must hold, run against each of them.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/store"
)

// Store is what the suite drives.
type Store interface {
	Kind() string
	Get(ctx context.Context, n ruc.Number) ([]byte, bool, error)
	Put(ctx context.Context, entries []store.Entry) error
	Delete(ctx context.Context, n ruc.Number) error
	DeletePattern(ctx context.Context, pattern ruc.Pattern, dryRun bool) (int, error)
	Claim(ctx context.Context, source string) error
	Close() error
}

// Clock is the time that a store under test is given. Advance moves it; a store
// with a clock of its own (Redis) is given an Advance that moves that one.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock starts at a fixed time.
func NewClock() *Clock { return &Clock{now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)} }

// Now returns the clock's time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Run runs the suite. open returns a fresh, empty store and what advances its
// clock; it registers its own clean-up.
func Run(t *testing.T, open func(t *testing.T) (s Store, advance func(time.Duration))) {
	t.Helper()
	n := ruc.MustParse("20131312955")
	other := ruc.MustParse("20100055237")
	at := func(seq uint64) store.Version { return store.Version{Epoch: 100, Seq: seq} }
	put := func(t *testing.T, s Store, value string, v store.Version, ttl time.Duration) {
		t.Helper()
		if err := s.Put(t.Context(), []store.Entry{{RUC: n, Value: []byte(value), Version: v, TTL: ttl}}); err != nil {
			t.Fatalf("Put: %v", err)
		}
	}
	want := func(t *testing.T, s Store, n ruc.Number, value string) {
		t.Helper()
		got, ok, err := s.Get(t.Context(), n)
		if err != nil {
			t.Fatalf("Get: %v", err)
		}
		if ok != (value != "") || string(got) != value {
			t.Errorf("Get = %q, %v; want %q", got, ok, value)
		}
	}

	t.Run("holds nothing at first", func(t *testing.T) {
		s, _ := open(t)
		want(t, s, n, "")
	})
	t.Run("returns what was put, byte by byte, for that number only", func(t *testing.T) {
		s, _ := open(t)
		value := string(bytes.Repeat([]byte("ñ\x00\n{\"&<>"), 900))
		put(t, s, value, at(1), time.Hour)
		want(t, s, n, value)
		want(t, s, other, "")
	})
	t.Run("serves nothing past its expiry", func(t *testing.T) {
		s, advance := open(t)
		put(t, s, "a", at(1), 10*time.Second)
		advance(9 * time.Second)
		want(t, s, n, "a")
		advance(2 * time.Second)
		want(t, s, n, "")
	})
	t.Run("skips what has expired already", func(t *testing.T) {
		s, _ := open(t)
		put(t, s, "a", at(1), 0)
		want(t, s, n, "")
		put(t, s, "a", at(1), -time.Second)
		want(t, s, n, "")
	})
	t.Run("an older answer never replaces a newer one", func(t *testing.T) {
		s, _ := open(t)
		put(t, s, "five", at(5), time.Hour)
		put(t, s, "four", at(4), time.Hour)
		want(t, s, n, "five")
		put(t, s, "five again", at(5), time.Hour)
		want(t, s, n, "five")
		put(t, s, "six", at(6), time.Hour)
		want(t, s, n, "six")
	})
	t.Run("a stream begun anew is newer in spite of smaller sequences", func(t *testing.T) {
		s, _ := open(t)
		put(t, s, "old stream", store.Version{Epoch: 100, Seq: 900}, time.Hour)
		put(t, s, "new stream", store.Version{Epoch: 101, Seq: 1}, time.Hour)
		want(t, s, n, "new stream")
		put(t, s, "old stream", store.Version{Epoch: 100, Seq: 901}, time.Hour)
		want(t, s, n, "new stream")
	})
	t.Run("within one batch the newest stays", func(t *testing.T) {
		s, _ := open(t)
		err := s.Put(t.Context(), []store.Entry{
			{RUC: n, Value: []byte("two"), Version: at(2), TTL: time.Hour},
			{RUC: other, Value: []byte("other"), Version: at(3), TTL: time.Hour},
			{RUC: n, Value: []byte("one"), Version: at(1), TTL: time.Hour},
		})
		if err != nil {
			t.Fatal(err)
		}
		want(t, s, n, "two")
		want(t, s, other, "other")
	})
	t.Run("refuses for good what is too large, names it and keeps the rest", func(t *testing.T) {
		s, _ := open(t)
		third := Numbers(1)[0]
		err := s.Put(t.Context(), []store.Entry{
			{RUC: n, Value: []byte("expired"), Version: at(1)},
			{RUC: n, Value: []byte("a"), Version: at(2), TTL: time.Hour},
			{RUC: third, Value: make([]byte, store.MaxValueBytes+1), Version: at(3), TTL: time.Hour},
			{RUC: other, Value: []byte("b"), Version: at(4), TTL: time.Hour},
		})
		var p *store.PutError
		if !errors.As(err, &p) || p.Of != 4 || len(p.Failed) != 1 || !errors.Is(p.Failed[2], store.ErrRefused) {
			t.Fatalf("Put = %v; want the entry at 2 refused", err)
		}
		for i := range 4 {
			if entryErr := store.EntryError(err, i); (entryErr != nil) != (i == 2) {
				t.Errorf("of the entry at %d: %v", i, entryErr)
			}
		}
		want(t, s, n, "a")
		want(t, s, third, "")
		want(t, s, other, "b")
	})
	t.Run("a deleted answer stays out, a newer one comes in", func(t *testing.T) {
		s, _ := open(t)
		put(t, s, "five", at(5), time.Hour)
		if err := s.Delete(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		want(t, s, n, "")
		put(t, s, "five redelivered", at(5), time.Hour)
		want(t, s, n, "")
		put(t, s, "six", at(6), time.Hour)
		want(t, s, n, "six")
	})
	t.Run("deleting what is not held is no error", func(t *testing.T) {
		s, _ := open(t)
		if err := s.Delete(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		want(t, s, n, "")
	})
	t.Run("a tombstone expires when the answer would have", func(t *testing.T) {
		s, advance := open(t)
		put(t, s, "five", at(5), 10*time.Second)
		if err := s.Delete(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		advance(8 * time.Second)
		put(t, s, "four", at(4), time.Hour)
		want(t, s, n, "")
		advance(3 * time.Second)
		put(t, s, "four", at(4), time.Hour)
		want(t, s, n, "four")
	})
	t.Run("a pattern deletes what it matches and nothing else", func(t *testing.T) {
		s, advance := open(t)
		numbers := []ruc.Number{n, other, ruc.MustParse("20100047218"), ruc.FromPrefix("1010004721")}
		entries := make([]store.Entry, len(numbers))
		for i, n := range numbers {
			entries[i] = store.Entry{RUC: n, Value: []byte("a"), Version: at(uint64(i + 1)), TTL: time.Hour}
		}
		expired := store.Entry{RUC: ruc.FromPrefix("2010099999"), Value: []byte("a"), Version: at(9), TTL: time.Second}
		if err := s.Put(t.Context(), append(entries, expired)); err != nil {
			t.Fatal(err)
		}
		advance(2 * time.Second)
		deletes := func(pattern string, dryRun bool, count int) {
			t.Helper()
			got, err := s.DeletePattern(t.Context(), ruc.MustParsePattern(pattern), dryRun)
			if err != nil || got != count {
				t.Errorf("DeletePattern(%q, %v) = %d, %v; want %d", pattern, dryRun, got, err, count)
			}
		}
		for pattern, count := range map[string]int{
			"*": 4, "2010*": 2, "**2010**": 2, "*47218": 1, "20131312955": 1, "20131312956": 0, "2*0*5*": 2, "201": 0,
		} {
			deletes(pattern, true, count)
		}
		for _, n := range numbers {
			want(t, s, n, "a")
		}
		deletes("2010*", false, 2)
		deletes("2010*", false, 0)
		want(t, s, n, "a")
		want(t, s, other, "")
		if err := s.Put(t.Context(), entries); err != nil {
			t.Fatal(err)
		}
		want(t, s, other, "")
		deletes("*", false, 2)
		want(t, s, n, "")
	})
	t.Run("a pattern deletes many", func(t *testing.T) {
		s, _ := open(t)
		numbers := Numbers(1200)
		entries := make([]store.Entry, len(numbers))
		for i, n := range numbers {
			entries[i] = store.Entry{RUC: n, Value: []byte("a"), Version: at(uint64(i + 1)), TTL: time.Hour}
		}
		if err := s.Put(t.Context(), entries); err != nil {
			t.Fatal(err)
		}
		for _, dryRun := range []bool{true, false} {
			if got, err := s.DeletePattern(t.Context(), ruc.MustParsePattern("20*"), dryRun); err != nil || got != len(numbers) {
				t.Errorf("DeletePattern, dry run %v: %d, %v; want %d", dryRun, got, err, len(numbers))
			}
		}
		for _, n := range numbers {
			want(t, s, n, "")
		}
	})
	t.Run("the zero pattern deletes nothing", func(t *testing.T) {
		s, _ := open(t)
		put(t, s, "a", at(1), time.Hour)
		if got, err := s.DeletePattern(t.Context(), ruc.Pattern{}, false); got != 0 || err != nil {
			t.Errorf("DeletePattern = %d, %v; want 0", got, err)
		}
		want(t, s, n, "a")
	})
	t.Run("after an expiry an answer comes in whatever its version", func(t *testing.T) {
		s, advance := open(t)
		put(t, s, "five", at(5), time.Second)
		advance(2 * time.Second)
		put(t, s, "four", at(4), time.Hour)
		want(t, s, n, "four")
	})
	t.Run("holds one source's data only", func(t *testing.T) {
		s, _ := open(t)
		for range 2 {
			if err := s.Claim(t.Context(), ruc.FuenteReplica); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Claim(t.Context(), ruc.FuenteSunat); !errors.Is(err, store.ErrOtherSource) {
			t.Errorf("Claim of another source = %v, want ErrOtherSource", err)
		}
	})
	t.Run("concurrent writers leave the newest", func(t *testing.T) {
		s, _ := open(t)
		const writers, versions = 8, 40
		var wg sync.WaitGroup
		for range writers {
			wg.Go(func() {
				for _, i := range rand.Perm(versions) {
					e := store.Entry{RUC: n, Value: fmt.Appendf(nil, "v%d", i+1), Version: at(uint64(i + 1)), TTL: time.Hour}
					if err := s.Put(t.Context(), []store.Entry{e}); err != nil {
						t.Errorf("Put: %v", err)
					}
				}
			})
		}
		wg.Wait()
		want(t, s, n, fmt.Sprintf("v%d", versions))
	})
}
