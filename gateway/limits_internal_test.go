package gateway

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rucflow/rucflow/shared/ruc"
)

func TestQuota(t *testing.T) {
	now := time.Date(2026, 11, 22, 23, 0, 0, 0, time.UTC)
	q := newQuota(allowance{2, day})
	left := func(visits int, reset time.Duration) {
		t.Helper()
		if v, r := q.left(now); v != visits || r != reset {
			t.Errorf("%d for %v, want %d for %v", v, r, visits, reset)
		}
	}
	spend := func() func() {
		t.Helper()
		undo, err := q.spend(now)
		if err != nil {
			t.Fatal(err)
		}
		return undo
	}
	left(2, 0)
	undo := spend()
	left(1, day)
	undo()
	left(2, day)
	now = now.Add(time.Hour)
	undo = spend()
	spend()
	left(0, 23*time.Hour)
	var refused *ruc.Error
	if _, err := q.spend(now); !errors.As(err, &refused) || refused.Code != ruc.RateLimited || refused.RetryAfter != 23*time.Hour {
		t.Errorf("%+v", refused)
	}
	now = now.Add(23 * time.Hour)
	left(2, 0)
	spend()
	undo() // of the window before
	left(1, day)

	var without *quota
	if undo, err := without.spend(now); err != nil {
		t.Error(err)
	} else {
		undo()
	}
}

func TestQuota_IsNeverPassed(t *testing.T) {
	q := newQuota(allowance{100, time.Hour})
	var wg sync.WaitGroup
	var passed atomic.Int64
	now := time.Unix(1, 0)
	for range 8 {
		wg.Go(func() {
			for i := range 100 {
				if undo, err := q.spend(now); err == nil && i%2 == 0 {
					undo()
				} else if err == nil {
					passed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if visits, _ := q.left(now); passed.Load() != int64(100-visits) || visits < 0 {
		t.Errorf("%d passed, %d are left of 100", passed.Load(), visits)
	}
}

func TestVisited(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want bool
	}{
		{&ruc.Error{Code: ruc.Unavailable, Attempts: 3}, true},
		{&ruc.Error{Code: ruc.Blocked, Attempts: 1}, true},
		{&ruc.Error{Code: ruc.Changed, Attempts: 2}, true},
		{&ruc.Error{Code: ruc.Timeout}, true},
		{&ruc.Error{Code: ruc.Unavailable}, false},
		{&ruc.Error{Code: ruc.Blocked}, false},
		{&ruc.Error{Code: ruc.Overloaded}, false},
		{errors.New("x"), false},
	} {
		if got := visited(tc.err); got != tc.want {
			t.Errorf("%v: %v", tc.err, got)
		}
	}
}

func TestBuckets_ForgetClientsBeyondTheBound(t *testing.T) {
	b, err := newBuckets(allowance{1, day})
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	for i := range 2 * maxClients {
		b.of(clientAt(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})))
	}
	b.cache.CleanUp()
	if n := b.cache.EstimatedSize(); n > maxClients || n < maxClients/2 {
		t.Errorf("%d clients are remembered", n)
	}
}

func TestBuckets_OnePerClient(t *testing.T) {
	b, err := newBuckets(allowance{10, day})
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	var wg sync.WaitGroup
	var passed atomic.Int64
	now := time.Unix(1, 0)
	for range 8 {
		wg.Go(func() {
			for i := range 100 {
				if b.of(client{key: fmt.Sprint(i % 5)}).AllowN(now, 1) {
					passed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if passed.Load() != 50 {
		t.Errorf("%d of 5 clients' 10 each passed", passed.Load())
	}
}
