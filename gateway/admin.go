package gateway

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/ruc"
)

// admin is the HTTP side of what only an operator may do.
type admin struct {
	token       string // empty = every request is refused
	invalidated *invalidations
	log         zerolog.Logger
}

const scheme = "Bearer"

// authorize lets a request with the token pass. The token is taken from the header
// alone, which no other site can make a browser send.
func (a *admin) authorize(c *fiber.Ctx) error {
	if a.token == "" {
		return &ruc.Error{Code: ruc.Forbidden, Detail: "Las operaciones de administración están desactivadas: falta definir ADMIN_TOKEN en el servidor."}
	}
	kind, given, _ := strings.Cut(c.Get(fiber.HeaderAuthorization), " ")
	// Sums are of equal length, so that the time says nothing about the token's.
	want, got := sha256.Sum256([]byte(a.token)), sha256.Sum256([]byte(given))
	if subtle.ConstantTimeCompare(want[:], got[:]) != 1 || !strings.EqualFold(kind, scheme) {
		return &ruc.Error{Code: ruc.Unauthorized, Detail: "Falta el token de administración o no es el correcto. Envíelo en la cabecera Authorization: Bearer."}
	}
	return c.Next()
}

// forget answers DELETE /v1/ruc/{ruc}, with ?olvidar=true for its history too.
func (a *admin) forget(c *fiber.Ctx) error {
	n, err := ruc.Parse(c.Params("ruc"))
	if err != nil {
		return err
	}
	forget, err := flag(c, "olvidar")
	if err != nil {
		return err
	}
	if forget {
		err = a.invalidated.history(n)
	} else {
		err = a.invalidated.one(n)
	}
	if err != nil {
		return &numbered{ruc: n, err: err}
	}
	a.log.Info().Str("ruc", n.Masked()).Bool("history", forget).Str("req", requestID(c)).Msg("an answer was invalidated")
	return c.SendStatus(http.StatusNoContent)
}

// flag reads a parameter of the query that is true or false; absent is false.
func flag(c *fiber.Ctx, name string) (bool, error) {
	switch c.Query(name) {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	default:
		return false, &ruc.Error{Code: ruc.BadBody, Detail: "El parámetro " + name + " debe ser true o false."}
	}
}

// patternRequest is the body of POST /v1/cache/invalidar.
type patternRequest struct {
	Patron  string `json:"patron"`
	Simular bool   `json:"simular"`
	Todo    bool   `json:"todo"`
}

// forgetPattern answers POST /v1/cache/invalidar.
func (a *admin) forgetPattern(c *fiber.Ctx) error {
	var in patternRequest
	if err := readJSON(c, &in, `{"patron":"2010*","simular":true}`); err != nil {
		return err
	}
	p, err := ruc.ParsePattern(in.Patron)
	if err != nil {
		return err
	}
	if p.Everything() && !in.Todo && !in.Simular {
		return &ruc.Error{Code: ruc.BadBody, Detail: `El patrón * abarca todos los RUC. Si eso es lo que desea, agregue "todo":true.`}
	}
	count, err := a.invalidated.pattern(p, in.Simular)
	if err != nil {
		return err
	}
	if !in.Simular {
		a.log.Info().Str("pattern", p.Masked()).Int("count", count).Str("req", requestID(c)).Msg("answers were invalidated by a pattern")
	}
	c.Set(fiber.HeaderCacheControl, "no-store")
	return c.JSON(struct {
		Claves int `json:"claves"`
	}{count})
}

// readJSON reads a body that is one JSON object without unknown members. example is
// shown to whoever sent something else.
func readJSON(c *fiber.Ctx, v any, example string) error {
	if kind, _, err := mime.ParseMediaType(c.Get(fiber.HeaderContentType)); err != nil || kind != fiber.MIMEApplicationJSON {
		return &ruc.Error{Code: ruc.MediaType, Detail: "El cuerpo debe ser application/json.", Err: err}
	}
	if c.Get(fiber.HeaderContentEncoding) != "" {
		return &ruc.Error{Code: ruc.MediaType, Detail: "El cuerpo no debe venir comprimido."}
	}
	dec := json.NewDecoder(bytes.NewReader(c.Request().Body()))
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	if err == nil {
		if _, err = dec.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		err = errors.New("more than one JSON value")
	}
	return &ruc.Error{Code: ruc.BadBody, Detail: "El cuerpo de la solicitud no se entiende. Por ejemplo: " + example, Err: err}
}
