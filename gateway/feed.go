package gateway

import (
	"sync"
	"time"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

const (
	// maxReaders bounds the open streams of events of one process, maxWatched the
	// numbers of one of them.
	maxReaders, maxWatched = 4096, 20
	// readerBuffer is what a reader may leave unread before it is dropped.
	readerBuffer = 128
	// locateTimeout is how long a reader waits for a gateway that has just started to know
	// where the stream ends.
	locateTimeout = time.Second
	// progressAge is how long what was last heard of a job may be told to new readers.
	// Fronts repeat a place in the queue, slots do not repeat an attempt.
	progressAge = 2 * time.Minute
	// maxProgress is when what is too old is thrown away.
	maxProgress = 1024
)

// feed hands what is heard of numbers to those who watch them: stored events in their
// order, as a tail gives them, and progress. It is safe for concurrent use.
type feed struct {
	now     func() time.Time
	metrics *metrics

	mu       sync.Mutex
	readers  map[ruc.Number]map[*reader]struct{} // those that watch a number
	all      map[*reader]struct{}                // those that watch every number
	count    int                                 // of those that have entered
	under    map[ruc.Number]underway
	position uint64        // sequence of the newest event handed out
	located  chan struct{} // closed when it is known
	closed   bool
	over     chan struct{}  // closed with it
	wg       sync.WaitGroup // readers that have entered
}

// underway is the last that was heard of a job.
type underway struct {
	wire.Progress
	frame []byte
	at    time.Time
}

// stored is one event of the stream.
type stored struct {
	kind eventKind
	ruc  ruc.Number
	seq  uint64
	at   time.Time // when it was stored
	body []byte
}

// interest is what a reader wants to hear.
type interest struct {
	numbers []ruc.Number // nil = all
	kinds   kindSet
}

func (i interest) in(e stored) bool {
	if !i.kinds.has(e.kind) {
		return false
	}
	for _, n := range i.numbers {
		if n == e.ruc {
			return true
		}
	}
	return i.numbers == nil
}

// reader is one open stream of events.
type reader struct {
	interest
	after   uint64        // what it has, or does not want
	frames  chan []byte   // sent to with the feed's lock held, and never waited for
	dropped chan struct{} // closed when it was too slow
	slow    bool          // dropped is closed
}

func newFeed(now func() time.Time, m *metrics) *feed {
	return &feed{
		now: now, metrics: m, readers: map[ruc.Number]map[*reader]struct{}{}, all: map[*reader]struct{}{},
		under: map[ruc.Number]underway{}, located: make(chan struct{}), over: make(chan struct{}),
	}
}

// stored hands out the event that follows the last one.
func (f *feed) stored(e stored) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.locate(e.seq)
	if e.kind != eventChanged {
		delete(f.under, e.ruc)
	}
	if len(f.readers[e.ruc])+len(f.all) > 0 {
		f.tell(e, frame(e.kind, e.seq, e.body))
	}
}

// skipTo moves on to a position without handing anything out, unless somebody would miss
// it.
func (f *feed) skipTo(position uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count > 0 && f.known() {
		return false
	}
	f.locate(position)
	return true
}

// locate sets the position. The lock is held.
func (f *feed) locate(position uint64) {
	f.position = position
	if !f.known() {
		close(f.located)
	}
}

// known reports whether the position is.
func (f *feed) known() bool {
	select {
	case <-f.located:
		return true
	default:
		return false
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
	f.tell(stored{kind: eventProgress, ruc: p.RUC}, b)
}

// tell gives the frame of e to who watches its number. The lock is held.
func (f *feed) tell(e stored, b []byte) {
	for _, watching := range [...]map[*reader]struct{}{f.readers[e.ruc], f.all} {
		for r := range watching {
			if !r.kinds.has(e.kind) || e.seq > 0 && e.seq <= r.after || r.slow {
				continue
			}
			select {
			case r.frames <- b:
			default:
				r.slow = true
				f.metrics.slowReaders.Inc()
				close(r.dropped)
			}
		}
	}
}

// enter takes a place among the readers; leave gives it back.
// Errors: ruc.Overloaded, ruc.Unavailable.
func (f *feed) enter(i interest) (r *reader, leave func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return nil, nil, &ruc.Error{Code: ruc.Unavailable, RetryAfter: time.Second}
	case f.count >= maxReaders:
		return nil, nil, &ruc.Error{Code: ruc.Overloaded, RetryAfter: pendingRetryAfter}
	}
	f.count++
	f.wg.Add(1)
	r = &reader{interest: i, frames: make(chan []byte, readerBuffer), dropped: make(chan struct{})}
	return r, sync.OnceFunc(func() { f.leave(r) }), nil
}

// attach has the reader told what comes, and first how far the jobs of its numbers are. It
// does not where the reader would miss what was handed out after the event after.
func (f *feed) attach(r *reader, after uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.known() || f.position > after {
		return false
	}
	f.begin(r, after)
	return true
}

// attachNow has the reader told what comes from now on. position is the newest event
// before that, 0 where it is not known: without NATS, there is none to wait for.
func (f *feed) attachNow(r *reader) (position uint64) {
	select {
	case <-f.located:
	case <-time.After(locateTimeout):
	case <-f.over:
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.begin(r, f.position)
	return f.position
}

// begin has the reader told what comes. The lock is held.
func (f *feed) begin(r *reader, after uint64) {
	r.after = after
	if r.numbers == nil {
		f.all[r] = struct{}{}
	}
	now := f.now()
	for _, n := range r.numbers {
		if f.readers[n] == nil {
			f.readers[n] = map[*reader]struct{}{}
		}
		f.readers[n][r] = struct{}{}
		if u, ok := f.under[n]; ok && now.Sub(u.at) <= progressAge && r.kinds.has(eventProgress) {
			r.frames <- u.frame // there is room: fewer numbers than readerBuffer
		}
	}
}

// caughtUp is the newest event that was handed out, where the reader has none of them
// before it; else 0.
func (f *feed) caughtUp(r *reader) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(r.frames) > 0 {
		return 0
	}
	return max(f.position, r.after)
}

// newest is the newest event that was handed out; not ok while that is not known.
func (f *feed) newest() (position uint64, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.position, f.known()
}

func (f *feed) open() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count
}

func (f *feed) leave(r *reader) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count--
	delete(f.all, r)
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
	close(f.over)
	f.mu.Unlock()
	f.wg.Wait()
}
