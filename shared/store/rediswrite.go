package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rucflow/rucflow/shared/ruc"
)

// putChunk bounds one pipeline. Beyond 250 events a batch gained nothing, and a
// server answers others only between its commands.
const putChunk = 500

// A transaction puts many entries at half of what the script costs Redis, which copies
// each value through Lua, but takes three round trips more. Redis answers nobody else while
// it runs one: a millisecond for so many.
const (
	togetherMin = 10
	togetherMax = 250
)

// putScript sets a value and its version unless the version held is as new. The
// versions are of equal length (see encodeVersion), so comparing text compares
// them; as Lua's numbers they would lose digits beyond 2^53. A version key that
// holds anything else is none of ours and gives way, as any value does to SET: kept,
// it would shut its number out of the cache until a person finds it.
//
// KEYS: value, version. ARGV: value, version, seconds.
var putScript = redis.NewScript(`local held = redis.pcall('GET', KEYS[2])
if type(held) == 'table' then
  if not string.find(held.err, 'WRONGTYPE', 1, true) then return held end
elseif held and #held == #ARGV[2] and held >= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[3])
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
return 1`)

// encodeVersion writes a version as text that sorts as versions do.
func encodeVersion(v Version) string { return fmt.Sprintf("%019d.%020d", v.Epoch, v.Seq) }

// lifetime is ttl in whole seconds, as TTL shows it: never longer than ttl, except
// that the least that a key can live is one.
func lifetime(ttl time.Duration) time.Duration { return max(ttl.Truncate(time.Second), time.Second) }

// Put keeps the entries that are newer than what is held. Its error is a *PutError;
// putting the same again is harmless. It returns within a few seconds when Redis
// does not answer.
func (r *Redis) Put(ctx context.Context, entries []Entry) error {
	_, err := r.put(ctx, entries)
	if err != nil {
		return fmt.Errorf("store.Redis.Put: %w", err)
	}
	return nil
}

// PutTold is Put for who wants to know what was written: wrote says it of the entry at each
// place, and is false for one that is not newer than what is held.
func (r *Redis) PutTold(ctx context.Context, entries []Entry) (wrote []bool, err error) {
	wrote, err = r.put(ctx, entries)
	if err != nil {
		return wrote, fmt.Errorf("store.Redis.PutTold: %w", err)
	}
	return wrote, nil
}

func (r *Redis) put(ctx context.Context, entries []Entry) (wrote []bool, err error) {
	errs := make([]error, len(entries))
	wrote = make([]bool, len(entries))
	live := make([]int, 0, len(entries)) // places in entries
	for i, e := range entries {
		switch {
		case e.TTL <= 0:
		case len(e.Value) > MaxValueBytes:
			errs[i] = errTooLarge
		default:
			live = append(live, i)
		}
	}
	tried := false
	err = r.write(ctx, func(c redis.UniversalClient) error {
		tried = true
		var err error
		for chunk := range slices.Chunk(live, putChunk) {
			if err == nil {
				err = r.putChunk(ctx, c, entries, chunk, errs, wrote)
			} else { // Redis is away, and each try would take its time
				fill(errs, chunk, err)
			}
		}
		return err
	})
	if !tried {
		fill(errs, live, err)
	}
	for _, i := range live {
		if errs[i] != nil {
			errs[i] = withoutArguments(errs[i])
		}
	}
	return wrote, putError(errs)
}

func fill(errs []error, places []int, err error) {
	for _, i := range places {
		errs[i] = err
	}
}

// write runs a change once the marker is known to be ours.
func (r *Redis) write(ctx context.Context, change func(redis.UniversalClient) error) error {
	if refused := r.refusal.Load(); refused != nil {
		return *refused
	}
	c, err := r.writer.get()
	if err != nil {
		return err
	}
	if r.now().UnixNano()-r.claimed.Load() > int64(probeInterval) {
		err = r.claim(ctx, c)
	}
	if err == nil {
		err = change(c)
	}
	r.wrote(ctx, err)
	if err != nil {
		return r.explained(err)
	}
	return nil
}

// wrote remembers how a write went, unless its caller broke it off.
func (r *Redis) wrote(ctx context.Context, err error) {
	if err == nil || errors.Is(err, ErrOtherSource) || ctx.Err() == nil {
		r.up.Store(err == nil)
	}
}

// putChunk puts the entries at the places of chunk and writes into errs and wrote how
// each fared. It returns an error when it kept none of them.
func (r *Redis) putChunk(ctx context.Context, c redis.UniversalClient, entries []Entry, chunk []int, errs []error, wrote []bool) error {
	left := r.putTogether(ctx, c, entries, chunk, errs, wrote)
	if r.noScripts.Load() {
		putWatched(ctx, c, entries, left, errs, wrote)
		return noneKept(chunk, errs)
	}
	runScript(ctx, c, entries, left, errs, wrote, putScript.EvalSha)
	// A server that was restarted, or a node that is new. EVAL runs the script and
	// leaves it there for the next EVALSHA.
	if unknown := failedBy(left, errs, unknownScript); len(unknown) > 0 {
		runScript(ctx, c, entries, unknown, errs, wrote, putScript.Eval)
	}
	if refused := failedBy(left, errs, refusesCommand); len(refused) > 0 {
		putWatched(ctx, c, entries, refused, errs, wrote)
		// Where that fails as well it was not for the scripts.
		if noneKept(refused, errs) == nil && r.noScripts.CompareAndSwap(false, true) {
			r.log.Warn().Msg("Redis runs no scripts; answers are stored by transactions, which is slower")
		}
	}
	return noneKept(chunk, errs)
}

// putTogether puts by transactions of many entries, and returns the places that are to be
// put one by one: those of a few, of a cluster, whose nodes each hold some, and those of a
// transaction that Redis did not run, because another writer came between or one of its
// entries cannot be put.
func (r *Redis) putTogether(ctx context.Context, c redis.UniversalClient, entries []Entry, places []int, errs []error, wrote []bool) (left []int) {
	if _, one := c.(*redis.Client); !one {
		return places
	}
	for len(places) >= togetherMin && !r.noTransactions.Load() {
		chunk := places[:min(len(places), togetherMax)]
		err := putWatchedTogether(ctx, c, entries, chunk, wrote)
		var reply redis.Error
		switch {
		case err == nil:
		case errors.As(err, &reply):
			left = append(left, chunk...)
			if refusesTransactions(err) && r.noTransactions.CompareAndSwap(false, true) {
				r.log.Warn().Msg("Redis runs no transactions; answers are stored one by one, which is slower")
			}
		default: // Redis is away, and each try would take its time
			fill(errs, slices.Concat(left, places), err)
			return nil
		}
		places = places[len(chunk):]
	}
	return append(left, places...)
}

// failedBy returns the places whose error is of a kind.
func failedBy(places []int, errs []error, kind func(error) bool) []int {
	return slices.DeleteFunc(slices.Clone(places), func(i int) bool { return errs[i] == nil || !kind(errs[i]) })
}

// noneKept returns the first error of the places if all of them have one.
func noneKept(places []int, errs []error) error {
	if slices.ContainsFunc(places, func(i int) bool { return errs[i] == nil }) {
		return nil
	}
	return errs[places[0]]
}

func unknownScript(err error) bool { return redis.HasErrorPrefix(err, "NOSCRIPT") }

// refusesCommand reports whether the server, or the rights of our user, leave a
// command out.
func refusesCommand(err error) bool {
	return redis.HasErrorPrefix(err, "unknown command") || redis.IsPermissionError(err)
}

// refusesTransactions is refusesCommand, but for a number whose keys our user may not touch.
func refusesTransactions(err error) bool {
	return refusesCommand(err) && strings.Contains(err.Error(), "command")
}

type runFunc func(ctx context.Context, c redis.Scripter, keys []string, args ...any) *redis.Cmd

// runScript runs the script for the entries at places, in one pipeline. The
// pipeline's own error is one of its commands' and is not looked at.
func runScript(ctx context.Context, c redis.UniversalClient, entries []Entry, places []int, errs []error, wrote []bool, run runFunc) {
	cmds := make([]*redis.Cmd, len(places))
	_, _ = c.Pipelined(ctx, func(p redis.Pipeliner) error {
		for k, i := range places {
			e := entries[i]
			seconds := int64(lifetime(e.TTL) / time.Second)
			cmds[k] = run(ctx, p, []string{valueKey(e.RUC), versionKey(e.RUC)}, e.Value, encodeVersion(e.Version), seconds)
		}
		return nil
	})
	for k, i := range places {
		var n int
		n, errs[i] = cmds[k].Int()
		wrote[i] = n == 1
	}
}

// putWatched does what the script does by optimistic transactions, one entry at a
// time: three round trips each instead of a share in one.
func putWatched(ctx context.Context, c redis.UniversalClient, entries []Entry, places []int, errs []error, wrote []bool) {
	for k, i := range places {
		errs[i] = putOneWatched(ctx, c, entries, i, wrote)
		var reply redis.Error
		if errs[i] != nil && !errors.As(errs[i], &reply) { // Redis is away, and each try would take its time
			fill(errs, places[k:], errs[i])
			return
		}
	}
}

func putOneWatched(ctx context.Context, c redis.UniversalClient, entries []Entry, place int, wrote []bool) error {
	err := error(redis.TxFailedErr)
	// A transaction fails because another writer's succeeded, so this ends: at the
	// latest when what is held is as new.
	for errors.Is(err, redis.TxFailedErr) && ctx.Err() == nil {
		err = putWatchedTogether(ctx, c, entries, []int{place}, wrote)
	}
	return err
}

// putWatchedTogether does what the script does for the entries at places, all of them or
// none. The error is redis.TxFailedErr where another writer put one of them meanwhile.
func putWatchedTogether(ctx context.Context, c redis.UniversalClient, entries []Entry, places []int, wrote []bool) error {
	keys := make([]string, len(places))
	for k, i := range places {
		keys[k] = versionKey(entries[i].RUC)
	}
	var put []int
	err := c.Watch(ctx, func(tx *redis.Tx) error {
		versions := make([]*redis.StringCmd, len(keys))
		_, _ = tx.Pipelined(ctx, func(p redis.Pipeliner) error {
			for k, key := range keys {
				versions[k] = p.Get(ctx, key)
			}
			return nil
		})
		newest := make(map[string]string, len(keys)) // of several for one number
		for k, i := range places {
			held, ok := newest[keys[k]]
			if !ok {
				var err error
				held, err = versions[k].Result()
				if err != nil && !errors.Is(err, redis.Nil) && !redis.HasErrorPrefix(err, "WRONGTYPE") {
					return err
				}
			}
			if version := encodeVersion(entries[i].Version); len(held) != len(version) || held < version {
				newest[keys[k]] = version
				put = append(put, i)
			}
		}
		if len(put) == 0 {
			return nil
		}
		_, err := tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
			for _, i := range put {
				e, ttl := entries[i], lifetime(entries[i].TTL)
				p.Set(ctx, valueKey(e.RUC), e.Value, ttl)
				p.Set(ctx, versionKey(e.RUC), encodeVersion(e.Version), ttl)
			}
			return nil
		})
		return err
	}, keys...)
	if err == nil {
		for _, i := range put {
			wrote[i] = true
		}
	}
	return err
}

// Delete forgets the value of n. Answers not newer than it stay out, for as long
// as it would have lived.
func (r *Redis) Delete(ctx context.Context, n ruc.Number) error {
	err := r.write(ctx, func(c redis.UniversalClient) error { return c.Del(ctx, valueKey(n)).Err() })
	if err != nil {
		return fmt.Errorf("store.Redis.Delete: %w", err)
	}
	return nil
}

// scanCount is how many keys a server looks at for one SCAN, in which time it
// answers nobody else: well under a millisecond.
const scanCount = 500

// DeletePattern is Delete for every number that pattern matches, or only counts
// them. It looks at the keys by SCAN, of a cluster at all masters, so what is put
// meanwhile may or may not be met.
func (r *Redis) DeletePattern(ctx context.Context, pattern ruc.Pattern, dryRun bool) (n int, err error) {
	err = r.write(ctx, func(c redis.UniversalClient) error {
		d := deletion{client: c, dryRun: dryRun, met: map[ruc.Number]struct{}{}}
		var err error
		if cluster, ok := c.(*redis.ClusterClient); ok {
			err = cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
				return d.scan(ctx, node, pattern)
			})
		} else {
			err = d.scan(ctx, c, pattern)
		}
		n = d.n
		return err
	})
	if err != nil {
		return n, fmt.Errorf("store.Redis.DeletePattern: %w", err)
	}
	return n, nil
}

// deletion counts and deletes what the scans of all nodes find.
type deletion struct {
	client redis.UniversalClient
	dryRun bool

	mu  sync.Mutex
	n   int
	met map[ruc.Number]struct{} // by a dry run: SCAN may return a key twice
}

func (d *deletion) scan(ctx context.Context, node redis.Cmdable, pattern ruc.Pattern) error {
	for cursor := uint64(0); ; {
		keys, next, err := node.Scan(ctx, cursor, keyPrefix+pattern.String(), scanCount).Result()
		if err == nil {
			err = d.take(ctx, keys)
		}
		if err != nil || next == 0 {
			return err
		}
		cursor = next
	}
}

func (d *deletion) take(ctx context.Context, keys []string) error {
	var numbers []ruc.Number
	for _, key := range keys {
		if n, err := ruc.Parse(key[len(keyPrefix):]); err == nil {
			numbers = append(numbers, n)
		}
	}
	if len(numbers) == 0 {
		return nil
	}
	if d.dryRun {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, n := range numbers {
			d.met[n] = struct{}{}
		}
		d.n = len(d.met)
		return nil
	}
	// One DEL per key: those of a cluster are of many slots.
	cmds, err := d.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, n := range numbers {
			p.Del(ctx, valueKey(n))
		}
		return nil
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, cmd := range cmds {
		if del, ok := cmd.(*redis.IntCmd); ok {
			d.n += int(del.Val())
		}
	}
	return err
}
