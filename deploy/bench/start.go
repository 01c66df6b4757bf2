//go:build linux

package bench

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// The variants of a start.
const (
	startHit   = "start → first hit"
	startVisit = "start → first visit"
)

// starts measures the all-in-one on its replica, with its settings as they are by default
// but for the addresses: from its start to an answer that it holds since the run before,
// and to one that it has visited the replica for.
func starts(ctx context.Context, l *lab) (Figures, error) {
	data, err := l.folder("data")
	if err != nil {
		return nil, err
	}
	if _, err := l.startOnce(ctx, data, 0, "fwd=miss"); err != nil { // which is held from now on
		return nil, err
	}
	visited := 0
	return l.each(ctx, []string{startHit, startVisit}, func(ctx context.Context, name string) (map[string]float64, error) {
		if name == startHit {
			return l.startOnce(ctx, data, 0, "hit")
		}
		visited++
		return l.startOnce(ctx, data, visited, "fwd=miss")
	})
}

// startOnce starts the all-in-one, asks for a company until it is answered, from where it
// should be, and stops it.
func (l *lab) startOnce(ctx context.Context, data string, i int, from string) (map[string]float64, error) {
	addr, err := freeAddr(ctx)
	if err != nil {
		return nil, err
	}
	began := l.now()
	p, err := l.start("rucflow", "rucflow", []string{"-replica", "-replica-addr", "127.0.0.1:0"},
		[]string{"HTTP_ADDR=" + addr, "OPS_ADDR=", "NATS_ADDR=", "DATA_DIR=" + data})
	if err != nil {
		return nil, err
	}
	defer p.stop()
	var said string
	err = l.await(ctx, p, "it should answer", func() (ok bool) {
		var err error
		said, _, err = lookup(ctx, addr, cold(i), http.StatusOK)
		return err == nil
	})
	took := l.now().Sub(began)
	if err == nil && !strings.Contains(said, from) {
		err = fmt.Errorf("%s came with %q", cold(i), said)
	}
	return map[string]float64{seconds: float64(took) / float64(time.Second)}, err
}
