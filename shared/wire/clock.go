package wire

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Clock tells the NATS server's time. Ages of stored things are measured against
// it: a machine whose own clock was five seconds off took every job for expired.
// It is safe for concurrent use.
type Clock struct {
	now    func() time.Time
	offset atomic.Int64 // server − local, nanoseconds
	heard  atomic.Bool
}

// NewClock returns a clock that equals now until it has heard the server.
func NewClock(now func() time.Time) *Clock { return &Clock{now: now} }

// Now returns the server's time as far as it is known.
func (c *Clock) Now() time.Time { return c.now().Add(time.Duration(c.offset.Load())) }

// Offset returns by how much the server's clock is ahead of ours; known is false until
// the server was heard.
func (c *Clock) Offset() (d time.Duration, known bool) {
	return time.Duration(c.offset.Load()), c.heard.Load()
}

// Learn asks once for the consumer's information, takes the server's time from it
// and returns it, for whoever wants to know more of it.
func (c *Clock) Learn(ctx context.Context, consumer jetstream.Consumer) (*jetstream.ConsumerInfo, error) {
	asked := c.now()
	info, err := consumer.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("wire.Clock.Learn: %w", err)
	}
	c.learn(asked, info.TimeStamp)
	return info, nil
}

// learn takes the time that the server gave in the answer to a question of asked.
func (c *Clock) learn(asked, given time.Time) {
	if given.IsZero() {
		return
	}
	// The server took its time somewhere between question and answer.
	middle := asked.Add(c.now().Sub(asked) / 2)
	c.offset.Store(int64(given.Sub(middle)))
	c.heard.Store(true)
}
