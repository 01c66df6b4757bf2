package browser

import (
	"context"
	"fmt"
	"slices"

	"github.com/rs/zerolog"
)

// Examination is what Examine has seen.
type Examination struct {
	Path      string // of the program
	Script    bool   // it is a script around the program: a kill reaches the script only
	Version   string // as "HeadlessChrome/156.0.7204.0"
	Sandboxed bool

	ShmBytes uint64 // size of /dev/shm, 0 where there is none
	ShmKnown bool   // where the system has such a thing
	ShmOff   bool   // Config.Flags have Chromium do without, however large it is
}

// Examine starts Chromium as Run does, and ends it. The error says what mends it. What was
// seen before it is returned too.
func Examine(ctx context.Context, cfg Config, log zerolog.Logger) (e Examination, err error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return e, fmt.Errorf("browser.Examine: %w", err)
	}
	e.ShmBytes, e.ShmKnown = shmBytes()
	e.ShmOff = slices.ContainsFunc(cfg.Flags, func(flag string) bool {
		name, _ := splitFlag(flag)
		return name == flagNoShm
	})
	if e.Sandboxed, err = cfg.sandboxed(); err != nil {
		return e, fmt.Errorf("browser.Examine: %w", err)
	}
	if e.Path, err = FindChrome(cfg.ChromePath); err != nil {
		return e, fmt.Errorf("browser.Examine: %w", err)
	}
	e.Script = !isELF(e.Path)
	c, err := launch(ctx, cfg, e.Path, log)
	if err != nil {
		return e, fmt.Errorf("browser.Examine: %w", err)
	}
	e.Version = c.version
	if err := c.stop(); err != nil {
		return e, fmt.Errorf("browser.Examine: %w", err)
	}
	return e, nil
}
