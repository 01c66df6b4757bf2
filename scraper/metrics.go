package scraper

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rucflow/rucflow/scraper/browser"
	"github.com/rucflow/rucflow/shared/wire"
)

// metrics of a scraper. Labels come from closed sets; no label holds a number.
type metrics struct {
	visits    *prometheus.HistogramVec // by engine and outcome
	avoided   map[string]prometheus.Counter
	published map[string]prometheus.Counter
	labels    prometheus.Counter
	changed   prometheus.Counter
	pauses    prometheus.Counter
	wait      prometheus.Observer
	waiting   prometheus.Gauge // jobs of the whole fleet
	inFlight  prometheus.Gauge
	slots     map[string]prometheus.Gauge
	browsers  *prometheus.CounterVec // by cause
	tabs      *prometheus.CounterVec // by cause
}

// The kinds of stored events, as a label.
const (
	eventResolved = "resolved"
	eventFailed   = "failed"
)

// The states of slots, as a label.
const (
	slotReady   = "ready"
	slotBusy    = "busy"
	slotWarming = "warming"
)

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counters := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	gauges := func(name, help, label string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{label})
	}
	var (
		visits = prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "ruc_visit_duration_seconds",
			Help:    "Visits, by engine and outcome: time from taking a job to its end, all attempts and turns included.",
			Buckets: prometheus.ExponentialBuckets(0.02, 2, 12), // 20 ms to 41 s
		}, []string{"engine", "outcome"})
		avoided   = counters("ruc_visits_avoided_total", "Jobs that ended without a visit, by reason.", "reason")
		published = counters("ruc_events_published_total", "Events stored, by type.", "type")
		labels    = prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ruc_page_unknown_labels_total",
			Help: "Labels on SUNAT's page that the parser does not know.",
		})
		changed = prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ruc_pages_changed_total",
			Help: "Pages that the parser has no rule for. Any is a reason to look at it.",
		})
		pauses = prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ruc_pauses_total",
			Help: "Pauses of the fleet that a visit of this process began or lengthened.",
		})
		wait = prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "ruc_queue_wait_seconds",
			Help:    "Time from a job's storing to its first taking.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 9), // 1 ms to 65 s
		})
		queue    = gauges("ruc_queue_jobs", "Jobs of the whole fleet, by state: waiting, in_flight.", "state")
		slots    = gauges("ruc_slots", "Tabs of this process, by state: ready, busy, warming.", "state")
		browsers = counters("ruc_browser_starts_total", "Chromium's starts, by cause: first, lost, frozen, unstable, worn.", "cause")
		tabs     = counters("ruc_tabs_discarded_total", "Tabs given up, by cause.", "cause")
	)
	for _, c := range []prometheus.Collector{visits, avoided, published, labels, changed, pauses, wait, queue, slots, browsers, tabs} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	m := &metrics{
		visits: visits, labels: labels, changed: changed, pauses: pauses, wait: wait, browsers: browsers, tabs: tabs,
		waiting: queue.WithLabelValues("waiting"), inFlight: queue.WithLabelValues("in_flight"),
		avoided: map[string]prometheus.Counter{}, published: map[string]prometheus.Counter{}, slots: map[string]prometheus.Gauge{},
	}
	for _, reason := range []string{droppedStored, droppedExpired, droppedBlocked} {
		m.avoided[reason] = avoided.WithLabelValues(reason)
	}
	for _, kind := range []string{eventResolved, eventFailed} {
		m.published[kind] = published.WithLabelValues(kind)
	}
	for _, state := range []string{slotReady, slotBusy, slotWarming} {
		m.slots[state] = slots.WithLabelValues(state)
	}
	return m, nil
}

// showPause shows what is left of the fleet's pause.
func showPause(reg prometheus.Registerer, p *pause) error {
	return reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ruc_pause_seconds_left",
		Help: "What is left of the fleet's pause after SUNAT refused, seen from here; 0 = visits are made.",
	}, func() float64 { return p.left().Seconds() }))
}

// observe tells what happens in the browser.
func (m *metrics) observe() browser.Observe {
	return browser.Observe{
		BrowserStarted: func(cause string) { m.browsers.WithLabelValues(cause).Inc() },
		SlotDiscarded:  func(cause string) { m.tabs.WithLabelValues(cause).Inc() },
		Slots: func(ready, busy, warming int) {
			m.slots[slotReady].Set(float64(ready))
			m.slots[slotBusy].Set(float64(busy))
			m.slots[slotWarming].Set(float64(warming))
		},
	}
}

// queueInterval is how often the queue's depth is asked for.
const queueInterval = 5 * time.Second

// followQueue shows the queue's depth and learns the server's time until ctx ends, by
// one question for both. When it is not answered the last ones stay.
func (m *metrics) followQueue(ctx context.Context, consumer jetstream.Consumer, clock *wire.Clock) {
	for {
		if info, err := clock.Learn(ctx, consumer); err == nil {
			m.waiting.Set(float64(info.NumPending))
			m.inFlight.Set(float64(info.NumAckPending))
		}
		if sleep(ctx, queueInterval) != nil {
			return
		}
	}
}
