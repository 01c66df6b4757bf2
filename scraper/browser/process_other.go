//go:build unix && !linux

package browser

import (
	"errors"
	"os"
	"syscall"
	"time"
)

// What follows serves development on other systems; process_linux.go says why it exists.
// There is no parent-death signal here, and a group is gone when no signal reaches it.

func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func killGroup(pgid int, limit time.Duration) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		if err := syscall.Kill(-pgid, syscall.SIGKILL); errors.Is(err, syscall.ESRCH) || errors.Is(err, syscall.EPERM) {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New("browser: processes of Chromium survive")
		}
	}
}

func pidAlive(pid int) bool {
	return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

func lockFile(f *os.File) error {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}

func shmBytes() (uint64, bool) { return 0, false }
