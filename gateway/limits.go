package gateway

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/maypok86/otter/v2"
	"golang.org/x/time/rate"

	"github.com/rucflow/rucflow/shared/ruc"
)

// allowance is how much may be had in a span: RATE_LIMIT and the quota of a key.
type allowance struct {
	count int
	per   time.Duration
}

const (
	maxAllowance = 1_000_000_000
	day          = 24 * time.Hour
)

var spans = map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": day}

// parseAllowance reads a form such as 10/s, with the units s, m, h and d.
func parseAllowance(s string) (allowance, error) {
	number, unit, _ := strings.Cut(s, "/")
	count, err := strconv.Atoi(number)
	per, known := spans[unit]
	if err != nil || !known || count < 1 || count > maxAllowance {
		return allowance{}, fmt.Errorf("not of the form 10/s (a whole number from 1 and one of s, m, h, d)")
	}
	return allowance{count, per}, nil
}

// The headers of draft-ietf-httpapi-ratelimit-headers-10, and the names of the two
// policies in them. Their values are structured fields: lists of strings with parameters.
const (
	headerRateLimit       = "RateLimit"
	headerRateLimitPolicy = "RateLimit-Policy"
	policyLookups         = `"lookups"`
	policyVisits          = `"visits"`
)

// policy is the allowance's item of RateLimit-Policy.
func (a allowance) policy(name string) string {
	return fmt.Sprintf("%s;q=%d;w=%d", name, a.count, a.per/time.Second)
}

// client is whose requests are counted together: a key's name, else an address.
type client struct {
	key     string
	network netip.Prefix
}

// clientAt is the client without a key at an address. One household or server has a whole
// /64 of IPv6 addresses, as a rule.
func clientAt(a netip.Addr) client {
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // fails only for an address that is none: all those are one client
	return client{network: p}
}

// maxClients bounds what is remembered of clients: about 15 MB. One that is forgotten
// begins anew with a full bucket.
const maxClients = 64 << 10

// buckets hold every client's token bucket. As many requests as the allowance says pass at
// once; the bucket fills evenly.
type buckets struct {
	allowance
	item  string // of RateLimit-Policy
	cache *otter.Cache[client, *rate.Limiter]
}

func newBuckets(a allowance) (*buckets, error) {
	cache, err := otter.New(&otter.Options[client, *rate.Limiter]{
		MaximumSize: maxClients,
		// By then it would be full again.
		ExpiryCalculator: otter.ExpiryAccessing[client, *rate.Limiter](a.per),
	})
	if err != nil {
		return nil, fmt.Errorf("gateway.newBuckets: %w", err)
	}
	return &buckets{allowance: a, item: a.policy(policyLookups), cache: cache}, nil
}

func (b *buckets) of(c client) *rate.Limiter {
	if l, ok := b.cache.GetIfPresent(c); ok {
		return l
	}
	l, _ := b.cache.ComputeIfAbsent(c, func() (*rate.Limiter, bool) {
		return rate.NewLimiter(rate.Limit(float64(b.count)/b.per.Seconds()), b.count), false
	})
	return l
}

func (b *buckets) close() { b.cache.StopAllGoroutines() }

// until is how long a bucket takes to hold that many tokens.
func until(l *rate.Limiter, tokens float64, now time.Time) time.Duration {
	return time.Duration(max(0, tokens-l.TokensAt(now)) / float64(l.Limit()) * float64(time.Second))
}

// quota bounds the visits that one key causes. It counts in windows of the allowance's
// span, each of which begins with the first visit after the one before. Safe for
// concurrent use; the nil quota has no bound.
type quota struct {
	allowance
	item string // of RateLimit-Policy

	mu   sync.Mutex
	used int
	ends time.Time // of the window
}

func newQuota(a allowance) *quota { return &quota{allowance: a, item: a.policy(policyVisits)} }

// spend takes one visit off the quota before it is made. undo gives it back, unless its
// window is over. Errors: ruc.RateLimited.
func (q *quota) spend(now time.Time) (undo func(), err error) {
	if q == nil {
		return func() {}, nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !now.Before(q.ends) {
		q.used, q.ends = 0, now.Add(q.per)
	}
	if q.used >= q.count {
		return nil, &ruc.Error{
			Code:       ruc.RateLimited,
			Detail:     "Se agotó la cuota de consultas a SUNAT de esta clave. Lo que ya está guardado se sigue sirviendo.",
			RetryAfter: q.ends.Sub(now),
		}
	}
	q.used++
	window := q.ends
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.ends.Equal(window) {
			q.used--
		}
	}, nil
}

// left returns what remains of the window, in visits and time.
func (q *quota) left(now time.Time) (visits int, reset time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !now.Before(q.ends) {
		return q.count, 0
	}
	return q.count - q.used, q.ends.Sub(now)
}

// asker is who asks: what the log says of them, and what their asking is counted on. The
// zero asker is nameless and without bounds.
type asker struct {
	key    string        // name of the API key; "" = none
	quota  *quota        // of visits; nil = no bound
	bucket *rate.Limiter // of requests; nil = no bound
	policy string        // the bucket's item of RateLimit-Policy
}

// tell writes what is left of the asker's bounds into the response.
func (a asker) tell(c *fiber.Ctx, clock func() time.Time) {
	if a.bucket == nil && a.quota == nil {
		return
	}
	now := clock()
	var policy, left [128]byte
	p, l := policy[:0], left[:0]
	if a.bucket != nil {
		p = append(p, a.policy...)
		full := until(a.bucket, float64(a.bucket.Burst()), now)
		l = appendLeft(l, policyLookups, max(0, int(a.bucket.TokensAt(now))), full)
	}
	if a.quota != nil {
		if len(p) > 0 {
			p, l = append(p, ", "...), append(l, ", "...)
		}
		p = append(p, a.quota.item...)
		visits, reset := a.quota.left(now)
		l = appendLeft(l, policyVisits, visits, reset)
	}
	h := &c.Response().Header
	h.SetBytesV(headerRateLimitPolicy, p)
	h.SetBytesV(headerRateLimit, l)
}

// appendLeft appends an item of RateLimit.
func appendLeft(b []byte, name string, left int, reset time.Duration) []byte {
	b = append(append(b, name...), ";r="...)
	b = strconv.AppendInt(b, int64(left), 10)
	b = append(b, ";t="...)
	return strconv.AppendInt(b, int64((reset+time.Second-1)/time.Second), 10)
}
