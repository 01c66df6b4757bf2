package prewarm

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// maxLineBytes bounds a line; what is longer is no line of a list.
const maxLineBytes = 64 << 10

// list is what a file says.
type list struct {
	numbers []ruc.Number // each once, in the file's order
	again   int          // lines that repeat one
	invalid []badLine
}

// badLine is a line without a number.
type badLine struct {
	line   int
	text   string // what stands where the number should
	reason string // Spanish, for who made the list
}

// shownText bounds what is quoted of a line.
const shownText = 40

func (b badLine) String() string {
	return fmt.Sprintf("line %d: %.*q: %s", b.line, shownText, b.text, b.reason)
}

// readFile reads the list at path, "-" being in.
func readFile(path, column string, in io.Reader) (list, error) {
	if path == "-" {
		return read(in, column)
	}
	f, err := os.Open(path)
	if err != nil {
		return list{}, err
	}
	defer func() { _ = f.Close() }() // it was only read
	l, err := read(f, column)
	if err != nil {
		return list{}, fmt.Errorf("%s: %w", path, err)
	}
	return l, nil
}

// read reads numbers, one a line: a plain list, or CSV with commas or, as Excel writes it
// where the comma is the decimal sign, semicolons; the first line that is not blank tells.
// A column that is no number is the name in that line. Blank lines and those that begin
// with # are passed over, and so is a first line without a digit where the number should
// be: names of columns. Each line is read by itself, so that a quote that is never closed
// spoils its own line and not the rest of the file.
func read(in io.Reader, column string) (l list, err error) {
	lines := bufio.NewReaderSize(in, maxLineBytes)
	var where *columns
	seen := map[ruc.Number]bool{}
	for line := 1; ; line++ {
		text, long, err := nextLine(lines)
		if errors.Is(err, io.EOF) {
			return l, nil
		}
		if err != nil {
			return list{}, err
		}
		if line == 1 {
			text = strings.TrimPrefix(text, "\ufeff") // as Windows begins a text
		}
		if text = strings.TrimSpace(text); text == "" || text[0] == '#' {
			continue
		}
		if where == nil {
			var names bool
			if where, names, err = columnsOf(text, column); err != nil {
				return list{}, fmt.Errorf("line %d: %w", line, err)
			}
			if names {
				continue
			}
		}
		cell, n, reason := where.number(text)
		switch {
		case long:
			l.invalid = append(l.invalid, badLine{line, cell, fmt.Sprintf("La línea tiene más de %d bytes.", maxLineBytes)})
		case reason != "":
			l.invalid = append(l.invalid, badLine{line, cell, reason})
		case seen[n]:
			l.again++
		default:
			seen[n] = true
			l.numbers = append(l.numbers, n)
		}
	}
}

// columns says where in a line the number is.
type columns struct {
	separator rune
	place     int // from 0
}

// columnsOf looks at the first line of a list; names tells that it is no line of its own.
func columnsOf(line, column string) (c *columns, names bool, err error) {
	c = &columns{separator: ','}
	if strings.Contains(line, ";") {
		c.separator = ';'
	}
	cells := c.split(line)
	count, err := strconv.Atoi(column)
	if err != nil {
		c.place = slices.IndexFunc(cells, func(name string) bool { return strings.EqualFold(name, column) })
		if c.place < 0 {
			return nil, false, fmt.Errorf("there is no column %q, but %q", column, cells)
		}
		return c, true, nil
	}
	if c.place = count - 1; c.place < 0 {
		return nil, false, fmt.Errorf("there is no column %d: they count from 1", count)
	}
	return c, c.place < len(cells) && !strings.ContainsAny(cells[c.place], "0123456789"), nil
}

// number returns a line's number, or what stands in its place and why that is none.
func (c *columns) number(line string) (cell string, n ruc.Number, reason string) {
	cells := c.split(line)
	if c.place >= len(cells) {
		return line, ruc.Number{}, fmt.Sprintf("La línea no tiene la columna %d.", c.place+1)
	}
	cell = cells[c.place]
	n, err := ruc.Parse(cell)
	if err != nil {
		reason = wire.NewProblem(ruc.Number{}, err).Detail
	}
	return cell, n, reason
}

// split returns the cells of a line. A quote where none should be stands for itself, and
// one that is not closed ends with the line.
func (c *columns) split(line string) []string {
	r := csv.NewReader(strings.NewReader(line))
	r.Comma, r.LazyQuotes = c.separator, true
	cells, err := r.Read()
	if err != nil {
		return []string{line} // which is then said to be no number
	}
	for i, cell := range cells {
		cells[i] = strings.TrimSpace(cell)
	}
	return cells
}

// nextLine returns a line without its end. Of one that is too long it returns the begin.
func nextLine(in *bufio.Reader) (text string, long bool, err error) {
	b, long, err := in.ReadLine()
	if err != nil {
		return "", false, err
	}
	text = string(b)
	for more := long; more; {
		if _, more, err = in.ReadLine(); err != nil && !errors.Is(err, io.EOF) {
			return "", false, err
		}
	}
	return text, long, nil
}
