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
	"time"

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

// ErrOtherSource says that the store holds data of another source. The text
// names both and the mend.
var ErrOtherSource = errors.New("the store holds data of another source")

func otherSource(where, found, want string) error {
	return fmt.Errorf("%w: %s holds %q and this process works with %q: choose another place or empty it first",
		ErrOtherSource, where, found, want)
}
