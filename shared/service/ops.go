package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Ops is what the ops listener shows of a process.
type Ops struct {
	Registry *prometheus.Registry
	Live     func() error // nil while the process does its work
	Ready    func() error // nil while it may be given work
	Pprof    bool
}

const (
	opsHeaderTimeout = 5 * time.Second
	opsStopTimeout   = time.Second
)

// ServeOps serves /metrics, /livez and /readyz on ln until ctx ends. A nil
// listener serves nothing.
func ServeOps(ctx context.Context, ln net.Listener, o Ops) error {
	if ln == nil {
		<-ctx.Done()
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(o.Registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /livez", probe(o.Live))
	mux.HandleFunc("GET /readyz", probe(o.Ready))
	if o.Pprof {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: opsHeaderTimeout}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), opsStopTimeout)
		defer cancel()
		if srv.Shutdown(stop) != nil {
			_ = srv.Close() // a scraper that does not let go is cut off
		}
	}()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-stopped
	return nil
}

func probe(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if err := check(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(err.Error() + "\n")) // the prober has gone: nobody to tell
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	}
}

const healthTimeout = 3 * time.Second

// askReady asks the ops listener of a running process whether it is ready.
func askReady(addr string) error {
	if addr == "" {
		return errors.New("OPS_ADDR is empty: there is nobody to ask")
	}
	ctx, cancel := context.WithTimeout(context.Background(), healthTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/readyz", nil)
	if err != nil {
		return err
	}
	// The process is asked itself, not by way of a proxy that the environment names.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // what it says is in the status
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: status %d", resp.StatusCode)
	}
	return nil
}
