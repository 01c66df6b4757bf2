//go:build linux

package bench

import (
	"math"

	"github.com/rucflow/rucflow/shared/ruc"
)

// line is one number to reach.
type line struct {
	what   string
	unit   string  // "" of a ratio
	atMost bool    // a smaller figure is a better one
	floor  float64 // NaN where nothing must hold
	goal   float64 // NaN where the floor is all that is asked
	of     func(Figures) float64
}

// scenarios are all lines, in the order in which they are measured and printed. One more
// is an entry here and its run.
var scenarios = []scenario{
	{
		name: "hits", run: hits,
		lines: []line{
			{what: "memory hit ÷ bare Fiber, requests/s", floor: 0.75, goal: 0.90, of: ratio(gatewayMemory, bareFiber, perSecond)},
			{what: "Redis hit ÷ bare Fiber + rueidis, requests/s", floor: 0.70, goal: 0.90, of: ratio(gatewayRedis, bareRueidis, perSecond)},
			{what: "memory hit ÷ bare Fiber, CPU", atMost: true, floor: 1.6, goal: 1.2, of: ratio(gatewayMemory, bareFiber, serverCPU)},
		},
	},
	{
		name: "writer", run: writer,
		lines: []line{
			{what: "cachewriter ÷ go-redis pipeline of 500, events/s", floor: 0.15, goal: 0.25, of: ratio(cachewriterWrites, pipelineWrites, perSecond)},
		},
	},
	{
		name: "frozen", run: frozen,
		lines: []line{
			{what: "Redis frozen: p99 until the lookup goes on", unit: "ms", atMost: true, floor: 60, goal: 50, of: of(frozenBurst, p99)},
		},
	},
	{
		name: "start", run: starts,
		lines: []line{
			{what: "all-in-one: start → first hit", unit: "s", atMost: true, floor: 1, goal: 0.3, of: of(startHit, seconds)},
			{what: "all-in-one: start → first visit", unit: "s", atMost: true, floor: 3, goal: 1.5, of: of(startVisit, seconds)},
		},
	},
	{
		name: "onevisit", run: oneVisit,
		lines: []line{
			{what: "visits per cold RUC, 4 gateways × 64 callers, Redis up or frozen", atMost: true, floor: 1, goal: math.NaN(), of: most(mostVisits, oneVisitUp, oneVisitFrozen)},
		},
	},
	{
		name: "visit", run: visits,
		lines: []line{
			{what: "time over SUNAT's own, warm slot, chrome: p50", unit: "ms", atMost: true, floor: 80, goal: 45, of: of(warmVisit+ruc.MotorChrome, p50)},
			{what: "time over SUNAT's own, warm slot, chrome: p99", unit: "ms", atMost: true, floor: 250, goal: 125, of: of(warmVisit+ruc.MotorChrome, p99)},
			{what: "CPU per visit, browser tree, chrome", unit: "ms", atMost: true, floor: 160, goal: 110, of: of(warmVisit+ruc.MotorChrome, treeMs)},
			{what: "time over SUNAT's own, warm slot, fetch: p50", unit: "ms", atMost: true, floor: 40, goal: 15, of: of(warmVisit+ruc.MotorFetch, p50)},
			{what: "time over SUNAT's own, warm slot, fetch: p99", unit: "ms", atMost: true, floor: math.NaN(), goal: 35, of: of(warmVisit+ruc.MotorFetch, p99)},
			{what: "time over SUNAT's own, warm slot, http: p50", unit: "ms", atMost: true, floor: 15, goal: 6, of: of(warmVisit+ruc.MotorHTTP, p50)},
			{what: "time over SUNAT's own, warm slot, http: p99", unit: "ms", atMost: true, floor: math.NaN(), goal: 14, of: of(warmVisit+ruc.MotorHTTP, p99)},
		},
	},
	{
		name: "killed", run: killed,
		lines: []line{
			{what: "browser killed → next answer", unit: "s", atMost: true, floor: 2, goal: 0.8, of: of(browserKilled, seconds)},
			{what: "renderer killed → next answer", unit: "s", atMost: true, floor: 1, goal: 0.3, of: of(renderersDead, seconds)},
		},
	},
	{
		name: "lost", run: lost,
		lines: []line{
			{what: "events lost by kills, of 100,000", atMost: true, floor: 0, goal: math.NaN(), of: of(amidKills, lostEvents)},
		},
	},
	{
		name: "soak", run: soak,
		lines: []line{
			{what: "growth of memory over 10,000 visits: heaps and PSS", unit: "%", atMost: true, floor: 20, goal: 10, of: highest(grownPercent)},
			{what: "growth over 10,000 visits: goroutines, processes, fds, temp entries", atMost: true, floor: 0, goal: math.NaN(), of: highest(grownCount)},
		},
	},
	{name: "overload", run: overload},
	{name: "footprint", run: footprint},
	{name: "events", run: events},
	{name: "scale", run: scale},
}

// The measures of a round.
const (
	perSecond  = "per second"
	p50        = "p50 ms"
	p99        = "p99 ms"
	serverCPU  = "CPU µs" // of the measured program, per request or event
	redisCPU   = "Redis CPU µs"
	natsCPU    = "NATS CPU µs"
	redisShare = "from Redis" // share of the lookups
	treeMs     = "browser CPU ms"
	seconds    = "s"
)

// verdict says how a figure stands to its line.
type verdict string

const (
	goalReached verdict = "goal reached"
	floorHeld   verdict = "floor held"
	goalMissed  verdict = "goal missed" // which nobody promised
	missed      verdict = "MISSED"
	failed      verdict = "FAILED" // the scenario did not come to its end
	notMeasured verdict = "not measured yet"
)

func (l line) verdict(figure float64) verdict {
	reaches := func(mark float64) bool {
		if l.atMost {
			return figure <= mark
		}
		return figure >= mark
	}
	switch {
	case l.of == nil:
		return notMeasured
	case math.IsNaN(figure):
		return failed
	case !math.IsNaN(l.floor) && !reaches(l.floor):
		return missed
	case math.IsNaN(l.goal) || reaches(l.goal):
		return goalReached
	case math.IsNaN(l.floor):
		return goalMissed
	default:
		return floorHeld
	}
}

// mark prints a floor or a goal; without one, what stands in its place.
func (l line) mark(v float64, without string) string {
	switch {
	case math.IsNaN(v):
		return without
	case l.atMost:
		return "≤ " + l.figure(v)
	default:
		return "≥ " + l.figure(v)
	}
}

func (l line) figure(v float64) string {
	if l.unit == "" || math.IsNaN(v) {
		return number(v)
	}
	return number(v) + " " + l.unit
}

// outcomes are the scenario's lines with what was measured of them.
func (s scenario) outcomes(f Figures) (all []Outcome) {
	for _, l := range s.lines {
		figure := math.NaN()
		if l.of != nil {
			figure = l.of(f)
		}
		o := Outcome{What: l.what, Floor: l.mark(l.floor, "none"), Goal: l.mark(l.goal, "same"), Ours: l.figure(figure), Verdict: l.verdict(figure)}
		if !math.IsNaN(figure) {
			o.Figure = &figure
		}
		all = append(all, o)
	}
	return all
}
