package sunat

import (
	_ "embed"
	"slices"
	"strings"
	"sync"
	"unicode"

	"golang.org/x/text/unicode/norm"

	"github.com/rucflow/rucflow/shared/ruc"
)

// address is a "Domicilio Fiscal" taken apart.
type address struct{ street, department, province, district, ubigeo ruc.Text }

const addressSeparator = " - "

// splitAddress takes an address with collapsed blanks apart. Its form is
// "<street> <DEPARTMENT> - <PROVINCE> - <DISTRICT>": the department is glued to the
// street, so its name is matched at the end of the left part, the longest first
// ("PROV. CONST. DEL CALLAO" before "CALLAO"). Streets may contain " - " themselves
// and districts a bare hyphen, so it is split from the right, on " - ", twice. An
// address that does not fit is all street.
func splitAddress(s string) address {
	whole := address{street: ruc.Text(s)}
	rest, district, ok := cutLast(s)
	if !ok {
		return whole
	}
	left, province, ok := cutLast(rest)
	if !ok || district == "" || province == "" {
		return whole
	}
	street, department, ok := cutDepartment(left)
	if !ok {
		return whole
	}
	return address{
		street:     ruc.Text(present(street)),
		department: ruc.Text(department),
		province:   ruc.Text(province),
		district:   ruc.Text(district),
		ubigeo:     ruc.Text(ubigeo(department, province, district)),
	}
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndex(s, addressSeparator)
	if i < 0 {
		return "", "", false
	}
	return strings.TrimSpace(s[:i]), strings.TrimSpace(s[i+len(addressSeparator):]), true
}

// cutDepartment cuts a department's name off the end of s.
func cutDepartment(s string) (street, department string, ok bool) {
	words := strings.Fields(s)
	names := territory().departments
	for take := min(maxDepartmentWords, len(words)); take > 0; take-- {
		at := len(words) - take
		name := strings.Join(words[at:], " ")
		if slices.Contains(names, key(name)) {
			return strings.Join(words[:at], " "), name, true
		}
	}
	return "", "", false
}

// maxDepartmentWords is the length of "PROV. CONST. DEL CALLAO".
const maxDepartmentWords = 4

// callao is how SUNAT names the department that INEI's table calls Callao.
const callao = "PROV. CONST. DEL CALLAO"

//go:embed ubigeo/districts.tsv
var districts string

// territories is INEI's table in a form to search.
type territories struct {
	departments []string          // keys
	ubigeos     map[string]string // by department, province and district
}

// territory parses the table once; 1,867 lines take about 2 ms.
var territory = sync.OnceValue(func() territories {
	t := territories{ubigeos: map[string]string{}}
	seen := map[string]bool{}
	add := func(department, province, district, code string) {
		t.ubigeos[districtKey(department, province, district)] = code
		if k := key(department); !seen[k] {
			seen[k] = true
			t.departments = append(t.departments, k)
		}
	}
	for line := range strings.Lines(districts) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		add(f[1], f[2], f[3], f[0])
		if key(f[1]) == "callao" {
			add(callao, f[2], f[3], f[0])
		}
	}
	return t
})

// ubigeo returns INEI's six-digit code of a district, "" where the table has none.
// The district's name alone would be ambiguous.
func ubigeo(department, province, district string) string {
	return territory().ubigeos[districtKey(department, province, district)]
}

func districtKey(department, province, district string) string {
	return key(department) + "|" + key(province) + "|" + key(district)
}

// key folds a place name for comparison: letters and digits only.
func key(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return r
		}
		return -1
	}, fold(name))
}

// fold lowers case and removes accents (ñ becomes n), for comparison only.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.Is(unicode.Mn, r) {
			return -1
		}
		return unicode.ToLower(r)
	}, norm.NFD.String(s))
}
