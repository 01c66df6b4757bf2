package cachewriter

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rucflow/rucflow/shared/wire"
)

// metrics of a cachewriter.
type metrics struct {
	written, failed, changes prometheus.Counter
	dead                     map[wire.DeadReason]prometheus.Counter
	lag                      prometheus.Gauge
	batch, took              prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	dead := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ruc_dead_letters_total", Help: "Messages that were set aside in RUC_DEAD, by the reason.",
	}, []string{"reason"})
	m := &metrics{
		written: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ruc_cache_writes_total", Help: "Answers that the store kept, or held as new or newer.",
		}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ruc_cache_write_failures_total", Help: "Batches of which the store did not take everything at once.",
		}),
		changes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ruc_changes_total", Help: "Change events that were stored: answers that say something else than the one before.",
		}),
		dead: map[wire.DeadReason]prometheus.Counter{},
		lag: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ruc_cachewriter_lag_events",
			Help: "Events that no cachewriter has settled yet. Every cachewriter shows the number of all: take the maximum, not the sum.",
		}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "ruc_cache_write_batch_events", Help: "Messages that were handled together, whatever became of them.",
			Buckets: []float64{1, 2, 5, 10, 25, 50, 100, 249, batchMax},
		}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "ruc_cache_write_duration_seconds", Help: "Time of one write to the store, failed ones included.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2.5, 11), // to 4.8 s; a dead Redis costs 2 s
		}),
	}
	for _, reason := range wire.DeadReasons {
		m.dead[reason] = dead.WithLabelValues(string(reason))
	}
	for _, c := range []prometheus.Collector{m.written, m.failed, m.changes, dead, m.lag, m.batch, m.took} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
