package gateway

import (
	"fmt"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// held is one answer ready to be sent: finished bytes, and headers computed once.
// Nothing in it changes after it was made.
type held struct {
	body     []byte // of a 200, or of the 404 that says not found
	answer   []byte // the encoded answer (the same slice as body when found)
	found    bool
	obtained time.Time
	etag     []byte
	modified []byte // Last-Modified
	seq      uint64 // sequence of the event; 0 when it came from the store
}

// httpTime is the form of Last-Modified (RFC 9110).
const httpTime = "Mon, 02 Jan 2006 15:04:05 GMT"

// newHeld prepares an encoded answer.
func newHeld(answer []byte, p wire.Prefix, seq uint64) (*held, error) {
	h := &held{
		body: answer, answer: answer, found: p.Found, obtained: p.ObtainedAt, seq: seq,
		etag:     fmt.Appendf(nil, `W/"%s"`, p.Huella),
		modified: p.ObtainedAt.UTC().AppendFormat(make([]byte, 0, len(httpTime)), httpTime),
	}
	if !p.Found {
		problem, err := wire.ProblemOfAnswer(answer)
		if err != nil {
			return nil, err
		}
		h.body = problem.Encode()
	}
	return h, nil
}

// overhead is about what a held answer costs beside its bodies, in bytes.
const overhead = 400

func (h *held) weight() uint32 {
	w := len(h.answer) + overhead
	if !h.found {
		w += len(h.body)
	}
	return uint32(w) //nolint:gosec // an answer has at most 64 KiB
}

// l1 holds finished answers in this process's memory. It is bounded in bytes, and
// an entry lives at most ttl, whatever its freshness: a lost event costs no more.
type l1 struct {
	cache *otter.Cache[ruc.Number, *held]

	// mu keeps a drop from passing between fill's look at drops and its write.
	mu    sync.RWMutex
	drops uint64 // how often something was dropped
}

func newL1(maxBytes int64, ttl time.Duration) (*l1, error) {
	cache, err := otter.New(&otter.Options[ruc.Number, *held]{
		MaximumWeight:    uint64(maxBytes), //nolint:gosec // Config.Check wants more than 0
		Weigher:          func(_ ruc.Number, h *held) uint32 { return h.weight() },
		ExpiryCalculator: otter.ExpiryWriting[ruc.Number, *held](ttl),
	})
	if err != nil {
		return nil, fmt.Errorf("gateway.newL1: %w", err)
	}
	return &l1{cache: cache}, nil
}

func (c *l1) get(n ruc.Number) (*held, bool) { return c.cache.GetIfPresent(n) }

// put keeps h unless a newer event's answer is held. What came from the store has
// no sequence and never replaces anything.
func (c *l1) put(n ruc.Number, h *held) {
	c.cache.Compute(n, func(old *held, found bool) (*held, otter.ComputeOp) {
		if found && (h.seq == 0 || h.seq < old.seq) {
			return old, otter.CancelOp
		}
		return h, otter.WriteOp
	})
}

// dropped returns a mark to give to fill.
func (c *l1) dropped() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.drops
}

// fill keeps what was read from the store, unless something was dropped since mark: it
// could have been read just before it was deleted there.
func (c *l1) fill(n ruc.Number, h *held, mark uint64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.drops == mark {
		c.put(n, h)
	}
}

// drop forgets what a notice is about.
func (c *l1) drop(notice wire.Invalidated) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drops++
	if !notice.RUC.IsZero() {
		c.cache.Invalidate(notice.RUC)
		return
	}
	for n := range c.cache.Keys() {
		if notice.Matches(n) {
			c.cache.Invalidate(n)
		}
	}
}

// clear forgets everything: after a gap in the messages nothing held is sure to be
// the newest.
func (c *l1) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drops++
	c.cache.InvalidateAll()
}

func (c *l1) close() { c.cache.StopAllGoroutines() }
