package sunat

import "fmt"

// Page is one document as SUNAT sent it, already decoded to UTF-8.
type Page struct {
	URL    string // address of the document, without fragment
	Status int    // HTTP status; 0 where the engine could not learn it
	HTML   string
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
