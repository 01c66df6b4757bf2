package sunat

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/PuerkitoBio/goquery"
	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"

	"github.com/rucflow/rucflow/shared/ruc"
)

// Result is what a page says of the number asked.
type Result struct {
	Found  bool
	Record ruc.Record // valid when Found
	// Unknown are labels, or labels of values, that the parser does not know. The
	// record is served without them.
	Unknown []string
}

// MaxPageBytes bounds what is parsed. Real pages have 30 KB.
const MaxPageBytes = 1 << 20

// Parse reads a page that was got by asking for n. The error is a *ruc.Error:
//
//   - ruc.Blocked: the firewall's page, or status 403 or 429
//   - ruc.Unavailable: SUNAT's error page, another error status, the search form
//     again, an empty page or half a page
//   - ruc.Changed: no rule fits, a required row is missing, or the page names
//     another number
//
// It is safe for concurrent use and never panics, whatever the page holds.
func Parse(p Page, n ruc.Number) (Result, error) {
	if p.reading != nil && p.reading.number == n {
		return p.reading.parse()
	}
	return parse(p, n)
}

func parse(p Page, n ruc.Number) (Result, error) {
	doc, err := read(p)
	if err != nil {
		return Result{}, err
	}
	return classify(doc, n)
}

// SessionLost reports whether a page that was got by asking for n may have come because
// SUNAT no longer knows the session. Any but an answer may: its error page and the search
// form say so by themselves, and after empty and half pages others found that a new session
// helps.
func SessionLost(p Page, n ruc.Number) bool {
	_, err := Parse(p, n)
	return err != nil
}

func read(p Page) (*goquery.Document, error) {
	switch {
	case p.Status == http.StatusForbidden || p.Status == http.StatusTooManyRequests:
		return nil, failure(ruc.Blocked, fmt.Sprintf("status %d", p.Status))
	case p.Status >= http.StatusBadRequest:
		return nil, failure(ruc.Unavailable, fmt.Sprintf("status %d", p.Status))
	case len(p.HTML) > MaxPageBytes:
		return nil, failure(ruc.Changed, "a page beyond 1 MiB")
	}
	doc, err := goquery.NewDocumentFromReader(strings.NewReader(p.HTML))
	if err != nil {
		return nil, failure(ruc.Changed, err.Error())
	}
	return doc, nil
}

func failure(code ruc.Code, why string) error {
	return &ruc.Error{Code: code, Err: errors.New("sunat.Parse: " + why)}
}

// The sentences by which SUNAT's other pages are told (folded).
const (
	wafTitle     = "request rejected"
	wafSentence  = "your support id is"
	errorTitle   = "pagina de error"
	errorText    = "surgieron problemas"
	unauthorized = "no autorizado"
)

// notRegistered is the sentence that a number does not exist. It names the number,
// and only that makes it an answer.
var notRegistered = regexp.MustCompile(`numero de ruc\s+(\d{11})\s+consultado no es valido`)

// classify tells the page's kind, the unmistakable kinds first.
func classify(doc *goquery.Document, n ruc.Number) (Result, error) {
	title := fold(doc.Find("title").First().Text())
	switch {
	case strings.Contains(title, wafTitle):
		return Result{}, failure(ruc.Blocked, "the firewall's page")
	case strings.Contains(title, errorTitle):
		return Result{}, failure(ruc.Unavailable, "the error page")
	}
	if list := doc.Find("div.list-group").First(); list.Length() > 0 {
		return ficha(doc, list, n)
	}
	text := fold(strings.Join(strings.Fields(doc.Text()), " "))
	switch {
	case strings.Contains(text, wafSentence):
		return Result{}, failure(ruc.Blocked, "the firewall's page")
	case strings.Contains(text, errorText):
		return Result{}, failure(ruc.Unavailable, "the error page")
	}
	if m := notRegistered.FindStringSubmatch(text); m != nil {
		if m[1] != n.String() {
			return Result{}, failure(ruc.Changed, "the not-found page of another number")
		}
		return Result{}, nil
	}
	switch {
	case isForm(doc):
		return Result{}, failure(ruc.Unavailable, "the search form again")
	case text == "" || text == unauthorized:
		return Result{}, failure(ruc.Unavailable, "an empty or unauthorized page")
	case strings.Contains(title, "consulta ruc") && !complete(doc):
		return Result{}, failure(ruc.Unavailable, "half a page")
	}
	return Result{}, failure(ruc.Changed, "a page by no rule")
}

// complete reports whether the page came to its end: its footer stands there.
func complete(doc *goquery.Document) bool { return doc.Find("footer").Length() > 0 }

// ficha reads the page with the taxpayer's rows.
func ficha(doc *goquery.Document, list *goquery.Selection, n ruc.Number) (Result, error) {
	if doc.Find(".panel-footer").Length() == 0 && !complete(doc) {
		return Result{}, failure(ruc.Unavailable, "half a page")
	}
	r, notices := readRows(list)
	name, err := identify(r.rows[fieldRUC], n)
	if err != nil {
		return Result{}, err
	}
	for _, f := range required[1:] {
		if r.rows[f].text() == "" {
			return Result{}, failure(ruc.Changed, "a required row is missing")
		}
	}
	rec := r.record(n, name)
	rec.Avisos = append(rec.Avisos, notices...)
	rec.FechaConsultaSunat = consulted(doc)
	return Result{Found: true, Record: rec, Unknown: r.unknown}, nil
}

// identify checks that the first row names the number asked: with a shared tab a
// page left over from the lookup before is the classic wrong answer. The name may
// contain " - " itself, so only the first one separates.
func identify(r row, n ruc.Number) (name string, err error) {
	if len(r) == 0 {
		return "", failure(ruc.Changed, "no row with the number")
	}
	number, name, _ := strings.Cut(r[0].text(), " - ")
	if strings.TrimSpace(number) != n.String() {
		return "", failure(ruc.Changed, "a page of another number")
	}
	return strings.TrimSpace(name), nil
}

// readRows walks the list in document order. A heading that ends in a colon opens
// a row; the headings, paragraphs and table cells after it are its values.
// Paragraphs before the first row, or after the row of the number, belong to no
// row: they are notices.
func readRows(list *goquery.Selection) (r *reader, notices []string) {
	r = &reader{rows: map[field]row{}}
	const none = field(-1)
	current := none
	unknown := false
	list.Find("h4, p, td").Each(func(_ int, s *goquery.Selection) {
		c := readCell(s.Get(0))
		text := c.text()
		// The number's own value is a heading too; a name may end in a colon.
		isLabel := s.Is("h4") && strings.HasSuffix(text, ":") && (current != fieldRUC || len(r.rows[fieldRUC]) > 0)
		switch {
		case isLabel:
			f, known := labels[fold(strings.TrimSpace(strings.TrimSuffix(text, ":")))]
			if unknown = !known; unknown {
				current = none
				r.odd(text)
				return
			}
			if current = f; r.rows[f] == nil {
				r.rows[f] = row{}
			}
		case unknown || len(c) == 0:
		case current == none || current == fieldRUC && len(r.rows[fieldRUC]) > 0:
			if t := present(text); t != "" {
				notices = append(notices, t)
			}
		default:
			r.rows[current] = append(r.rows[current], c)
		}
	})
	return r, notices
}

// readCell returns the lines of an element: line ends in the source and <br> both
// break; blanks are collapsed; comments do not count.
func readCell(n *html.Node) cell {
	var b strings.Builder
	var walk func(*html.Node)
	walk = func(n *html.Node) {
		switch {
		case n.Type == html.TextNode:
			b.WriteString(n.Data)
		case n.Type == html.ElementNode && n.DataAtom == atom.Br:
			b.WriteByte('\n')
		}
		for child := n.FirstChild; child != nil; child = child.NextSibling {
			walk(child)
		}
	}
	walk(n)
	var c cell
	for line := range strings.SplitSeq(strings.ReplaceAll(b.String(), "\r", "\n"), "\n") {
		if line = strings.Join(strings.Fields(line), " "); line != "" {
			c = append(c, line)
		}
	}
	return c
}

var consultedAt = regexp.MustCompile(`Fecha consulta:\s*(\d{2}/\d{2}/\d{4} \d{2}:\d{2})`)

// consulted reads the minute at the foot of the page, which is Lima's.
func consulted(doc *goquery.Document) *time.Time {
	m := consultedAt.FindStringSubmatch(doc.Find(".panel-footer").First().Text())
	if m == nil {
		return nil
	}
	t, err := time.ParseInLocation("02/01/2006 15:04", m[1], ruc.Lima)
	if err != nil {
		return nil
	}
	return &t
}
