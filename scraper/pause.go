package scraper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// pause is this process's part in the fleet's rest after SUNAT refused a visit. The
// protocol is described in package wire. It is no condition of an answer: where its
// key cannot be read or written, visits go on.
type pause struct {
	watch  *wire.PauseWatch // nil with SUNAT_PAUSE=0
	first  time.Duration
	lease  time.Duration // of a probe
	name   string        // this process, for who reads the key
	opened func()
	log    zerolog.Logger
}

// errPaused says that the fleet rests, so the visit is not made.
var errPaused = errors.New("the fleet rests")

// pass is the leave to visit. It is good while the key has that revision.
type pass struct {
	revision uint64
	refused  int // the pause's N if this is its probe, else 0
}

// lease is how long a probe may take before another one is made: all attempts with
// their turns, and the wait after a silent one. A probe that takes longer does no harm
// but the other's visit: its own outcome no longer counts.
func lease(attempts int, attemptTimeout, pace time.Duration) time.Duration {
	return min(time.Duration(attempts)*(attemptTimeout+pace)+silentPause, wire.MaxPause)
}

func newPause(cfg Config, watch *wire.PauseWatch, pace time.Duration, opened func(), log zerolog.Logger) *pause {
	if cfg.Pause == 0 {
		watch = nil
	}
	return &pause{
		watch: watch, first: cfg.Pause, lease: lease(cfg.Attempts, cfg.AttemptTimeout, pace),
		name: processName(), opened: opened, log: log,
	}
}

func processName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "?" // a name for people; the revision tells processes apart
	}
	return fmt.Sprintf("%s/%d", host, os.Getpid())
}

// run follows the fleet's pause until ctx ends.
func (p *pause) run(ctx context.Context) {
	if p.watch != nil {
		p.watch.Run(ctx)
	}
}

// read waits until the pause of the fleet is known, or known to be unreadable.
func (p *pause) read(ctx context.Context) {
	if p.watch == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, jetStreamPatience)
	defer cancel()
	select {
	case <-ctx.Done():
	case <-p.watch.Known():
	}
}

// left is what is left of the pause; 0 when there is none or it has run out.
func (p *pause) left() time.Duration {
	if p.watch == nil {
		return 0
	}
	return p.watch.Current().Left
}

// refusal is what a caller is told while the fleet rests; nil when it does not.
func (p *pause) refusal() error {
	if left := p.left(); left > 0 {
		return &ruc.Error{Code: ruc.Blocked, RetryAfter: left}
	}
	return nil
}

// enter gives leave to visit, or errPaused. When the pause has run out, one slot of
// the fleet gets it: the probe.
func (p *pause) enter(ctx context.Context) (pass, error) {
	if p.watch == nil {
		return pass{}, nil
	}
	state := p.watch.Current()
	switch {
	case !state.Set():
		return pass{revision: state.Revision}, nil
	case state.Left > 0:
		return pass{}, errPaused
	}
	probe, won, err := p.watch.Replace(ctx, state.Revision, wire.Pause{For: p.lease, N: state.N, Probe: p.name})
	switch {
	case err != nil:
		p.log.Warn().Err(err).Msg("the fleet's pause could not be written; the visit is made")
		return pass{revision: state.Revision}, nil
	case !won:
		return pass{}, errPaused
	}
	p.log.Info().Int("refused", state.N).Msg("the pause has run out; this visit is the probe")
	return pass{revision: probe.Revision, refused: state.N}, nil
}

// check renews a leave that waited for its turn. Without it, the visits that waited
// when SUNAT refused one, and the second attempts, would all go on.
func (p *pause) check(had pass) (pass, error) {
	if p.watch == nil {
		return had, nil
	}
	switch state := p.watch.Current(); {
	case state.Revision == had.revision:
		return had, nil
	case state.Set():
		return pass{}, errPaused
	default:
		return pass{revision: state.Revision}, nil
	}
}

// ended says what came of a visit. It does so for a stopping scraper's too.
func (p *pause) ended(ctx context.Context, had pass, outcome error) {
	if p.watch == nil {
		return
	}
	cut := ctx.Err() != nil
	ctx = context.WithoutCancel(ctx)
	var err error
	switch probe := had.refused > 0; {
	case outcome != nil && codeOf(outcome) == ruc.Blocked:
		err = p.open(ctx, had)
	case !probe || errors.Is(outcome, errPaused):
	case outcome == nil:
		var won bool
		if won, err = p.watch.Clear(ctx, had.revision); won {
			p.log.Info().Msg("SUNAT answers again; the pause is over")
		}
	case cut, errors.Is(outcome, errStored): // it told nothing: another may try at once
		_, _, err = p.watch.Replace(ctx, had.revision, wire.Pause{N: had.refused})
	default: // neither an answer nor a refusal: the next probe is made when the lease is over
	}
	if err != nil {
		p.log.Warn().Err(err).Msg("the fleet's pause could not be written")
	}
}

// open begins a pause, or a longer one after a probe that was refused. Where somebody
// has written since the visit got its leave, that stands: of the visits in flight one
// opens the pause, and none that began before a good probe opens another after it.
func (p *pause) open(ctx context.Context, had pass) error {
	n := had.refused + 1
	d := p.length(n)
	_, won, err := p.watch.Replace(ctx, had.revision, wire.Pause{For: d, N: n})
	if won {
		p.opened()
		p.log.Warn().Dur("pause", d).Int("refused", n).Msg("SUNAT refuses; the fleet rests")
	}
	return err
}

// length is how long the fleet rests after so many refusals.
func (p *pause) length(refused int) time.Duration {
	d := p.first
	for i := 1; i < refused && d < wire.MaxPause; i++ {
		d *= 2
	}
	return min(d, wire.MaxPause)
}
