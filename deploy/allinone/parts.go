package allinone

import (
	"context"
	"errors"
	"fmt"

	"github.com/rs/zerolog"
)

// parts run together and stop one after the other, in the reverse of the order in
// which they were added, so that each still finds what it depends on.
type parts struct {
	log  zerolog.Logger
	list []part
}

type part struct {
	name string
	run  func(context.Context) error
}

func (p *parts) add(name string, run func(context.Context) error) {
	p.list = append(p.list, part{name, run})
}

// run returns when ctx has ended, or a part has ended by itself, and all others
// have been stopped. Its error is nil exactly in the first case, unless a part
// failed while stopping.
func (p *parts) run(ctx context.Context) error {
	base := context.WithoutCancel(ctx)
	ended := make(chan error, len(p.list)) // of a part that nobody stopped
	stops := make([]func() error, len(p.list))
	for i, part := range p.list {
		ctx, cancel := context.WithCancel(base)
		done := make(chan struct{})
		var err error
		go func() {
			defer close(done)
			if err = part.run(ctx); err == nil && ctx.Err() == nil {
				err = errors.New("ended by itself")
			}
			if err != nil {
				err = fmt.Errorf("%s: %w", part.name, err)
				ended <- err
			}
		}()
		stops[i] = func() error {
			cancel()
			<-done
			return err
		}
	}
	select {
	case <-ctx.Done():
	case err := <-ended:
		p.log.Error().Err(err).Msg("a part failed; everything stops")
	}
	var errs []error
	for i := len(stops) - 1; i >= 0; i-- {
		errs = append(errs, stops[i]())
	}
	return errors.Join(errs...)
}
