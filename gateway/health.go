package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
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
}

const (
	censusInterval = 5 * time.Second
	censusWait     = 250 * time.Millisecond
)

// census counts the scrapers by asking them ($SRV.PING), now and then, so that
// showing the number costs no request.
type census struct {
	mu    sync.Mutex
	count int
}

func (s *census) scrapers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// run counts until ctx ends. A count that hears nobody is a count of zero.
func (s *census) run(ctx context.Context, nc *nats.Conn) {
	tick := time.NewTicker(censusInterval)
	defer tick.Stop()
	for {
		n := countScrapers(ctx, nc)
		s.mu.Lock()
		s.count = n
		s.mu.Unlock()
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
