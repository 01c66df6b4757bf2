//go:build linux

package bench

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
)

const rollup = `55d0c0000000-7ffd00000000 ---p 00000000 00:00 0                          [rollup]
Rss:                2048 kB
Pss:                1024 kB
Pss_Dirty:           100 kB
`

func TestMemoryOf(t *testing.T) {
	if rss, pss, err := memoryOf(rollup); err != nil || rss != 2*mib || pss != mib {
		t.Errorf("%v, %v, %v", rss, pss, err)
	}
	for _, bad := range []string{"", strings.Replace(rollup, "Pss:", "X:", 1), strings.Replace(rollup, "2048", "x", 1)} {
		if rss, pss, err := memoryOf(bad); err == nil {
			t.Errorf("%q: %v, %v", bad, rss, pss)
		}
	}
}

func TestMemoryOfAll(t *testing.T) {
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	self, gone := os.Getpid(), ended.Process.Pid
	m, err := memoryOfAll([]int{self, gone})
	if err != nil || m[pssMiB] <= 0 || m[rssMiB] < m[pssMiB] {
		t.Errorf("%v, %v", m, err)
	}
	if m, err := memoryOfAll([]int{gone}); err == nil {
		t.Errorf("of none: %v", m)
	}
}

func TestAddMost(t *testing.T) {
	const taken = 16
	var f Figures
	before, err := memoryOfAll([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	var held []byte
	err = f.addMost(t.Context(), "this", os.Getpid(), func(context.Context) error {
		held = make([]byte, taken*mib)
		for i := 0; i < len(held); i += os.Getpagesize() { // it takes memory once it is written to
			held[i] = 1
		}
		return nil
	})
	if got := of("this", rssMiB)(f); err != nil || got < before[rssMiB]+taken/2 || held[0] != 1 {
		t.Errorf("%v MiB after %v, %v", got, before, err)
	}
	err = f.addMost(t.Context(), "failed", os.Getpid(), func(context.Context) error { return ErrMissed })
	if !errors.Is(err, ErrMissed) || f.rounds("failed", rssMiB) != nil {
		t.Errorf("%v", err)
	}
}
