package store

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/rucflow/rucflow/shared/ruc"
)

// Memory is a store in this process's memory: bounded in bytes, not shared, gone
// after a restart. It is safe for concurrent use.
type Memory struct {
	cache  *otter.Cache[ruc.Number, held]
	now    func() time.Time
	source atomic.Pointer[string]
}

// held is one entry, or the memory of a deleted one (no value), which still
// keeps older answers out.
type held struct {
	value   []byte
	version Version
	expires time.Time
}

// entryOverhead is about what a held entry costs beside its value, in bytes.
const entryOverhead = 200

// NewMemory returns a store of at most maxBytes.
func NewMemory(maxBytes int64, now func() time.Time) (*Memory, error) {
	if maxBytes <= 0 {
		return nil, fmt.Errorf("store.NewMemory: %d bytes", maxBytes)
	}
	cache, err := otter.New(&otter.Options[ruc.Number, held]{
		MaximumWeight: uint64(maxBytes),
		Weigher:       func(_ ruc.Number, h held) uint32 { return uint32(len(h.value)) + entryOverhead }, //nolint:gosec // an answer has at most 64 KiB
	})
	if err != nil {
		return nil, fmt.Errorf("store.NewMemory: %w", err)
	}
	return &Memory{cache: cache, now: now}, nil
}

// Kind returns "memory".
func (m *Memory) Kind() string { return "memory" }

// Get returns the value of n; ok is false where none is held. The caller must
// not change the slice.
func (m *Memory) Get(_ context.Context, n ruc.Number) (value []byte, ok bool, err error) {
	h, ok := m.cache.GetIfPresent(n)
	if !ok || h.value == nil {
		return nil, false, nil
	}
	if !m.now().Before(h.expires) {
		m.cache.ComputeIfPresent(n, func(old held) (held, otter.ComputeOp) {
			if m.now().Before(old.expires) {
				return old, otter.CancelOp
			}
			return held{}, otter.InvalidateOp
		})
		return nil, false, nil
	}
	return h.value, true, nil
}

// Put keeps the entries that are newer than what is held. Its error is a *PutError.
func (m *Memory) Put(_ context.Context, entries []Entry) error {
	errs := make([]error, len(entries))
	for i, e := range entries {
		if e.TTL <= 0 {
			continue
		}
		if len(e.Value) > MaxValueBytes {
			errs[i] = errTooLarge
			continue
		}
		now := m.now()
		m.cache.Compute(e.RUC, func(old held, found bool) (held, otter.ComputeOp) {
			if found && now.Before(old.expires) && !e.Version.Newer(old.version) {
				return old, otter.CancelOp
			}
			return held{value: e.Value, version: e.Version, expires: now.Add(e.TTL)}, otter.WriteOp
		})
	}
	if err := putError(errs); err != nil {
		return fmt.Errorf("store.Memory.Put: %w", err)
	}
	return nil
}

// Delete forgets the value of n. Answers not newer than it stay out.
func (m *Memory) Delete(_ context.Context, n ruc.Number) error {
	m.cache.ComputeIfPresent(n, func(old held) (held, otter.ComputeOp) {
		old.value = nil
		return old, otter.WriteOp
	})
	return nil
}

// DeletePattern is Delete for every number that pattern
// matches, or only counts them.
func (m *Memory) DeletePattern(ctx context.Context, pattern ruc.Pattern, dryRun bool) (n int, err error) {
	for _, number := range slices.Collect(m.cache.Keys()) {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		if !pattern.Matches(number) {
			continue
		}
		m.cache.ComputeIfPresent(number, func(old held) (held, otter.ComputeOp) {
			if old.value == nil || !m.now().Before(old.expires) {
				return old, otter.CancelOp
			}
			n++
			if dryRun {
				return old, otter.CancelOp
			}
			old.value = nil
			return old, otter.WriteOp
		})
	}
	return n, nil
}

// Claim marks the store as one of source's data; ErrOtherSource if it is
// another's.
func (m *Memory) Claim(_ context.Context, source string) error {
	if m.source.CompareAndSwap(nil, &source) {
		return nil
	}
	if found := *m.source.Load(); found != source {
		return otherSource("memory", found, source)
	}
	return nil
}

// Close ends the cache's own goroutines.
func (m *Memory) Close() error {
	m.cache.StopAllGoroutines()
	return nil
}
