// Package store keeps encoded answers until they expire. Its implementations
// (Redis, File, Memory) hold the same promises, written down as one suite in
// storetest: a value is never served past its expiry, an older answer never
// replaces a newer one whatever the order of delivery, what was deleted does not
// come back by a redelivery, and data of one source (SUNAT or a replica) is never
// mixed with another's.
package store

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/rucflow/rucflow/shared/mend"
	"github.com/rucflow/rucflow/shared/ruc"
)

// Version orders the answers of one number: by the event stream's birth, then by
// the sequence within it. It never compares clocks of different machines.
type Version struct {
	Epoch int64  // when the stream was created, Unix seconds by the server's clock, not negative
	Seq   uint64 // the event's sequence in that stream
}

// Newer reports whether v comes after w.
func (v Version) Newer(w Version) bool {
	return v.Epoch > w.Epoch || v.Epoch == w.Epoch && v.Seq > w.Seq
}

// Entry is one answer to keep.
type Entry struct {
	RUC     ruc.Number
	Value   []byte // the encoded answer; kept as it is: neither the store nor the caller changes it
	Version Version
	TTL     time.Duration // how long from now; an entry of 0 or less is skipped
}

// MaxValueBytes bounds a value. An answer has at most 64 KiB.
const MaxValueBytes = 1 << 20

// ErrRefused marks an entry that the store will not take however often it is put.
var ErrRefused = errors.New("the store does not take this entry")

var errTooLarge = fmt.Errorf("%w: more than %d bytes", ErrRefused, MaxValueBytes)

// PutError is what a Put returns that did not keep every entry. It wraps the errors
// of all that it did not keep.
type PutError struct {
	// Failed holds the entries that were not kept, by their place in what was put:
	// ErrRefused for those that never will be, anything else for those to put again.
	// The others are kept, or are not newer than what is.
	Failed map[int]error
	Of     int // how many entries were put
}

// Error counts the entries and quotes one of them.
func (e *PutError) Error() string {
	first := slices.Min(slices.Collect(maps.Keys(e.Failed)))
	return fmt.Sprintf("%d of %d entries: %v", len(e.Failed), e.Of, e.Failed[first])
}

// Unwrap returns the errors of the entries.
func (e *PutError) Unwrap() []error { return slices.Collect(maps.Values(e.Failed)) }

// EntryError returns what the error of a Put says of the entry at place i: nil when
// it is kept.
func EntryError(err error, i int) error {
	var p *PutError
	if errors.As(err, &p) {
		return p.Failed[i]
	}
	return err // it says nothing of single entries, so nothing is known to be kept
}

// putError returns the PutError of the entries whose place in errs is not nil, or
// nil where there are none.
func putError(errs []error) error {
	failed := map[int]error{}
	for i, err := range errs {
		if err != nil {
			failed[i] = err
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return &PutError{Failed: failed, Of: len(errs)}
}

// ErrOtherSource says that the store holds data of another source. The text
// names both and the mend.
var ErrOtherSource = errors.New("the store holds data of another source")

func otherSource(where, found, want string) error {
	return &mend.Error{
		Finding: fmt.Sprintf("%s holds data of source %q and this process works with %q", where, found, want),
		Mend:    "choose another place or empty it first", Err: ErrOtherSource,
	}
}
