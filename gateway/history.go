package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

const (
	// maxVersions bounds the versions that one response lists, maxPastAnswers the
	// answers that are read for it: 8 MB, as a rule much less.
	maxVersions, maxPastAnswers = 100, 4096
	// historyTimeout bounds the reading, which takes a millisecond as a rule.
	historyTimeout = 3 * time.Second
	// maxHistories bounds those that are being read at one time.
	maxHistories = 16
)

// histories answers from what the stream of events still holds of a number.
type histories struct {
	nc    *nats.Conn
	slots chan struct{}
	log   zerolog.Logger
}

func newHistories(nc *nats.Conn, log zerolog.Logger) *histories {
	return &histories{nc: nc, slots: make(chan struct{}, maxHistories), log: log}
}

// version is what SUNAT said for a while.
type version struct {
	Huella    string          `json:"huella"`
	Desde     time.Time       `json:"desde"` // when it was first said
	Hasta     time.Time       `json:"hasta"` // when it was last said
	Consultas int             `json:"consultas"`
	Respuesta json.RawMessage `json:"respuesta"` // the newest of these answers
}

// past is the body of a history.
type past struct {
	RUC       ruc.Number `json:"ruc"`
	Versiones []version  `json:"versiones"` // newest first, never null
	Completo  bool       `json:"completo"`  // there are no older ones in the stream
}

// read returns the versions of n that are kept. Errors: ruc.Overloaded, ruc.Unavailable.
func (h *histories) read(ctx context.Context, n ruc.Number) (past, error) {
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	default:
		return past{}, &ruc.Error{Code: ruc.Overloaded, RetryAfter: pendingRetryAfter}
	}
	ctx, cancel := context.WithTimeout(ctx, historyTimeout)
	defer cancel()
	p := past{RUC: n, Versiones: []version{}}
	cut := false
	whole, err := wire.History(ctx, h.nc, n, maxPastAnswers, func(e wire.Event) {
		if !json.Valid(e.Body) {
			h.log.Warn().Uint64("seq", e.Seq).Msg("an event could not be read")
			return
		}
		if last := len(p.Versiones) - 1; last >= 0 && p.Versiones[last].Huella == e.Prefix.Huella {
			v := &p.Versiones[last]
			v.Hasta, v.Respuesta = e.Prefix.ObtainedAt, e.Body
			v.Consultas++
			return
		}
		p.Versiones = append(p.Versiones, version{e.Prefix.Huella, e.Prefix.ObtainedAt, e.Prefix.ObtainedAt, 1, e.Body})
		if len(p.Versiones) > maxVersions {
			p.Versiones, cut = slices.Delete(p.Versiones, 0, 1), true
		}
	})
	if err != nil {
		return past{}, &ruc.Error{
			Code: ruc.Unavailable, Detail: "No es posible leer el historial en este momento. Intente de nuevo en unos segundos.",
			RetryAfter: pendingRetryAfter, Err: fmt.Errorf("gateway.histories: %w", err),
		}
	}
	slices.Reverse(p.Versiones)
	p.Completo = whole && !cut
	return p, nil
}

// history answers GET /v1/ruc/{ruc}/historial. It costs no visit, so that pages of other
// sites get it like whatever else is held.
func (w *server) history(c *fiber.Ctx) error {
	who, err := w.access.enter(c)
	defer who.tell(c, w.now)
	if err != nil {
		return err
	}
	n, err := ruc.Parse(c.Params("ruc"))
	if err != nil {
		return err
	}
	p, err := w.histories.read(c.UserContext(), n)
	if err != nil {
		return &numbered{ruc: n, err: err}
	}
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(p); err != nil {
		return &numbered{ruc: n, err: err}
	}
	if c.Get(wire.HeaderRequestID) != "" {
		requestID(c)
	}
	c.Set(fiber.HeaderCacheControl, "no-store")
	c.Response().Header.SetContentType(fiber.MIMEApplicationJSONCharsetUTF8)
	c.Response().SetBodyRaw(bytes.TrimSuffix(body.Bytes(), []byte("\n")))
	return nil
}
