package browser

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// dirPrefix begins the name of everything this package puts into a temp directory:
// rucflow-chrome-<pid>-<random>.
const dirPrefix = "rucflow-chrome-"

// lockName is the file in an owned directory that its owner holds locked. The pid in
// the name does not suffice to know a dead owner: in a container that restarts, the
// new process has the pid of the old one.
const lockName = "owner.lock"

// ownedDir is a directory that exists while one browser runs.
type ownedDir struct {
	path string
	lock *os.File
}

func (d *ownedDir) profile() string { return filepath.Join(d.path, "profile") }
func (d *ownedDir) tmp() string     { return filepath.Join(d.path, "tmp") }

func newOwnedDir(parent string) (_ *ownedDir, err error) {
	path, err := os.MkdirTemp(parent, fmt.Sprintf("%s%d-*", dirPrefix, os.Getpid()))
	if err != nil {
		return nil, err
	}
	d := &ownedDir{path: path}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.remove())
		}
	}()
	// Locked before it has its name, so that no sweep ever sees it unlocked.
	unnamed := filepath.Join(path, "."+lockName)
	if d.lock, err = os.OpenFile(unnamed, os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, err
	}
	if err = lockFile(d.lock); err != nil {
		return nil, err
	}
	if err = os.Rename(unnamed, filepath.Join(path, lockName)); err != nil {
		return nil, err
	}
	if err = os.Mkdir(d.tmp(), 0o700); err != nil {
		return nil, err
	}
	return d, nil
}

// remove deletes the directory and all in it. Helpers of a killed browser were seen
// to create files a moment after it died, so it tries for two seconds.
func (d *ownedDir) remove() error {
	if d.lock != nil {
		defer func() { _ = d.lock.Close() }() // releases the lock
	}
	return removeAll(d.path, 2*time.Second)
}

func removeAll(path string, limit time.Duration) (err error) {
	poll(limit, 10*time.Millisecond, func() bool {
		err = os.RemoveAll(path)
		return err == nil
	})
	return err
}

// poll calls done at once and then every so often until it is true or limit has passed;
// it reports which.
func poll(limit, every time.Duration, done func() bool) bool {
	timeout, tick := time.NewTimer(limit), time.NewTicker(every)
	defer timeout.Stop()
	defer tick.Stop()
	for !done() {
		select {
		case <-timeout.C:
			return false
		case <-tick.C:
		}
	}
	return true
}

// sweepDirs removes the directories under parent whose owner was killed, and returns
// their names. Nothing without our prefix is touched.
func sweepDirs(parent string) (removed []string, err error) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(parent, e.Name())
		if !e.IsDir() || !orphaned(e.Name(), path) {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, e.Name())
	}
	return removed, errors.Join(errs...)
}

// orphaned reports whether path is one of ours and its owner is gone: nobody holds
// its lock, or, when it was killed before there was a lock, its pid is dead.
func orphaned(name, path string) bool {
	rest, ours := strings.CutPrefix(name, dirPrefix)
	if !ours {
		return false
	}
	digits, _, _ := strings.Cut(rest, "-")
	pid, err := strconv.Atoi(digits)
	if err != nil || pid <= 0 {
		return false
	}
	lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return !pidAlive(pid)
	}
	if err != nil {
		return false
	}
	defer func() { _ = lock.Close() }() // releases the lock
	return lockFile(lock) == nil
}
