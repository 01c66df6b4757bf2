package replica

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/rucflow/rucflow/shared/ruc"
)

// The values that decide a flag or a shape.
const (
	stateActive       = "ACTIVO"
	stateBaja         = "BAJA DEFINITIVA"
	stateBajaOficio   = "BAJA DE OFICIO"
	stateSuspended    = "SUSPENSION TEMPORAL"
	conditionHabido   = "HABIDO"
	conditionNoHabido = "NO HABIDO"
	conditionNotFound = "NO HALLADO"
)

// advice is what SUNAT prints beside NO HABIDO and NO HALLADO.
const advice = "Deberá declarar el nuevo domicilio fiscal o confirmar el señalado en el RUC. Para ello, deberá acercarse a los Centros de Servicios al Contribuyente con los documentos que sustenten el nuevo domicilio."

// fakeDocument is printed for every natural person, so that no invented name ever
// stands beside a document number that somebody may have.
const fakeDocument = "00000000"

// padron is a register line and the flags that it sets.
type padron struct {
	text                             string // less the date
	withholding, perception, goodOne bool
}

var (
	padronWithholding = padron{text: "Incorporado al Régimen de Agentes de Retención de IGV (R.S.037-2002)", withholding: true}
	padronPerception  = padron{text: "Incorporado al Régimen de Agentes de Percepción de IGV - Venta Interna (R.S.058-2006)", perception: true}
	padronGood        = padron{text: "Incorporado al Régimen de Buenos Contribuyentes (D.Leg 912)", goodOne: true}
	padronExpelled    = padron{text: "Excluido del Régimen de Agentes de Retención de IGV (R.S.037-2002)"}
	padronNotGood     = padron{text: "Excluido del Régimen de Buenos Contribuyentes (D.Leg 912)"}
)

// at returns the line with its date.
func (p padron) at(d ruc.Date) string { return p.text + " a partir del " + printed(d) }

// addTo appends the line to the record and sets its flags.
func (p padron) addTo(r *ruc.Record, d ruc.Date) {
	r.Padrones = append(r.Padrones, p.at(d))
	r.AgenteRetencion = r.AgenteRetencion || p.withholding
	r.AgentePercepcion = r.AgentePercepcion || p.perception
	r.BuenContribuyente = r.BuenContribuyente || p.goodOne
}

// The vocabulary of invented records. Every name holds a word that says it is
// invented; the odd characters are those that real names hold.
var (
	nameTrades = []string{"INVERSIONES", "COMERCIAL", "SERVICIOS GENERALES", "CORPORACION", "TRANSPORTES", "AGROINDUSTRIAS", "CONSTRUCTORA", "IMPORTACIONES & EXPORTACIONES", "GRUPO NOR-ORIENTE", "CAÑA Y AÑIL"}
	nameWords  = []string{"EL EJEMPLO", "LA MUESTRA", "FICTICIA", "DE PRUEBA", "SIMULADA", "IMAGINARIA", `"EL ENSAYO"`, "D'EJEMPLO", "ÑAWPA FICTICIO", "MUESTRA & PRUEBA", "EJEMPLO - SUCURSAL DEL PERU", "PRUEBA-ENSAYO", "ÜBER <EJEMPLO>", "EJEMPLO Nº 1"}
	surnames   = []string{"EJEMPLO", "MUESTRA", "FICTICIO", "INVENTADO", "PRUEBA", "SIMULADO", "ÑAUPA-ENSAYO", "D'EJEMPLO", "DE LA MUESTRA"}
	forenames  = []string{"ANA", "JOSE", "BEGOÑA", "MARIA DEL EJEMPLO", "LUIS", "O'NEIL", "ANA-MARIA"}

	entityKinds = []struct{ kind, suffix string }{
		{"SOCIEDAD ANONIMA CERRADA", " S.A.C."},
		{"SOCIEDAD ANONIMA CERRADA", " SAC"},
		{"SOCIEDAD ANONIMA ABIERTA", " S.A.A."},
		{"SOCIEDAD ANONIMA", " S.A."},
		{"EMPRESA INDIVIDUAL DE RESP. LTDA", " E.I.R.L."},
		{"SOC.COM.RESPONS. LTDA", " S.R.L."},
		{"SOCIEDAD CIVIL", " S.CIVIL"},
		{"ASOCIACION", ""},
		{"INSTITUCIONES PUBLICAS", ""},
		{"GOBIERNO CENTRAL", ""},
	}
	personKinds   = []string{"PERSONA NATURAL SIN NEGOCIO", "PERSONA NATURAL CON NEGOCIO"}
	documentKinds = []string{"DNI", "DNI", "DNI", "CE", "C. FFPP", "CARNET DE EXTRANJERIA", "PASAPORTE"}

	endedStates = []string{stateBaja, stateBajaOficio, "BAJA PROVISIONAL", "BAJA PROVISIONAL DE OFICIO", "BAJA DEFINITIVA DE OFICIO", "BAJA PROV. POR OFICIO", "BAJA MULT.INSCR. Y OTROS", stateSuspended}
	otherStates = []string{"PENDIENTE DE INSCRIPCION", "INHABILITADO-VENT.UNICA", "NUM. INTERNO IDENTIF.", "OTROS OBLIGADOS"}
	conditions  = []string{conditionNoHabido, conditionNotFound, "NO HALLADO - RECHAZADO", "NO HALLADO - DESTINATARIO DESCONOCIDO", "NO HALLADO - OTROS MOTIVOS", "NO HALLADO - NO EXISTE NUMERO", "PENDIENTE", "POR VERIFICAR", "NO APLICABLE"}

	notices = []string{
		"El contribuyente ha sido dado de baja de oficio por la Administración Tributaria.",
		`Aviso de muestra: "baja" sujeta a verificación & confirmación.`,
	}

	streets = []string{"AV. DE LA MUESTRA", "JR. EL EJEMPLO", "CAL. LOS ÑANDUES", "PJ. O'HIGGINS", "AV. SAN MARTIN", "CAR. PANAMERICANA NORTE KM 12.5", "AV. LA LIBERTAD", "JR. ICA"}
	details = []string{"", "", " URB. INDUSTRIAL FICTICIA", " INT. 3 - 4", ` (FRENTE AL PARQUE "LA PRUEBA")`, " CERCADO DE LIMA", " MZA. A LOTE 5 & 6", " DPTO. 302-B"}

	// unsplittable addresses name no department, so they have no parts.
	unsplittable = []string{"KM. 12 CARRETERA DE MUESTRA", "AV. EJEMPLO NRO. 1 ATLANTIDA - LEMURIA - MU", "CASERIO EJEMPLO S/N"}

	issueKinds = []string{"COMPUTARIZADO", "MANUAL", "MANUAL/COMPUTARIZADO"}
	tradeKinds = []string{"SIN ACTIVIDAD", "IMPORTADOR", "EXPORTADOR", "IMPORTADOR/EXPORTADOR"}
	bookKinds  = []string{"MANUAL", "COMPUTARIZADO", "MANUAL/COMPUTARIZADO"}

	activities = []ruc.Actividad{
		{CIIU: "6202", Descripcion: "CONSULTORÍA DE INFORMÁTICA Y GESTIÓN DE INSTALACIONES INFORMÁTICAS"},
		{CIIU: "6201", Descripcion: "PROGRAMACIÓN INFORMÁTICA"},
		{CIIU: "4690", Descripcion: "VENTA AL POR MAYOR NO ESPECIALIZADA"},
		{CIIU: "4923", Descripcion: "TRANSPORTE DE CARGA POR CARRETERA"},
		{CIIU: "0113", Descripcion: "CULTIVO DE HORTALIZAS Y MELONES, RAÍCES Y TUBÉRCULOS"},
		{CIIU: "1104", Descripcion: "ELABORACIÓN DE BEBIDAS NO ALCOHÓLICAS; AGUAS MINERALES - EMBOTELLADAS"},
		{CIIU: "75113", Descripcion: "ACTIV. ADMINIST. PUBLICA EN GENERAL"},
		{CIIU: "52391", Descripcion: `OTROS TIPOS DE VENTA "AL POR MENOR"`},
		{CIIU: "93098", Descripcion: "OTRAS ACTIVID.DE TIPO SERVICIO NCP"},
	}

	vouchers = []string{"FACTURA", "BOLETA DE VENTA", "LIQUIDACION DE COMPRA", "NOTA DE CREDITO", "NOTA DE DEBITO", "GUIA DE REMISION - REMITENTE", "COMPROBANTE DE RETENCION", "COMPROBANTE DE PERCEPCION VENTA INTERNA", "RECIBO POR HONORARIOS"}

	electronicSystems  = []string{"FACTURA PORTAL", "BOLETA PORTAL", systemOwn, "GUIA DE REMISION", "SEE-FACTURADOR", systemFees}
	electronicVouchers = []string{"FACTURA", "BOLETA", "GUIA", "NOTA DE CREDITO", "RECIBO POR HONORARIOS"}

	padrones = []padron{padronWithholding, padronPerception, padronGood}
	expelled = []padron{padronExpelled, padronNotGood}
)

// invent makes up the taxpayer with number n, drawing from rng only, with
// today's wording of the page.
func invent(n ruc.Number, rng *rand.Rand) Taxpayer {
	t := Taxpayer{Number: n}
	r := &t.Record
	inscribed := randomDate(rng, 1993, 2023)
	r.FechaInscripcion = inscribed
	r.FechaInicioActividades = randomDate(rng, 1956, 2024)
	if n.Entity() {
		inventEntity(&t, rng)
	} else {
		inventPerson(&t, rng)
	}
	inventState(&t, rng)
	inventVouchers(&t, rng)
	return settle(t)
}

func inventEntity(t *Taxpayer, rng *rand.Rand) {
	r := &t.Record
	kind := pick(rng, entityKinds)
	name := pick(rng, nameTrades) + " " + pick(rng, nameWords)
	r.RazonSocial = ruc.Text(name + kind.suffix)
	r.TipoContribuyente = ruc.Text(kind.kind)
	if chance(rng, 40) {
		r.NombreComercial = ruc.Text(pick(rng, nameWords))
	}
	inventAddress(t, rng)
	r.SistemaEmisionComprobante = ruc.Text(pick(rng, issueKinds))
	r.SistemaContabilidad = ruc.Text(pick(rng, bookKinds))
	r.ActividadComercioExterior = ruc.Text(pick(rng, tradeKinds))
	for _, p := range padrones {
		if chance(rng, 15) {
			p.addTo(r, randomDate(rng, 2002, 2024))
		}
	}
	if len(r.Padrones) == 0 && chance(rng, 15) {
		pick(rng, expelled).addTo(r, randomDate(rng, 2002, 2024))
	}
	if chance(rng, 10) {
		r.AfiliadoPleDesde = randomDate(rng, 2010, 2024)
	}
	t.shape.annexes = chance(rng, 30)
}

func inventPerson(t *Taxpayer, rng *rand.Rand) {
	r := &t.Record
	family := pick(rng, surnames) + " " + pick(rng, surnames)
	given := pick(rng, forenames)
	r.RazonSocial = ruc.Text(family + " " + given)
	r.TipoContribuyente = ruc.Text(pick(rng, personKinds))
	// A sucesión indivisa has no document; it is rare on the real site and less so
	// here, to be met at all.
	if !chance(rng, 5) {
		r.TipoDocumento = ruc.Text(pick(rng, documentKinds))
		t.shape.document = fakeDocument
		t.shape.documentName = family + ", " + given
	}
	if chance(rng, 30) {
		r.NombreComercial = ruc.Text(pick(rng, nameWords))
	}
	if chance(rng, 30) {
		affected := chance(rng, 70)
		r.AfectoNuevoRus = &affected
	}
	r.SistemaEmisionComprobante = ruc.Text(pick(rng, issueKinds))
	r.SistemaContabilidad = ruc.Text(pick(rng, bookKinds))
	r.ActividadComercioExterior = "SIN ACTIVIDAD"
}

func inventAddress(t *Taxpayer, rng *rand.Rand) {
	r := &t.Record
	switch draw := rng.IntN(100); {
	case draw < 2:
		t.shape.address = pick(rng, []string{"-", "----"})
		return
	case draw < 4:
		t.shape.address = pick(rng, unsplittable)
		return
	}
	street := fmt.Sprintf("%s NRO. %d%s", pick(rng, streets), 1+rng.IntN(4999), pick(rng, details))
	if chance(rng, 5) {
		street = "---- " + street
	}
	where := pick(rng, places)
	if chance(rng, 4) {
		where = pick(rng, unknownPlaces)
	}
	setAddress(r, street, where)
}

// setAddress fills the parts of an address; settle joins them.
func setAddress(r *ruc.Record, street string, at place) {
	r.Direccion = ruc.Text(street)
	r.Departamento = ruc.Text(at.department)
	r.Provincia = ruc.Text(at.province)
	r.Distrito = ruc.Text(at.district)
	r.Ubigeo = ruc.Text(at.ubigeo)
}

func inventState(t *Taxpayer, rng *rand.Rand) {
	r := &t.Record
	switch draw := rng.IntN(100); {
	case draw < 80:
		r.Estado = stateActive
	case draw < 95:
		r.Estado = ruc.Text(pick(rng, endedStates))
		r.FechaBaja = randomDate(rng, 2000, 2024)
		if r.Estado == stateBajaOficio {
			r.Avisos = append(r.Avisos, pick(rng, notices))
		}
	default:
		r.Estado = ruc.Text(pick(rng, otherStates))
	}
	r.Condicion = conditionHabido
	if chance(rng, 15) {
		r.Condicion = ruc.Text(pick(rng, conditions))
	}
	if strings.HasPrefix(string(r.Condicion), conditionNotFound) || r.Condicion == conditionNoHabido {
		r.CondicionNota = advice
	}
}

func inventVouchers(t *Taxpayer, rng *rand.Rand) {
	r := &t.Record
	count := 1 + rng.IntN(4)
	for i, at := range rng.Perm(len(activities))[:count] {
		a := activities[at]
		a.Tipo, a.Orden = "Secundaria", i
		if i == 0 {
			a.Tipo = "Principal"
		}
		r.ActividadesEconomicas = append(r.ActividadesEconomicas, a)
	}
	for _, v := range vouchers {
		if chance(rng, 25) {
			r.ComprobantesPago = append(r.ComprobantesPago, v)
		}
	}
	if chance(rng, 20) {
		t.shape.noElectronic = chance(rng, 50)
		return
	}
	for _, s := range electronicSystems {
		if chance(rng, 40) {
			r.SistemaEmisionElectronica = append(r.SistemaEmisionElectronica, ruc.EmisionElectronica{Sistema: s, Desde: randomDate(rng, 2010, 2024)})
		}
	}
	for _, v := range electronicVouchers {
		if chance(rng, 40) {
			r.ComprobantesElectronicos = append(r.ComprobantesElectronicos, ruc.Comprobante{Tipo: v, Desde: randomDate(rng, 2010, 2024)})
		}
	}
	if len(r.ComprobantesElectronicos) > 0 {
		r.EmisorElectronicoDesde = r.ComprobantesElectronicos[0].Desde
	}
}

// settle fills in what follows from the rest of the record, and makes its lists
// non-nil as a parser's are.
func settle(t Taxpayer) Taxpayer {
	r := &t.Record
	r.TipoPersona = ruc.PersonaNatural
	if t.Number.Entity() {
		r.TipoPersona = ruc.PersonaJuridica
	}
	r.Activo = r.Estado == stateActive
	r.Habido = r.Condicion == conditionHabido
	switch {
	case r.Departamento != "":
		r.DomicilioFiscal = r.Direccion + " " + r.Departamento + " - " + r.Provincia + " - " + r.Distrito
	case strings.Trim(t.shape.address, "-") != "":
		r.DomicilioFiscal = ruc.Text(t.shape.address)
		r.Direccion = r.DomicilioFiscal
	}
	r.ActividadesEconomicas = notNil(r.ActividadesEconomicas)
	r.ComprobantesPago = notNil(r.ComprobantesPago)
	r.SistemaEmisionElectronica = notNil(r.SistemaEmisionElectronica)
	r.ComprobantesElectronicos = notNil(r.ComprobantesElectronicos)
	r.Padrones = notNil(r.Padrones)
	r.Avisos = notNil(r.Avisos)
	return t
}

func notNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// randomDate returns a day of the years from first to last.
func randomDate(rng *rand.Rand, first, last int) ruc.Date {
	day := time.Date(first+rng.IntN(last-first+1), time.Month(1+rng.IntN(12)), 1+rng.IntN(28), 0, 0, 0, 0, time.UTC)
	return ruc.Date(day.Format(time.DateOnly))
}

// printed returns a date as SUNAT's pages print it (dd/mm/yyyy), "-" where absent.
func printed(d ruc.Date) string {
	if len(d) != len(time.DateOnly) {
		return absent
	}
	return string(d[8:10] + "/" + d[5:7] + "/" + d[:4])
}
