package gateway

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
)

// metrics of a gateway. Labels come from closed sets; no label holds a number.
type metrics struct {
	lookups       *prometheus.HistogramVec
	answers       map[layer][2]prometheus.Observer // handles of not found and found, by layer
	hits          prometheus.Observer              // the hottest of them
	store         prometheus.Counter
	invalidations prometheus.Counter
	slowReaders   prometheus.Counter
	refusals      map[refusal]prometheus.Counter
}

// refusal is why a request was not let in.
type refusal string

const (
	refusedKey   refusal = "key"   // none, or none that is known
	refusedRate  refusal = "rate"  // more than RATE_LIMIT
	refusedQuota refusal = "quota" // the key's visits are used up
	refusedHost  refusal = "host"  // not of ALLOWED_HOSTS
	refusedSite  refusal = "site"  // a page of another site, and a visit would have been needed
)

const labelLayer = "layer"

// outcomeFound labels a lookup that brought a record; every other outcome is a ruc.Code.
const outcomeFound = "found"

func newMetrics(reg prometheus.Registerer, kind string) (*metrics, error) {
	m := &metrics{
		lookups: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "ruc_lookup_duration_seconds",
			Help:    "Lookups in the gateway, by layer that answered and outcome: their time.",
			Buckets: []float64{50e-6, 200e-6, 1e-3, 5e-3, 20e-3, 50e-3, 0.2, 1, 2.5, 5, 10, 20, 30, 60},
		}, []string{labelLayer, "outcome"}),
		store: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ruc_store_failures_total",
			Help: "Reads of the store that failed or brought something unusable.",
		}),
		invalidations: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ruc_invalidations_total",
			Help: "Notices of invalidations heard, this gateway's own included.",
		}),
		slowReaders: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ruc_event_readers_dropped_total",
			Help: "Streams of /v1/eventos that were ended because the client did not read in time.",
		}),
		answers:  map[layer][2]prometheus.Observer{},
		refusals: map[refusal]prometheus.Counter{},
	}
	refusals := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ruc_refusals_total",
		Help: "Requests over HTTP that were not let in, by reason: key, rate, quota, host, site.",
	}, []string{"reason"})
	for _, c := range []prometheus.Collector{m.lookups, m.store, m.invalidations, m.slowReaders, refusals} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	for _, l := range []layer{layerMemory, layerVisit, layerJoined, layerStream, layerStale, layer(kind)} {
		m.answers[l] = [2]prometheus.Observer{
			m.lookups.WithLabelValues(string(l), string(ruc.NotFound)), m.lookups.WithLabelValues(string(l), outcomeFound),
		}
	}
	for _, r := range []refusal{refusedKey, refusedRate, refusedQuota, refusedHost, refusedSite} {
		m.refusals[r] = refusals.WithLabelValues(string(r))
	}
	m.hits = m.answers[layerMemory][1]
	return m, nil
}

// gauges shows what a gateway holds and sees at the moment.
func gauges(reg prometheus.Registerer, memory *l1, res *resolver, people *census, watchers *feed, lots *batches, connected func() bool) error {
	for _, g := range []struct {
		name, help string
		value      func() float64
	}{
		{"ruc_memory_entries", "Answers in this process's memory.", func() float64 { return float64(memory.cache.EstimatedSize()) }},
		{"ruc_memory_bytes", "Size of the answers in this process's memory.", func() float64 { return float64(memory.cache.WeightedSize()) }},
		{"ruc_pending_lookups", "Numbers being resolved for this process's callers.", func() float64 { return float64(res.pending()) }},
		{"ruc_scrapers", "Scrapers that answer, seen from here.", func() float64 { return float64(people.scrapers()) }},
		{"ruc_event_readers", "Open streams of /v1/eventos.", func() float64 { return float64(watchers.open()) }},
		{"ruc_batches", "Open batches.", func() float64 { return float64(len(lots.slots)) }},
		{"ruc_store_connected", "1 while the store can be read.", func() float64 { return service.Gauge(connected()) }},
	} {
		if err := reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: g.name, Help: g.help}, g.value)); err != nil {
			return err
		}
	}
	return nil
}

// hitRate is the share of lookups that were answered from what is kept; nil before the
// first lookup.
func (m *metrics) hitRate() *float64 {
	series := make(chan prometheus.Metric)
	go func() { defer close(series); m.lookups.Collect(series) }()
	var hits, all uint64
	for s := range series {
		var v dto.Metric
		if s.Write(&v) != nil {
			continue // which a histogram's never fails
		}
		count := v.GetHistogram().GetSampleCount()
		all += count
		for _, label := range v.GetLabel() {
			if label.GetName() == labelLayer && label.GetValue() != string(layerVisit) && label.GetValue() != string(layerJoined) {
				hits += count
			}
		}
	}
	if all == 0 {
		return nil
	}
	rate := float64(hits) / float64(all)
	return &rate
}

func (m *metrics) refuse(r refusal) { m.refusals[r].Inc() }

// answered counts a lookup that brought an answer.
func (m *metrics) answered(l layer, found bool, took time.Duration) {
	i := 0
	if found {
		i = 1
	}
	m.answers[l][i].Observe(took.Seconds())
}

// failed counts a lookup that brought none. It got as far as asking for a visit.
func (m *metrics) failed(code ruc.Code, took time.Duration) {
	m.lookups.WithLabelValues(string(layerVisit), string(code)).Observe(took.Seconds())
}
