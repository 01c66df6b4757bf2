package service

import (
	"runtime"
	"runtime/debug"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Version is that of every part of rucflow, in the form that NATS services want.
const Version = "1.0.0"

// The names in Build.
const (
	BuildRevision = "revision" // the commit, "unknown" where the build did not see it
	BuildGo       = "go"
)

// Build says what this program was made of, beside its Version: the metadata of a NATS
// service.
func Build() map[string]string {
	revision := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	return map[string]string{BuildRevision: revision, BuildGo: runtime.Version()}
}

// NewRegistry returns a registry with what every process shows of itself.
func NewRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	of := Build()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "ruc_build_info",
		Help:        "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": Version, "revision": of[BuildRevision], "go_version": of[BuildGo]},
	})
	build.Set(1)
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		build,
	)
	return r
}

// ObserveNATS shows the state of a service's connection.
func ObserveNATS(reg prometheus.Registerer, role string, nc *nats.Conn) error {
	labels := prometheus.Labels{"service": role}
	for _, c := range []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "ruc_nats_connected", Help: "1 while the service is connected to NATS.", ConstLabels: labels,
		}, func() float64 { return Gauge(nc.IsConnected()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "ruc_nats_reconnects_total", Help: "How often the service's connection to NATS came back.", ConstLabels: labels,
		}, func() float64 { return float64(nc.Stats().Reconnects) }),
	} {
		if err := reg.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// Gauge is a condition as a metric: 1 or 0.
func Gauge(condition bool) float64 {
	if condition {
		return 1
	}
	return 0
}
