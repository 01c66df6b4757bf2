package sunat

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/PuerkitoBio/goquery"

	"github.com/rucflow/rucflow/shared/ruc"
)

// The names of the form's fields that a query for a number fills in, and the value that
// tells such a query from the form's others (search form of e-consultaruc.sunat.gob.pe,
// 2025).
const (
	fieldAction = "accion" // actionByNumber
	fieldNumber = "nroRuc"
	fieldTyped  = "search1" // the number too, as it was typed
	fieldToken  = "token"

	actionByNumber = "consPorRuc"
)

// Form is the search form as SUNAT sent it: what a browser sends of it when its script has
// filled in the query.
type Form struct {
	Action string // address that takes the query, by POST
	fields []formField
}

type formField struct{ name, value string }

// CheckForm reports what a page is that should be the search form; nil where it is. The
// error is as Parse's, of code ruc.Changed for a page of results too.
func CheckForm(p Page) error {
	_, err := formOf(p)
	return err
}

// ReadForm reads the search form. The error is CheckForm's, or of code ruc.Changed where
// the form cannot carry a query.
func ReadForm(p Page) (Form, error) {
	doc, err := formOf(p)
	if err != nil {
		return Form{}, err
	}
	form := doc.Find("form:has(#txtRuc)").First()
	base, err := url.Parse(p.URL)
	if err != nil {
		return Form{}, failure(ruc.Changed, err.Error())
	}
	action, err := base.Parse(form.AttrOr("action", ""))
	if err != nil {
		return Form{}, failure(ruc.Changed, err.Error())
	}
	f := Form{Action: action.String(), fields: successful(form)}
	for _, name := range []string{fieldAction, fieldNumber, fieldTyped, fieldToken} {
		if f.index(name) < 0 {
			return Form{}, failure(ruc.Changed, fmt.Sprintf("the search form has no field %q", name))
		}
	}
	return f, nil
}

func formOf(p Page) (*goquery.Document, error) {
	doc, err := read(p)
	if err != nil || isForm(doc) {
		return doc, err
	}
	if _, err = classify(doc, ruc.Number{}); err != nil {
		return nil, err
	}
	return nil, failure(ruc.Changed, "a page of results")
}

func isForm(doc *goquery.Document) bool { return doc.Find("#txtRuc").Length() > 0 }

// successful are the controls that a browser sends, in document order (HTML, "constructing
// the entry list"), but for those that the search form does not have: text areas, lists of
// several choices, files.
func successful(form *goquery.Selection) (fields []formField) {
	form.Find("input[name], select[name]").Each(func(_ int, s *goquery.Selection) {
		_, disabled := s.Attr("disabled")
		_, checked := s.Attr("checked")
		kind := strings.ToLower(s.AttrOr("type", "text"))
		value := s.AttrOr("value", "")
		switch {
		case disabled:
			return
		case s.Is("select"):
			chosen := s.Find("option[selected]")
			if chosen.Length() == 0 {
				chosen = s.Find("option")
			}
			value = chosen.First().AttrOr("value", chosen.First().Text())
		case kind == "radio" || kind == "checkbox":
			if !checked {
				return
			}
		case kind == "submit" || kind == "button" || kind == "image" || kind == "reset":
			return
		}
		fields = append(fields, formField{s.AttrOr("name", ""), value})
	})
	return fields
}

func (f Form) index(name string) int {
	for i, field := range f.fields {
		if field.name == name {
			return i
		}
	}
	return -1
}

// Query is the body of the POST that asks for n, as application/x-www-form-urlencoded: all
// fields in the form's order. What the query does not fill in keeps the page's value.
func (f Form) Query(n ruc.Number, token string) string {
	filled := map[string]string{fieldAction: actionByNumber, fieldNumber: n.String(), fieldTyped: n.String(), fieldToken: token}
	var b strings.Builder
	for i, field := range f.fields {
		if i > 0 {
			b.WriteByte('&')
		}
		value, ours := filled[field.name]
		if !ours {
			value = field.value
		}
		b.WriteString(url.QueryEscape(field.name) + "=" + url.QueryEscape(value))
	}
	return b.String()
}
