package prewarm

import "github.com/prometheus/client_golang/prometheus"

// metrics of a prewarm that watches a list.
type metrics struct {
	held, fetched, missing, failed prometheus.Counter
	numbers, invalid, overdue      prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	lookups := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ruc_prewarm_numbers_total", Help: "Numbers of the watched list that were looked after, by the result: held, fetched, not-registered or failed.",
	}, []string{"result"})
	m := &metrics{
		held:    lookups.WithLabelValues("held"),
		fetched: lookups.WithLabelValues("fetched"),
		missing: lookups.WithLabelValues("not-registered"),
		failed:  lookups.WithLabelValues("failed"),
		numbers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ruc_prewarm_list_numbers", Help: "Numbers on the watched list.",
		}),
		invalid: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ruc_prewarm_list_invalid_lines", Help: "Lines of the watched list that hold no valid number.",
		}),
		overdue: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ruc_prewarm_overdue_seconds", Help: "How long the number that is to be fetched next has been due.",
		}),
	}
	for _, c := range []prometheus.Collector{lookups, m.numbers, m.invalid, m.overdue} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
