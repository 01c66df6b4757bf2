package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/rucflow/rucflow/shared/ruc"
)

// File keeps one file per number in 256 hashed folders. A file is its own proof:
// a head line with version, expiry and length, then the answer's bytes as they
// are. Writes are atomic replacements under a lock of the folder, so several
// processes may share one directory; reads take no lock. File is safe for
// concurrent use.
//
// Expired files are removed by Run. The byte bound is kept by removing those that
// expire soonest.
type File struct {
	dir      string
	maxBytes int64
	now      func() time.Time

	bytes atomic.Int64 // what the last sweep found, and what was written since
	full  chan struct{}
}

const (
	fileMagic     = "rucflow1"
	fileSuffix    = ".json"
	sourceFile    = "fuente"
	lockFile      = ".lock"
	dirPerm       = 0o700 // records of natural persons are personal data
	filePerm      = 0o600
	maxHeadBytes  = 128
	sweepInterval = 10 * time.Minute
	// sweepTo is the share of the bound that a sweep leaves, so that a full store
	// does not sweep at every write.
	sweepTo = 0.9
	// orphanAge is how old a temporary file must be before a sweep takes it for
	// what a killed process left.
	orphanAge = time.Hour
)

// NewFile returns a store in dir, which it makes if need be, of at most maxBytes.
func NewFile(dir string, maxBytes int64, now func() time.Time) (*File, error) {
	if maxBytes <= 0 {
		return nil, fmt.Errorf("store.NewFile: %d bytes", maxBytes)
	}
	if err := os.MkdirAll(dir, dirPerm); err != nil {
		return nil, fmt.Errorf("store.NewFile: %w", err)
	}
	return &File{dir: dir, maxBytes: maxBytes, now: now, full: make(chan struct{}, 1)}, nil
}

// Kind returns "file".
func (f *File) Kind() string { return "file" }

func (f *File) shard(n ruc.Number) string {
	h := fnv.New32a()
	_, _ = h.Write(n.AppendTo(nil)) // never fails
	return filepath.Join(f.dir, fmt.Sprintf("%02x", h.Sum32()&0xff))
}

func (f *File) path(n ruc.Number) string {
	return filepath.Join(f.shard(n), n.String()+fileSuffix)
}

// Get returns the value of n; ok is false where none is held. A damaged file is
// an error, and the next Put replaces it.
func (f *File) Get(_ context.Context, n ruc.Number) (value []byte, ok bool, err error) {
	h, err := readFile(f.path(n))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("store.File.Get: %w", nameless(err))
	}
	if !f.serves(h) {
		return nil, false, nil
	}
	return h.value, true, nil
}

// Put keeps the entries that are newer than what is held. Its error is a *PutError;
// putting the same again is harmless.
func (f *File) Put(ctx context.Context, entries []Entry) error {
	errs := make([]error, len(entries))
	for i, e := range entries {
		switch {
		case e.TTL <= 0:
		case len(e.Value) > MaxValueBytes:
			errs[i] = errTooLarge
		case ctx.Err() != nil:
			errs[i] = ctx.Err()
		default:
			errs[i] = f.put(e)
		}
	}
	if err := putError(errs); err != nil {
		return fmt.Errorf("store.File.Put: %w", err)
	}
	return nil
}

func (f *File) put(e Entry) error {
	err := f.replace(e.RUC, func(old held, found bool) (held, bool) {
		now := f.now()
		if found && now.Before(old.expires) && !e.Version.Newer(old.version) {
			return held{}, false
		}
		return held{value: e.Value, version: e.Version, expires: now.Add(e.TTL)}, true
	})
	if err == nil {
		return nil
	}
	// No try replaces a folder by a file. Its name is not repeated: it is the number.
	if info, statErr := os.Lstat(f.path(e.RUC)); statErr == nil && info.IsDir() {
		return fmt.Errorf("%w: a folder stands in its place", ErrRefused)
	}
	return nameless(err)
}

// Delete forgets the value of n. Answers not newer than it stay out.
func (f *File) Delete(_ context.Context, n ruc.Number) error {
	err := f.replace(n, func(old held, found bool) (held, bool) {
		old.value = nil
		return old, found
	})
	if err != nil {
		return fmt.Errorf("store.File.Delete: %w", nameless(err))
	}
	return nil
}

// DeletePattern is Delete for every number that pattern
// matches, or only counts them. What is put meanwhile may or may not be met.
func (f *File) DeletePattern(ctx context.Context, pattern ruc.Pattern, dryRun bool) (n int, err error) {
	err = filepath.WalkDir(f.dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return ignoreMissing(err) // another process was faster
		}
		number, isAnswer := numberOf(d.Name())
		if !isAnswer || !pattern.Matches(number) {
			return nil
		}
		if dryRun {
			if f.holdsAt(path) {
				n++
			}
			return nil
		}
		return f.replace(number, func(old held, found bool) (held, bool) {
			if !found || !f.serves(old) {
				return held{}, false
			}
			n++
			old.value = nil
			return old, true
		})
	})
	if err != nil {
		return n, fmt.Errorf("store.File.DeletePattern: %w", nameless(err))
	}
	return n, nil
}

// numberOf returns the number whose answer is in a file of this name.
func numberOf(name string) (n ruc.Number, ok bool) {
	digits, ok := strings.CutSuffix(name, fileSuffix)
	n, err := ruc.Parse(digits)
	return n, ok && err == nil
}

// holdsAt reports whether the file at path has a value that may be served. A
// damaged one has none.
func (f *File) holdsAt(path string) bool {
	h, err := readFile(path)
	return err == nil && f.serves(h)
}

// serves reports whether h has a value that may still be served.
func (f *File) serves(h held) bool { return len(h.value) > 0 && f.now().Before(h.expires) }

// replace changes one file under its folder's lock.
func (f *File) replace(n ruc.Number, change func(old held, found bool) (held, bool)) error {
	shard, path := f.shard(n), f.path(n)
	unlock, err := lockShard(shard)
	if err != nil {
		return err
	}
	defer unlock()
	// A damaged file counts as none: what it held cannot be trusted to be newer.
	old, err := readFile(path)
	h, write := change(old, err == nil)
	if !write {
		return nil
	}
	b := encodeFile(h)
	if err := renameio.WriteFile(path, b, filePerm, renameio.WithTempDir(shard)); err != nil {
		return err
	}
	if f.bytes.Add(int64(len(b))) > f.maxBytes {
		select {
		case f.full <- struct{}{}:
		default: // a sweep is due already
		}
	}
	return nil
}

// lockShard takes the folder's lock, which other processes honour too.
func lockShard(shard string) (unlock func(), err error) {
	if err := os.MkdirAll(shard, dirPerm); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(shard, lockFile), os.O_CREATE|os.O_RDWR, filePerm)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		_ = lock.Close() // the lock's own error says more
		return nil, fmt.Errorf("locking %s: %w", shard, err)
	}
	return func() { _ = lock.Close() }, nil // closing releases it
}

func encodeFile(h held) []byte {
	b := fmt.Appendf(nil, "%s %d %d %d %d\n", fileMagic, h.version.Epoch, h.version.Seq, h.expires.UnixMilli(), len(h.value))
	return append(b, h.value...)
}

// nameless drops the path from an error of the file system. It ends with a number,
// and a person's number does not belong in a log.
func nameless(err error) error {
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		return fmt.Errorf("%s: %w", path.Op, path.Err)
	case errors.As(err, &link):
		return fmt.Errorf("%s: %w", link.Op, link.Err)
	default:
		return err
	}
}

func damaged(path, how string) error {
	n, _ := numberOf(filepath.Base(path)) // the zero Number of a foreign file has no text
	return fmt.Errorf("the file of %s is damaged: %s", n.Masked(), how)
}

func readFile(path string) (held, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return held{}, err
	}
	end := bytes.IndexByte(b[:min(len(b), maxHeadBytes)], '\n')
	if end < 0 {
		return held{}, damaged(path, "no head line")
	}
	var (
		h       held
		magic   string
		expires int64
		size    int
	)
	if _, err := fmt.Sscanf(string(b[:end]), "%s %d %d %d %d", &magic, &h.version.Epoch, &h.version.Seq, &expires, &size); err != nil || magic != fileMagic {
		return held{}, damaged(path, "head line")
	}
	if h.value = b[end+1:]; len(h.value) != size {
		return held{}, damaged(path, fmt.Sprintf("%d bytes, the head says %d", len(h.value), size))
	}
	h.expires = time.UnixMilli(expires)
	return h, nil
}

// Claim marks the directory as one of source's data; ErrOtherSource if it is
// another's.
func (f *File) Claim(_ context.Context, source string) error {
	path := filepath.Join(f.dir, sourceFile)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, filePerm)
	if err == nil {
		_, err = file.WriteString(source + "\n")
		if err = errors.Join(err, file.Close()); err != nil {
			return fmt.Errorf("store.File.Claim: %w", err)
		}
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("store.File.Claim: %w", err)
	}
	if found := strings.TrimSpace(string(b)); found != source {
		return otherSource(f.dir, found, source)
	}
	return nil
}

// Run removes what has expired and keeps the byte bound until ctx ends. Errors go
// to report; a sweep that fails is tried again at the next turn.
func (f *File) Run(ctx context.Context, report func(error)) {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		if err := f.Sweep(ctx); err != nil && ctx.Err() == nil {
			report(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-f.full:
		}
	}
}

type sweptFile struct {
	path    string
	size    int64
	expires time.Time
}

// Sweep removes expired files and, beyond the byte bound, those that expire
// soonest; also what killed processes left.
func (f *File) Sweep(ctx context.Context) error {
	var kept []sweptFile
	var total int64
	now := f.now()
	err := filepath.WalkDir(f.dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, fs.ErrNotExist):
			return nil // another process was faster
		case err != nil:
			return err
		case d.IsDir() || d.Name() == lockFile || path == filepath.Join(f.dir, sourceFile):
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return ignoreMissing(err)
		}
		if strings.HasPrefix(d.Name(), ".") {
			if now.Sub(info.ModTime()) > orphanAge {
				return ignoreMissing(os.Remove(path)) //nolint:gosec // the folder is the operator's own
			}
			return nil
		}
		h, err := readFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !now.Before(h.expires) {
			return f.removeIf(path, func(h held) bool { return !now.Before(h.expires) })
		}
		kept = append(kept, sweptFile{path, info.Size(), h.expires})
		total += info.Size()
		return nil
	})
	if err != nil {
		return fmt.Errorf("store.File.Sweep: %w", nameless(err))
	}
	if total > f.maxBytes {
		slices.SortFunc(kept, func(a, b sweptFile) int { return a.expires.Compare(b.expires) })
		for _, k := range kept {
			if float64(total) <= sweepTo*float64(f.maxBytes) {
				break
			}
			if err := f.removeIf(k.path, func(held) bool { return true }); err != nil {
				return fmt.Errorf("store.File.Sweep: %w", nameless(err))
			}
			total -= k.size
		}
	}
	f.bytes.Store(total)
	return nil
}

// removeIf removes a file under its folder's lock unless it was replaced
// meanwhile by one that condition spares. A damaged file always goes.
func (f *File) removeIf(path string, condition func(held) bool) error {
	unlock, err := lockShard(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer unlock()
	if h, err := readFile(path); err == nil && !condition(h) {
		return nil
	}
	return ignoreMissing(os.Remove(path))
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Close does nothing: File holds no descriptor between calls.
func (f *File) Close() error { return nil }
