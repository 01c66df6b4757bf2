package sunat_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rucflow/rucflow/scraper/sunat"
	"github.com/rucflow/rucflow/shared/ruc"
)

var asked = ruc.MustParse("20131312955")

// ficha is a small page of rows, in the shape of SUNAT's.
func ficha(rows ...string) string {
	return `<!DOCTYPE html><html><head><title>SUNAT - Consulta RUC</title></head><body><div class="panel">
<div class="list-group">` + strings.Join(rows, "\n") + `</div>
<div class="panel-footer"><small>Fecha consulta: 05/03/2025 11:01</small></div></div><footer>SUNAT</footer></body></html>`
}

func pair(label, value string) string {
	return fmt.Sprintf(`<div class="list-group-item"><h4>%s</h4><p>%s</p></div>`, label, value)
}

const rucRow = `<div class="list-group-item"><h4>N&uacute;mero de RUC:</h4><h4>20131312955 - LA - EMPRESA: S.A.C.:</h4></div>`

// required are the rows without which a page is not the one we know.
func required(but string, more ...string) []string {
	rows := []string{rucRow}
	for label, value := range map[string]string{
		"Tipo Contribuyente:":          "SOCIEDAD ANONIMA",
		"Estado del Contribuyente:":    "ACTIVO",
		"Condición del Contribuyente:": "HABIDO",
	} {
		if label != but {
			rows = append(rows, pair(label, value))
		}
	}
	return append(rows, more...)
}

func TestParse_CodesOfOtherPages(t *testing.T) {
	complete := ficha(required("")...)
	tests := []struct {
		name   string
		status int
		html   string
		code   ruc.Code
	}{
		{"empty", 200, "", ruc.Unavailable},
		{"blank", 200, "<html><body>  \n</body></html>", ruc.Unavailable},
		{"unauthorized text", 200, "<body>No autorizado</body>", ruc.Unavailable},
		{"401", 401, "No autorizado", ruc.Unavailable},
		{"403", 403, "", ruc.Blocked},
		{"429", 429, "", ruc.Blocked},
		{"500 with a complete page", 500, complete, ruc.Unavailable},
		{"503", 503, "", ruc.Unavailable},
		{"firewall", 200, "<title>Request Rejected</title>The requested URL was rejected. Your support ID is: 1", ruc.Blocked},
		{"error page", 200, `<title>.:: Pagina de Error ::.</title><p class="error">Surgieron problemas al procesar</p>`, ruc.Unavailable},
		{"form", 200, `<form id="form01"><input id="txtRuc"></form>`, ruc.Unavailable},
		{"half before the rows", 200, `<title>SUNAT - Consulta RUC</title><div class="container">`, ruc.Unavailable},
		{"half among the rows", 200, complete[:strings.Index(complete, "panel-footer")-12], ruc.Unavailable},
		{"another number", 200, strings.ReplaceAll(complete, "20131312955", "20100055237"), ruc.Changed},
		{"not found of another number", 200, "<strong>El número de RUC 20100055237 consultado no es válido.</strong><footer>", ruc.Changed},
		{"message page", 200, `<title>.:: Pagina de Mensajes ::.</title><p class="error">El codigo ingresado es incorrecto</p>`, ruc.Changed},
		{"no number", 200, ficha(required("")[1:]...), ruc.Changed},
		{"no tipo", 200, ficha(required("Tipo Contribuyente:")...), ruc.Changed},
		{"no estado", 200, ficha(required("Estado del Contribuyente:")...), ruc.Changed},
		{"no condición", 200, ficha(required("Condición del Contribuyente:")...), ruc.Changed},
		{"estado renamed", 200, strings.Replace(complete, "Estado del Contribuyente", "Situación", 1), ruc.Changed},
		{"something else", 200, "<title>nginx</title><h1>Welcome</h1>", ruc.Changed},
		{"beyond the bound", 200, complete + strings.Repeat(" ", 1<<20), ruc.Changed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := sunat.Parse(sunat.Page{Status: tt.status, HTML: tt.html}, asked)
			if ruc.CodeOf(err) != tt.code || got.Found {
				t.Errorf("Parse = %v, %v; want code %q", got.Found, err, tt.code)
			}
		})
	}
}

func TestParse_NotFoundIsAnAnswer(t *testing.T) {
	page := `<div class="panel-body"><strong> El n&uacute;mero de RUC 20131312955 consultado
	no es v&aacute;lido. Debe verificar el número y volver a ingresar. </strong></div><footer></footer>`
	got, err := sunat.Parse(sunat.Page{HTML: page}, asked)
	if err != nil || got.Found {
		t.Errorf("Parse = %v, %v; want not found and no error", got.Found, err)
	}
}

func parse(t *testing.T, rows ...string) sunat.Result {
	t.Helper()
	got, err := sunat.Parse(sunat.Page{Status: 200, HTML: ficha(rows...)}, asked)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestParse_ReadsAPageForItsNumberOnce(t *testing.T) {
	p := sunat.Page{Status: 200, HTML: ficha(required("", pair("Padrones:", "UNO"))...)}.For(asked)
	first, err := sunat.Parse(p, asked)
	if err != nil {
		t.Fatal(err)
	}
	again, err := sunat.Parse(p, asked)
	if err != nil || &first.Record.Padrones[0] != &again.Record.Padrones[0] {
		t.Errorf("read again: %v, %v", again, err)
	}
	if sunat.SessionLost(p, asked) {
		t.Error("an answer is taken for a lost session")
	}
	if _, err := sunat.Parse(p, ruc.MustParse("20100047218")); ruc.CodeOf(err) != ruc.Changed {
		t.Errorf("the page of another number: %v", err)
	}
}

func TestParse_NameIsWhatFollowsTheFirstHyphen(t *testing.T) {
	if got := parse(t, required("")...).Record.RazonSocial; got != "LA - EMPRESA: S.A.C.:" {
		t.Errorf("razón social %q", got)
	}
}

func TestParse_UnknownLabelIsCountedAndTheRecordServed(t *testing.T) {
	got := parse(t, required("", pair("Color Favorito:", "AZUL"), pair("Padrones:", "NINGUNO"))...)
	if diff := cmp.Diff([]string{"Color Favorito:"}, got.Unknown); diff != "" {
		t.Error(diff)
	}
	if !got.Record.Activo || len(got.Record.Padrones) != 0 || len(got.Record.Avisos) != 0 {
		t.Errorf("the unknown row's value leaked into %+v", got.Record)
	}
}

func TestParse_Addresses(t *testing.T) {
	tests := []struct{ in, street, department, province, district, ubigeo string }{
		{"AV. ARGENTINA 4793 PROV. CONST. DEL CALLAO - PROV. CONST. DEL CALLAO - CARMEN DE LA LEGUA REYNOSO",
			"AV. ARGENTINA 4793", "PROV. CONST. DEL CALLAO", "PROV. CONST. DEL CALLAO", "CARMEN DE LA LEGUA REYNOSO", "070103"},
		{"JR. UNO 1 HUANUCO    - LEONCIO PRADO   - RUPA-RUPA", "JR. UNO 1", "HUANUCO", "LEONCIO PRADO", "RUPA-RUPA", "100601"},
		{"AV. A - B 5 LA LIBERTAD - TRUJILLO - TRUJILLO", "AV. A - B 5", "LA LIBERTAD", "TRUJILLO", "TRUJILLO", "130101"},
		{"---- CALLE 1 MADRE DE DIOS - TAMBOPATA - TAMBOPATA", "---- CALLE 1", "MADRE DE DIOS", "TAMBOPATA", "TAMBOPATA", "170101"},
		{"SAN MARTIN - SAN MARTIN - TARAPOTO", "", "SAN MARTIN", "SAN MARTIN", "TARAPOTO", "220901"},
		{"AV. LIMA 3 LIMA - LIMA - DISTRITO NUEVO", "AV. LIMA 3", "LIMA", "LIMA", "DISTRITO NUEVO", ""},
		{"AV. X 1 FLORIDA - MIAMI - DORAL", "AV. X 1 FLORIDA - MIAMI - DORAL", "", "", "", ""},
		{"SIN DATOS", "SIN DATOS", "", "", "", ""},
		{"AV. X LIMA - LIMA", "AV. X LIMA - LIMA", "", "", "", ""},
		{"-", "", "", "", "", ""},
		{"----", "", "", "", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			r := parse(t, required("", pair("Domicilio Fiscal:", tt.in))...).Record
			got := []ruc.Text{r.Direccion, r.Departamento, r.Provincia, r.Distrito, r.Ubigeo}
			want := []ruc.Text{ruc.Text(tt.street), ruc.Text(tt.department), ruc.Text(tt.province), ruc.Text(tt.district), ruc.Text(tt.ubigeo)}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDecode_TrustsTheBytes(t *testing.T) {
	for in, want := range map[string]string{
		"plain":          "plain",
		"a\xf1o":         "año",
		"año":            "año",
		"\x80 \x93q\x94": "€ “q”",
		"":               "",
	} {
		if got := sunat.Decode([]byte(in)); got != want {
			t.Errorf("Decode(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(200, ficha(required("")...))
	f.Add(200, ficha(rucRow, pair("Actividad(es) Económica(s):", "Principal - 1 - X"), pair("Emisor electrónico desde:", "99/99/9999")))
	f.Add(200, "<title>Request Rejected")
	f.Add(503, "")
	f.Fuzz(func(t *testing.T, status int, html string) {
		got, err := sunat.Parse(sunat.Page{Status: status, HTML: html}, asked)
		if err != nil {
			if code := ruc.CodeOf(err); code != ruc.Blocked && code != ruc.Unavailable && code != ruc.Changed {
				t.Errorf("code %q", code)
			}
			return
		}
		if got.Found && (got.Record.Estado == "" || got.Record.Condicion == "" || got.Record.TipoContribuyente == "") {
			t.Error("a record without a required value")
		}
		if !got.Found && !strings.Contains(html, asked.String()) {
			t.Error("not found from a page that does not name the number")
		}
	})
}
