package sunat

import (
	"fmt"
	"sync"

	"github.com/rucflow/rucflow/shared/ruc"
)

// Page is one document as SUNAT sent it, already decoded to UTF-8.
type Page struct {
	URL    string // address of the document, without fragment
	Status int    // HTTP status; 0 where the engine could not learn it
	HTML   string

	reading *reading // what Parse makes of it; nil where each Parse reads it again
}

// reading is a page's content for the one number that was asked for.
type reading struct {
	number ruc.Number
	parse  func() (Result, error) // once
}

// For returns p as a page that was got by asking for n, of which Parse keeps what it finds:
// a slot and its caller both look at it. The Result is shared by who parses it.
func (p Page) For(n ruc.Number) Page {
	plain := p
	p.reading = &reading{n, sync.OnceValues(func() (Result, error) { return parse(plain, n) })}
	return p
}

// Cause says why a visit brought no page. The set is closed; the words are metric
// labels and log values.
type Cause string

// The causes, by what an engine can see from outside the page.
const (
	CauseSilent  Cause = "silent"  // no document came before the attempt's deadline
	CauseReset   Cause = "reset"   // the connection was reset
	CauseNetwork Cause = "network" // any other transport error
	CauseCrash   Cause = "crash"   // the tab's renderer died
	CauseLost    Cause = "lost"    // the browser died
	CauseDialog  Cause = "dialog"  // the page refused the number by its own alert
)

// VisitError is a visit that brought no page to parse.
type VisitError struct {
	Cause Cause
	Err   error // English, for logs
}

func (e *VisitError) Error() string {
	if e.Err == nil {
		return "visit: " + string(e.Cause)
	}
	return fmt.Sprintf("visit: %s: %v", e.Cause, e.Err)
}

func (e *VisitError) Unwrap() error { return e.Err }
