package admin_test

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/rucflow/rucflow/deploy/admin"
	"github.com/rucflow/rucflow/shared/service"
)

func TestHealth_PrintsAlignedWords(t *testing.T) {
	for name, tc := range map[string]struct {
		status      int
		reply       string
		out, failed string
	}{
		"healthy": {200, `{"status":"healthy","scrapers":2,"hitRate":0.5,"queue":null}`,
			"status    healthy\nscrapers  2\nhitRate   0.5\nqueue     unknown\n", ""},
		"degraded":          {200, `{"status":"degraded"}`, "status  degraded\n", "not healthy"},
		"refused":           {401, `{"status":401}`, "", "does not answer as a gateway does: status 401"},
		"some other server": {200, `<html>`, "", "does not answer as a gateway does"},
	} {
		t.Run(name, func(t *testing.T) {
			url, _ := gateway(t, tc.status, tc.reply)
			var out strings.Builder
			err := admin.Health(t.Context(), url, &out)
			if out.String() != tc.out || (err == nil) != (tc.failed == "") || err != nil && !strings.Contains(err.Error(), tc.failed) {
				t.Errorf("%v, %q", err, out.String())
			}
		})
	}
	var out strings.Builder
	if err := admin.Health(t.Context(), "localhost:8000", &out); !errors.Is(err, service.ErrUsage) {
		t.Error(err)
	}
	if err := admin.Health(t.Context(), "http://127.0.0.1:1", &out); err == nil {
		t.Error("nobody answers, and nothing was said")
	}
}

func TestVersion_NamesTheServicesThatAnswer(t *testing.T) {
	b := newBus(t)
	b.serve(nil)
	var out, errs strings.Builder
	if err := admin.Version(t.Context(), b.cfg, &out, &errs); err != nil || errs.Len() > 0 {
		t.Errorf("%v, %q", err, errs.String())
	}
	for _, want := range []string{"rucflow ", "ruc-gateway ", service.Version, runtime.Version()} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s has no %q", out.String(), want)
		}
	}
	out.Reset()
	b.cfg.URL = "nats://127.0.0.1:1"
	if err := admin.Version(t.Context(), b.cfg, &out, &errs); err != nil || strings.Count(out.String(), "\n") != 2 || !strings.Contains(errs.String(), "were not asked") {
		t.Errorf("%v, %q, %q", err, out.String(), errs.String())
	}
}
