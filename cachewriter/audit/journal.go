package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	journalExt = ".jsonl"
	lockName   = ".lock"
	// The name of a file begins with the time of its first event, so that names sort as the
	// events do, after a stream was made anew too.
	nameTime = "20060102T150405.000000000Z"
	// The files say what is known of people.
	dirMode, fileMode = 0o700, 0o600
	// tailChunk is how much is read at a time to find the end of the last whole line; a
	// line has some KB.
	tailChunk = 256 << 10
)

// journal is a folder of files with a line for each event. The last line says how far it
// is, so nothing else can disagree with it: not after kill -9, not after a full disk. One
// process at a time may have it.
type journal struct {
	dir      string
	maxBytes int64         // a file that would be larger is followed by another
	keep     time.Duration // files are removed when all in them is older; 0 = never
	lock     *os.File

	file *os.File // being written; nil = none yet
	size int64    // of it
	at   position
}

// openJournal takes the folder and removes what was cut off at its end.
func openJournal(dir string, maxBytes int64, keep time.Duration) (*journal, error) {
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, fmt.Errorf("audit.openJournal: AUDIT_DIR: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, fileMode)
	if err != nil {
		return nil, fmt.Errorf("audit.openJournal: AUDIT_DIR: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("audit.openJournal: AUDIT_DIR: another audit writes to %s; give each a folder of its own", dir)
		}
		return nil, fmt.Errorf("audit.openJournal: AUDIT_DIR: %w", err)
	}
	j := &journal{dir: dir, maxBytes: maxBytes, keep: keep, lock: lock}
	if err := j.resume(); err != nil {
		return nil, errors.Join(err, j.close())
	}
	return j, nil
}

// files are the names of the journal's files, the oldest first.
func (j *journal) files() ([]string, error) {
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), journalExt) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// resume finds the last whole line, cuts off what follows it and goes on there.
func (j *journal) resume() error {
	j.file, j.size, j.at = nil, 0, position{}
	names, err := j.files()
	if err != nil {
		return fmt.Errorf("audit.journal: %w", err)
	}
	for _, name := range slices.Backward(names) {
		path := filepath.Join(j.dir, name)
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return fmt.Errorf("audit.journal: %w", err)
		}
		last, end, err := lastLine(f)
		if err == nil && end > 0 {
			if j.at, err = decode(last); err != nil {
				err = fmt.Errorf("the last line is none of an audit's (%w): move the file away, and what is missing is written again from the stream", err)
			}
		}
		if err == nil {
			err = f.Truncate(end)
		}
		if err == nil {
			_, err = f.Seek(end, io.SeekStart)
		}
		switch {
		case err != nil:
			return fmt.Errorf("audit.journal: %s: %w", path, errors.Join(err, f.Close()))
		case end > 0:
			j.file, j.size = f, end
			return nil
		}
		// It was begun, and not one line of it was finished.
		if err := errors.Join(f.Close(), os.Remove(path)); err != nil {
			return fmt.Errorf("audit.journal: %w", err)
		}
	}
	return nil
}

// lastLine returns the last line of f that has its end, and where that is; 0 where there
// is none.
func lastLine(f *os.File) (line []byte, end int64, err error) {
	at, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, 0, err
	}
	var tail []byte // of the file, from at on
	for at > 0 {
		n := min(at, tailChunk)
		at -= n
		chunk := make([]byte, n, int(n)+len(tail))
		if _, err := f.ReadAt(chunk, at); err != nil {
			return nil, 0, err
		}
		tail = append(chunk, tail...)
		last := bytes.LastIndexByte(tail, '\n')
		if last < 0 {
			continue
		}
		if first := bytes.LastIndexByte(tail[:last], '\n'); first >= 0 || at == 0 {
			return tail[first+1 : last], at + int64(last) + 1, nil
		}
	}
	return nil, 0, nil
}

func (j *journal) position() position { return j.at }

// write appends lines, whose first and last event these are. After an error recover must
// be called; it says how far the journal came.
func (j *journal) write(lines []byte, first, last position) error {
	if j.file != nil && j.size+int64(len(lines)) > j.maxBytes {
		if err := j.finish(); err != nil {
			return fmt.Errorf("audit.journal: %w", err)
		}
	}
	if j.file == nil {
		name := fmt.Sprintf("%s-%d%s", first.Stored.UTC().Format(nameTime), first.Seq, journalExt)
		f, err := os.OpenFile(filepath.Join(j.dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, fileMode)
		if err != nil {
			return fmt.Errorf("audit.journal: %w", err)
		}
		j.file, j.size = f, 0
	}
	if _, err := j.file.Write(lines); err != nil {
		return fmt.Errorf("audit.journal: %w", err)
	}
	j.size += int64(len(lines))
	j.at = last
	return nil
}

// finish has the file on the disk and lets it be.
func (j *journal) finish() error {
	if j.file == nil {
		return nil
	}
	f := j.file
	j.file, j.size = nil, 0
	return errors.Join(f.Sync(), f.Close())
}

// recover goes back to the last whole line after a failed write.
func (j *journal) recover() error {
	if j.file != nil {
		_ = j.file.Close() // it has failed already
	}
	return j.resume()
}

// expire removes the files of which all is older than keep: those whose successor began
// before that.
func (j *journal) expire(now time.Time) (removed []string, err error) {
	if j.keep == 0 {
		return nil, nil
	}
	names, err := j.files()
	if err != nil {
		return nil, fmt.Errorf("audit.journal: %w", err)
	}
	for i := 0; i+1 < len(names); i++ {
		begun, _, _ := strings.Cut(names[i+1], "-")
		next, err := time.Parse(nameTime, begun)
		if err != nil {
			return removed, fmt.Errorf("audit.journal: %s is no file of an audit's: %w", names[i+1], err)
		}
		if now.Sub(next) < j.keep {
			break
		}
		if err := os.Remove(filepath.Join(j.dir, names[i])); err != nil {
			return removed, fmt.Errorf("audit.journal: %w", err)
		}
		removed = append(removed, names[i])
	}
	return removed, nil
}

func (j *journal) close() error { return errors.Join(j.finish(), j.lock.Close()) }
