package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/shared/ruc"
)

// TestFaults: each misbehaviour of the page brings its code or the right record,
// never another's, and the lookup after it works.
func TestFaults(t *testing.T) {
	const right = ruc.Code("") // the right record
	tests := []struct {
		fault  replica.Fault
		code   ruc.Code
		visits int
	}{
		{replica.Fault{Kind: replica.FaultHang}, ruc.Blocked, 2}, // two silent timeouts in a row
		{replica.Fault{Kind: replica.FaultHang, Times: 1}, right, 2},
		{replica.Fault{Kind: replica.FaultSlow, DelayMs: 500}, right, 1},
		{replica.Fault{Kind: replica.FaultHalf}, ruc.Unavailable, 3},
		{replica.Fault{Kind: replica.FaultHalf, Times: 2}, right, 3},
		{replica.Fault{Kind: replica.FaultHalfOpen}, ruc.Blocked, 2},
		{replica.Fault{Kind: replica.FaultOtherRUC}, ruc.Changed, 2},
		{replica.Fault{Kind: replica.FaultNotFoundOther}, ruc.Changed, 2},
		{replica.Fault{Kind: replica.FaultRename}, ruc.Changed, 2},
		{replica.Fault{Kind: replica.FaultRename, Times: 1}, right, 2},
		{replica.Fault{Kind: replica.FaultError}, ruc.Unavailable, 3},
		{replica.Fault{Kind: replica.FaultError, Times: 2}, right, 3},
		{replica.Fault{Kind: replica.FaultEmpty}, ruc.Unavailable, 3},
		{replica.Fault{Kind: replica.FaultBounce}, ruc.Unavailable, 3},
		{replica.Fault{Kind: replica.FaultWAF}, ruc.Blocked, 1},
		{replica.Fault{Kind: "403"}, ruc.Blocked, 1},
		{replica.Fault{Kind: "429"}, ruc.Blocked, 1},
		{replica.Fault{Kind: "401"}, ruc.Unavailable, 3},
		{replica.Fault{Kind: "500"}, ruc.Unavailable, 3},
		{replica.Fault{Kind: "500", Times: 1}, right, 2},
		{replica.Fault{Kind: "503"}, ruc.Unavailable, 3},
		{replica.Fault{Kind: replica.FaultReset}, ruc.Blocked, 0}, // Chromium itself repeats what a kept connection resets, once for each
		{replica.Fault{Kind: replica.FaultReset, Times: 1}, right, 0},
		{replica.Fault{Kind: replica.FaultAlert}, right, 1},
		{replica.Fault{Kind: replica.FaultAlertLoad}, right, 1},
		{replica.Fault{Kind: replica.FaultPopup}, right, 1},
		{replica.Fault{Kind: replica.FaultLoop}, right, 1}, // an answer's scripts do not run
	}
	r := start(t, t.TempDir(), "SUNAT_ATTEMPT_TIMEOUT=2s")
	for i, tt := range tests {
		t.Run(fmt.Sprintf("%s times %d", tt.fault.Kind, tt.fault.Times), func(t *testing.T) {
			r := &rig{Addrs: r.Addrs, t: t}
			n := fresh(100 + i)
			r.fault(tt.fault)
			status, h, body := r.lookup(n)
			if tt.code == right {
				want, _ := replica.Lookup(n)
				if a := r.answer(n, status, body); a.Record != nil && a.RazonSocial != want.Record.RazonSocial {
					t.Errorf("the record of %s", a.RazonSocial)
				}
			} else {
				p := r.problem(h, status, body)
				if p.Code != tt.code {
					t.Errorf("code %q, want %q: %s", p.Code, tt.code, body)
				}
				attempts := tt.visits
				if tt.fault.Kind == replica.FaultReset {
					attempts = 2
				}
				if !strings.Contains(p.Detail, n.String()) || p.Attempts != attempts {
					t.Errorf("detail %q, attempts %d", p.Detail, p.Attempts)
				}
				if needsRetryAfter := status == http.StatusServiceUnavailable; needsRetryAfter != (h.Get("Retry-After") != "") {
					t.Errorf("status %d with Retry-After %q", status, h.Get("Retry-After"))
				}
			}
			if v := r.visits(n); tt.visits != 0 && v != tt.visits {
				t.Errorf("%d visits, want %d", v, tt.visits)
			}
			r.clear()
			// An error is never kept: the same number is asked anew and answered. Until
			// its job is acknowledged, moments later, a failure still counts as the
			// answer to who asks for that visit.
			r.eventually("the number is asked anew", 10*time.Second, func() bool {
				status, _, body = r.lookup(n)
				return status == http.StatusOK
			})
			r.answer(n, status, body)
		})
	}
}

func TestKill(t *testing.T) {
	for i, victim := range []struct{ name, cmdline string }{
		{"renderer", "--type=renderer"},
		{"browser", "--remote-debugging-pipe"},
	} {
		t.Run(victim.name, func(t *testing.T) {
			r := start(t, t.TempDir())
			r.fault(replica.Fault{Kind: replica.FaultSlow, DelayMs: 300})
			for round := range long(8, 20) {
				n := fresh(1000*(i+1) + round)
				var wg sync.WaitGroup
				for range 5 {
					wg.Go(func() {
						status, _, body := r.lookup(n)
						r.answer(n, status, body)
					})
				}
				r.eventually("the visit is under way", 10*time.Second, func() bool { return r.visits(n) > 0 })
				pids := r.browserProcesses(victim.cmdline)
				if len(pids) == 0 {
					t.Fatalf("round %d: no %s to kill", round, victim.name)
				}
				for _, pid := range pids {
					kill(t, pid)
				}
				wg.Wait()
				if v := r.visits(n); v > 3 {
					t.Errorf("round %d: %d visits", round, v)
				}
			}
		})
	}
}

func TestBadInput(t *testing.T) {
	r := start(t, t.TempDir())
	tests := []struct {
		name, method, path, body string
		status                   int
		code                     ruc.Code
		detail                   string
	}{
		{"letters", "GET", "/obtener-ruc/hola", "", 400, ruc.Invalid, "11 dígitos"},
		{"10 digits", "GET", "/obtener-ruc/2013131295", "", 400, ruc.Invalid, "11 dígitos"},
		{"12 digits", "GET", "/v1/ruc/201313129555", "", 400, ruc.Invalid, "11 dígitos"},
		{"check digit", "GET", "/obtener-ruc/20123456789", "", 400, ruc.Invalid, "debería ser 6"},
		{"%00", "GET", "/obtener-ruc/%00", "", 400, ruc.Invalid, "11 dígitos"},
		{"%00 inside", "GET", "/obtener-ruc/2013131295%00", "", 400, ruc.Invalid, "11 dígitos"},
		{"full-width digits", "GET", "/obtener-ruc/" + strings.Repeat("%EF%BC%92", 11), "", 400, ruc.Invalid, "11 dígitos"},
		{"Arabic digits", "GET", "/obtener-ruc/" + strings.Repeat("%D9%A2", 11), "", 400, ruc.Invalid, "11 dígitos"},
		{"1 MB path", "GET", "/obtener-ruc/" + strings.Repeat("2", 1<<20), "", 431, ruc.TooLarge, "tamaño"},
		{"huge body", "GET", "/obtener-ruc/20131312955", strings.Repeat("x", 1<<20), 413, ruc.TooLarge, "tamaño"},
		{"unknown route", "GET", "/ruc", "", 404, ruc.NoRoute, "no existe"},
		{"no number", "GET", "/obtener-ruc/", "", 404, ruc.NoRoute, "no existe"},
		{"wrong method", "POST", "/obtener-ruc/20131312955", "{}", 405, ruc.Method, "método"},
		{"wrong method", "DELETE", "/health", "", 405, ruc.Method, "método"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &rig{Addrs: r.Addrs, t: t}
			req, err := http.NewRequest(tt.method, "http://"+r.HTTP+tt.path, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			status, h, body := r.do(req)
			p := r.problem(h, status, body)
			if status != tt.status || p.Code != tt.code || !strings.Contains(p.Detail, tt.detail) {
				t.Errorf("status %d: %s", status, body)
			}
			if status == http.StatusMethodNotAllowed && h.Get("Allow") == "" {
				t.Error("405 without Allow")
			}
			if h.Get("Cache-Control") != "no-store" {
				t.Errorf("Cache-Control %q", h.Get("Cache-Control"))
			}
		})
	}
	if s := r.stats(); s.Posts != 0 {
		t.Errorf("bad input made %d visits", s.Posts)
	}
	status, _, body := r.lookup(sunat)
	r.answer(sunat, status, body)
}
