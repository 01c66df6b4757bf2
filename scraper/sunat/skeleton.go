package sunat

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/html"
)

const (
	// maxSkeletonBytes bounds what is kept of a page. That of a real one has 20 KB.
	maxSkeletonBytes = 128 << 10
	maxNameBytes     = 64
)

// Skeleton returns a page's structure without what it says of anybody: its elements,
// the labels that the parser knows, and in place of every other text its length in
// characters, as in ‹23›. Of attributes the names stay, and the values of those that
// the parser could use. It tells what SUNAT changed, and holds no
// personal data.
func Skeleton(page string) string {
	var b strings.Builder
	z := html.NewTokenizer(strings.NewReader(page))
	for b.Len() < maxSkeletonBytes {
		switch z.Next() {
		case html.ErrorToken:
			return b.String()
		case html.TextToken:
			writeText(&b, string(z.Text()))
		case html.StartTagToken, html.SelfClosingTagToken:
			writeTag(&b, z.Token())
		case html.EndTagToken:
			name, _ := z.TagName()
			b.WriteString("</" + structural(string(name)) + ">")
		case html.CommentToken:
			b.WriteString("<!--" + length(string(z.Text())) + "-->")
		case html.DoctypeToken:
			b.WriteString("<!doctype>")
		}
	}
	b.WriteString("\n‹cut›")
	return b.String()
}

// writeText writes a text that is a known label, the length of any other, and the line
// ends around it.
func writeText(b *strings.Builder, text string) {
	trimmed := strings.TrimSpace(text)
	if trimmed != "" {
		if _, known := labels[fold(strings.TrimSpace(strings.TrimSuffix(trimmed, ":")))]; known {
			b.WriteString(html.EscapeString(trimmed))
		} else {
			b.WriteString(length(trimmed))
		}
	}
	if strings.Contains(text, "\n") {
		b.WriteByte('\n')
	}
}

func writeTag(b *strings.Builder, t html.Token) {
	b.WriteString("<" + structural(t.Data))
	for _, a := range t.Attr {
		b.WriteString(" " + structural(a.Key))
		switch a.Key {
		case "id", "class", "name", "type":
			b.WriteString(`="` + structural(a.Val) + `"`)
		default:
			if a.Val != "" {
				b.WriteString(`="` + length(a.Val) + `"`)
			}
		}
	}
	if t.Type == html.SelfClosingTagToken {
		b.WriteString("/")
	}
	b.WriteString(">")
}

// structural returns a name as the page's author gave it, or its length where it does
// not look like one: a few digits belong to names, many are a number.
func structural(name string) string {
	digits := 0
	for _, r := range name {
		switch {
		case unicode.IsDigit(r):
			digits++
		case r > unicode.MaxASCII || !unicode.IsLetter(r) && !strings.ContainsRune("-_:. ", r):
			return length(name)
		}
	}
	if digits > 3 || len(name) > maxNameBytes {
		return length(name)
	}
	return name
}

func length(text string) string {
	return "‹" + strconv.Itoa(utf8.RuneCountInString(text)) + "›"
}
