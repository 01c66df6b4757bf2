package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/rucflow/rucflow/shared/ruc"
)

// ProblemType is the media type of a problem document (RFC 9457).
const ProblemType = "application/problem+json"

// problemMessage is the constant "message" member that clients of the first
// version read.
const problemMessage = "Error al consultar RUC"

// Problem is a problem document (RFC 9457), the one form in which an error
// reaches a client, over HTTP as over NATS. Texts are Spanish.
type Problem struct {
	Type      string   `json:"type"` // urn:rucflow:problem:<code>
	Title     string   `json:"title"`
	Status    int      `json:"status"` // HTTP status
	Detail    string   `json:"detail"`
	Code      ruc.Code `json:"code"`
	Message   string   `json:"message"` // always "Error al consultar RUC"
	RUC       string   `json:"ruc,omitempty"`
	Retryable bool     `json:"retryable"`
	RequestID string   `json:"requestId,omitempty"`

	// RetryAfter is whole seconds; over HTTP it is the header of that name too.
	RetryAfter int `json:"retryAfter,omitempty"`
	// Attempts is the number of visits made, where any was.
	Attempts int `json:"intentos,omitempty"`

	// The members below are present when Code is ruc.NotFound: that SUNAT does
	// not know a number is an answer, and these fields rebuild it.
	ObtenidoEn *time.Time `json:"obtenidoEn,omitempty"`
	Huella     string     `json:"huella,omitempty"`
	Fuente     string     `json:"fuente,omitempty"`
	Motor      string     `json:"motor,omitempty"` // also on events of failed visits
}

type codeText struct {
	status        int
	title, detail string
}

// codeTexts is the one table from codes to HTTP statuses and Spanish texts. The
// detail stands where the error brings none of its own.
var codeTexts = map[ruc.Code]codeText{
	ruc.NotFound:     {http.StatusNotFound, "RUC no encontrado", "SUNAT no tiene registrado el RUC consultado."},
	ruc.Invalid:      {http.StatusBadRequest, "RUC no válido", "El formato del RUC no es válido. Debe tener 11 dígitos."},
	ruc.Overloaded:   {http.StatusServiceUnavailable, "Demasiadas consultas en espera", "La cola de consultas está llena, o es demasiado larga para el tiempo de espera pedido. Intente de nuevo más tarde."},
	ruc.Timeout:      {http.StatusGatewayTimeout, "Tiempo de espera agotado", "SUNAT no respondió a tiempo. Intente de nuevo en unos segundos."},
	ruc.Unavailable:  {http.StatusServiceUnavailable, "Servicio no disponible", "No es posible consultar a SUNAT en este momento. Intente de nuevo en unos minutos."},
	ruc.Blocked:      {http.StatusServiceUnavailable, "SUNAT rechaza las consultas", "SUNAT rechaza temporalmente las consultas. Intente de nuevo en unos minutos."},
	ruc.Changed:      {http.StatusBadGateway, "Respuesta de SUNAT no reconocida", "La página de SUNAT no tiene el formato esperado."},
	ruc.NotHeld:      {http.StatusGatewayTimeout, "Sin datos guardados", "No hay datos guardados de este RUC y la solicitud pidió no consultar a SUNAT."},
	ruc.NoRoute:      {http.StatusNotFound, "Ruta desconocida", "La ruta solicitada no existe."},
	ruc.Method:       {http.StatusMethodNotAllowed, "Método no permitido", "La ruta no admite este método HTTP."},
	ruc.TooLarge:     {http.StatusRequestEntityTooLarge, "Solicitud demasiado grande", "La solicitud supera el tamaño permitido."},
	ruc.MediaType:    {http.StatusUnsupportedMediaType, "Tipo de contenido no admitido", "El tipo de contenido de la solicitud no se admite."},
	ruc.BadBody:      {http.StatusBadRequest, "Solicitud ilegible", "El cuerpo de la solicitud no se entiende."},
	ruc.RateLimited:  {http.StatusTooManyRequests, "Demasiadas solicitudes", "Ha superado el límite de solicitudes. Espere antes de intentar de nuevo."},
	ruc.Unauthorized: {http.StatusUnauthorized, "Credenciales requeridas", "Faltan credenciales válidas."},
	ruc.Forbidden:    {http.StatusForbidden, "Acceso denegado", "Sus credenciales no permiten esta operación."},
	ruc.Internal:     {http.StatusInternalServerError, "Error interno", "Ocurrió un error interno. El problema quedó registrado."},
}

// Status returns the HTTP status of a code; 500 for a code outside the set.
func Status(c ruc.Code) int {
	if t, ok := codeTexts[c]; ok {
		return t.status
	}
	return http.StatusInternalServerError
}

// NewProblem describes err to a client. The cause behind a *ruc.Error never
// shows; an error without a code is ruc.Internal.
func NewProblem(n ruc.Number, err error) Problem {
	var e *ruc.Error
	if !errors.As(err, &e) {
		e = &ruc.Error{Code: ruc.CodeOf(err)}
	}
	code := e.Code
	t, ok := codeTexts[code]
	if !ok {
		code, t = ruc.Internal, codeTexts[ruc.Internal]
	}
	p := Problem{
		Type:       "urn:rucflow:problem:" + string(code),
		Title:      t.title,
		Status:     t.status,
		Detail:     t.detail,
		Code:       code,
		Message:    problemMessage,
		RUC:        n.String(),
		Retryable:  code.Retryable(),
		RetryAfter: int((e.RetryAfter + time.Second - 1) / time.Second),
		Attempts:   e.Attempts,
	}
	if e.Detail != "" {
		p.Detail = e.Detail
	}
	return p
}

// NotFoundProblem is the problem form of the answer that SUNAT does not know a
// number.
func NotFoundProblem(a ruc.Answer) Problem {
	p := NewProblem(a.RUC, &ruc.Error{
		Code:   ruc.NotFound,
		Detail: fmt.Sprintf("SUNAT indica que el RUC %s no está registrado.", a.RUC),
	})
	at := a.ObtenidoEn
	p.ObtenidoEn, p.Huella, p.Fuente, p.Motor = &at, a.Huella, a.Fuente, a.Motor
	return p
}

// Encode returns the document as one line of JSON.
func (p Problem) Encode() []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(p); err != nil {
		// Strings, numbers and one valid time: nothing that can fail to encode.
		panic(fmt.Sprintf("wire.Problem.Encode: %v", err))
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
}

// Err turns a received document back into the error that it describes.
func (p Problem) Err() *ruc.Error {
	code := p.Code
	if !code.Known() {
		code = ruc.Internal
	}
	return &ruc.Error{
		Code:       code,
		Detail:     p.Detail,
		RetryAfter: time.Duration(p.RetryAfter) * time.Second,
		Attempts:   p.Attempts,
	}
}

// ProblemOfAnswer returns the not-found document of an encoded answer.
func ProblemOfAnswer(body []byte) (Problem, error) {
	var a ruc.Answer
	if err := json.Unmarshal(body, &a); err != nil {
		return Problem{}, fmt.Errorf("wire.ProblemOfAnswer: %w", err)
	}
	return NotFoundProblem(a), nil
}
