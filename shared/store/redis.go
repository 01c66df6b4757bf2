package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/rs/zerolog"
	"github.com/sony/gobreaker/v2"

	"github.com/rucflow/rucflow/shared/mend"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
)

// Redis keeps each answer under sunat:ruc:<ruc>, as it is, so that GET, TTL and
// redis-cli show the answer and the time it has left. Its version stands beside
// it in seq:{sunat:ruc:<ruc>}, which is of the same cluster slot and expires with
// it. The key sunat:fuente marks whose data the store holds. Redis is safe for
// concurrent use.
//
// Nothing waits for a Redis that does not answer: a Get ends within
// REDIS_TIMEOUT + 10 ms, and after a few failures a breaker refuses at once until
// Redis answers again. Writers are given longer and are meant to try again.
type Redis struct {
	cfg    RedisConfig
	source string
	now    func() time.Time
	log    zerolog.Logger

	reader, writer lazyClient
	reads          *gatherer // of reader
	breaker        *gobreaker.CircuitBreaker[[]byte]

	up        atomic.Bool           // the last operation that says so succeeded
	failure   atomic.Pointer[error] // why the last Get failed
	downSince atomic.Int64          // when the breaker opened, Unix nanoseconds
	claimed   atomic.Int64          // when the marker was last seen to be ours, Unix nanoseconds; 0 = never
	refusal   atomic.Pointer[error] // ErrOtherSource, once it was found
	// The server, or the rights of our user, know no such thing: see putChunk.
	noScripts, noTransactions atomic.Bool
}

const (
	keyPrefix = "sunat:ruc:"
	sourceKey = "sunat:fuente"

	// The breaker opens at half of at least tripRequests failed within
	// tripWindow; among fewer, at tripIdle failures in a row; and whatever
	// succeeded before, at tripRequests in a row. A healthy Redis on a crowded
	// machine had single timeouts: p99 of 27 to 37 ms against 30.
	tripWindow   = 2 * time.Second
	tripBucket   = 200 * time.Millisecond
	tripRequests = 20
	tripIdle     = 5
	openFor      = 500 * time.Millisecond

	// claimTimeout leaves a start in a LAN the round trips of TLS.
	claimTimeout = 250 * time.Millisecond

	// probeInterval is how often Run looks at the marker, and how old a look may
	// be before a writer looks again: a Redis that was flushed has lost it.
	probeInterval = time.Second
)

// ErrResting says that Redis was not asked, because it failed just now. It comes
// at once and with every Get until Redis answers again; the log has said so.
var ErrResting = errors.New("redis failed just now and is not asked for a moment")

// quiet silences go-redis, which logs to standard error what it returns anyway.
var quiet = sync.OnceFunc(logging.Disable)

// NewRedis returns a store of source's data at the Redis that cfg names. It does
// not connect; every operation looks first whether the store holds another
// source's data, and refuses with ErrOtherSource for good if so. now is the
// machine's clock.
func NewRedis(cfg RedisConfig, source string, now func() time.Time, log zerolog.Logger) (*Redis, error) {
	o, err := cfg.options()
	if err != nil {
		return nil, fmt.Errorf("store.NewRedis: %w", err)
	}
	quiet()
	r := &Redis{cfg: cfg, source: source, now: now, log: log}
	r.reader.options = cfg.readOptions(*o)
	r.reads = newGatherer(cfg.Timeout, cfg.budget(), now)
	r.writer.options = cfg.writeOptions(*o)
	r.breaker = gobreaker.NewCircuitBreaker[[]byte](gobreaker.Settings{
		Interval: tripWindow, BucketPeriod: tripBucket, Timeout: openFor, MaxRequests: 1,
		ReadyToTrip: tripped, OnStateChange: r.stateChanged,
		IsExcluded: func(err error) bool {
			var c callerLeft
			return errors.As(err, &c)
		},
	})
	return r, nil
}

// Kind returns "redis".
func (r *Redis) Kind() string { return "redis" }

// Connected reports whether Redis is in use, as far as is known without asking: it
// has answered, the last probe or write succeeded and the breaker is closed. It is
// false before the first answer and in a store that holds another source's data.
func (r *Redis) Connected() bool {
	return r.up.Load() && r.refusal.Load() == nil && r.breaker.State() == gobreaker.StateClosed
}

// Get returns the value of n; ok is false where none is held. It returns within
// REDIS_TIMEOUT + 10 ms, or when ctx ends if that is earlier. An error is
// ErrResting, ErrOtherSource or what went wrong between us and Redis.
func (r *Redis) Get(ctx context.Context, n ruc.Number) (value []byte, ok bool, err error) {
	value, err = r.guarded(ctx, func(ctx context.Context, c redis.UniversalClient) ([]byte, error) {
		if r.claimed.Load() == 0 {
			if err := r.claim(ctx, c); err != nil {
				return nil, err
			}
		}
		return r.reads.get(ctx, c, valueKey(n))
	})
	if err != nil {
		return nil, false, fmt.Errorf("store.Redis.Get: %w", err)
	}
	return value, len(value) > 0, nil
}

// callerLeft is a failure of which Redis is innocent.
type callerLeft struct{ error }

func (c callerLeft) Unwrap() error { return c.error }

// guarded runs a read within the budget and behind the breaker.
func (r *Redis) guarded(ctx context.Context, read func(context.Context, redis.UniversalClient) ([]byte, error)) ([]byte, error) {
	if refused := r.refusal.Load(); refused != nil {
		return nil, *refused
	}
	c, err := r.reader.get()
	if err != nil {
		return nil, err
	}
	deadline, hasDeadline := ctx.Deadline()
	// A caller who leaves Redis less than its time proves nothing against it.
	hurried := hasDeadline && deadline.Before(r.now().Add(r.cfg.Timeout))
	value, err := r.breaker.Execute(func() ([]byte, error) {
		budgeted, cancel := context.WithTimeout(ctx, r.cfg.budget())
		defer cancel()
		value, err := read(budgeted, c)
		switch {
		case err == nil:
			return value, nil
		case errors.Is(err, ErrOtherSource), errors.Is(ctx.Err(), context.Canceled), hurried && ctx.Err() != nil:
			return nil, callerLeft{err}
		}
		err = r.explained(err)
		r.failure.Store(&err)
		return nil, err
	})
	var left callerLeft
	switch {
	case err == nil:
		if !r.up.Load() { // a load is shared between processors, a store is not
			r.up.Store(true)
		}
		return value, nil
	case errors.As(err, &left):
		return nil, left.error
	case errors.Is(err, gobreaker.ErrOpenState), errors.Is(err, gobreaker.ErrTooManyRequests):
		return nil, ErrResting
	}
	return nil, err
}

func tripped(c gobreaker.Counts) bool {
	done := c.TotalSuccesses + c.TotalFailures // the others are still under way or innocent
	switch {
	case c.ConsecutiveFailures >= tripRequests:
		return true
	case done < tripRequests:
		return c.ConsecutiveFailures >= tripIdle
	default:
		return 2*c.TotalFailures >= done
	}
}

// stateChanged logs one line when Redis is left alone and one when it is used
// again; the failed probes between them are not worth any.
func (r *Redis) stateChanged(_ string, from, to gobreaker.State) {
	switch {
	case from == gobreaker.StateClosed && to == gobreaker.StateOpen:
		r.downSince.Store(r.now().UnixNano())
		event := r.log.Warn()
		if failure := r.failure.Load(); failure != nil {
			event = event.Err(*failure)
		}
		event.Msg("Redis does not answer and lookups go on without it")
	case to == gobreaker.StateClosed:
		r.log.Info().Dur("took", r.now().Sub(time.Unix(0, r.downSince.Load()))).Msg("Redis answers and is used again")
	}
}

// Claim marks the store as one of source's data; ErrOtherSource if it is
// another's. Other errors say that Redis could not be asked, after a quarter of a
// second at most, for it is called at start: the operations claim by themselves
// when Redis can be asked.
func (r *Redis) Claim(ctx context.Context, source string) error {
	if refused := r.refusal.Load(); refused != nil {
		return fmt.Errorf("store.Redis.Claim: %w", *refused)
	}
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	c, err := r.writer.get()
	switch {
	case err != nil:
	case source == r.source:
		err = r.claim(ctx, c)
		r.up.Store(err == nil)
	default:
		err = mark(ctx, c, source)
	}
	if err != nil {
		return fmt.Errorf("store.Redis.Claim: %w", r.explained(err))
	}
	return nil
}

// claim marks the store as ours, and remembers for good when it is not.
func (r *Redis) claim(ctx context.Context, c redis.UniversalClient) error {
	err := mark(ctx, c, r.source)
	switch {
	case err == nil:
		r.claimed.Store(r.now().UnixNano())
	case errors.Is(err, ErrOtherSource):
		r.refusal.CompareAndSwap(nil, &err)
	}
	return err
}

// mark reads before it writes, so that a user who may only read can use a store
// that is marked already.
func mark(ctx context.Context, c redis.UniversalClient, source string) error {
	found, err := c.Get(ctx, sourceKey).Result()
	if errors.Is(err, redis.Nil) {
		err = c.SetArgs(ctx, sourceKey, source, redis.SetArgs{Mode: string(redis.NX)}).Err()
		switch {
		case err == nil || errors.Is(err, redis.Nil): // Nil: another process was faster
			found, err = c.Get(ctx, sourceKey).Result()
		case redis.IsPermissionError(err):
			err = fmt.Errorf("nobody has set %s yet, as a cachewriter does: %w", sourceKey, err)
		}
	}
	if err != nil {
		return err
	}
	if found != source {
		return otherSource("Redis", found, source)
	}
	return nil
}

// Run looks at the marker every second until ctx ends. So the source is checked
// as soon as Redis can be reached, the marker is set again after a flush, and
// Connected is true to the facts while nobody looks anything up.
func (r *Redis) Run(ctx context.Context) {
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for {
		_, err := r.guarded(ctx, func(ctx context.Context, c redis.UniversalClient) ([]byte, error) {
			return nil, r.claim(ctx, c)
		})
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, ErrOtherSource):
			r.log.Error().Err(err).Msg("Redis is not used")
			<-ctx.Done()
			return
		case err != nil:
			r.up.Store(false)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Close closes the connections and returns nil. What is called later fails.
func (r *Redis) Close() error {
	r.reader.close() // first: reads under way end with it
	r.reads.close()
	r.writer.close()
	return nil
}

// lazyClient is made at its first use, because go-redis dials its idle connections
// as soon as it is made.
type lazyClient struct {
	options *redis.UniversalOptions
	once    sync.Once
	client  redis.UniversalClient
}

func (l *lazyClient) get() (redis.UniversalClient, error) {
	l.once.Do(func() { l.client = redis.NewUniversalClient(l.options) })
	if l.client == nil {
		return nil, redis.ErrClosed
	}
	return l.client, nil
}

func (l *lazyClient) close() {
	l.once.Do(func() {}) // never used, and never will be
	if l.client == nil {
		return
	}
	_ = l.client.Close() // all that can fail is the goodbye to a server that is gone
}

func valueKey(n ruc.Number) string { return keyPrefix + n.String() }

// versionKey puts the whole value key into braces: a cluster hashes what is inside
// them, so both keys are of one slot.
func versionKey(n ruc.Number) string { return "seq:{" + keyPrefix + n.String() + "}" }

// explained says what mends a connection that cannot be had, and nothing of what was
// sent.
func (r *Redis) explained(err error) error {
	if r.claimed.Load() != 0 { // it could be had once
		return service.ExplainTLS("REDIS", withoutArguments(err))
	}
	return explain(err, r.reader.options)
}

// explain is explained of a connection that was never had.
func explain(err error, o *redis.UniversalOptions) error {
	err = withoutArguments(err)
	hungUp := errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	switch {
	case hungUp && o.TLSConfig == nil:
		return &mend.Error{
			Finding: "the server hangs up, as one does that expects TLS",
			Mend:    "set REDIS_TLS=true, or write rediss:// in REDIS_URL", Err: err,
		}
	case hungUp: // its alert may be lost with the connection
		return &mend.Error{
			Finding: "the server hangs up, as one does that expects another certificate of the client, or one at all",
			Mend:    "set REDIS_CERT and REDIS_KEY", Err: err,
		}
	case redis.IsAuthError(err) && o.Password == "":
		return &mend.Error{
			Finding: "the server wants a password",
			Mend:    "set REDIS_PASSWORD (or REDIS_PASSWORD_FILE), and REDIS_USERNAME where it has users", Err: err,
		}
	case redis.IsAuthError(err):
		return &mend.Error{
			Finding: "the server refuses the password",
			Mend:    "set REDIS_PASSWORD (or REDIS_PASSWORD_FILE), and REDIS_USERNAME where it has users, to what the server knows, or those in REDIS_URL", Err: err,
		}
	}
	return service.ExplainTLS("REDIS", err)
}

// withoutArguments drops what a server repeats of a command that it does not know:
// numbers of persons, and of a connection's first command the password.
func withoutArguments(err error) error {
	if text, _, found := strings.Cut(err.Error(), ", with args beginning with"); found {
		return errors.New(text)
	}
	return err
}
