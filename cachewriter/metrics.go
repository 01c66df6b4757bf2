package cachewriter

import "github.com/prometheus/client_golang/prometheus"

// metrics of a cachewriter.
type metrics struct{ written, failed, poison prometheus.Counter }

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &metrics{
		written: counter("ruc_cache_writes_total", "Answers handed to the store."),
		failed:  counter("ruc_cache_write_failures_total", "Batches that the store did not take at once."),
		poison:  counter("ruc_cache_poison_total", "Messages on the event subjects that are no events."),
	}
	for _, c := range []prometheus.Collector{m.written, m.failed, m.poison} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
