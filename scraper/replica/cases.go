package replica

import (
	"slices"
	"sync"

	"github.com/rucflow/rucflow/shared/ruc"
)

// Case is a taxpayer kept for one peculiarity of the page.
type Case struct {
	Name     string // what it shows, for test names
	Number   ruc.Number
	Taxpayer Taxpayer
}

// Cases returns a taxpayer for each known peculiarity of the page; Lookup finds
// them by their numbers. All values are invented, but for the public name and
// number of SUNAT itself.
func Cases() []Case { return slices.Clone(allCases()) }

var casesByNumber = sync.OnceValue(func() map[ruc.Number]Taxpayer {
	byNumber := map[ruc.Number]Taxpayer{}
	for _, c := range allCases() {
		byNumber[c.Number] = c.Taxpayer
	}
	return byNumber
})

// The first ten digits of the cases' numbers. A person's 00000000 stands where
// the digits of a DNI do.
const (
	caseSUNAT       = "2013131295"
	caseNoHabido    = "2099000001"
	caseDNI         = "1000000000"
	caseNoDocument  = "1500000000"
	caseForeigner   = "1700000000"
	caseNuevoRus    = "1000000001"
	caseNuevoRusNo  = "1000000002"
	caseMilitary    = "1600000000"
	caseEntityStart = "20880000" // two digits more
)

var allCases = sync.OnceValue(func() []Case {
	var cases []Case
	add := func(name, prefix string, change func(*Taxpayer)) {
		n := ruc.FromPrefix(prefix)
		t := Taxpayer{Number: n, Record: baseRecord(n)}
		if !n.Entity() {
			t.shape.document = fakeDocument
			t.shape.documentName = "EJEMPLO MUESTRA, ANA"
		}
		change(&t)
		cases = append(cases, Case{Name: name, Number: n, Taxpayer: settle(t)})
	}
	entities := 0
	entity := func(name string, change func(*ruc.Record, *shape)) {
		entities++
		prefix := caseEntityStart + string([]byte{byte('0' + entities/10), byte('0' + entities%10)})
		add(name, prefix, func(t *Taxpayer) { change(&t.Record, &t.shape) })
	}

	add("SUNAT itself", caseSUNAT, func(t *Taxpayer) {
		t.Record.RazonSocial = "SUPERINTENDENCIA NACIONAL DE ADUANAS Y DE ADMINISTRACION TRIBUTARIA - SUNAT"
		t.Record.NombreComercial = "SUNAT"
		t.Record.TipoContribuyente = "INSTITUCIONES PUBLICAS"
		t.shape.annexes = true
	})
	add("no habido, advice after a break", caseNoHabido, noHabidoExample)
	add("natural person with DNI", caseDNI, func(*Taxpayer) {})
	add("natural person with a foreign document", caseForeigner, func(t *Taxpayer) { t.Record.TipoDocumento = "CE" })
	add("natural person of the armed forces", caseMilitary, func(t *Taxpayer) { t.Record.TipoDocumento = "C. FFPP" })
	add("natural person without the document row", caseNoDocument, func(t *Taxpayer) {
		t.Record.RazonSocial = "SUC. INDIVISA EJEMPLO MUESTRA"
		t.Record.TipoDocumento = ""
	})
	add("subject to the Nuevo RUS", caseNuevoRus, func(t *Taxpayer) {
		yes := true
		t.Record.AfectoNuevoRus = &yes
		t.Record.NombreComercial = "BODEGA EL EJEMPLO"
	})
	add("not subject to the Nuevo RUS, without trade name", caseNuevoRusNo, func(t *Taxpayer) {
		no := false
		t.Record.AfectoNuevoRus = &no
		t.shape.breakNuevoRus = true
	})

	entity("ordinary company", func(*ruc.Record, *shape) {})
	entity("baja definitiva with its date", func(r *ruc.Record, _ *shape) {
		r.Estado, r.FechaBaja = stateBaja, "2019-12-31"
	})
	entity("baja de oficio with a notice before the rows", func(r *ruc.Record, _ *shape) {
		r.Estado, r.FechaBaja = stateBajaOficio, "2021-03-15"
		r.Avisos = []string{notices[0]}
	})
	entity("baja de oficio with a notice after the number", func(r *ruc.Record, s *shape) {
		r.Estado, r.FechaBaja = stateBajaOficio, "2021-03-15"
		r.Avisos = []string{notices[1]}
		s.noticeAfterRuc = true
	})
	entity("suspensión temporal", func(r *ruc.Record, _ *shape) {
		r.Estado, r.FechaBaja = stateSuspended, "2023-01-02"
	})
	entity("no habido, advice in a paragraph", func(r *ruc.Record, s *shape) {
		r.Condicion, r.CondicionNota = conditionNoHabido, advice
		s.noteParagraph = true
	})
	entity("no hallado with its reason", func(r *ruc.Record, _ *shape) {
		r.Condicion, r.CondicionNota = "NO HALLADO - DESTINATARIO DESCONOCIDO", advice
	})
	entity("pendiente", func(r *ruc.Record, _ *shape) { r.Condicion = "PENDIENTE" })
	entity("without the row of electronic systems", func(r *ruc.Record, s *shape) {
		r.SistemaEmisionElectronica = nil
		r.ComprobantesElectronicos = nil
		r.EmisorElectronicoDesde = ""
		s.noElectronic = true
	})
	entity("all registers", func(r *ruc.Record, _ *shape) {
		padronWithholding.addTo(r, "2002-06-01")
		padronPerception.addTo(r, "2006-04-01")
		padronGood.addTo(r, "2010-07-01")
	})
	entity("expelled from registers", func(r *ruc.Record, _ *shape) {
		padronExpelled.addTo(r, "2018-02-01")
		padronNotGood.addTo(r, "2019-05-01")
	})

	entity("address that begins with dashes", func(r *ruc.Record, _ *shape) {
		setAddress(r, "---- CAL. LA MUESTRA NRO. 12", placeOf("150131"))
	})
	entity("address of dashes only", func(r *ruc.Record, s *shape) {
		setAddress(r, "", place{})
		s.address = "----"
	})
	entity("address with a hyphen between blanks", func(r *ruc.Record, _ *shape) {
		setAddress(r, "AV. EL EJEMPLO NRO. 100 - 102 INT. 3 - 4", placeOf("150122"))
	})
	entity("address without a department", func(r *ruc.Record, s *shape) {
		setAddress(r, "", place{})
		s.address = unsplittable[1]
	})
	entity("address in an unknown district", func(r *ruc.Record, _ *shape) {
		setAddress(r, "AV. EL EJEMPLO NRO. 1", unknownPlaces[0])
	})
	for _, ubigeo := range []string{"130101", "170101", "220901", "070106", "100601", "150105"} {
		at := placeOf(ubigeo)
		entity("address in "+at.department+", "+at.district, func(r *ruc.Record, _ *shape) {
			setAddress(r, "AV. LA MUESTRA NRO. 55", at)
		})
	}

	for _, name := range []ruc.Text{
		"COMPAÑIA DE CAÑA Y AÑIL FICTICIA S.A.C.",
		`INVERSIONES "EL EJEMPLO" D'PRUEBA E.I.R.L.`,
		"MUESTRA & PRUEBA S.A. & CIA &amp; OTROS",
		"NOR-ORIENTE EJEMPLO-MUESTRA S.R.L.",
		"EJEMPLO - SUCURSAL DEL PERU - LIMA",
		"<B>EJEMPLO</B> Nº 1 S.A.C.",
	} {
		entity("name "+string(name), func(r *ruc.Record, _ *shape) { r.RazonSocial = name })
	}

	rev3 := []ruc.Actividad{
		{Tipo: "Principal", CIIU: "75113", Descripcion: "ACTIV. ADMINIST. PUBLICA EN GENERAL"},
		{Tipo: "Secundaria", Orden: 1, CIIU: "6201", Descripcion: "PROGRAMACIÓN INFORMÁTICA"},
	}
	entity("five-digit CIIU after its word", func(r *ruc.Record, s *shape) {
		r.ActividadesEconomicas = rev3
		s.wordCIIU = true
	})
	entity("five-digit CIIU bare", func(r *ruc.Record, _ *shape) { r.ActividadesEconomicas = rev3 })
	entity("branches", func(_ *ruc.Record, s *shape) { s.annexes = true })
	entity("labels of older pages", func(_ *ruc.Record, s *shape) {
		s.labels = map[label]string{}
		for l, old := range oldLabels {
			s.labels[l] = old[0]
		}
	})
	return cases
})

// baseRecord is a plain active taxpayer, which each case changes in one respect.
func baseRecord(n ruc.Number) ruc.Record {
	r := ruc.Record{
		RazonSocial:               "EJEMPLO MUESTRA ANA",
		TipoContribuyente:         "PERSONA NATURAL CON NEGOCIO",
		TipoDocumento:             "DNI",
		Estado:                    stateActive,
		Condicion:                 conditionHabido,
		FechaInscripcion:          "2015-03-10",
		FechaInicioActividades:    "2015-04-01",
		SistemaEmisionComprobante: "COMPUTARIZADO",
		SistemaContabilidad:       "MANUAL",
		ActividadComercioExterior: "SIN ACTIVIDAD",
		ActividadesEconomicas: []ruc.Actividad{
			{Tipo: "Principal", CIIU: "6202", Descripcion: "CONSULTORÍA DE INFORMÁTICA Y GESTIÓN DE INSTALACIONES INFORMÁTICAS"},
			{Tipo: "Secundaria", Orden: 1, CIIU: "4690", Descripcion: "VENTA AL POR MAYOR NO ESPECIALIZADA"},
		},
		ComprobantesPago: []string{"FACTURA", "GUIA DE REMISION - REMITENTE"},
		SistemaEmisionElectronica: []ruc.EmisionElectronica{
			{Sistema: "FACTURA PORTAL", Desde: "2016-05-23"},
			{Sistema: systemOwn, Desde: "2018-10-27"},
		},
		EmisorElectronicoDesde: "2016-05-23",
		ComprobantesElectronicos: []ruc.Comprobante{
			{Tipo: "FACTURA", Desde: "2016-05-23"},
			{Tipo: "BOLETA", Desde: "2018-10-25"},
		},
	}
	if !n.Entity() {
		r.SistemaEmisionElectronica = []ruc.EmisionElectronica{{Sistema: systemFees, Desde: "2016-05-23"}}
		return r
	}
	r.RazonSocial = "INVERSIONES LA MUESTRA S.A.C."
	r.TipoContribuyente = "SOCIEDAD ANONIMA CERRADA"
	r.TipoDocumento = ""
	setAddress(&r, "AV. DEL EJEMPLO NRO. 1234 URB. FICTICIA", placeOf("150131"))
	return r
}

// noHabidoExample is the invented company that the saved pages of the project
// show as well.
func noHabidoExample(t *Taxpayer) {
	r := &t.Record
	r.RazonSocial = "INVERSIONES EL EJEMPLO E.I.R.L."
	r.TipoContribuyente = "EMPRESA INDIVIDUAL DE RESP. LTDA"
	r.Condicion, r.CondicionNota = conditionNoHabido, advice
	r.FechaInscripcion, r.FechaInicioActividades = "2023-02-14", "2023-02-01"
	setAddress(r, "JR. DE LA MUESTRA NRO. 999 CERCADO DE LIMA", placeOf("150101"))
	r.ActividadesEconomicas = []ruc.Actividad{
		{Tipo: "Principal", CIIU: "4663", Descripcion: "VENTA AL POR MAYOR DE MATERIALES DE CONSTRUCCIÓN, ARTÍCULOS DE FERRETERÍA Y EQUIPO Y MATERIALES DE FONTANERÍA Y CALEFACCIÓN"},
		{Tipo: "Secundaria", Orden: 1, CIIU: "4530", Descripcion: "VENTA DE PARTES, PIEZAS Y ACCESORIOS PARA VEHÍCULOS AUTOMOTORES"},
		{Tipo: "Secundaria", Orden: 2, CIIU: "4659", Descripcion: "VENTA AL POR MAYOR DE OTROS TIPOS DE MAQUINARIA Y EQUIPO"},
	}
	r.ComprobantesPago = nil
	r.SistemaEmisionElectronica = []ruc.EmisionElectronica{
		{Sistema: "FACTURA PORTAL", Desde: "2023-03-28"},
		{Sistema: "BOLETA PORTAL", Desde: "2023-05-31"},
		{Sistema: systemOwn, Desde: "2023-03-22"},
	}
	r.EmisorElectronicoDesde = "2023-03-22"
	r.ComprobantesElectronicos = []ruc.Comprobante{
		{Tipo: "FACTURA", Desde: "2023-03-22"},
		{Tipo: "BOLETA", Desde: "2023-03-22"},
	}
}
