// Package mend is for errors of a set-up: what is wrong and what mends it, told apart so
// that a log line has both and `rucflow doctor` can print each in its place.
package mend

import "fmt"

// Error is something wrong that a person can mend.
type Error struct {
	Finding string // what is wrong
	Mend    string // what to do about it, which names the setting
	Err     error  // what showed it; may be nil
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Finding + ": " + e.Mend
	}
	return fmt.Sprintf("%s: %s: %v", e.Finding, e.Mend, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }
