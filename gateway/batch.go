package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

const (
	// maxBatch is how many numbers one batch may name, maxBatches how many batches of one
	// process may be open.
	maxBatch, maxBatches = 1000, 64
	// batchReads is how many answers a batch reads from the store at one time.
	batchReads = 16
	// batchBeat is how often a batch that waits writes a blank, by which a client that has
	// gone is found.
	batchBeat = time.Second
	// A number for which the queue has no room is asked for again: so often, and each time
	// at the latest after so long.
	batchTries    = 20
	batchMaxPause = 30 * time.Second
)

// typeNDJSON is the media type of a line of JSON for each answer.
const typeNDJSON = "application/x-ndjson"

// batches answers many numbers with one response: what is held at once, the rest one
// number after the other, so that each batch has at most one job in the queue.
type batches struct {
	ctx      context.Context // of all lookups
	stopping <-chan struct{} // closed when no visit is to be begun any more
	lookups  *lookups
	beat     time.Duration
	slots    chan struct{}
	wg       sync.WaitGroup
}

func newBatches(ctx context.Context, stopping <-chan struct{}, l *lookups) *batches {
	return &batches{ctx: ctx, stopping: stopping, lookups: l, beat: batchBeat, slots: make(chan struct{}, maxBatches)}
}

// order is what one client asks for.
type order struct {
	texts []string // as the client wrote them, each once
	wish  wish
	who   asker
	trace wire.Trace
}

// line is one answer of a batch.
type line struct {
	RUC      string          `json:"ruc"` // as it was asked for
	Status   int             `json:"status"`
	Registro json.RawMessage `json:"registro,omitempty"`
	Problema json.RawMessage `json:"problema,omitempty"`
}

// encode returns the line with its end.
func (l line) encode() []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(l); err != nil {
		// Text, a number and documents of ours: nothing that can fail to encode.
		panic(fmt.Sprintf("gateway.line.encode: %v", err))
	}
	return b.Bytes()
}

func lineOf(n ruc.Number, f found) []byte {
	if !f.found {
		return line{RUC: n.String(), Status: http.StatusNotFound, Problema: f.body}.encode()
	}
	return line{RUC: n.String(), Status: http.StatusOK, Registro: f.body}.encode()
}

func (o order) refusal(text string, n ruc.Number, err error) []byte {
	p := wire.NewProblem(n, err)
	p.RequestID = o.trace.Request
	return line{RUC: text, Status: p.Status, Problema: p.Encode()}.encode()
}

// run gives a line for each text to say, until ctx ends.
func (b *batches) run(ctx context.Context, o order, say func([]byte)) {
	var numbers []ruc.Number
	for _, text := range o.texts {
		n, err := ruc.Parse(text)
		if err != nil {
			say(o.refusal(text, n, err))
			continue
		}
		numbers = append(numbers, n)
	}
	for _, n := range b.held(ctx, o, numbers, say) {
		f, err := b.resolve(ctx, n, o)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			say(o.refusal(n.String(), n, err))
		default:
			say(lineOf(n, f))
		}
	}
}

// held says the answers that need no visit and returns the other numbers, in their order.
func (b *batches) held(ctx context.Context, o order, numbers []ruc.Number, say func([]byte)) (rest []ruc.Number) {
	missing := make([]bool, len(numbers))
	places := make(chan int)
	var wg sync.WaitGroup
	for range min(batchReads, len(numbers)) {
		wg.Go(func() {
			for i := range places {
				if f, ok := b.lookups.atHand(ctx, numbers[i], o.wish); ok {
					say(lineOf(numbers[i], f))
				} else {
					missing[i] = true
				}
			}
		})
	}
	for i := range numbers {
		places <- i
	}
	close(places)
	wg.Wait()
	for i, n := range numbers {
		if missing[i] {
			rest = append(rest, n)
		}
	}
	return rest
}

// resolve looks one number up. Where the queue has no room it waits until there may be.
func (b *batches) resolve(ctx context.Context, n ruc.Number, o order) (found, error) {
	for tries := 1; ; tries++ {
		select {
		case <-b.stopping:
			return found{}, &ruc.Error{Code: ruc.Unavailable, Detail: "El servicio se detiene. Pida de nuevo este RUC en unos segundos.", RetryAfter: time.Second}
		default:
		}
		f, err := b.lookups.lookup(ctx, n, o.trace, o.wish, o.who)
		var full *ruc.Error
		if !errors.As(err, &full) || full.Code != ruc.Overloaded || tries == batchTries {
			return f, err
		}
		select {
		case <-time.After(min(max(full.RetryAfter, time.Second), batchMaxPause)):
		case <-ctx.Done():
		case <-b.stopping:
		}
	}
}

// write sends the lines as they come until all are sent or the client has gone, for whom
// no visit is begun any more.
func (b *batches) write(o order, conn net.Conn, w *bufio.Writer) {
	ctx, cancel := context.WithCancel(b.ctx)
	lines := make(chan []byte)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(lines)
		b.run(ctx, o, func(l []byte) {
			select {
			case lines <- l:
			case <-ctx.Done():
			}
		})
	})
	defer wg.Wait()
	defer cancel()
	out, ok := newPatient(conn, w)
	if !ok {
		return
	}
	tick := time.NewTicker(b.beat)
	defer tick.Stop()
	for {
		var piece []byte
		select {
		case l, more := <-lines:
			if !more {
				return
			}
			piece = l
		case <-tick.C:
			piece = []byte(" ") // which may stand before any JSON value
		}
		if !out.send(piece) {
			return
		}
	}
}

// batchRequest is the body of POST /v1/ruc/lote.
type batchRequest struct {
	RUCs []string `json:"rucs"`
}

const batchExample = `{"rucs":["20131312955","20100055237"]}`

// batch answers POST /v1/ruc/lote.
func (w *server) batch(c *fiber.Ctx) error {
	who, err := w.access.enter(c)
	defer who.tell(c, w.now)
	if err != nil {
		return err
	}
	var in batchRequest
	if err := readJSON(c, &in, batchExample); err != nil {
		return err
	}
	if len(in.RUCs) == 0 || len(in.RUCs) > maxBatch {
		return &ruc.Error{Code: ruc.BadBody, Detail: fmt.Sprintf("Indique de 1 a %d números: %s", maxBatch, batchExample)}
	}
	select {
	case w.batches.slots <- struct{}{}:
	default:
		return &ruc.Error{Code: ruc.Overloaded, RetryAfter: pendingRetryAfter}
	}
	o := order{texts: distinct(in.RUCs), wish: parseWish(c.Get(fiber.HeaderCacheControl)), who: who, trace: trace(c)}
	o.wish.foreign = w.access.foreign(c)
	c.Set(fiber.HeaderContentType, typeNDJSON)
	c.Set(fiber.HeaderCacheControl, "no-store")
	c.Set(headerBuffering, "no")
	conn := c.Context().Conn()
	w.batches.wg.Add(1)
	c.Context().SetBodyStreamWriter(func(b *bufio.Writer) {
		defer w.batches.wg.Done()
		defer func() { <-w.batches.slots }()
		w.batches.write(o, conn, b)
	})
	return nil
}

// distinct returns each text once, without what stands around it.
func distinct(texts []string) (once []string) {
	seen := make(map[string]bool, len(texts))
	for _, text := range texts {
		if text = strings.TrimSpace(text); !seen[text] {
			seen[text] = true
			once = append(once, text)
		}
	}
	return once
}
