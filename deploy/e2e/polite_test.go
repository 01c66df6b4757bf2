package e2e

import (
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/shared/ruc"
)

// rateRule is a site that blocks who asks twice within 200 ms, or twice at a time, as
// the firewall before SUNAT seems to.
func rateRule(blockFor time.Duration) servers {
	return servers{site: replica.Config{MinInterval: 200 * time.Millisecond, MaxConcurrent: 1, BlockFor: blockFor}}
}

// warm waits until every scraper has a tab on the form: a visit that has to bring it
// first is not what these tests are about.
func (f *fleet) warm() {
	f.t.Helper()
	for _, p := range f.scrapers {
		f.eventually("a tab is on the form", readyWait, func() bool { return p.metric(`ruc_slots{state="ready"}`) > 0 })
	}
}

// ask asks for so many numbers that nobody has, at once, through the first gateway.
func (f *fleet) ask(from, count int, each func(n ruc.Number, status int, h http.Header, body string)) {
	f.t.Helper()
	var wg sync.WaitGroup
	for i := range count {
		wg.Go(func() {
			n := fresh(from + i)
			status, h, body := f.lookup(n)
			each(n, status, h, body)
		})
	}
	wg.Wait()
}

// TestPolite_PaceKeepsTheRateRule: three scrapers in a hurry never break the site's
// rule, and every caller gets his answer within the REQUEST_TIMEOUT of the default.
func TestPolite_PaceKeepsTheRateRule(t *testing.T) {
	count := long(10, 60)
	// The long form wants the pace alone to keep the rule. Every run of the tests may share
	// its machine with others, where Chromium sends a POST some 100 ms after its turn began;
	// there one visit at a time, which is the default, helps.
	f := newFleetOn(t, rateRule(time.Minute), "SUNAT_PACE=400ms", "SUNAT_MAX_CONCURRENT="+long("1", "3"), "SUNAT_QUEUE=256")
	f.start(1, 3, 1)
	f.warm()
	// The second time the scrapers know how long a visit takes, and would refuse who
	// cannot be served in time.
	for wave := range 2 {
		began := time.Now()
		f.ask(10_000+1000*wave, count, func(n ruc.Number, status int, _ http.Header, body string) { f.answer(n, status, body) })
		t.Logf("%d cold numbers at once: answered in %v", count, time.Since(began).Round(time.Millisecond))
	}
	s := f.stats()
	if s.MinGapMs == nil {
		t.Fatalf("%+v", s)
	}
	t.Logf("%d POSTs, at least %.0f ms apart, at most %d at a time, %d requests refused", s.Posts, *s.MinGapMs, s.MaxConcurrent, s.Blocked)
	if s.Blocked != 0 || s.Posts != 2*count || s.MaxConcurrent != 1 {
		t.Error("the rule was broken, or numbers were asked for again")
	}
}

// TestPolite_WithoutPaceTheFleetIsBlockedAndRecovers: the same rule, the pace off. The
// fleet runs into it, rests, and asks nothing but its probes until the block is over.
func TestPolite_WithoutPaceTheFleetIsBlockedAndRecovers(t *testing.T) {
	block := long(4*time.Second, time.Minute)
	// The pause doubles after each probe that is refused.
	f := newFleetOn(t, rateRule(block), "SUNAT_PACE=0", "SUNAT_MAX_CONCURRENT=3", "SUNAT_QUEUE=256", "SUNAT_PAUSE=2s")
	f.start(1, 3, 1)
	f.warm()

	// refused checks what a caller is told while the fleet rests.
	refused := func(n ruc.Number, status int, h http.Header, body string) {
		t.Helper()
		after, err := strconv.Atoi(h.Get("Retry-After"))
		if p := f.problem(h, status, body); status != http.StatusServiceUnavailable || p.Code != ruc.Blocked || err != nil || after < 1 {
			t.Errorf("%s: %d, Retry-After %q: %s", n, status, h.Get("Retry-After"), body)
		}
	}
	f.ask(12_000, 20, func(n ruc.Number, status int, h http.Header, body string) {
		if status == http.StatusOK {
			f.answer(n, status, body) // before the rule was broken
			return
		}
		refused(n, status, h, body)
	})
	tripped := f.stats()
	if tripped.Blocked == 0 {
		t.Fatalf("the rule was not broken: %+v", tripped)
	}

	health := func() (h struct {
		Status, SUNAT string
		PauseSeconds  int
	}) {
		t.Helper()
		_, _, body := f.get("/health")
		if err := json.Unmarshal([]byte(body), &h); err != nil {
			t.Fatal(err)
		}
		return h
	}
	began := time.Now()
	probes := func() (n int) {
		for _, p := range f.scrapers {
			n += len(p.log.with("this visit is the probe"))
		}
		return n
	}
	before := probes()
	told, next := 0, 13_000
	for status := 0; status != http.StatusOK; next++ {
		if time.Since(began) > 2*block+20*time.Second {
			t.Fatalf("no answer %v after the block began", time.Since(began))
		}
		asked, state := time.Now(), health()
		var h http.Header
		var body string
		n := fresh(next)
		status, h, body = f.lookup(n)
		took := time.Since(asked)
		if status != http.StatusOK && state.SUNAT == "paused" && state.PauseSeconds > 1 { // it was not about to end
			told++
			refused(n, status, h, body)
			if state.Status != "degraded" || took > time.Second {
				t.Errorf("%+v, refused after %v", state, took)
			}
			if posts, made := f.stats().Posts-tripped.Posts, probes()-before; posts > made {
				t.Fatalf("%d POSTs since the fleet rests, %d of them probes", posts, made)
			}
		}
		<-time.After(50 * time.Millisecond)
	}
	s := f.stats()
	t.Logf("%d requests refused by the site; %d callers told so; %d probes; answered %v after the block began", s.Blocked, told, probes()-before, time.Since(began).Round(time.Millisecond))
	if told == 0 || probes() == before {
		t.Error("nobody was told of the pause, or no probe was made")
	}
}
