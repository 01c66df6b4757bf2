package prewarm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	first  = "20131312955"
	second = "20100055237"
	person = "10000000011"
)

func TestRead(t *testing.T) {
	long := strings.Repeat("x", maxLineBytes)
	for name, tc := range map[string]struct {
		text, column string
		want         []string
		again        int
		invalid      []string // the begin of each
		err          string
	}{
		"plain":              {text: first + "\n" + second + "\n", want: []string{first, second}},
		"no last line end":   {text: first + "\n" + second, want: []string{first, second}},
		"Windows":            {text: "\ufeff" + first + "\r\n\r\n" + second + "\r\n", want: []string{first, second}},
		"blanks, comments":   {text: "# suppliers\n\n  " + first + " \n \n# end\n", want: []string{first}},
		"twice":              {text: first + "\n" + second + "\n" + first + "\n", want: []string{first, second}, again: 1},
		"a name above":       {text: "RUC\n" + first + "\n", want: []string{first}},
		"quoted":             {text: `"` + first + `","Uno, Dos"` + "\n", want: []string{first}},
		"column 2":           {text: "name,ruc\nA," + first + "\n\"B, C\"," + second + "\n", column: "2", want: []string{first, second}},
		"semicolons, a name": {text: "\ufeffRazón social;Ruc\r\nA, B;" + first + "\r\n", column: "RUC", want: []string{first}},
		"an open quote":      {text: `"` + first + "\n" + second + "\n", want: []string{first, second}},
		"cell of two lines":  {text: first + ";\"Av. Uno\nLima\"\n" + second + ";x\n", want: []string{first, second}, invalid: []string{`line 2: "Lima\""`}},
		"wrong numbers": {
			text: first + "\n20123456789\nabc\n\x1b[31m" + second + "\n", want: []string{first},
			invalid: []string{`line 2: "20123456789": El RUC 20123456789 no es válido: el dígito de verificación es 9 y debería ser 6.`, `line 3: "abc": El formato`, `line 4: "\x1b[31m`},
		},
		"no such cell":   {text: "a,b\n" + first + "\nx," + second + "\n", column: "b", want: []string{second}, invalid: []string{`line 2: "` + first + `": La línea no tiene la columna 2.`}},
		"a long line":    {text: first + "\n" + long + "\n" + second + "\n", want: []string{first, second}, invalid: []string{`line 2: "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx": La línea tiene más de 65536 bytes.`}},
		"a longer line":  {text: first + long + long + "\n" + second, want: []string{second}, invalid: []string{"line 1: "}},
		"nothing":        {},
		"column 0":       {text: first, column: "0", err: "they count from 1"},
		"no such column": {text: "a;b\n1;2\n", column: "ruc", err: `line 1: there is no column "ruc", but ["a" "b"]`},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.column == "" {
				tc.column = "1"
			}
			l, err := read(strings.NewReader(tc.text), tc.column)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("%v", err)
				}
				return
			}
			var got, invalid []string
			for _, n := range l.numbers {
				got = append(got, n.String())
			}
			for i, b := range l.invalid {
				invalid = append(invalid, b.String())
				if i < len(tc.invalid) && strings.HasPrefix(invalid[i], tc.invalid[i]) {
					invalid[i] = tc.invalid[i]
				}
			}
			if diff := cmp.Diff(tc.want, got) + cmp.Diff(tc.invalid, invalid); err != nil || diff != "" || l.again != tc.again {
				t.Errorf("%v, again %d, (-want +got):\n%s", err, l.again, diff)
			}
		})
	}
}

func TestReadFile_NamesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list.csv")
	if _, err := readFile(path, "1", nil); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readFile(path, "ruc", nil); err == nil || !strings.HasPrefix(err.Error(), path+": line 1") {
		t.Error(err)
	}
	l, err := readFile("-", "1", strings.NewReader(first))
	if err != nil || len(l.numbers) != 1 {
		t.Errorf("%v, %v", l, err)
	}
}
