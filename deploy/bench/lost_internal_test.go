//go:build linux

package bench

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/store/storetest"
)

// newLab is one that works with programs that were built for it.
func newLab(t *testing.T, packages ...string) *lab {
	t.Helper()
	l := &lab{Config: Config{Rounds: 1, Seconds: 0.1}, dir: t.TempDir(), now: time.Now, out: io.Discard}
	if err := build(t.Context(), l.dir, packages...); err != nil {
		t.Fatal(err)
	}
	return l
}

// measured runs a scenario in a short form.
func measured(t *testing.T, l *lab, run func(context.Context, *lab) (Figures, error)) Figures {
	t.Helper()
	f, err := l.measure(t.Context(), scenario{run: run})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestLose(t *testing.T) {
	plan := losing{events: 1000, kills: 1, again: time.Second}
	l := newLab(t, module+"cachewriter/cmd/cachewriter", natsServer)
	f := measured(t, l, func(ctx context.Context, l *lab) (Figures, error) { return l.lose(ctx, plan) })
	if got := of(amidKills, lostEvents)(f); got != 0 {
		t.Errorf("%v events were lost", got)
	}
	if got := of(amidKills, killedTimes)(f); got != 3 {
		t.Errorf("%v kills", got)
	}
}

// TestStoring_Missing: what is lost is counted, whatever it is.
func TestStoring_Missing(t *testing.T) {
	addr := storetest.StartRedis(t).Addr()
	client := redis.NewClient(&redis.Options{Addr: addr})
	t.Cleanup(func() { _ = client.Close() })
	s := &storing{began: time.Now(), acked: make([]uint64, 120)}
	for i := range s.acked {
		s.acked[i] = uint64(i + 1)
	}
	s.acked[18], s.acked[19] = s.acked[19], s.acked[18] // the stream had them the other way round
	put := func(n ruc.Number, i int) {
		t.Helper()
		body, err := s.body(i)
		if err == nil {
			err = client.Set(t.Context(), "sunat:ruc:"+n.String(), body, time.Minute).Err()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	missing := func(want int, why string) {
		t.Helper()
		got, err := s.missing(t.Context(), servers{redisAddr: addr})
		if err != nil || got != want {
			t.Errorf("%s: %d and not %d are missing, %v", why, got, want, err)
		}
	}
	missing(120, "nothing is held")
	for _, events := range s.byNumber() {
		put(s.number(events[0]), events[0])
	}
	missing(0, "all newest are held")
	put(s.number(18), 19)
	missing(1, "an older one is held, of two that came together")
	put(s.number(8), 8)
	missing(2, "and one that came earlier")
	put(s.number(0), 1)
	missing(3, "and another number's")
	if err := client.Del(t.Context(), "sunat:ruc:"+s.number(58).String()).Err(); err != nil {
		t.Fatal(err)
	}
	missing(5, "and none of a number that had two")
}
