package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"github.com/rucflow/rucflow/shared/wire"
)

// health is what GET /health shows.
type health struct {
	Status   string `json:"status"` // healthy, degraded
	Redis    string `json:"redis"`  // connected, disconnected, not configured
	NATS     string `json:"nats"`   // connected, disconnected
	Scrapers int    `json:"scrapers"`
	Cache    string `json:"cache"` // redis, file, memory
	SUNAT    string `json:"sunat"` // ok, paused
	// PauseSeconds is what is left of the pause; present only while it lasts.
	PauseSeconds int `json:"pauseSeconds,omitempty"`
	// HitRate is the share of this process's lookups that were answered from what is kept,
	// 0 to 1; null before the first lookup.
	HitRate *float64 `json:"hitRate"`
	// Queue is how many jobs of the fleet wait or are being visited; null where it is not known.
	Queue *int `json:"queue"`
}

const (
	censusInterval = 5 * time.Second
	censusWait     = 250 * time.Millisecond
)

// census counts the scrapers by asking them ($SRV.PING), and the jobs by asking the
// queue, now and then, so that showing the numbers costs no request.
type census struct {
	js  jetstream.JetStream
	now func() time.Time

	mu    sync.Mutex
	count int
	queue *int
}

func (s *census) scrapers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

func (s *census) jobs() *int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queue
}

// run counts until ctx ends. A count that hears nobody is a count of zero.
func (s *census) run(ctx context.Context, nc *nats.Conn) {
	tick := time.NewTicker(censusInterval)
	defer tick.Stop()
	var asked time.Time
	for {
		n := countScrapers(ctx, nc)
		s.mu.Lock()
		s.count = n
		s.mu.Unlock()
		if now := s.now(); now.Sub(asked) >= censusInterval {
			asked = now
			jobs := s.countJobs(ctx)
			s.mu.Lock()
			s.queue = jobs
			s.mu.Unlock()
		}
		interval := censusInterval
		if n == 0 {
			interval = censusWait // found soon after it starts
		}
		tick.Reset(interval)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// countJobs returns nil where the queue cannot be asked: nobody has made it yet, or NATS
// is away.
func (s *census) countJobs(ctx context.Context) *int {
	ctx, cancel := context.WithTimeout(ctx, censusWait)
	defer cancel()
	stream, err := s.js.Stream(ctx, wire.StreamVisits)
	if err != nil {
		return nil
	}
	jobs := int(stream.CachedInfo().State.Msgs) //nolint:gosec // a queue of at most some thousand
	return &jobs
}

func countScrapers(ctx context.Context, nc *nats.Conn) int {
	subject, err := micro.ControlSubject(micro.PingVerb, wire.ScraperService, "")
	if err != nil {
		return 0
	}
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return 0
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only on a closed connection
	if nc.PublishRequest(subject, inbox, nil) != nil {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, censusWait)
	defer cancel()
	count := 0
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil || isNoResponders(m) {
			return count
		}
		count++
	}
}
