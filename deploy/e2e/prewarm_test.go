package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rucflow/rucflow/shared/ruc"
)

// prewarming prepares a prewarm of a list.
func (f *fleet) prewarming(numbers ...ruc.Number) *exec.Cmd {
	f.t.Helper()
	dir, err := binaries()
	if err != nil {
		f.t.Fatal(err)
	}
	list := filepath.Join(f.t.TempDir(), "list.txt")
	var text strings.Builder
	for _, n := range numbers {
		text.WriteString(n.String() + "\n")
	}
	if err := os.WriteFile(list, []byte(text.String()), 0o600); err != nil {
		f.t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, "prewarm"), "-file", list)
	cmd.Env = append(f.as("prewarm"), append(f.environ, "PREWARM_IDLE_MIN=20ms", "PREWARM_IDLE_MAX=50ms")...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// prewarm runs one and returns what it said, and its exit status.
func (f *fleet) prewarm(numbers ...ruc.Number) (said string, status int) {
	f.t.Helper()
	cmd := f.prewarming(numbers...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		f.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// TestPrewarm_KilledGoesOn: a prewarm that is killed, and started again, visits no number
// twice but the one that was under way, at most.
func TestPrewarm_KilledGoesOn(t *testing.T) {
	f := newFleet(t)
	f.start(1, 1, 1)
	f.warm()
	var numbers []ruc.Number
	for i := range 8 {
		numbers = append(numbers, fresh(9800+i))
	}
	visits := func() (sum int) {
		for _, n := range numbers {
			sum += f.visits(n)
		}
		return sum
	}
	killed := f.prewarming(numbers...)
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	f.eventually("some are visited", readyWait, func() bool { return visits() >= len(numbers)/2 })
	if err := killed.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = killed.Wait() // it was killed
	before := visits()
	if before == len(numbers) {
		t.Fatalf("it was done before it was killed")
	}
	said, status := f.prewarm(numbers...)
	if status != 0 || !strings.Contains(said, "8 of 8 numbers in ") || strings.Contains(said, " 0 held already") || !strings.Contains(said, " 0 failed") {
		t.Errorf("again: %d %s", status, said)
	}
	if after := visits(); after > len(numbers)+1 {
		t.Errorf("%d visits before the kill, %d after, of %d numbers", before, after, len(numbers))
	}
	if said, status := f.prewarm(numbers...); status != 0 || !strings.Contains(said, "8 held already, 0 fetched") {
		t.Errorf("a third time: %d %s", status, said)
	}
}
