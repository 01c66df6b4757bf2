package gateway

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of a gateway. Labels come from closed sets; no label holds a number.
type metrics struct {
	lookups *prometheus.HistogramVec
	hits    prometheus.Observer // handle of the hottest series, resolved once
	store   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		lookups: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "ruc_lookup_duration_seconds",
			Help:    "Time of a lookup in the gateway, by layer that answered and outcome.",
			Buckets: []float64{50e-6, 200e-6, 1e-3, 5e-3, 20e-3, 50e-3, 0.2, 1, 2.5, 5, 10, 20, 30, 60},
		}, []string{"layer", "outcome"}),
		store: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ruc_store_failures_total",
			Help: "Reads of the store that failed or brought something unusable.",
		}),
	}
	for _, c := range []prometheus.Collector{m.lookups, m.store} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	m.hits = m.lookups.WithLabelValues(string(layerMemory), "found")
	return m, nil
}

func (m *metrics) lookup(l layer, outcome string, took time.Duration) {
	m.lookups.WithLabelValues(string(l), outcome).Observe(took.Seconds())
}

// hit counts a found answer from memory.
func (m *metrics) hit(took time.Duration) { m.hits.Observe(took.Seconds()) }
func (m *metrics) storeFailed()           { m.store.Inc() }
