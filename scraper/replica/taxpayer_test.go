package replica

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/PuerkitoBio/goquery"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/text/encoding/charmap"
	"pgregory.net/rapid"

	"github.com/rucflow/rucflow/shared/ruc"
)

var renderedAt = time.Date(2026, 3, 4, 1, 2, 3, 4, time.UTC) // the evening before, in Lima

// unexported compares taxpayers whole.
var unexported = cmp.Exporter(func(reflect.Type) bool { return true })

// parsed is a page as a browser sees it.
func parsed(t interface{ Fatal(...any) }, page []byte) *goquery.Document {
	doc, err := goquery.NewDocumentFromReader(charmap.ISO8859_1.NewDecoder().Reader(bytes.NewReader(page)))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestCases_HaveDistinctValidNumbersThatLookupFinds(t *testing.T) {
	seenNumber, seenName := map[ruc.Number]bool{}, map[string]bool{}
	for _, c := range Cases() {
		if _, err := ruc.Parse(c.Number.String()); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
		if seenNumber[c.Number] || seenName[c.Name] {
			t.Errorf("%s, %s: twice", c.Name, c.Number)
		}
		seenNumber[c.Number], seenName[c.Name] = true, true
		got, found := Lookup(c.Number)
		if !found || c.Taxpayer.Number != c.Number {
			t.Errorf("%s: Lookup(%s) finds %s", c.Name, c.Number, got.Number)
		}
		if diff := cmp.Diff(c.Taxpayer, got, unexported); diff != "" {
			t.Errorf("%s: Lookup differs:\n%s", c.Name, diff)
		}
	}
	for _, number := range []string{sunat, knownNumber} {
		if !seenNumber[ruc.MustParse(number)] {
			t.Errorf("no case for %s", number)
		}
	}
}

func TestLookup_IsDeterministicAndLeavesSomeOut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := ruc.FromPrefix(rapid.StringMatching(`(10|15|16|17|20)[0-9]{8}`).Draw(t, "prefix"))
		first, found := Lookup(n)
		again, _ := Lookup(n)
		if diff := cmp.Diff(first, again, unexported); diff != "" {
			t.Fatalf("Lookup(%s) differs:\n%s", n, diff)
		}
		reserved := strings.HasPrefix(n.String(), unknownPrefix) && n.String() != knownNumber || n.String() == unregistered
		if found == reserved {
			t.Fatalf("Lookup(%s) found = %v", n, found)
		}
	})
	for number, want := range map[string]bool{
		unregistered: false, ruc.FromPrefix("2099123456").String(): false, knownNumber: true, sunat: true, "20123456786": true,
	} {
		if _, found := Lookup(ruc.MustParse(number)); found != want {
			t.Errorf("Lookup(%s) found = %v, want %v", number, found, want)
		}
	}
	if _, found := Lookup(ruc.Number{}); found {
		t.Error("the zero Number is found")
	}
}

// TestTaxpayers_KeepTheRulesOfTheRecord checks what must hold of every taxpayer
// and its page, whoever parses it.
func TestTaxpayers_KeepTheRulesOfTheRecord(t *testing.T) {
	for _, c := range Cases() {
		checkTaxpayer(t, c.Taxpayer)
	}
	for seed := range uint64(500) {
		checkTaxpayer(t, Generate(seed))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func checkTaxpayer(t *testing.T, tp Taxpayer) {
	t.Helper()
	r := tp.Record
	encoded, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := charmap.ISO8859_1.NewEncoder().Bytes(encoded); err != nil {
		t.Errorf("%s: not ISO-8859-1: %v", tp.Number, err)
	}
	for _, list := range []string{`"actividadesEconomicas":null`, `"comprobantesPago":null`, `"sistemaEmisionElectronica":null`, `"comprobantesElectronicos":null`, `"padrones":null`, `"avisos":null`, `"-"`} {
		if bytes.Contains(encoded, []byte(list)) {
			t.Errorf("%s: the record holds %s", tp.Number, list)
		}
	}
	if _, err := ruc.Parse(tp.Number.String()); err != nil {
		t.Error(err)
	}
	if r.Activo != (r.Estado == "ACTIVO") || r.Habido != (r.Condicion == "HABIDO") || tp.Number.Entity() != (r.TipoPersona == "juridica") {
		t.Errorf("%s: derived fields are wrong: %+v", tp.Number, r)
	}
	if joined := strings.Join(r.Padrones, "|"); strings.Contains(joined, "Incorporado al Régimen de Agentes de Retención") != r.AgenteRetencion ||
		strings.Contains(joined, "Incorporado al Régimen de Agentes de Percepción") != r.AgentePercepcion ||
		strings.Contains(joined, "Incorporado al Régimen de Buenos") != r.BuenContribuyente {
		t.Errorf("%s: flags differ from %q", tp.Number, joined)
	}
	if collapsed := strings.Join(strings.Fields(string(r.DomicilioFiscal)), " "); collapsed != string(r.DomicilioFiscal) {
		t.Errorf("%s: blanks in %q", tp.Number, r.DomicilioFiscal)
	}

	page := Render(tp, renderedAt)
	list := parsed(t, page).Find("div.list-group").First()
	headings := list.Find("h4.list-group-item-heading")
	if got, want := headings.Eq(1).Text(), tp.Number.String()+" - "+string(r.RazonSocial); got != want {
		t.Errorf("heading %q, want %q", got, want)
	}
	text := strings.Join(strings.Fields(list.Text()), " ")
	for _, value := range []string{string(r.TipoContribuyente), string(r.TipoDocumento), string(r.NombreComercial), string(r.Estado), string(r.Condicion), string(r.CondicionNota), string(r.DomicilioFiscal)} {
		if !strings.Contains(text, value) {
			t.Errorf("%s: the page lacks %q", tp.Number, value)
		}
	}
	for _, lines := range [][]string{r.Avisos, r.Padrones, r.ComprobantesPago} {
		for _, line := range lines {
			if !strings.Contains(text, line) {
				t.Errorf("%s: the page lacks %q", tp.Number, line)
			}
		}
	}
	if strings.Contains(text, "eeee") {
		t.Errorf("%s: the commented row shows", tp.Number)
	}
}

// TestGenerate_CoversEveryVariation guards the worth of the parser's property
// test, which reads what Generate returns.
func TestGenerate_CoversEveryVariation(t *testing.T) {
	has := func(part string) func(Taxpayer) bool {
		return func(tp Taxpayer) bool { return strings.Contains(string(tp.Record.RazonSocial), part) }
	}
	variations := map[string]func(Taxpayer) bool{
		"entity":              func(tp Taxpayer) bool { return tp.Number.Entity() },
		"person":              func(tp Taxpayer) bool { return !tp.Number.Entity() },
		"person, no document": func(tp Taxpayer) bool { return !tp.Number.Entity() && tp.Record.TipoDocumento == "" },
		"ended":               func(tp Taxpayer) bool { return tp.Record.FechaBaja != "" },
		"state without date":  func(tp Taxpayer) bool { return !tp.Record.Activo && tp.Record.FechaBaja == "" },
		"notice before":       func(tp Taxpayer) bool { return len(tp.Record.Avisos) > 0 && !tp.shape.noticeAfterRuc },
		"notice after":        func(tp Taxpayer) bool { return len(tp.Record.Avisos) > 0 && tp.shape.noticeAfterRuc },
		"advice in the text":  func(tp Taxpayer) bool { return tp.Record.CondicionNota != "" && !tp.shape.noteParagraph },
		"advice apart":        func(tp Taxpayer) bool { return tp.Record.CondicionNota != "" && tp.shape.noteParagraph },
		"condition's reason":  func(tp Taxpayer) bool { return strings.Contains(string(tp.Record.Condicion), " - ") },
		"Nuevo RUS":           func(tp Taxpayer) bool { return tp.Record.AfectoNuevoRus != nil && *tp.Record.AfectoNuevoRus },
		"no Nuevo RUS":        func(tp Taxpayer) bool { return tp.Record.AfectoNuevoRus != nil && !*tp.Record.AfectoNuevoRus },
		"no electronic row":   func(tp Taxpayer) bool { return tp.shape.noElectronic },
		"register":            func(tp Taxpayer) bool { return tp.Record.AgenteRetencion },
		"expelled":            func(tp Taxpayer) bool { return strings.Contains(strings.Join(tp.Record.Padrones, ""), "Excluido") },
		"dashed address":      func(tp Taxpayer) bool { return strings.HasPrefix(string(tp.Record.Direccion), "---- ") },
		"dashes alone":        func(tp Taxpayer) bool { return tp.shape.address == "----" },
		"no parts":            func(tp Taxpayer) bool { return tp.Record.Direccion != "" && tp.Record.Departamento == "" },
		"unknown district":    func(tp Taxpayer) bool { return tp.Record.Distrito != "" && tp.Record.Ubigeo == "" },
		"hyphen in address":   func(tp Taxpayer) bool { return strings.Contains(string(tp.Record.Direccion), " - ") },
		"hyphen in district":  func(tp Taxpayer) bool { return tp.Record.Distrito == "RUPA-RUPA" },
		"CIIU rev. 3 worded": func(tp Taxpayer) bool {
			return tp.shape.wordCIIU && len(tp.Record.ActividadesEconomicas[0].CIIU) == rev3Digits
		},
		"CIIU rev. 3 bare": func(tp Taxpayer) bool {
			return !tp.shape.wordCIIU && len(tp.Record.ActividadesEconomicas[0].CIIU) == rev3Digits
		},
		"profession":       func(tp Taxpayer) bool { return tp.shape.profession != "" },
		"name with quotes": has(`"`), "name with &": has("&"), "name with '": has("'"), "name with ñ": has("Ñ"),
		"name with -": has("-"), "name with ' - '": has(" - "), "name with <": has("<"),
	}
	for _, department := range []string{"LA LIBERTAD", "MADRE DE DIOS", "SAN MARTIN", "PROV. CONST. DEL CALLAO"} {
		variations[department] = func(tp Taxpayer) bool { return string(tp.Record.Departamento) == department }
	}
	for l, wordings := range oldLabels {
		for _, old := range wordings {
			variations["label "+old] = func(tp Taxpayer) bool { return tp.shape.labels[l] == old }
		}
	}
	for seed := range uint64(10_000) {
		tp := Generate(seed)
		for name, shown := range variations {
			if shown(tp) {
				delete(variations, name)
			}
		}
	}
	for name := range variations {
		t.Errorf("never: %s", name)
	}
	if diff := cmp.Diff(Generate(7), Generate(7), unexported); diff != "" {
		t.Errorf("the same seed gives another taxpayer:\n%s", diff)
	}
}

func TestPlaces_CoverEveryDepartment(t *testing.T) {
	const departmentsOfPeru = 25
	codes := map[string]string{}
	for _, p := range places {
		if len(p.ubigeo) != len("150101") {
			t.Errorf("%s: ubigeo %q", p.district, p.ubigeo)
		}
		if before, ok := codes[p.department]; ok && before != p.ubigeo[:2] {
			t.Errorf("%s has codes %s and %s", p.department, before, p.ubigeo[:2])
		}
		codes[p.department] = p.ubigeo[:2]
	}
	if len(codes) != departmentsOfPeru {
		t.Errorf("%d departments, want %d", len(codes), departmentsOfPeru)
	}
}

func TestExpected_SaysTheMinuteInLima(t *testing.T) {
	tp := mustLookup(t, sunat)
	got := tp.Expected(renderedAt)
	if tp.Record.FechaConsultaSunat != nil {
		t.Error("the truth itself has a time")
	}
	if f := got.FechaConsultaSunat.Format(time.RFC3339); f != "2026-03-03T20:02:00-05:00" {
		t.Errorf("FechaConsultaSunat %s", f)
	}
	if page := string(Render(tp, renderedAt)); !strings.Contains(page, "Fecha consulta: 03/03/2026 20:02<") {
		t.Error("the page prints another time")
	}
}

func TestRender_KeepsTheOdditiesOfTheRealPage(t *testing.T) {
	page := string(Render(mustLookup(t, sunat), renderedAt))
	for name, part := range map[string]string{
		"padded address":     "LIMA" + strings.Repeat(" ", 47) + "- LIMA" + strings.Repeat(" ", 47) + "- SAN ISIDRO",
		"padded cell":        "FACTURA PORTAL                      DESDE 23/05/2016",
		"padded activity":    "Principal    - 6202 - CONSULTOR\xcdA",
		"multi-line state":   "ACTIVO\r\n\t",
		"malformed button":   `btnInfDeuCoa"">Deuda Coactiva`,
		"commented row":      `<p class="list-group-item-text">eeee</p>`,
		"entity in a label":  "N&uacute;mero de RUC:",
		"letter in a label":  "Sistema Emisi\xf3n de Comprobante:",
		"input out of forms": `<input type="hidden" name="accion" value="20131312955">`,
	} {
		if !strings.Contains(page, part) {
			t.Errorf("%s: the page lacks %q", name, part)
		}
	}
	doc := parsed(t, []byte(page))
	if n := doc.Find("[id=contexto]").Length(); n < 9 {
		t.Errorf("%d elements have the id contexto", n)
	}
	if n := doc.Find("form.consulta button").Length(); n != 10 {
		t.Errorf("%d buttons, want 10", n)
	}
	person := parsed(t, Render(mustLookup(t, Cases()[2].Number.String()), renderedAt))
	if n := person.Find("form.consulta button").Length(); n != 6 {
		t.Errorf("%d buttons for a person, want 6", n)
	}
	if got := strings.Join(strings.Fields(person.Find("div.list-group p").Eq(1).Text()), " "); got != "DNI 00000000 - EJEMPLO MUESTRA, ANA" {
		t.Errorf("document %q", got)
	}
}

func TestRender_EscapesNames(t *testing.T) {
	tp := mustLookup(t, sunat)
	const name = `A&B "C" 'D' <script>alert(1)</script> &ntilde; Ñ - E--F €`
	tp.Record.RazonSocial = name
	doc := parsed(t, Render(tp, renderedAt))
	if got := doc.Find("div.list-group h4").Eq(1).Text(); got != sunat+" - "+name {
		t.Errorf("heading %q", got)
	}
	if got, _ := doc.Find("input[name=razSoc]").Last().Attr("value"); got != name {
		t.Errorf("hidden input %q", got)
	}
}

func BenchmarkRender(b *testing.B) {
	tp, _ := Lookup(ruc.MustParse(sunat))
	for b.Loop() {
		Render(tp, renderedAt)
	}
}
