package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// Query asks the stream what was known, and since when.
type Query struct {
	NATS    *nats.Conn
	Since   time.Time    // the zero time = all that is kept
	Numbers []ruc.Number // nil = all
}

const queryConnect = 10 * time.Second

// Run prints a line for each event, as an audit writes them: number by number where numbers
// are given, else in the order of the stream.
func (q Query) Run(ctx context.Context, out io.Writer) error {
	connecting, cancel := context.WithTimeout(ctx, queryConnect)
	defer cancel()
	if err := wire.AwaitServer(connecting, q.NATS); err != nil {
		return fmt.Errorf("audit.Query: %w", err)
	}
	show := func(page []*nats.Msg) error {
		var lines []byte
		for _, m := range page {
			lines = append(lines, encode(m)...)
		}
		_, err := out.Write(lines)
		return err
	}
	var err error
	if q.Numbers == nil {
		err = wire.ReadEventsSince(ctx, q.NATS, q.Since, show)
	}
	for _, n := range q.Numbers {
		err = errors.Join(err, wire.ReadEventsOf(ctx, q.NATS, n, q.Since, show))
	}
	if err != nil {
		return fmt.Errorf("audit.Query: %w", err)
	}
	return nil
}
