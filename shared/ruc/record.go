package ruc

import (
	"bytes"
	"encoding/json"
	"time"
)

// Text is a value that SUNAT's page may leave out. The empty Text is absent and
// is encoded as null; a record never holds "" or "-".
type Text string

// MarshalJSON encodes the empty Text as null.
func (t Text) MarshalJSON() ([]byte, error) { return marshalOptional(string(t)) }

// UnmarshalJSON accepts a string or null.
func (t *Text) UnmarshalJSON(b []byte) error { return unmarshalOptional(b, (*string)(t)) }

// Date is a calendar day in ISO 8601 form (2006-01-02), or absent when empty;
// absent is encoded as null.
type Date string

// MarshalJSON encodes the empty Date as null.
func (d Date) MarshalJSON() ([]byte, error) { return marshalOptional(string(d)) }

// UnmarshalJSON accepts a string or null.
func (d *Date) UnmarshalJSON(b []byte) error { return unmarshalOptional(b, (*string)(d)) }

func marshalOptional(s string) ([]byte, error) {
	if s == "" {
		return []byte("null"), nil
	}
	return marshalPlain(s)
}

func unmarshalOptional(b []byte, s *string) error {
	if bytes.Equal(b, []byte("null")) {
		*s = ""
		return nil
	}
	return json.Unmarshal(b, s)
}

// marshalPlain is json.Marshal without HTML escaping, so that "&" in a company
// name stays readable wherever the bytes are shown.
func marshalPlain(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// Lima is Peru's time zone: UTC−5 all year, without daylight saving time. The
// zone is fixed rather than loaded, so that no time zone database is needed.
var Lima = time.FixedZone("-05", -5*60*60)

// The values of Record.TipoPersona.
const (
	PersonaJuridica = "juridica" // prefix 20
	PersonaNatural  = "natural"  // every other prefix
)

// Record is what SUNAT's "Consulta RUC" page says of one taxpayer (the ficha
// RUC). Field names are the source's vocabulary in Spanish. Absent values are
// null, lists are never null, dates are ISO 8601 days.
type Record struct {
	RazonSocial       Text   `json:"razonSocial"`
	NombreComercial   Text   `json:"nombreComercial"`
	TipoContribuyente Text   `json:"tipoContribuyente"`
	TipoPersona       string `json:"tipoPersona"`
	// TipoDocumento is the kind of a natural person's document (DNI, CE, …). Its
	// number and the name beside it are dropped: the RUC and the name say them.
	TipoDocumento Text `json:"tipoDocumento"`
	// Estado is an open set (ACTIVO, BAJA DE OFICIO, …); Activo is exactly ACTIVO.
	Estado    Text `json:"estado"`
	Activo    bool `json:"activo"`
	FechaBaja Date `json:"fechaBaja"`
	// Condicion is an open set (HABIDO, NO HABIDO, NO HALLADO - …); Habido is
	// exactly HABIDO. CondicionNota is the advice that SUNAT prints beside it.
	Condicion     Text `json:"condicion"`
	Habido        bool `json:"habido"`
	CondicionNota Text `json:"condicionNota"`

	FechaInscripcion       Date `json:"fechaInscripcion"`
	FechaInicioActividades Date `json:"fechaInicioActividades"`

	// DomicilioFiscal is the whole address with blanks collapsed; the fields
	// below are its parts. All are absent for natural persons.
	DomicilioFiscal Text `json:"domicilioFiscal"`
	Direccion       Text `json:"direccion"`
	Departamento    Text `json:"departamento"`
	Provincia       Text `json:"provincia"`
	Distrito        Text `json:"distrito"`
	// Ubigeo is INEI's six-digit district code, derived from the three names.
	Ubigeo Text `json:"ubigeo"`

	SistemaEmisionComprobante Text `json:"sistemaEmisionComprobante"`
	SistemaContabilidad       Text `json:"sistemaContabilidad"`
	ActividadComercioExterior Text `json:"actividadComercioExterior"`
	// AfectoNuevoRus is null where the page does not say it.
	AfectoNuevoRus *bool `json:"afectoNuevoRus"`

	ActividadesEconomicas     []Actividad          `json:"actividadesEconomicas"`
	ComprobantesPago          []string             `json:"comprobantesPago"`
	SistemaEmisionElectronica []EmisionElectronica `json:"sistemaEmisionElectronica"`
	EmisorElectronicoDesde    Date                 `json:"emisorElectronicoDesde"`
	ComprobantesElectronicos  []Comprobante        `json:"comprobantesElectronicos"`
	AfiliadoPleDesde          Date                 `json:"afiliadoPleDesde"`

	// Padrones are the register lines as printed; the three flags are derived
	// from the lines that begin with "Incorporado al Régimen de …".
	Padrones          []string `json:"padrones"`
	AgenteRetencion   bool     `json:"agenteRetencion"`
	AgentePercepcion  bool     `json:"agentePercepcion"`
	BuenContribuyente bool     `json:"buenContribuyente"`

	// Avisos are notices that SUNAT prints before the rows.
	Avisos []string `json:"avisos"`

	// FechaConsultaSunat is the minute printed at the foot of the page, in Lima's
	// offset; null where the foot is missing.
	FechaConsultaSunat *time.Time `json:"fechaConsultaSunat"`
}

// Actividad is one economic activity. CIIU has four digits (rev. 4) or five
// (rev. 3, older records); Orden is 0 for the principal one.
type Actividad struct {
	Tipo        string `json:"tipo"` // Principal, Secundaria
	Orden       int    `json:"orden"`
	CIIU        string `json:"ciiu"`
	Descripcion string `json:"descripcion"`
}

// EmisionElectronica is one electronic issuing system and its first day.
type EmisionElectronica struct {
	Sistema string `json:"sistema"`
	Desde   Date   `json:"desde"`
}

// Comprobante is one kind of electronic voucher and its first day.
type Comprobante struct {
	Tipo  string `json:"tipo"`
	Desde Date   `json:"desde"`
}

// withLists returns r with every nil list replaced by an empty one, so that
// lists are never null on the wire.
func (r Record) withLists() Record {
	if r.ActividadesEconomicas == nil {
		r.ActividadesEconomicas = []Actividad{}
	}
	if r.ComprobantesPago == nil {
		r.ComprobantesPago = []string{}
	}
	if r.SistemaEmisionElectronica == nil {
		r.SistemaEmisionElectronica = []EmisionElectronica{}
	}
	if r.ComprobantesElectronicos == nil {
		r.ComprobantesElectronicos = []Comprobante{}
	}
	if r.Padrones == nil {
		r.Padrones = []string{}
	}
	if r.Avisos == nil {
		r.Avisos = []string{}
	}
	return r
}
