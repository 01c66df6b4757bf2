// Package allinonetest runs the all-in-one on its replica for tests.
package allinonetest

import (
	"bytes"
	"context"
	"os"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/deploy/allinone"
	"github.com/rucflow/rucflow/shared/service"
)

// Token is what NATS clients of it present.
const Token = "e2e"

const logTail = 4 << 10 // bytes of the log that a failed test shows

// Program is one running all-in-one.
type Program struct {
	allinone.Addrs
	Registry *prometheus.Registry
	Stop     func() // the test's end stops it too
}

// Start runs the program with its data in a folder and with the settings, NAME=value,
// beyond those that every test needs: free ports of the loopback, and no patience with
// SUNAT.
func Start(t testing.TB, data string, settings ...string) *Program {
	t.Helper()
	environ := append([]string{
		"HTTP_ADDR=127.0.0.1:0", "OPS_ADDR=127.0.0.1:0", "NATS_ADDR=127.0.0.1:0", "NATS_TOKEN=" + Token,
		"DATA_DIR=" + data, "SUNAT_PACE=0", "SUNAT_PAUSE=0", "SUNAT_MAX_CONCURRENT=8", "CHROME_PATH=" + os.Getenv("CHROME_PATH"),
	}, settings...)
	var cfg allinone.Config
	if err := service.Load(&cfg, environ); err != nil {
		t.Fatal(err)
	}
	cfg.Replica, cfg.ReplicaAddr = true, "127.0.0.1:0"
	if err := cfg.Check(); err != nil {
		t.Fatal(err)
	}
	p := &Program{Registry: service.NewRegistry()}
	ctx, cancel := context.WithCancel(context.Background())
	started := make(chan allinone.Addrs, 1)
	ended := make(chan error, 1)
	var log bytes.Buffer
	go func() {
		ended <- allinone.Run(ctx, cfg, allinone.Deps{
			Log: zerolog.New(zerolog.SyncWriter(&log)), Now: time.Now, Registry: p.Registry, //nolint:forbidigo // a program's main, as it were
			Started: func(a allinone.Addrs) { started <- a },
		})
	}()
	stopped := false
	p.Stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the program ended with: %v", err)
		}
		if t.Failed() {
			t.Logf("end of the log:\n%s", log.Bytes()[max(0, log.Len()-logTail):])
		}
	}
	t.Cleanup(p.Stop)
	select {
	case p.Addrs = <-started:
	case err := <-ended:
		ended <- nil
		t.Fatalf("the program did not start: %v", err)
	}
	return p
}
