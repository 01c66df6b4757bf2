package replica

import (
	"sync"
	"time"
)

// maxClients bounds the addresses that the rate rule remembers; past it, the one
// silent for longest is forgotten.
const maxClients = 1024

// pacer is the rate rule: per client address, at most one POST in an interval and
// so many at a time; who breaks it is refused everything for a while. It is safe
// for concurrent use.
type pacer struct {
	minInterval   time.Duration
	maxConcurrent int
	blockFor      time.Duration

	mu      sync.Mutex
	clients map[string]*client
}

// client is what the rule knows of one address.
type client struct {
	lastSeen, lastPost, blockedUntil time.Time
	inFlight                         int
}

func newPacer(cfg Config) *pacer {
	return &pacer{
		minInterval:   cfg.MinInterval,
		maxConcurrent: cfg.MaxConcurrent,
		blockFor:      cfg.BlockFor,
		clients:       map[string]*client{},
	}
}

func (p *pacer) off() bool { return p.minInterval <= 0 && p.maxConcurrent <= 0 }

// blocked reports whether the address is serving a block.
func (p *pacer) blocked(address string, now time.Time) bool {
	if p.off() {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.clients[address]
	return ok && now.Before(c.blockedUntil)
}

// post admits a POST or begins a block. An admitted one ends with done; a refused
// one has none.
func (p *pacer) post(address string, now time.Time) (done func(), admitted bool) {
	if p.off() {
		return func() {}, true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.client(address, now)
	tooSoon := p.minInterval > 0 && !c.lastPost.IsZero() && now.Sub(c.lastPost) < p.minInterval
	tooMany := p.maxConcurrent > 0 && c.inFlight >= p.maxConcurrent
	c.lastPost = now
	if tooSoon || tooMany {
		c.blockedUntil = now.Add(p.blockFor)
		return nil, false
	}
	c.inFlight++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		c.inFlight--
	}, true
}

// client returns the address's entry, making room for a new one. The caller holds
// the lock.
func (p *pacer) client(address string, now time.Time) *client {
	c, ok := p.clients[address]
	if !ok {
		if len(p.clients) >= maxClients {
			delete(p.clients, p.longestSilent())
		}
		c = &client{}
		p.clients[address] = c
	}
	c.lastSeen = now
	return c
}

func (p *pacer) longestSilent() string {
	var oldest string
	for address, c := range p.clients {
		if oldest == "" || c.lastSeen.Before(p.clients[oldest].lastSeen) {
			oldest = address
		}
	}
	return oldest
}
