package wire

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rucflow/rucflow/shared/mend"
)

// MinServer is the oldest NATS server that has all that is used: metadata of streams
// and consumers, republishing, one message per subject in a work queue.
const MinServer = "2.11.0"

const connectedCheck = 50 * time.Millisecond

// AwaitServer waits until nc is connected to a server that is new enough. The error
// names what is wrong and the mend.
func AwaitServer(ctx context.Context, nc *nats.Conn) error {
	tick := time.NewTicker(connectedCheck)
	defer tick.Stop()
	for !nc.IsConnected() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wire.AwaitServer: no connection to the server at NATS_URL: %w", errors.Join(nc.LastError(), ctx.Err()))
		case <-tick.C:
		}
	}
	return checkServer(nc.ConnectedServerVersion())
}

func checkServer(version string) error {
	var want, found [3]int
	_, _ = fmt.Sscanf(MinServer, "%d.%d.%d", &want[0], &want[1], &want[2])
	if _, err := fmt.Sscanf(version, "%d.%d.%d", &found[0], &found[1], &found[2]); err != nil {
		return fmt.Errorf("wire.AwaitServer: the NATS server calls itself version %q, which is not a version: %w", version, err)
	}
	for i := range want {
		if found[i] != want[i] {
			if found[i] > want[i] {
				return nil
			}
			return fmt.Errorf("wire.AwaitServer: %w", &mend.Error{
				Finding: fmt.Sprintf("the NATS server is version %s and rucflow needs %s or newer", version, MinServer), Mend: "update it",
			})
		}
	}
	return nil
}
