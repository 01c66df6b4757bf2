package scraper

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of a scraper. Labels come from closed sets; no label holds a number.
type metrics struct {
	visits  *prometheus.HistogramVec // by outcome
	skipped *prometheus.CounterVec   // by reason
	labels  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		visits: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "ruc_visit_duration_seconds",
			Help:    "Time from taking a job to its end, all attempts and turns included.",
			Buckets: prometheus.ExponentialBuckets(0.02, 2, 12), // 20 ms to 41 s
		}, []string{"outcome"}),
		skipped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ruc_visits_avoided_total",
			Help: "Jobs that ended without a visit.",
		}, []string{"reason"}),
		labels: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ruc_page_unknown_labels_total",
			Help: "Labels on SUNAT's page that the parser does not know.",
		}),
	}
	for _, c := range []prometheus.Collector{m.visits, m.skipped, m.labels} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) visit(outcome string, took time.Duration) {
	m.visits.WithLabelValues(outcome).Observe(took.Seconds())
}
func (m *metrics) avoided(reason string) { m.skipped.WithLabelValues(reason).Inc() }
func (m *metrics) unknownLabel()         { m.labels.Inc() }
