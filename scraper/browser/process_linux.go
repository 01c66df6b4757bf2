package browser

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// ownGroup makes a process the leader of a process group of its own, so that its
// helpers can be ended with it and nobody else's Chromium is ever touched, and has the
// kernel kill it when we die without a word.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// killGroup kills the process group pgid until nothing of it runs, for at most limit:
// a helper may be forked while the signal is on its way.
func killGroup(pgid int, limit time.Duration) error {
	gone := poll(limit, 5*time.Millisecond, func() bool {
		err := syscall.Kill(-pgid, syscall.SIGKILL)
		return errors.Is(err, syscall.ESRCH) || len(groupMembers(pgid)) == 0
	})
	if !gone {
		return errors.New("browser: processes of Chromium survive")
	}
	return nil
}

// groupMembers returns the processes of the group that run. Zombies do not count:
// where nobody reaps orphans they stay for ever.
func groupMembers(pgid int) []int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	var members []int
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // ended meanwhile
		}
		// pid (name, which may hold anything) state ppid pgrp …
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(fields) < 3 || fields[0][0] == 'Z' || fields[0][0] == 'X' {
			continue
		}
		if group, err := strconv.Atoi(string(fields[2])); err == nil && group == pgid {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			members = append(members, pid)
		}
	}
	return members
}

func pidAlive(pid int) bool {
	return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// lockFile takes the exclusive lock on f that ends with the process, or fails at once.
func lockFile(f *os.File) error {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}

func shmBytes() (uint64, bool) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs("/dev/shm", &fs); err != nil {
		return 0, true // none at all: files in the temp directory instead
	}
	return fs.Blocks * uint64(fs.Bsize), true //nolint:gosec // no block has a negative size
}
