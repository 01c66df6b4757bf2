package gateway

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/nats-io/nats.go"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// eventKind is the type of a Server-Sent Event on /v1/eventos.
type eventKind string

const (
	eventProgress eventKind = "progress" // a wire.Progress
	eventResolved eventKind = "resolved" // the record, or the problem that says not found
	eventFailed   eventKind = "failed"   // the problem
	eventChanged  eventKind = "changed"  // a wire.Changed
)

// kindSet holds kinds of events; nil = all.
type kindSet []eventKind

func (s kindSet) has(k eventKind) bool { return s == nil || slices.Contains(s, k) }

const (
	// heartbeat keeps proxies from closing a quiet stream, and finds readers that have gone.
	heartbeat = 15 * time.Second
	// maxCatchUps bounds the readers that read the stream of events at one time, each a
	// page of 2 MB; the others wait.
	maxCatchUps = 8
	// catchUpTime is what one of them may take, for which tens of thousands of events can be
	// read. Who is slower is cut off and goes on when it is back, so that a few who are slow
	// do not keep the others waiting.
	catchUpTime = 30 * time.Second
	// A replica that lags may not have what was heard already: it is asked so often.
	catchUpReads = 10
	catchUpRetry = 100 * time.Millisecond
)

// streams writes what a feed says, and what the stream of events has kept, to those who
// read.
type streams struct {
	ctx       context.Context
	nc        *nats.Conn
	feed      *feed
	heartbeat time.Duration
	catchUps  chan struct{}
}

func newStreams(ctx context.Context, nc *nats.Conn, f *feed) *streams {
	return &streams{ctx: ctx, nc: nc, feed: f, heartbeat: heartbeat, catchUps: make(chan struct{}, maxCatchUps)}
}

// frame is one event in the form of https://html.spec.whatwg.org/#event-stream-interpretation;
// an id of 0 is none.
func frame(kind eventKind, id uint64, data []byte) []byte {
	b := append([]byte("event: "), kind...)
	if id > 0 {
		b = strconv.AppendUint(append(b, "\nid: "...), id, 10)
	}
	for line := range bytes.FieldsFuncSeq(data, func(r rune) bool { return r == '\n' || r == '\r' }) {
		b = append(append(b, "\ndata: "...), line...)
	}
	return append(b, "\n\n"...)
}

// mark is a frame that is no event: the client will resume from there, whatever comes.
func mark(line string, position uint64) []byte {
	b := []byte(line)
	if position > 0 {
		b = strconv.AppendUint(append(b, "\nid: "...), position, 10)
	}
	return append(b, "\n\n"...)
}

// write sends events to the reader until it ends or the client has gone: what comes from
// now on, or what was stored after the event that it names.
func (s *streams) write(r *reader, resume *uint64, conn net.Conn, w *bufio.Writer) {
	out, ok := newPatient(conn, w)
	if !ok {
		return
	}
	// At once, so that the client knows that nothing will be missed from here on.
	const hello = "retry: 2000"
	if resume == nil {
		if !out.send(mark(hello, s.feed.attachNow(r))) {
			return
		}
	} else if !out.send(mark(hello, 0)) || !s.catchUp(r, *resume, out) {
		return
	}
	tick := time.NewTicker(s.heartbeat)
	defer tick.Stop()
	for {
		ok := false
		select {
		case first := <-r.frames:
			ok = out.send(burst(first, r.frames)...)
		case <-tick.C:
			ok = out.send(mark(":", s.feed.caughtUp(r)))
		case <-r.dropped:
		case <-s.feed.over:
		}
		if !ok {
			return
		}
	}
}

// burst is first and what else has come by now. It makes room for more before they are
// written, and copies none: they are every reader's.
func burst(first []byte, more <-chan []byte) [][]byte {
	all := [][]byte{first}
	for {
		select {
		case next := <-more:
			all = append(all, next)
		default:
			return all
		}
	}
}

// catchUp sends what was stored after an event and goes on to what is heard, without a gap
// between. It is false where that failed; the client will try again.
func (s *streams) catchUp(r *reader, after uint64, out patient) bool {
	if newest, ok := s.feed.newest(); ok && after > newest {
		// Of a gateway that is ahead, or of a stream that is gone, whose numbers mean nothing.
		last, err := wire.LastEvent(s.ctx, s.nc)
		if err != nil {
			return false
		}
		after = min(after, max(newest, last.Seq))
	}
	for vain := 0; !s.feed.attach(r, after); {
		upTo, known := s.feed.newest()
		read, ok := s.readOn(r, after, out)
		switch {
		case !ok:
			return false
		case read > after:
			after, vain = read, 0
			continue
		case vain < catchUpReads:
			vain++
		case known:
			after = upTo // what was there has been removed meanwhile
			continue
		default:
			return false
		}
		select {
		case <-time.After(catchUpRetry):
		case <-s.feed.over:
			return false
		}
	}
	return true
}

// readOn sends what the stream of events holds after an event, and says how far it came.
func (s *streams) readOn(r *reader, after uint64, out patient) (read uint64, ok bool) {
	select {
	case s.catchUps <- struct{}{}:
		defer func() { <-s.catchUps }()
	case <-s.feed.over:
		return after, false
	}
	ctx, cancel := context.WithTimeout(s.ctx, catchUpTime)
	defer cancel()
	err := wire.ReadEvents(ctx, s.nc, after+1, func(page []*nats.Msg) error {
		var b []byte
		for _, m := range page {
			after = wire.PlaceOf(m).Seq
			if e, err := parseStored(m); err == nil && r.in(e) {
				b = append(b, frame(e.kind, e.seq, e.body)...)
			}
		}
		if !out.send(append(b, mark(":", after)...)) {
			return net.ErrClosed
		}
		select {
		case <-s.feed.over:
			return net.ErrClosed
		default:
			return ctx.Err()
		}
	})
	return after, err == nil
}

// events answers GET /v1/eventos: what is heard from now on, or what was stored since
// Last-Event-ID and then that.
func (w *server) events(c *fiber.Ctx) error {
	who, err := w.access.enter(c)
	defer who.tell(c, w.now)
	if err != nil {
		return err
	}
	if w.access.foreign(c) {
		w.metrics.refuse(refusedSite)
		return &ruc.Error{Code: ruc.Forbidden, Detail: "Una página de otro sitio no puede seguir los eventos. El administrador puede permitir el sitio en CORS_ORIGINS."}
	}
	wanted, err := parseInterest(c)
	if err != nil {
		return err
	}
	resume, err := parseLastEvent(c.Get(headerLastEvent))
	if err != nil {
		return err
	}
	r, leave, err := w.streams.feed.enter(wanted)
	if err != nil {
		return err
	}
	if c.Get(wire.HeaderRequestID) != "" {
		requestID(c)
	}
	c.Set(fiber.HeaderContentType, "text/event-stream")
	c.Set(fiber.HeaderCacheControl, "no-store")
	c.Set(headerBuffering, "no")
	if c.Method() == fiber.MethodHead {
		leave()
		return nil
	}
	conn := c.Context().Conn()
	c.Context().SetBodyStreamWriter(func(b *bufio.Writer) {
		defer leave()
		w.streams.write(r, resume, conn, b)
	})
	return nil
}

const (
	headerLastEvent = "Last-Event-ID"
	headerBuffering = "X-Accel-Buffering" // of nginx, which would hold back what comes in pieces
)

func parseLastEvent(text string) (*uint64, error) {
	if text == "" {
		return nil, nil
	}
	seq, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return nil, &ruc.Error{Code: ruc.BadBody, Detail: "Last-Event-ID debe ser el id de un evento: un número."}
	}
	return &seq, nil
}

// parseInterest reads what the query asks for.
func parseInterest(c *fiber.Ctx) (wanted interest, err error) {
	query := c.Context().QueryArgs()
	given := query.PeekMulti("ruc")
	if len(given) > maxWatched {
		return interest{}, &ruc.Error{Code: ruc.BadBody, Detail: fmt.Sprintf(
			"Indique hasta %d números (/v1/eventos?ruc=20131312955&ruc=…), o ninguno para seguir todos.", maxWatched)}
	}
	for _, text := range given {
		n, err := ruc.Parse(string(text))
		if err != nil {
			return interest{}, err
		}
		wanted.numbers = append(wanted.numbers, n)
	}
	for _, text := range query.PeekMulti("tipo") {
		kind := eventKind(text)
		if !slices.Contains([]eventKind{eventProgress, eventResolved, eventFailed, eventChanged}, kind) {
			return interest{}, &ruc.Error{Code: ruc.BadBody, Detail: "tipo debe ser resolved, failed, changed o progress; repita el parámetro para varios."}
		}
		wanted.kinds = append(wanted.kinds, kind)
	}
	return wanted, nil
}
