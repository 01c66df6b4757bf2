package sunat_test

import (
	"errors"
	"strings"
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

const form = `<div><form action="/other"><input name="no" value="1"></form>
<form method="post" action="jcrS00Alias">
 <input type="hidden" name="accion"><input type="hidden" name="nroRuc" value="x"><input type="hidden" name="token">
 <input type="hidden" name="contexto" value="ti-it"><INPUT TYPE="HIDDEN" name="&ntilde; &amp;" value="a+b ">
 <input type="radio" name="tipo" value="1"><input type="radio" name="tipo" value="2" checked><input type="checkbox" name="box">
 <select name="chosen"><option value="1"><option value="4" selected></select><select name="first"><option>D N I<option value="4"></select>
 <input id="txtRuc" name="search1" value="typed"><input name="codigo"><input name="off" disabled><input id="unnamed">
 <input type="submit" name="send"><input type="image" name="picture"><button name="button">
</form></div>`

// TestForm_QueryIsWhatABrowserSends: the order and the values that Chromium sends of this
// form, with the query filled in.
func TestForm_QueryIsWhatABrowserSends(t *testing.T) {
	f, err := sunat.ReadForm(sunat.Page{URL: "https://e-consultaruc.sunat.gob.pe/cl/Frame.jsp?x=1", Status: 200, HTML: form})
	if err != nil {
		t.Fatal(err)
	}
	if want := "https://e-consultaruc.sunat.gob.pe/cl/jcrS00Alias"; f.Action != want {
		t.Errorf("action %q, want %q", f.Action, want)
	}
	want := "accion=consPorRuc&nroRuc=20131312955&token=t0ken&contexto=ti-it&%C3%B1+%26=a%2Bb+" +
		"&tipo=2&chosen=4&first=D+N+I&search1=20131312955&codigo="
	if got := f.Query(ruc.MustParse("20131312955"), "t0ken"); got != want {
		t.Errorf("query\n%s, want\n%s", got, want)
	}
}

func TestReadForm_RefusesAFormThatCannotAsk(t *testing.T) {
	for name, page := range map[string]string{
		"without a token":     `<form><input name="accion"><input name="nroRuc"><input id="txtRuc" name="search1"></form>`,
		"the token elsewhere": `<form><input name="token"></form><form><input name="accion"><input name="nroRuc"><input id="txtRuc" name="search1"></form>`,
		"no form around it":   `<input name="accion"><input name="nroRuc"><input name="token"><input id="txtRuc" name="search1">`,
		"a bad address":       strings.Replace(form, "jcrS00Alias", "http://[", 1),
	} {
		t.Run(name, func(t *testing.T) {
			f, err := sunat.ReadForm(sunat.Page{URL: "http://127.0.0.1/", Status: 200, HTML: page})
			if ruc.CodeOf(err) != ruc.Changed {
				t.Errorf("%v, %+v", err, f)
			}
		})
	}
}
