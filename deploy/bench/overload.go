//go:build linux

package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// The variants of lookups: no more than can wait, and far too many, with what became of
// them.
const (
	overloadNone     = "4 callers who wait for each other's visits"
	overloadAll      = "10 × as many lookups as visits can be made"
	overloadAnswered = "answered"
	overloadRefused  = "refused: overloaded"
	overloadFailed   = "anything else"
)

// The measures of them.
const (
	shareOfAll   = "share"
	ofCapacity   = "share of the site's time"
	askedSeconds = "asked per second"
)

const (
	overloadVisit = 200 * time.Millisecond // what the site takes for one
	overloadTimes = 10
	overloadQueue = 20
	calmCallers   = 4
	overloadLeast = 20 * time.Second // the queue is full after half of one
	// overloadWait is REQUEST_TIMEOUT: how long the gateway waits for whom it admits.
	overloadWait = 30 * time.Second
)

// overload asks one gateway for ten times as many cold numbers as the site can answer, one
// after the other whatever becomes of those before.
func overload(ctx context.Context, l *lab) (f Figures, err error) {
	fleet, err := l.startFleet(ctx, "SUNAT_MAX_CONCURRENT=1", fmt.Sprintf("SUNAT_QUEUE=%d", overloadQueue))
	if err != nil {
		return nil, err
	}
	if err := fleet.SetFault(replica.Fault{Kind: replica.FaultSlow, DelayMs: int(overloadVisit / time.Millisecond)}); err != nil {
		return nil, err
	}
	g, err := l.startService(ctx, "gateway", fleet.servers, append(fleet.settings(), fmt.Sprintf("REQUEST_TIMEOUT=%s", overloadWait))...)
	if err != nil {
		return nil, err
	}
	for range l.Rounds {
		if err := l.calmRound(ctx, fleet, g, &f); err != nil {
			return nil, err
		}
		if err := l.overloadRound(ctx, fleet, g, &f); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// calmRound is how many visits are made while somebody always waits and nobody is refused.
func (l *lab) calmRound(ctx context.Context, fleet *fleet, g server, f *Figures) error {
	began, posts := l.now(), fleet.Stats().Posts
	end := began.Add(overloadLeast / 2)
	var mu sync.Mutex
	var took []uint32
	callers, ctx := errgroup.WithContext(ctx)
	for range calmCallers {
		callers.Go(func() error {
			for l.now().Before(end) {
				mu.Lock()
				n := fleet.cold()
				mu.Unlock()
				t, err := l.ask(ctx, client, g, n)
				if err == nil && t.code != "" {
					err = fmt.Errorf("%s: %s", n, t.code)
				}
				if err != nil {
					return err
				}
				mu.Lock()
				took = append(took, microseconds(t.took))
				mu.Unlock()
			}
			return nil
		})
	}
	if err := callers.Wait(); err != nil {
		return err
	}
	slices.Sort(took)
	round := latencies(took)
	round[perSecond], round[ofCapacity] = visitRate(fleet.Stats().Posts-posts, l.now().Sub(began))
	f.add(overloadNone, round)
	return nil
}

// visitRate is how many visits were made in a second, and how much of that time the site
// was busy.
func visitRate(visits int, d time.Duration) (rate, share float64) {
	rate = float64(visits) / d.Seconds()
	return rate, rate * overloadVisit.Seconds()
}

func microseconds(d time.Duration) uint32 { return uint32(d / time.Microsecond) } //nolint:gosec // no lookup lasts for an hour

func (l *lab) overloadRound(ctx context.Context, fleet *fleet, g server, f *Figures) error {
	lookups := int(max(l.duration(), overloadLeast)/overloadVisit) * overloadTimes
	began, posts := l.now(), fleet.Stats().Posts
	round := map[string]float64{}
	told, err := l.askOpenly(ctx, fleet, g, lookups, func() {
		took := l.now().Sub(began)
		round[askedSeconds] = float64(lookups) / took.Seconds()
		round[perSecond], round[ofCapacity] = visitRate(fleet.Stats().Posts-posts, took)
	})
	if err != nil {
		return err
	}
	f.add(overloadAll, round)
	sortTold(told, f)
	return nil
}

// told is what became of a lookup.
type told struct {
	code ruc.Code // "" of one that was answered
	took time.Duration
}

// sortTold adds up what became of lookups.
func sortTold(all []told, f *Figures) {
	took := map[string][]uint32{}
	for _, t := range all {
		what := overloadFailed
		switch t.code {
		case "":
			what = overloadAnswered
		case ruc.Overloaded:
			what = overloadRefused
		default:
		}
		took[what] = append(took[what], microseconds(t.took))
	}
	for _, what := range []string{overloadAnswered, overloadRefused, overloadFailed} {
		round := map[string]float64{}
		if len(took[what]) > 0 {
			slices.Sort(took[what])
			round = latencies(took[what])
		}
		round[shareOfAll] = float64(len(took[what])) / float64(len(all))
		f.add(what, round)
	}
}

// askOpenly asks for cold numbers at even intervals, calls asked when it has asked for
// the last, and returns what became of each.
func (l *lab) askOpenly(ctx context.Context, fleet *fleet, g server, lookups int, asked func()) ([]told, error) {
	client := &http.Client{Timeout: overloadWait + readyWait, Transport: &http.Transport{MaxIdleConnsPerHost: lookups}}
	defer client.CloseIdleConnections()
	all := make([]told, lookups)
	asking, ctx := errgroup.WithContext(ctx)
	tick := time.NewTicker(overloadVisit / overloadTimes)
	defer tick.Stop()
	for i := range all {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, errors.Join(asking.Wait(), context.Cause(ctx))
		}
		n := fleet.cold()
		asking.Go(func() (err error) {
			all[i], err = l.ask(ctx, client, g, n)
			return err
		})
	}
	asked()
	return all, asking.Wait()
}

func (l *lab) ask(ctx context.Context, client *http.Client, g server, n ruc.Number) (t told, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.http+path(n), nil)
	if err != nil {
		return t, err
	}
	began := l.now()
	resp, err := client.Do(req)
	if err != nil {
		return t, err
	}
	defer func() { _ = resp.Body.Close() }() // it is read to its end
	body, err := io.ReadAll(resp.Body)
	t.took = l.now().Sub(began)
	if err != nil || resp.StatusCode == http.StatusOK {
		return t, err
	}
	var p wire.Problem
	err = json.Unmarshal(body, &p)
	t.code = p.Code
	return t, err
}
