package sunat_test

import (
	"errors"
	"testing"

	"github.com/rucflow/rucflow/scraper/sunat"
	"github.com/rucflow/rucflow/shared/ruc"
)

func TestCheckForm_TellsWhatCameInstead(t *testing.T) {
	for name, tc := range map[string]struct {
		page sunat.Page
		want ruc.Code // "" = it is the form
	}{
		"the form":          {sunat.Page{Status: 200, HTML: `<form><input id="txtRuc"></form>`}, ""},
		"the firewall":      {sunat.Page{Status: 200, HTML: `<title>Request Rejected</title>`}, ruc.Blocked},
		"refused":           {sunat.Page{Status: 429, HTML: `<input id="txtRuc">`}, ruc.Blocked},
		"the error page":    {sunat.Page{Status: 200, HTML: `<title>.:: Pagina de Error ::.</title>`}, ruc.Unavailable},
		"out of order":      {sunat.Page{Status: 503}, ruc.Unavailable},
		"an empty page":     {sunat.Page{Status: 200}, ruc.Unavailable},
		"some other page":   {sunat.Page{Status: 200, HTML: `<p>router`}, ruc.Changed},
		"an answer":         {sunat.Page{Status: 200, HTML: `<p>El numero de RUC 00000000000 consultado no es válido`}, ruc.Changed},
		"more than a page":  {sunat.Page{Status: 200, HTML: `<input id="txtRuc">` + string(make([]byte, sunat.MaxPageBytes))}, ruc.Changed},
		"a page of results": {sunat.Page{Status: 200, HTML: `<div class="list-group"></div><footer></footer>`}, ruc.Changed},
	} {
		t.Run(name, func(t *testing.T) {
			err := sunat.CheckForm(tc.page)
			var known *ruc.Error
			if (err == nil) != (tc.want == "") || err != nil && (!errors.As(err, &known) || known.Code != tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}
