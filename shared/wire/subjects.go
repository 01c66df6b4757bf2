package wire

import (
	"strings"

	"github.com/rucflow/rucflow/shared/ruc"
)

// The request subjects, their queue groups and the micro services behind them.
const (
	SubjectLookup  = "ruc.lookup"  // anyone → gateway: cache first
	SubjectResolve = "ruc.resolve" // anyone → scraper: a visit or a share in one

	GatewayQueue   = "gateway"
	ScraperQueue   = "scraper"
	GatewayService = "ruc-gateway"
	ScraperService = "ruc-scraper"
)

// The bare event subjects, on which RUC_EVENTS republishes what it has stored,
// and the notice that a job left the queue without an event.
const (
	SubjectResolved = "ruc.resolved"
	SubjectFailed   = "ruc.failed"
	SubjectChanged  = "ruc.changed"
	SubjectDropped  = "ruc.dropped" // core message, never stored
)

// SubjectInvalidated carries the notice that answers were deleted: a core message,
// never stored, to everybody who keeps copies.
const SubjectInvalidated = "ruc.invalidated"

// SubjectProgress is where everybody's progress is heard; see Progress.
const SubjectProgress = progressPrefix + "*"

const progressPrefix = "ruc.progress."

// SubjectTurn holds the one message of RUC_TURN.
const SubjectTurn = "ruc.turn"

const visitPrefix = "ruc.visit."

// DeadSubject is where a consumer puts what it cannot use; see DeadLetter.
func DeadSubject(consumer string) string { return deadPrefix + consumer }

const deadPrefix = "ruc.dead."

// VisitSubject is the subject of the job to visit n.
func VisitSubject(n ruc.Number) string { return visitPrefix + n.String() }

// ResolvedSubject is the subject under which n's answers are stored.
func ResolvedSubject(n ruc.Number) string { return SubjectResolved + "." + n.String() }

// FailedSubject is the subject under which n's failed visits are stored.
func FailedSubject(n ruc.Number) string { return SubjectFailed + "." + n.String() }

// ChangedSubject is the subject under which n's changes are stored.
func ChangedSubject(n ruc.Number) string { return SubjectChanged + "." + n.String() }

// everyEvent matches the subjects of RUC_EVENTS.
const everyEvent = "ruc.*.*"

// eventSubjects are the subjects of everything stored about n in RUC_EVENTS.
func eventSubjects(n ruc.Number) string { return "ruc.*." + n.String() }

// NumberOf returns the number that ends a subject such as ruc.visit.<ruc>. The
// error has code ruc.Invalid.
func NumberOf(subject string) (ruc.Number, error) {
	return ruc.Parse(subject[strings.LastIndexByte(subject, '.')+1:])
}
