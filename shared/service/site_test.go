package service_test

import (
	"strings"
	"testing"

	"github.com/rucflow/rucflow/shared/service"
)

func TestSite_Check(t *testing.T) {
	for _, tt := range []struct{ url, refused string }{
		{"https://e-consultaruc.sunat.gob.pe/form.jsp", ""},
		{"https://example.com/form", ""},
		{"http://127.0.0.1:8088/form", ""},
		{"http://[::1]:8088/form", ""},
		{"http://10.1.2.3/form", ""},
		{"http://localhost/form", ""},
		{"http://replica:8088/form", ""},
		{"http://replica.internal/form", ""},
		{"http://e-consultaruc.sunat.gob.pe/form.jsp", "plain http"},
		{"http://8.8.8.8/form", "plain http"},
		{"http://169.254.169.254/latest", "plain http"},
		{"http://0.0.0.0/form", "plain http"},
		{"https://user:hunter2@example.com/form", "user or password"},
		{"http://:8088/form", "not an http(s) address"},
		{"file:///etc/passwd", "not an http(s) address"},
		{"javascript:alert(1)", "not an http(s) address"},
		{"sunat", "not an http(s) address"},
		{"https://exa mple.com/", "not an http(s) address"},
	} {
		err := service.Site{URL: tt.url}.Check()
		if (err == nil) != (tt.refused == "") || err != nil && !strings.Contains(err.Error(), tt.refused) {
			t.Errorf("%s: %v, want %q", tt.url, err, tt.refused)
		}
		if err != nil && (!strings.Contains(err.Error(), "SUNAT_URL") || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%s: %v", tt.url, err)
		}
	}
}
