package sunat

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rucflow/rucflow/shared/ruc"
)

// field is a row of the page, whatever its label's wording.
type field int

const (
	fieldRUC field = iota
	fieldTipoContribuyente
	fieldTipoDocumento
	fieldProfesion // read and dropped: not part of the record
	fieldNombreComercial
	fieldFechaInscripcion
	fieldFechaInicio
	fieldFechaBaja
	fieldEstado
	fieldCondicion
	fieldDomicilio
	fieldSistemaEmision
	fieldComercioExterior
	fieldContabilidad
	fieldActividades
	fieldComprobantesPago
	fieldEmisionElectronica
	fieldEmisorDesde
	fieldComprobantesElectronicos
	fieldPLE
	fieldPadrones
)

// required rows: a page without one of them is not the page we know.
var required = []field{fieldRUC, fieldTipoContribuyente, fieldEstado, fieldCondicion}

// labels maps every known wording of a label to its row. A renamed label is mended
// here and nowhere else. Keys are folded (fold): lower case, no accents, no colon.
var labels = map[string]field{
	"numero de ruc":                            fieldRUC,
	"ruc":                                      fieldRUC,
	"tipo contribuyente":                       fieldTipoContribuyente,
	"tipo de contribuyente":                    fieldTipoContribuyente,
	"tipo de documento":                        fieldTipoDocumento,
	"profesion u oficio":                       fieldProfesion,
	"nombre comercial":                         fieldNombreComercial,
	"fecha de inscripcion":                     fieldFechaInscripcion,
	"fecha de inicio de actividades":           fieldFechaInicio,
	"fecha de baja":                            fieldFechaBaja,
	"estado del contribuyente":                 fieldEstado,
	"estado":                                   fieldEstado,
	"condicion del contribuyente":              fieldCondicion,
	"condicion":                                fieldCondicion,
	"domicilio fiscal":                         fieldDomicilio,
	"direccion del domicilio fiscal":           fieldDomicilio,
	"sistema emision de comprobante":           fieldSistemaEmision,
	"sistema de emision de comprobante":        fieldSistemaEmision,
	"actividad comercio exterior":              fieldComercioExterior,
	"actividad de comercio exterior":           fieldComercioExterior,
	"sistema contabilidad":                     fieldContabilidad,
	"sistema contabilidiad":                    fieldContabilidad, // sic, on older pages
	"sistema de contabilidad":                  fieldContabilidad,
	"actividad(es) economica(s)":               fieldActividades,
	"actividades economicas":                   fieldActividades,
	"comprobantes de pago c/aut. de impresion": fieldComprobantesPago,
	"comprobantes de pago c/aut. de impresion (f. 806 u 816)": fieldComprobantesPago,
	"sistema de emision electronica":                          fieldEmisionElectronica,
	"emisor electronico desde":                                fieldEmisorDesde,
	"comprobantes electronicos":                               fieldComprobantesElectronicos,
	"afiliado al ple desde":                                   fieldPLE,
	"padrones":                                                fieldPadrones,
}

// cell is one value of a row: the lines of a paragraph or a table cell, blanks
// collapsed, empty lines left out.
type cell []string

func (c cell) text() string { return strings.Join(c, " ") }

// row is what stands between one label and the next.
type row []cell

// text is the whole row in one line, "" where the page says "absent".
func (r row) text() string {
	parts := make([]string, len(r))
	for i, c := range r {
		parts[i] = c.text()
	}
	return present(strings.TrimSpace(strings.Join(parts, " ")))
}

// list is one text per cell, without the ways to say "none".
func (r row) list() []string {
	list := []string{}
	for _, c := range r {
		if t := present(c.text()); t != "" {
			list = append(list, t)
		}
	}
	return list
}

// present maps the page's ways to say "absent" to "".
func present(s string) string {
	if s == "NINGUNO" || strings.Trim(s, "-") == "" {
		return ""
	}
	return s
}

// reader turns rows into a record and notes what it could not read.
type reader struct {
	rows    map[field]row
	unknown []string
}

// odd notes a value whose form is not known. The record is served without it.
func (r *reader) odd(label string) { r.unknown = append(r.unknown, label) }

func (r *reader) value(f field) ruc.Text { return ruc.Text(r.rows[f].text()) }

// date reads a day printed as dd/mm/yyyy.
func (r *reader) date(f field, label string) ruc.Date {
	s := r.rows[f].text()
	if s == "" {
		return ""
	}
	d, ok := isoDate(s)
	if !ok {
		r.odd(label)
	}
	return d
}

func isoDate(s string) (ruc.Date, bool) {
	t, err := time.Parse("02/01/2006", s)
	if err != nil {
		return "", false
	}
	return ruc.Date(t.Format(time.DateOnly)), true
}

// Nuevo RUS is printed inside the trade name's cell.
var nuevoRus = regexp.MustCompile(`(?i)\s*Afecto al Nuevo RUS:\s*(SI|SÍ|NO)\b\s*$`)

func (r *reader) nombreComercial() (name ruc.Text, afecto *bool) {
	s := strings.TrimSpace(joined(r.rows[fieldNombreComercial]))
	if m := nuevoRus.FindStringSubmatchIndex(s); m != nil {
		yes := !strings.EqualFold(s[m[2]:m[3]], "NO")
		afecto, s = &yes, strings.TrimSpace(s[:m[0]])
	}
	return ruc.Text(present(s)), afecto
}

// joined is row.text without the mapping of absent values.
func joined(r row) string {
	parts := make([]string, len(r))
	for i, c := range r {
		parts[i] = c.text()
	}
	return strings.Join(parts, " ")
}

var fechaBaja = regexp.MustCompile(`(?i)\s*Fecha de Baja:\s*(\d{2}/\d{2}/\d{4})?`)

// estado reads the state and the date of deregistration, which share a cell; older
// pages have a row for the date.
func (r *reader) estado() (state ruc.Text, baja ruc.Date) {
	s := joined(r.rows[fieldEstado])
	if m := fechaBaja.FindStringSubmatchIndex(s); m != nil {
		if m[2] >= 0 {
			d, ok := isoDate(s[m[2]:m[3]])
			if !ok {
				r.odd("Fecha de Baja")
			}
			baja = d
		}
		s = s[:m[0]]
	} else if c := r.rows[fieldEstado]; len(c) > 0 && len(c[0]) > 0 {
		s = c[0][0] // a further line says nothing about the state
	}
	if baja == "" {
		baja = r.date(fieldFechaBaja, "Fecha de Baja")
	}
	return ruc.Text(present(strings.TrimSpace(s))), baja
}

// condicion reads the first line as the value and the rest as SUNAT's advice.
func (r *reader) condicion() (value, note ruc.Text) {
	var lines []string
	for _, c := range r.rows[fieldCondicion] {
		lines = append(lines, c...)
	}
	if len(lines) == 0 {
		return "", ""
	}
	return ruc.Text(present(lines[0])), ruc.Text(present(strings.Join(lines[1:], " ")))
}

// tipoDocumento keeps the kind of document; the number and the name are personal
// and said elsewhere.
func (r *reader) tipoDocumento() ruc.Text {
	s, _, _ := strings.Cut(r.rows[fieldTipoDocumento].text(), " - ")
	words := strings.Fields(s)
	if n := len(words); n > 0 && (n > 1 || strings.ContainsAny(words[n-1], "0123456789")) {
		words = words[:n-1]
	}
	return ruc.Text(present(strings.Join(words, " ")))
}

// Older records say "CIIU 75113"; four digits are CIIU revision 4, five revision 3.
var actividad = regexp.MustCompile(`^(Principal|Secundaria)\s*(\d*)\s*-\s*(?:CIIU\s*)?(\d{4,5})\s*-\s*(.+)$`)

func (r *reader) actividades() []ruc.Actividad {
	list := []ruc.Actividad{}
	for _, s := range r.rows[fieldActividades].list() {
		m := actividad.FindStringSubmatch(s)
		if m == nil {
			r.odd("Actividad(es) Económica(s)")
			continue
		}
		order, _ := strconv.Atoi(m[2]) // empty for the principal one: 0
		list = append(list, ruc.Actividad{Tipo: m[1], Orden: order, CIIU: m[3], Descripcion: m[4]})
	}
	return list
}

var (
	// The last "DESDE <date>" counts: a system is called "DESDE LOS SISTEMAS DEL …".
	emision       = regexp.MustCompile(`^(.*?)\s*\bDESDE\s+(\d{2}/\d{2}/\d{4})$`)
	emisionSuffix = regexp.MustCompile(`[ .]*(AUTORIZ|AFILIADO)?$`)
)

func (r *reader) emisionElectronica() []ruc.EmisionElectronica {
	list := []ruc.EmisionElectronica{}
	for _, s := range r.rows[fieldEmisionElectronica].list() {
		e := ruc.EmisionElectronica{Sistema: s}
		if m := emision.FindStringSubmatch(s); m != nil {
			if d, ok := isoDate(m[2]); ok {
				e = ruc.EmisionElectronica{Sistema: m[1], Desde: d}
			} else {
				r.odd("Sistema de Emisión Electrónica")
			}
		}
		e.Sistema = emisionSuffix.ReplaceAllString(e.Sistema, "")
		list = append(list, e)
	}
	return list
}

var comprobante = regexp.MustCompile(`^(.*?)\s*\(desde\s+(\d{2}/\d{2}/\d{4})\)$`)

func (r *reader) comprobantesElectronicos() []ruc.Comprobante {
	list := []ruc.Comprobante{}
	for part := range strings.SplitSeq(r.rows[fieldComprobantesElectronicos].text(), ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		c := ruc.Comprobante{Tipo: part}
		if m := comprobante.FindStringSubmatch(part); m != nil {
			if d, ok := isoDate(m[2]); ok {
				c = ruc.Comprobante{Tipo: m[1], Desde: d}
			} else {
				r.odd("Comprobantes Electrónicos")
			}
		}
		list = append(list, c)
	}
	return list
}

// inRegister reports whether a line of the padrones says that the taxpayer was
// taken into a register. "Excluido del Régimen …" does not.
func inRegister(padrones []string, register string) bool {
	return slices.ContainsFunc(padrones, func(line string) bool {
		return strings.HasPrefix(fold(line), "incorporado al regimen de "+register)
	})
}

// record assembles what the rows say.
func (r *reader) record(n ruc.Number, name string) ruc.Record {
	rec := ruc.Record{
		RazonSocial:               ruc.Text(present(name)),
		TipoContribuyente:         r.value(fieldTipoContribuyente),
		TipoPersona:               ruc.PersonaNatural,
		TipoDocumento:             r.tipoDocumento(),
		FechaInscripcion:          r.date(fieldFechaInscripcion, "Fecha de Inscripción"),
		FechaInicioActividades:    r.date(fieldFechaInicio, "Fecha de Inicio de Actividades"),
		DomicilioFiscal:           r.value(fieldDomicilio),
		SistemaEmisionComprobante: r.value(fieldSistemaEmision),
		SistemaContabilidad:       r.value(fieldContabilidad),
		ActividadComercioExterior: r.value(fieldComercioExterior),
		ActividadesEconomicas:     r.actividades(),
		ComprobantesPago:          r.rows[fieldComprobantesPago].list(),
		SistemaEmisionElectronica: r.emisionElectronica(),
		EmisorElectronicoDesde:    r.date(fieldEmisorDesde, "Emisor electrónico desde"),
		ComprobantesElectronicos:  r.comprobantesElectronicos(),
		AfiliadoPleDesde:          r.date(fieldPLE, "Afiliado al PLE desde"),
		Padrones:                  r.rows[fieldPadrones].list(),
		Avisos:                    []string{},
	}
	if n.Entity() {
		rec.TipoPersona = ruc.PersonaJuridica
	}
	rec.NombreComercial, rec.AfectoNuevoRus = r.nombreComercial()
	rec.Estado, rec.FechaBaja = r.estado()
	rec.Activo = rec.Estado == "ACTIVO"
	rec.Condicion, rec.CondicionNota = r.condicion()
	rec.Habido = rec.Condicion == "HABIDO"
	a := splitAddress(string(rec.DomicilioFiscal))
	rec.Direccion, rec.Departamento, rec.Provincia, rec.Distrito, rec.Ubigeo = a.street, a.department, a.province, a.district, a.ubigeo
	rec.AgenteRetencion = inRegister(rec.Padrones, "agentes de retencion")
	rec.AgentePercepcion = inRegister(rec.Padrones, "agentes de percepcion")
	rec.BuenContribuyente = inRegister(rec.Padrones, "buenos contribuyentes")
	return rec
}
