package store

import (
	"context"
	"errors"
	"time"

	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
)

// Config says which store to use: Redis where it is configured, else files, else
// this process's memory.
type Config struct {
	Redis       RedisConfig
	UseFile     bool          `env:"USE_FILE_CACHE" envDefault:"false" help:"keep answers in files where no Redis is configured"`
	Dir         string        `env:"CACHE_DIR" envDefault:"./data/cache" help:"folder of the file cache"`
	FileBytes   service.Bytes `env:"CACHE_FILE_BYTES" envDefault:"1GiB" help:"bound of the file cache"`
	MemoryBytes service.Bytes `env:"CACHE_MEMORY_BYTES" envDefault:"64MiB" help:"bound of the memory cache"`
}

// Check validates the settings; the error names the variable.
func (c Config) Check() error {
	switch {
	case c.FileBytes <= 0:
		return errors.New("CACHE_FILE_BYTES: more than 0")
	case c.MemoryBytes <= 0:
		return errors.New("CACHE_MEMORY_BYTES: more than 0")
	}
	return c.Redis.Check()
}

// Store is what Open returns. Its methods are safe for concurrent use; package
// storetest holds what they promise.
type Store interface {
	Kind() string // redis, file, memory
	Get(ctx context.Context, n ruc.Number) (value []byte, ok bool, err error)
	Put(ctx context.Context, entries []Entry) error // a *PutError
	Delete(ctx context.Context, n ruc.Number) error
	DeletePattern(ctx context.Context, pattern ruc.Pattern, dryRun bool) (n int, err error)
	Close() error
}

// Open opens the store that the settings choose and says which in one log line.
// The store will hold data of source only: ErrOtherSource if it holds another's. A
// Redis that cannot be reached is no error; it is used as soon as it can be. keep
// is the store's upkeep: it runs until its context ends.
func Open(ctx context.Context, cfg Config, source string, now func() time.Time, log zerolog.Logger) (s Store, keep func(context.Context), err error) {
	var claim func(context.Context, string) error
	switch {
	case cfg.Redis.Configured():
		r, err := NewRedis(cfg.Redis, source, now, log)
		if err != nil {
			return nil, nil, err
		}
		s, keep, claim = r, r.Run, r.Claim
	case cfg.UseFile:
		f, err := NewFile(cfg.Dir, int64(cfg.FileBytes), now)
		if err != nil {
			return nil, nil, err
		}
		s, claim = f, f.Claim
		keep = func(ctx context.Context) {
			f.Run(ctx, func(err error) { log.Warn().Err(err).Msg("the file cache could not be swept") })
		}
	default:
		m, err := NewMemory(int64(cfg.MemoryBytes), now)
		if err != nil {
			return nil, nil, err
		}
		log.Warn().Msg("answers are kept in memory only: not shared, lost on restart, not for production")
		s, claim = m, m.Claim
		keep = func(ctx context.Context) { <-ctx.Done() }
	}
	switch err := claim(ctx, source); {
	case err == nil:
	case cfg.Redis.Configured() && !errors.Is(err, ErrOtherSource):
		log.Warn().Err(err).Msg("Redis cannot be reached yet; answers come from SUNAT until it can")
	default:
		return nil, nil, errors.Join(err, s.Close())
	}
	log.Info().Str("cache", s.Kind()).Msg("the cache is chosen")
	return s, keep, nil
}
