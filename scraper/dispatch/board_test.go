package dispatch

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestBoard_CountsAndWakes(t *testing.T) {
	now := time.Unix(0, 0)
	var told [][3]int // ready, busy, warming
	b := NewBoard(func() time.Time { return now }, time.Second, func(ready, busy, warming int) { told = append(told, [3]int{ready, busy, warming}) })
	now = now.Add(time.Minute)
	if got := b.idleFor(); got != time.Minute {
		t.Errorf("idle for %s", got)
	}
	_, changed := b.ready()
	b.Move(StateNone, StateCold)
	b.Move(StateCold, StateParked)
	select {
	case <-changed:
	default:
		t.Error("nobody was woken")
	}
	b.Move(StateParked, StateBusy)
	now = now.Add(time.Minute)
	if got := b.idleFor(); got != 0 {
		t.Errorf("a busy slot counts as idle for %s", got)
	}
	b.Move(StateBusy, StateDiscarding)
	now = now.Add(time.Second)
	if got := b.idleFor(); got != time.Second {
		t.Errorf("idle for %s", got)
	}
	if diff := cmp.Diff([][3]int{{0, 0, 1}, {1, 0, 0}, {0, 1, 0}, {0, 0, 1}}, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}
