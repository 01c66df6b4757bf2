package browser

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/chromedp/chromedp"

	"github.com/rucflow/rucflow/scraper/sunat"
	"github.com/rucflow/rucflow/shared/mend"
)

// Why a tab or a browser ended; set as the cause of its life context.
var (
	errCrashed  = errors.New("browser: the tab's renderer died")
	errDetached = errors.New("browser: the tab was closed")
	errStuck    = errors.New("browser: a dialog in the tab cannot be answered")
	errLost     = errors.New("browser: the connection to Chromium is gone")
	errFrozen   = errors.New("browser: Chromium does not answer")
	errUnstable = errors.New("browser: tabs do not open")
)

// errRefused is the form's own refusal of a number that passed our check.
var errRefused = &sunat.VisitError{Cause: sunat.CauseDialog, Err: errors.New("browser: the form refused the number")}

// errLeft is a form that did not send its query in the way that was set for it.
var errLeft = &sunat.VisitError{Cause: sunat.CauseNetwork, Err: errors.New("browser: the tab left the form instead of fetching")}

// errForeign is a redirect away from the site.
var errForeign = &sunat.VisitError{Cause: sunat.CauseNetwork, Err: errors.New("browser: the document came from another host")}

// lostCause names the end of a browser for logs and metrics.
func lostCause(err error) string {
	switch {
	case errors.Is(err, errFrozen):
		return "frozen"
	case errors.Is(err, errUnstable):
		return "unstable"
	default:
		return "lost"
	}
}

// classify turns whatever ended a visit into what Visit promises. It is the only
// place that does, because the errors of the protocol alone do not say: a killed
// browser arrives as an exit error that wraps context.Canceled and so looks like a
// caller that went away, and a command to a crashed tab is never answered at all and
// ends as a deadline. The caller's own context and the tab's life are therefore
// asked first, in this order.
func classify(caller context.Context, err error, t *tab) error {
	var visit *sunat.VisitError
	switch {
	case err == nil:
		return nil
	case caller.Err() != nil:
		return caller.Err()
	case errors.As(err, &visit):
		return visit
	case t.chrome.lost():
		return &sunat.VisitError{Cause: sunat.CauseLost, Err: errors.Join(context.Cause(t.chrome.life), err)}
	case t.life.Err() != nil:
		return &sunat.VisitError{Cause: sunat.CauseCrash, Err: context.Cause(t.life)}
	case errors.Is(err, chromedp.ErrTargetDetached):
		return &sunat.VisitError{Cause: sunat.CauseCrash, Err: err}
	case errors.Is(err, context.DeadlineExceeded):
		return &sunat.VisitError{Cause: sunat.CauseSilent, Err: errors.New("browser: no whole document came in time")}
	default: // a protocol error: the tab cannot be trusted, and a new one is the mend
		return &sunat.VisitError{Cause: sunat.CauseCrash, Err: err}
	}
}

// explainStart says what mends a browser that did not start. Only what the program wrote
// before it ended tells.
func explainStart(path string, err error) error {
	said := err.Error()
	switch {
	case strings.Contains(said, "as root without --no-sandbox"):
		return &mend.Error{
			Finding: "Chromium refuses its sandbox to root",
			Mend:    "run as another user, or set CHROME_SANDBOX=auto", Err: err,
		}
	case strings.Contains(said, "No usable sandbox"), strings.Contains(said, "Failed to move to new namespace"):
		return &mend.Error{
			Finding: "no usable sandbox: neither the kernel nor the container lets Chromium make a user namespace",
			Mend: "give the container the profile deploy/seccomp/chromium.json (security_opt), allow user namespaces " +
				"(sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0), or set CHROME_SANDBOX=off",
			Err: err,
		}
	case strings.Contains(said, "error while loading shared libraries"):
		return &mend.Error{
			Finding: "Chromium misses a library of the system",
			Mend:    "install Chromium by the package manager: apt-get install chromium-headless-shell", Err: err,
		}
	case strings.Contains(said, noAnswer):
		return &mend.Error{
			Finding: fmt.Sprintf("Chromium started and did not answer within %v", startWait),
			Mend:    "give the machine more processor time and memory", Err: err,
		}
	}
	return &mend.Error{
		Finding: path + " does not start as Chromium does",
		Mend:    fmt.Sprintf("see what `%s --headless --dump-dom about:blank` says, or set CHROME_PATH to another", path), Err: err,
	}
}

// networkError names a failed load by Chromium's own code (net/base/net_error_list.h),
// as "net::ERR_CONNECTION_RESET", or by a script's error, which tells no code.
func networkError(code string) *sunat.VisitError {
	cause := sunat.CauseNetwork
	if strings.Contains(code, "ERR_CONNECTION_RESET") {
		cause = sunat.CauseReset
	}
	return &sunat.VisitError{Cause: cause, Err: fmt.Errorf("browser: %s", code)}
}

// causeOf returns the word under which a visit's failure is counted.
func causeOf(err error) string {
	var visit *sunat.VisitError
	if errors.As(err, &visit) {
		return string(visit.Cause)
	}
	return "cancelled"
}
