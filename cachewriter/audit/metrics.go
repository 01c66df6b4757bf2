package audit

import "github.com/prometheus/client_golang/prometheus"

// metrics of an audit.
type metrics struct {
	written, missing, failures prometheus.Counter
	lag                        prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		written: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ruc_audit_events_total", Help: "Events that the audit has written.",
		}),
		missing: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ruc_audit_missing_events_total",
			Help: "Sequences that were no longer in the stream when the audit came to them: expired, or their number forgotten.",
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ruc_audit_failures_total", Help: "Times that the audit could not read the stream or write its log; it tries again.",
		}),
		lag: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ruc_audit_lag_events", Help: "Events of the stream that the audit has yet to write.",
		}),
	}
	for _, c := range []prometheus.Collector{m.written, m.missing, m.failures, m.lag} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
