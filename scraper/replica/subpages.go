package replica

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/rucflow/rucflow/shared/ruc"
)

// subTable is one table of a sub-page.
type subTable struct {
	Head []string
	Rows [][]string
}

// subDocument is the data of the template "sub".
type subDocument struct {
	Title    string
	Tables   []subTable
	Question string   // answered with NO
	Lines    []string // under the question
	Sentence string   // where there is no data
	Year     int
}

// noInformation fills the first cell of an empty table.
const noInformation = "No hay Información"

// subPage answers the queries behind the buttons of a result: the shape of the
// real pages with a few invented rows, the same for the same number. Unknown
// queries get the error page.
func subPage(action string, n ruc.Number, now time.Time) page {
	t, found := Lookup(n)
	if !found {
		return errorPage()
	}
	rng := rand.New(rand.NewPCG(seedOf(n.String()), 2))
	whom := n.String() + " - " + string(t.Record.RazonSocial)
	d := subDocument{Year: now.In(ruc.Lima).Year()}
	switch action {
	case "getinfHis":
		history(&d, t, rng)
		d.Title = "INFORMACIÓN HISTÓRICA DE " + whom
		// The real page's bytes are UTF-8 here, under the same header.
		return page{status: 200, html: document("sub", d), utf8: true}
	case "getInfoDC":
		d.Title = "DEUDA COACTIVA REMITIDA A CENTRALES DE RIESGO DE " + whom
		debts(&d, rng)
	case "getInfoOT":
		d.Title = "OMISIONES TRIBUTARIAS DE " + whom
		d.Sentence = "El contribuyente no registra omisiones tributarias."
	case "getCantTrab":
		d.Title = "CANTIDAD DE TRABAJADORES Y/O PRESTADORES DE SERVICIO DE " + whom
		workers(&d, rng, now)
	case "getActPro":
		d.Title = "ACTAS PROBATORIAS DE " + whom
		d.Tables = []subTable{{
			Head: []string{"Nº de acta", "Fecha", "Lugar de intervención", "Artículo y numeral", "Descripción", "Nº RI/ROZ", "Tipo RI/ROZ", "Acta de reconocimiento"},
			Rows: [][]string{{"No existe información de actas probatorias."}},
		}}
	case "getActCPF":
		d.Title = "FACTURAS FISICAS DE " + whom
		paperInvoices(&d, rng)
	case "getReactivaPeru":
		d.Title = "REACTIVA PERÚ: DEUDA EN COBRANZA COACTIVA DE " + whom
		guarantee(&d, "Decreto Legislativo N° 1455", now)
	case "getPGarantiaCOVID19":
		d.Title = "PROGRAMA DE GARANTÍAS COVID-19: DEUDA EN COBRANZA COACTIVA DE " + whom
		guarantee(&d, "Ley N° 31050", now)
	case "getRepLeg":
		if !n.Entity() {
			return ok(document("message", "No se encontro información para representantes legales."))
		}
		d.Title = "REPRESENTANTES LEGALES DE " + whom
		representatives(&d, rng)
	case "getLocAnex":
		d.Title = "ESTABLECIMIENTOS ANEXOS DE " + whom
		annexes(&d, rng)
	case "enviar":
		return ok(document("message", "La réplica no envía correos."))
	default:
		return errorPage()
	}
	return ok(document("sub", d))
}

func history(d *subDocument, t Taxpayer, rng *rand.Rand) {
	former := [][]string{{noInformation, absent}}
	if t.Number.Entity() && chance(rng, 50) {
		former = [][]string{{pick(rng, nameTrades) + " " + pick(rng, nameWords), printed(randomDate(rng, 1995, 2010))}}
	}
	addresses := [][]string{{noInformation, absent}}
	if t.Number.Entity() {
		at := pick(rng, places)
		// Without blanks around the hyphens, unlike the result page.
		addresses = [][]string{{"AV. DE LA MUESTRA NRO. 1 " + at.department + "-" + at.province + "-" + at.district, printed(randomDate(rng, 1995, 2010))}}
	}
	d.Tables = []subTable{
		{Head: []string{"Nombre o Razón Social", "Fecha de Baja"}, Rows: former},
		{Head: []string{"Condición del Contribuyente", "Fecha Desde", "Fecha Hasta"}, Rows: [][]string{{string(t.Record.Condicion), printed(randomDate(rng, 2000, 2010)), absent}}},
		{Head: []string{"Dirección del Domicilio Fiscal", "Fecha de Baja"}, Rows: addresses},
	}
}

func debts(d *subDocument, rng *rand.Rand) {
	if chance(rng, 60) {
		d.Sentence = "El contribuyente no registra deuda coactiva remitida a centrales de riesgo."
		return
	}
	table := subTable{Head: []string{"Monto de la Deuda", "Periodo Tributario", "Fecha de Inicio de Cobranza Coactiva", "Entidad Asociada a la Deuda"}}
	for range 1 + rng.IntN(3) {
		table.Rows = append(table.Rows, []string{
			strconv.Itoa(45 + rng.IntN(9000)),
			fmt.Sprintf("2024 - %02d", 1+rng.IntN(12)),
			printed(randomDate(rng, 2024, 2024)),
			pick(rng, []string{"Tesoro Público", "ESSALUD", "ONP"}),
		})
	}
	d.Tables = []subTable{table}
}

// workers lists the last twelve months, oldest first.
func workers(d *subDocument, rng *rand.Rand, now time.Time) {
	const months = 12
	if chance(rng, 20) {
		d.Sentence = "No existen declaraciones presentadas por el contribuyente consultado."
		return
	}
	table := subTable{Head: []string{"Período", "N° de Trabajadores", "N° de Pensionistas", "N° de Prestadores de Servicio"}}
	local := now.In(ruc.Lima)
	first := time.Date(local.Year(), local.Month()-months, 1, 0, 0, 0, 0, ruc.Lima)
	for i := range months {
		cells := []string{first.AddDate(0, i, 0).Format("2006-01"), strconv.Itoa(rng.IntN(300)), "0", strconv.Itoa(rng.IntN(30))}
		if chance(rng, 10) {
			cells[1], cells[2], cells[3] = "NE", "NE", "NE" // not declared
		}
		table.Rows = append(table.Rows, cells)
	}
	d.Tables = []subTable{table}
}

func paperInvoices(d *subDocument, rng *rand.Rand) {
	d.Tables = []subTable{
		{
			Head: []string{"Último Nro Autorización", "Fecha", "Comprobante", "Serie", "Del", "Al"},
			Rows: [][]string{{digits(rng, 10), printed(randomDate(rng, 2010, 2016)), "FACTURA", "001", "1", "500"}},
		},
		{
			Head: []string{"Nro Orden", "Fecha", "Comprobante", "Serie", "Del", "Al"},
			Rows: [][]string{{noInformation}},
		},
	}
}

func guarantee(d *subDocument, law string, now time.Time) {
	d.Question = "¿Tiene deuda en cobranza coactiva mayor a una (1) UIT?"
	d.Lines = []string{
		"Información actualizada al " + now.In(ruc.Lima).Format("02/01/2006"),
		"Base legal: " + law,
	}
}

func representatives(d *subDocument, rng *rand.Rand) {
	d.Tables = []subTable{{
		Head: []string{"Documento", "Nro. Documento", "Nombre", "Cargo", "Fecha Desde"},
		Rows: [][]string{{"DNI", fakeDocument, pick(rng, surnames) + " " + pick(rng, surnames) + " " + pick(rng, forenames), "GERENTE GENERAL", printed(randomDate(rng, 2010, 2024))}},
	}}
}

func annexes(d *subDocument, rng *rand.Rand) {
	table := subTable{Head: []string{"Código", "Tipo de Establecimiento", "Dirección", "Actividad Económica"}}
	for i := range 1 + rng.IntN(5) {
		at := pick(rng, places)
		table.Rows = append(table.Rows, []string{
			fmt.Sprintf("%04d", i+1),
			pick(rng, []string{"DE. DEPOSITO", "OF. OF.ADMINIST.", "SU. SUCURSAL"}),
			fmt.Sprintf("CAL. LA PRUEBA NRO. %d %s - %s - %s", i+1, at.department, at.province, at.district),
			absent,
		})
	}
	d.Tables = []subTable{table}
}

// hit is one line of the list of names.
type hit struct {
	Number, Name, Place, State string
	Active                     bool
}

// maxHits bounds the list of names.
const maxHits = 30

// nameList answers a search by name, among the names of Cases.
func nameList(name string, now time.Time) page {
	var hits []hit
	for _, c := range allCases() {
		r := c.Taxpayer.Record
		if strings.Contains(strings.ToUpper(string(r.RazonSocial)), strings.ToUpper(strings.TrimSpace(name))) && len(hits) < maxHits {
			hits = append(hits, hit{c.Number.String(), string(r.RazonSocial), orAbsent(string(r.Departamento)), string(r.Estado), r.Activo})
		}
	}
	if len(hits) == 0 {
		return message(fmt.Sprintf("El Sistema RUC NO REGISTRA un número de RUC para el nombre o razón social %s.", name), now)
	}
	return ok(document("list", struct {
		Hits   []hit
		NumRnd int32
		Year   int
	}{hits, int32(rand.Uint32()), now.In(ruc.Lima).Year()})) // wraps on purpose: the real value is signed
}
