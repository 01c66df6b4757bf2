package sunat_test

import (
	"testing"

	"github.com/rucflow/rucflow/scraper/sunat"
)

func TestForeign(t *testing.T) {
	const real, local = "https://e-consultaruc.sunat.gob.pe/form", "http://127.0.0.1:8088/form"
	for _, tt := range []struct {
		site, address string
		want          bool
	}{
		{real, "https://e-consultaruc.sunat.gob.pe/other", false},
		{real, "https://www.sunat.gob.pe/error", false},
		{real, "http://www.sunat.gob.pe/error", true},
		{real, "https://sunat.gob.pe.example/", true},
		{real, "https://127.0.0.1/", true},
		{real, "about:blank", false},
		{local, "http://127.0.0.1:8088/result", false},
		{local, "http://127.0.0.1:9000/", true},
		{local, "https://www.sunat.gob.pe/", true},
	} {
		if got := sunat.Foreign(tt.site, tt.address); got != tt.want {
			t.Errorf("from %s to %s: %t", tt.site, tt.address, got)
		}
	}
}
