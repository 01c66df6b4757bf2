package replica

import (
	"embed"
	"fmt"
	"html/template"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"

	"github.com/rucflow/rucflow/shared/ruc"
)

//go:embed pages
var pageFiles embed.FS

// templates are the documents of the site. html/template escapes every value, so
// names with quotes, & or < are safe by construction; what the real page does
// wrong on purpose goes in as template.HTML.
var templates = template.Must(template.ParseFS(pageFiles, "pages/*.html"))

// document renders a named template. The templates are embedded and their data
// comes from this package, so a failure is a mistake in the source.
func document(name string, data any) string {
	var b strings.Builder
	if err := templates.ExecuteTemplate(&b, name, data); err != nil {
		panic(fmt.Sprintf("replica: render %s: %v", name, err))
	}
	return b.String()
}

// latin1 encodes a document as the real site does. Characters that ISO-8859-1
// lacks become numeric references; the invented values hold none.
func latin1(html string) []byte {
	encoded, err := encoding.HTMLEscapeUnsupported(charmap.ISO8859_1.NewEncoder()).String(html)
	if err != nil {
		panic(fmt.Sprintf("replica: encode: %v", err)) // only invalid UTF-8 fails, and templates hold none
	}
	return []byte(encoded)
}

// absent and none are how the page says that a value or a table is empty.
const (
	absent = "-"
	none   = "NINGUNO"
)

// The electronic systems whose cells SUNAT words in their own way.
const (
	systemOwn  = "DESDE LOS SISTEMAS DEL CONTRIBUYENTE"
	systemFees = "RECIBOS POR HONORARIOS"
)

// cellBreak is how the real page breaks lines inside a cell.
const cellBreak = "\r\n\t\t\t\t\t\t"

// addressPad stands before each hyphen between department, province and district.
var addressPad = strings.Repeat(" ", 47)

// label names a row's label.
type label int

const (
	labelNumber label = iota
	labelKind
	labelDocument
	labelProfession
	labelTradeName
	labelInscribed
	labelStarted
	labelState
	labelCondition
	labelAddress
	labelIssue
	labelTrade
	labelBooks
	labelActivities
	labelVouchers
	labelSystems
	labelIssuerSince
	labelElectronic
	labelPle
	labelRegisters
)

// labels are today's wordings. The real page writes some accents as entities and
// some as letters, and so does this one.
var labels = map[label]string{
	labelNumber:      "N&uacute;mero de RUC:",
	labelKind:        "Tipo Contribuyente:",
	labelDocument:    "Tipo de Documento:",
	labelProfession:  "Profesi&oacute;n u Oficio:",
	labelTradeName:   "Nombre Comercial:",
	labelInscribed:   "Fecha de Inscripci&oacute;n:",
	labelStarted:     "Fecha de Inicio de Actividades:",
	labelState:       "Estado del Contribuyente:",
	labelCondition:   "Condici&oacute;n del Contribuyente:",
	labelAddress:     "Domicilio Fiscal:",
	labelIssue:       "Sistema Emisión de Comprobante:",
	labelTrade:       "Actividad Comercio Exterior:",
	labelBooks:       "Sistema Contabilidad:",
	labelActivities:  "Actividad(es) Econ&oacute;mica(s):",
	labelVouchers:    "Comprobantes de Pago c/aut. de impresión (F. 806 u 816):",
	labelSystems:     "Sistema de Emisi&oacute;n Electr&oacute;nica:",
	labelIssuerSince: "Emisor electr&oacute;nico desde:",
	labelElectronic:  "Comprobantes Electr&oacute;nicos:",
	labelPle:         "Afiliado al PLE desde:",
	labelRegisters:   "Padrones:",
}

// oldLabels are the wordings met over the years, beside today's.
var oldLabels = map[label][]string{
	labelNumber:    {"RUC:"},
	labelState:     {"Estado:"},
	labelCondition: {"Condición:", "Condici&oacute;n:"},
	labelAddress:   {"Dirección del Domicilio Fiscal:"},
	labelIssue:     {"Sistema de Emisión de Comprobante:"},
	labelTrade:     {"Actividad de Comercio Exterior:"},
	labelBooks:     {"Sistema Contabilidiad:", "Sistema de Contabilidad:"},
	labelSystems:   {"Sistema de Emision Electronica:"},
}

// olderLabels draws an older wording for some labels.
func olderLabels(rng *rand.Rand) map[label]string {
	drawn := map[label]string{}
	for l := range labelRegisters + 1 {
		if old := oldLabels[l]; len(old) > 0 && chance(rng, 40) {
			drawn[l] = pick(rng, old)
		}
	}
	return drawn
}

// row is one div.list-group-item: a notice, one pair of cells (5/7 columns) or
// two (3/3/3/3).
type row struct {
	Class  string
	Notice string
	Cells  []cell
}

// cell is a label with its value: a heading, paragraphs of lines, or a table.
type cell struct {
	Label      template.HTML
	Heading    string
	Paragraphs [][]string
	Table      []string
}

// ghostRow is a row that the real page comments out inside its list. A parser
// that reads text instead of a document takes it for the name.
const ghostRow = template.HTML(`<!-- <div class="list-group-item">
                <div class="row">
                  <div class="col-sm-5"><h4 class="list-group-item-heading">Razón Social:</h4></div>
                  <div class="col-sm-7"><p class="list-group-item-text">eeee</p></div>
                </div>
              </div> -->`)

// button is one of the queries offered under the record.
type button struct {
	Form, Action string
	Button       template.HTML
}

// queryButton words a button as the real page does.
func queryButton(form, action, class, text string) button {
	return button{form, action, template.HTML(`<button type="button" class="btn btn-primary btn-sm ` + class + `">` + text + `</button>`)}
}

// The buttons in their lines of three. Natural persons get the first six, and
// empty third and fourth lines. The second one is malformed on the real page too.
var (
	firstButtons = [][]button{
		{
			queryButton("forminfoHist", "getinfHis", "btnInfHis", "Información Histórica"),
			{"formInfoDeudaCoactiva", "getInfoDC", `<button type="button" class="btn btn-primary btn-sm btnInfDeuCoa"">Deuda Coactiva</button>`},
			queryButton("formInfoOmisionTributaria", "getInfoOT", "btnInfOmiTri", "Omisiones Tributarias"),
		},
		{
			queryButton("formNumTrabajd", "getCantTrab", "btnInfNumTra", "Cantidad de Trabajadores y/o Prestadores de Servicio"),
			queryButton("formActPro", "getActPro", "btnInfActPro", "Actas Probatorias"),
			queryButton("formActCPF", "getActCPF", "btnInfActCPF", "Facturas Fisicas"),
		},
	}
	entityButtons = []button{
		queryButton("formActReaPeru", "getReactivaPeru", "btnInfReaPer", "Reactiva Perú : Deuda en cobranza coactiva"),
		queryButton("formCovid", "getPGarantiaCOVID19", "btnInfCovid", "Programa de garantías COVID_19 : Deuda en cobranza coactiva"),
		queryButton("formRepLeg", "getRepLeg", "btnInfRepLeg", "Representante(s) Legal(es)"),
	}
	annexButton = queryButton("formLocAnex", "getLocAnex", "btnInfLocAnex", "Establecimiento(s) Anexo(s)")
)

// resultPage is the data of the templates "result" and "old-result".
type resultPage struct {
	Number, Name, At string
	Year             int
	Rows             []row
	GhostRow         template.HTML
	Buttons          [][]button
}

// Render returns the result page of t as its bytes go over the wire (ISO-8859-1),
// consulted at the given instant.
func Render(t Taxpayer, at time.Time) []byte { return latin1(renderResult(t, at)) }

func renderResult(t Taxpayer, at time.Time) string { return document("result", pageOf(t, at)) }

func pageOf(t Taxpayer, at time.Time) resultPage {
	lima := at.In(ruc.Lima)
	page := resultPage{
		Number:   t.Number.String(),
		Name:     string(t.Record.RazonSocial),
		At:       lima.Format("02/01/2006 15:04"),
		Year:     lima.Year(),
		Rows:     rowsOf(t),
		GhostRow: ghostRow,
		Buttons:  append(firstButtons[:len(firstButtons):len(firstButtons)], nil, nil),
	}
	if t.Number.Entity() {
		page.Buttons[2] = entityButtons
		if t.shape.annexes {
			page.Buttons[3] = []button{annexButton}
		}
	}
	return page
}

// rowsOf lays out the rows in the order of the real page.
func rowsOf(t Taxpayer) []row {
	r, s := t.Record, t.shape
	named := func(l label) template.HTML {
		if old, ok := s.labels[l]; ok {
			return template.HTML(old)
		}
		return template.HTML(labels[l])
	}
	text := func(l label, value string) cell {
		return cell{Label: named(l), Paragraphs: [][]string{{orAbsent(value)}}}
	}
	table := func(l label, values []string) cell {
		if len(values) == 0 {
			values = []string{none}
		}
		return cell{Label: named(l), Table: values}
	}

	var rows []row
	add := func(class string, cells ...cell) { rows = append(rows, row{Class: class, Cells: cells}) }

	if !s.noticeAfterRuc {
		rows = append(rows, noticeRows(r.Avisos)...)
	}
	add("", cell{Label: named(labelNumber), Heading: t.Number.String() + " - " + string(r.RazonSocial)})
	if s.noticeAfterRuc {
		rows = append(rows, noticeRows(r.Avisos)...)
	}
	add("", text(labelKind, string(r.TipoContribuyente)))
	if r.TipoDocumento != "" {
		add("", text(labelDocument, string(r.TipoDocumento)+"  "+s.document+cellBreak+cellBreak+"- "+s.documentName))
	}
	if s.profession != "" {
		add("", text(labelProfession, s.profession))
	}
	add("", cell{Label: named(labelTradeName), Paragraphs: [][]string{tradeName(r, s)}})
	add("", text(labelInscribed, printed(r.FechaInscripcion)), text(labelStarted, printed(r.FechaInicioActividades)))
	add(colour(r.Activo), cell{Label: named(labelState), Paragraphs: [][]string{{state(r)}}})
	add(colour(r.Habido), cell{Label: named(labelCondition), Paragraphs: condition(r, s)})
	add("", text(labelAddress, address(r, s)))
	add("", text(labelIssue, string(r.SistemaEmisionComprobante)), text(labelTrade, string(r.ActividadComercioExterior)))
	add("", text(labelBooks, string(r.SistemaContabilidad)))
	add("", table(labelActivities, activityLines(r, s)))
	add("", table(labelVouchers, r.ComprobantesPago))
	if !s.noElectronic {
		add("", table(labelSystems, systemLines(r)))
	}
	add("", text(labelIssuerSince, printed(r.EmisorElectronicoDesde)))
	add("", text(labelElectronic, electronicList(r)))
	add("", text(labelPle, printed(r.AfiliadoPleDesde)))
	add("", table(labelRegisters, r.Padrones))
	return rows
}

func noticeRows(notices []string) []row {
	rows := make([]row, len(notices))
	for i, n := range notices {
		rows[i] = row{Notice: n}
	}
	return rows
}

func orAbsent(value string) string {
	if value == "" {
		return absent
	}
	return value
}

// colour is the row's class: green for the good value, red for any other.
func colour(good bool) string {
	if good {
		return "list-group-item-success"
	}
	return "list-group-item-danger"
}

// tradeName shares its cell with the line about the Nuevo RUS.
func tradeName(r ruc.Record, s shape) []string {
	name := orAbsent(string(r.NombreComercial)) + cellBreak
	if r.AfectoNuevoRus == nil {
		return []string{name}
	}
	rus := "Afecto al Nuevo RUS: NO"
	if *r.AfectoNuevoRus {
		rus = "Afecto al Nuevo RUS: SI"
	}
	if s.breakNuevoRus {
		return []string{name, rus}
	}
	return []string{name + rus + cellBreak}
}

func state(r ruc.Record) string {
	value := string(r.Estado) + cellBreak
	if r.FechaBaja != "" {
		value += "Fecha de Baja:" + cellBreak + printed(r.FechaBaja)
	}
	return value + cellBreak
}

func condition(r ruc.Record, s shape) [][]string {
	value := cellBreak + string(r.Condicion) + cellBreak
	if s.plainCondition {
		value = string(r.Condicion)
	}
	switch {
	case r.CondicionNota == "":
		return [][]string{{value}}
	case s.noteParagraph:
		return [][]string{{value}, {string(r.CondicionNota)}}
	default:
		return [][]string{{value, string(r.CondicionNota) + cellBreak}}
	}
}

func address(r ruc.Record, s shape) string {
	if r.Departamento == "" {
		return s.address
	}
	return string(r.Direccion + " " + r.Departamento + ruc.Text(addressPad) + "- " + r.Provincia + ruc.Text(addressPad) + "- " + r.Distrito)
}

// rev3Digits is the length of the CIIU codes of revision 3, which older pages
// write after the word.
const rev3Digits = 5

func activityLines(r ruc.Record, s shape) []string {
	var lines []string
	for _, a := range r.ActividadesEconomicas {
		kind, code := a.Tipo, a.CIIU
		if a.Orden > 0 {
			kind += " " + strconv.Itoa(a.Orden)
		}
		if s.wordCIIU && len(code) == rev3Digits {
			code = "CIIU " + code
		}
		lines = append(lines, fmt.Sprintf("%-12s - %s - %s", kind, code, a.Descripcion))
	}
	return lines
}

func systemLines(r ruc.Record) []string {
	var lines []string
	for _, e := range r.SistemaEmisionElectronica {
		var line string
		switch e.Sistema {
		case systemOwn:
			line = e.Sistema + ". AUTORIZ DESDE "
		case systemFees:
			line = fmt.Sprintf("%-27sAFILIADO DESDE ", e.Sistema)
		default:
			line = fmt.Sprintf("%-36sDESDE ", e.Sistema)
		}
		lines = append(lines, line+printed(e.Desde))
	}
	return lines
}

func electronicList(r ruc.Record) string {
	var items []string
	for _, c := range r.ComprobantesElectronicos {
		items = append(items, c.Tipo+" (desde "+printed(c.Desde)+")")
	}
	return strings.Join(items, ",")
}
