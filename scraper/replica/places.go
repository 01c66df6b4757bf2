package replica

// place is a Peruvian district as SUNAT prints it (capitals without accents, ñ
// kept), with INEI's six-digit code; ubigeo is empty where there is no such
// district.
type place struct{ department, province, district, ubigeo string }

// places are districts of every department, among them all departments of
// several words, districts named like their province or another department, and
// names with ñ or a hyphen (INEI's district list, which the data packages ubigeo
// 1.1.1 and peru-ubigeo 0.0.3, both MIT, carry alike).
var places = []place{
	{"LIMA", "LIMA", "LIMA", "150101"},
	{"LIMA", "LIMA", "SAN ISIDRO", "150131"},
	{"LIMA", "LIMA", "MIRAFLORES", "150122"},
	{"LIMA", "LIMA", "BREÑA", "150105"},
	{"LIMA", "LIMA", "ATE", "150103"},
	{"LIMA", "LIMA", "JESUS MARIA", "150113"},
	{"LIMA", "LIMA", "SANTIAGO DE SURCO", "150140"},
	{"LIMA", "LIMA", "VILLA EL SALVADOR", "150142"},
	{"LIMA", "CAÑETE", "SAN VICENTE DE CAÑETE", "150501"},
	{"LIMA", "HUARAL", "HUARAL", "150601"},
	{"HUANUCO", "LEONCIO PRADO", "RUPA-RUPA", "100601"},
	{"HUANUCO", "HUANUCO", "HUANUCO", "100101"},
	{"LA LIBERTAD", "TRUJILLO", "TRUJILLO", "130101"},
	{"LA LIBERTAD", "TRUJILLO", "HUANCHACO", "130104"},
	{"LA LIBERTAD", "GRAN CHIMU", "CASCAS", "131101"},
	{"MADRE DE DIOS", "TAMBOPATA", "TAMBOPATA", "170101"},
	{"MADRE DE DIOS", "TAMBOPATA", "INAMBARI", "170102"},
	{"MADRE DE DIOS", "MANU", "FITZCARRALD", "170202"},
	{"MADRE DE DIOS", "TAHUAMANU", "IÑAPARI", "170301"},
	{"SAN MARTIN", "MOYOBAMBA", "MOYOBAMBA", "220101"},
	{"SAN MARTIN", "SAN MARTIN", "TARAPOTO", "220901"},
	{"SAN MARTIN", "MARISCAL CACERES", "JUANJUI", "220601"},
	{"PROV. CONST. DEL CALLAO", "PROV. CONST. DEL CALLAO", "CALLAO", "070101"},
	{"PROV. CONST. DEL CALLAO", "PROV. CONST. DEL CALLAO", "BELLAVISTA", "070102"},
	{"PROV. CONST. DEL CALLAO", "PROV. CONST. DEL CALLAO", "LA PERLA", "070104"},
	{"PROV. CONST. DEL CALLAO", "PROV. CONST. DEL CALLAO", "LA PUNTA", "070105"},
	{"PROV. CONST. DEL CALLAO", "PROV. CONST. DEL CALLAO", "VENTANILLA", "070106"},
	{"PROV. CONST. DEL CALLAO", "PROV. CONST. DEL CALLAO", "CARMEN DE LA LEGUA REYNOSO", "070103"},
	{"AREQUIPA", "AREQUIPA", "AREQUIPA", "040101"},
	{"AREQUIPA", "AREQUIPA", "CERRO COLORADO", "040104"},
	{"AREQUIPA", "AREQUIPA", "JOSE LUIS BUSTAMANTE Y RIVERO", "040129"},
	{"PIURA", "PIURA", "PIURA", "200101"},
	{"PIURA", "PAITA", "PAITA", "200501"},
	{"PIURA", "SULLANA", "SULLANA", "200601"},
	{"LAMBAYEQUE", "CHICLAYO", "CHICLAYO", "140101"},
	{"LAMBAYEQUE", "FERREÑAFE", "FERREÑAFE", "140201"},
	{"LAMBAYEQUE", "LAMBAYEQUE", "LAMBAYEQUE", "140301"},
	{"CUSCO", "CUSCO", "CUSCO", "080101"},
	{"CUSCO", "CUSCO", "SAN SEBASTIAN", "080105"},
	{"CUSCO", "LA CONVENCION", "SANTA ANA", "080901"},
	{"ANCASH", "HUARAZ", "HUARAZ", "020101"},
	{"ANCASH", "SANTA", "CHIMBOTE", "021801"},
	{"ANCASH", "SANTA", "SANTA", "021808"},
	{"JUNIN", "HUANCAYO", "HUANCAYO", "120101"},
	{"JUNIN", "HUANCAYO", "CHILCA", "120107"},
	{"JUNIN", "CHANCHAMAYO", "CHANCHAMAYO", "120301"},
	{"ICA", "ICA", "ICA", "110101"},
	{"ICA", "CHINCHA", "CHINCHA ALTA", "110201"},
	{"ICA", "PISCO", "PISCO", "110501"},
	{"AMAZONAS", "CHACHAPOYAS", "CHACHAPOYAS", "010101"},
	{"AMAZONAS", "BAGUA", "BAGUA", "010201"},
	{"CAJAMARCA", "CAJAMARCA", "CAJAMARCA", "060101"},
	{"CAJAMARCA", "CELENDIN", "CELENDIN", "060301"},
	{"CAJAMARCA", "JAEN", "JAEN", "060801"},
	{"HUANCAVELICA", "HUANCAVELICA", "HUANCAVELICA", "090101"},
	{"AYACUCHO", "HUAMANGA", "AYACUCHO", "050101"},
	{"AYACUCHO", "HUANTA", "HUANTA", "050401"},
	{"LORETO", "MAYNAS", "IQUITOS", "160101"},
	{"LORETO", "ALTO AMAZONAS", "YURIMAGUAS", "160201"},
	{"MOQUEGUA", "MARISCAL NIETO", "MOQUEGUA", "180101"},
	{"MOQUEGUA", "ILO", "ILO", "180301"},
	{"PASCO", "PASCO", "CHAUPIMARCA", "190101"},
	{"PASCO", "OXAPAMPA", "OXAPAMPA", "190301"},
	{"PUNO", "PUNO", "PUNO", "210101"},
	{"PUNO", "SAN ROMAN", "JULIACA", "211101"},
	{"TACNA", "TACNA", "TACNA", "230101"},
	{"TACNA", "TACNA", "CORONEL GREGORIO ALBARRACIN LANCHIPA", "230110"},
	{"TUMBES", "TUMBES", "TUMBES", "240101"},
	{"TUMBES", "CONTRALMIRANTE VILLAR", "ZORRITOS", "240201"},
	{"UCAYALI", "CORONEL PORTILLO", "CALLERIA", "250101"},
	{"UCAYALI", "ATALAYA", "RAYMONDI", "250201"},
	{"APURIMAC", "ABANCAY", "ABANCAY", "030101"},
	{"APURIMAC", "ANDAHUAYLAS", "ANDAHUAYLAS", "030201"},
	{"LIMA", "HUAROCHIRI", "CUENCA", "150706"},
}

// unknownPlaces are addresses that SUNAT might print and no table knows: the
// names are read, the code is absent.
var unknownPlaces = []place{
	{"LIMA", "LIMA", "DISTRITO INVENTADO", ""},
	{"LA LIBERTAD", "TRUJILLO", "NUEVO EJEMPLO-MUESTRA", ""},
	{"PROV. CONST. DEL CALLAO", "PROV. CONST. DEL CALLAO", "ISLA FICTICIA", ""},
	{"SAN MARTIN", "PROVINCIA INVENTADA", "TARAPOTO", ""},
}

// placeOf returns the listed district with an ubigeo code; it panics on an unknown one, for
// cases written in the source.
func placeOf(ubigeo string) place {
	for _, p := range places {
		if p.ubigeo == ubigeo {
			return p
		}
	}
	panic("replica: no place has ubigeo " + ubigeo)
}
