package gateway

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// The types of Server-Sent Events on /v1/eventos.
const (
	eventProgress = "progress" // a wire.Progress
	eventResolved = "resolved" // the record, or the problem that says not found
	eventFailed   = "failed"   // the problem
)

const (
	// maxReaders bounds the open streams of events of one process, maxWatched the
	// numbers of one of them.
	maxReaders, maxWatched = 4096, 20
	// readerBuffer is what a reader may leave unread before it is dropped.
	readerBuffer = 64
	// heartbeat keeps proxies from closing a quiet stream, and finds readers that have gone.
	heartbeat = 15 * time.Second
	// progressAge is how long what was last heard of a job may be told to new readers.
	// Fronts repeat a place in the queue, slots do not repeat an attempt.
	progressAge = 2 * time.Minute
	// maxProgress is when what is too old is thrown away.
	maxProgress = 1024
)

// feed hands what is heard of numbers to those who watch them. It is safe for concurrent
// use.
type feed struct {
	now       func() time.Time
	heartbeat time.Duration

	mu      sync.Mutex
	readers map[ruc.Number]map[*reader]struct{}
	count   int
	under   map[ruc.Number]underway
	closed  bool
	wg      sync.WaitGroup // readers being written to
}

// underway is the last that was heard of a job.
type underway struct {
	wire.Progress
	frame []byte
	at    time.Time
}

// reader is one open stream of events.
type reader struct {
	numbers []ruc.Number
	frames  chan []byte   // sent to with the feed's lock held, and never waited for
	over    chan struct{} // closed when it is to end: too slow, or the process stops
	ended   bool          // over is closed
}

func newFeed(now func() time.Time) *feed {
	return &feed{now: now, heartbeat: heartbeat, readers: map[ruc.Number]map[*reader]struct{}{}, under: map[ruc.Number]underway{}}
}

// frame is one event in the form of https://html.spec.whatwg.org/#event-stream-interpretation;
// an id of 0 is none.
func frame(kind string, id uint64, data []byte) []byte {
	b := append([]byte("event: "), kind...)
	if id > 0 {
		b = strconv.AppendUint(append(b, "\nid: "...), id, 10)
	}
	for line := range bytes.FieldsFuncSeq(data, func(r rune) bool { return r == '\n' || r == '\r' }) {
		b = append(append(b, "\ndata: "...), line...)
	}
	return append(b, "\n\n"...)
}

func (f *feed) resolved(n ruc.Number, seq uint64, body []byte) { f.ended(n, eventResolved, seq, body) }
func (f *feed) failed(n ruc.Number, seq uint64, body []byte)   { f.ended(n, eventFailed, seq, body) }

func (f *feed) ended(n ruc.Number, kind string, seq uint64, body []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.under, n)
	if len(f.readers[n]) > 0 {
		f.tell(n, frame(kind, seq, body))
	}
}

func (f *feed) progress(p wire.Progress) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	if last, ok := f.under[p.RUC]; ok && now.Sub(last.at) <= progressAge && !p.After(last.Progress) {
		return
	}
	if len(f.under) >= maxProgress {
		for n, u := range f.under {
			if now.Sub(u.at) > progressAge {
				delete(f.under, n)
			}
		}
	}
	b := frame(eventProgress, 0, p.Encode())
	if len(f.under) < maxProgress {
		f.under[p.RUC] = underway{p, b, now}
	}
	f.tell(p.RUC, b)
}

// tell gives a frame to who watches n. The lock is held.
func (f *feed) tell(n ruc.Number, b []byte) {
	for r := range f.readers[n] {
		select {
		case r.frames <- b:
		default:
			r.end()
		}
	}
}

// end has the reader's stream ended. The feed's lock is held.
func (r *reader) end() {
	if !r.ended {
		r.ended = true
		close(r.over)
	}
}

// join begins a stream of what is heard of the numbers. leave ends it.
// Errors: ruc.Overloaded, ruc.Unavailable.
func (f *feed) join(numbers []ruc.Number) (r *reader, leave func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return nil, nil, &ruc.Error{Code: ruc.Unavailable, RetryAfter: time.Second}
	case f.count >= maxReaders:
		return nil, nil, &ruc.Error{Code: ruc.Overloaded, RetryAfter: pendingRetryAfter}
	}
	r = &reader{numbers: numbers, frames: make(chan []byte, readerBuffer), over: make(chan struct{})}
	f.count++
	f.wg.Add(1)
	now := f.now()
	for _, n := range numbers {
		if f.readers[n] == nil {
			f.readers[n] = map[*reader]struct{}{}
		}
		f.readers[n][r] = struct{}{}
		if u, ok := f.under[n]; ok && now.Sub(u.at) <= progressAge {
			r.frames <- u.frame // there is room: fewer numbers than readerBuffer
		}
	}
	return r, sync.OnceFunc(func() { f.leave(r) }), nil
}

func (f *feed) leave(r *reader) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count--
	for _, n := range r.numbers {
		delete(f.readers[n], r)
		if len(f.readers[n]) == 0 {
			delete(f.readers, n)
		}
	}
	f.wg.Done()
}

// close ends all streams, and refuses further ones.
func (f *feed) close() {
	f.mu.Lock()
	f.closed = true
	for _, readers := range f.readers {
		for r := range readers {
			r.end()
		}
	}
	f.mu.Unlock()
	f.wg.Wait()
}

// write sends the reader's frames until it ends or the client has gone. Each may take
// writeMargin: the deadline that the server set for the whole response is not for streams.
func (f *feed) write(r *reader, conn net.Conn, w *bufio.Writer) {
	if conn.SetWriteDeadline(time.Time{}) != nil {
		return
	}
	send := func(b []byte) bool {
		late := time.AfterFunc(writeMargin, func() { _ = conn.SetWriteDeadline(time.Unix(1, 0)) }) // ends a write at once
		defer late.Stop()
		_, err := w.Write(b)
		return err == nil && w.Flush() == nil
	}
	// At once, so that the client knows that nothing will be missed from here on.
	if !send([]byte("retry: 2000\n\n")) {
		return
	}
	tick := time.NewTicker(f.heartbeat)
	defer tick.Stop()
	for {
		var b []byte
		select {
		case b = <-r.frames:
		case <-tick.C:
			b = []byte(":\n\n")
		case <-r.over:
			return
		}
		if !send(b) {
			return
		}
	}
}

// events answers GET /v1/eventos?ruc=…: what is heard of these numbers from now on.
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
	numbers, err := watched(c)
	if err != nil {
		return err
	}
	r, leave, err := w.feed.join(numbers)
	if err != nil {
		return err
	}
	if c.Get(wire.HeaderRequestID) != "" {
		requestID(c)
	}
	c.Set(fiber.HeaderContentType, "text/event-stream")
	c.Set(fiber.HeaderCacheControl, "no-store")
	c.Set("X-Accel-Buffering", "no") // of nginx, which would hold events back
	if c.Method() == fiber.MethodHead {
		leave()
		return nil
	}
	conn := c.Context().Conn()
	c.Context().SetBodyStreamWriter(func(b *bufio.Writer) {
		defer leave()
		w.feed.write(r, conn, b)
	})
	return nil
}

// watched reads the numbers that the query names.
func watched(c *fiber.Ctx) (numbers []ruc.Number, err error) {
	given := c.Context().QueryArgs().PeekMulti("ruc")
	if len(given) == 0 || len(given) > maxWatched {
		return nil, &ruc.Error{Code: ruc.BadBody, Detail: fmt.Sprintf("Indique de 1 a %d números: /v1/eventos?ruc=20131312955&ruc=…", maxWatched)}
	}
	for _, text := range given {
		n, err := ruc.Parse(string(text))
		if err != nil {
			return nil, err
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}
