// Package httpclient gets SUNAT's page by plain requests, without a browser: the search
// form, and then the POST that the form's script would send, all fields of the form in
// their order. The form is got before anyone asks and kept with its cookies, as one
// session for each slot, until an answer says that the session is lost.
//
// It says who it is. Its User-Agent is rucflow's own and it sends none of the headers by
// which browsers describe themselves: tools with a name of their own are let through,
// while a browser's name without all of a browser's headers is not (as others measured).
// It makes up the token, 52 random base-36 characters, which is also all that the form's
// script does.
//
// The package only gets pages, as package browser does: what a page means is decided by
// package sunat, and whether to try again by the caller, who sees the [sunat.Cause].
package httpclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/scraper/dispatch"
)

// Config is what an operator may set.
type Config struct {
	URL            string        // of the search form, http or https
	Slots          int           // sessions, and so visits at one time
	AttemptTimeout time.Duration // of a visit from the POST to the whole page, and apart from that of the wait for a slot
	UserAgent      string        // who asks
	// IdleReload is how long a session is kept unused; default 10 min, the life of one at
	// SUNAT. The next visit gets the form first.
	IdleReload time.Duration
}

const defaultIdleReload = 10 * time.Minute

// validate says everything that is wrong with c at once. The address is checked by
// [service.Site].
func (c Config) validate() error {
	var errs []error
	if c.URL == "" {
		errs = append(errs, errors.New("the form's address is missing"))
	}
	if c.Slots < 1 {
		errs = append(errs, fmt.Errorf("slots must be at least 1, not %d", c.Slots))
	}
	if c.AttemptTimeout <= 0 {
		errs = append(errs, fmt.Errorf("the attempt timeout must be positive, not %s", c.AttemptTimeout))
	}
	if c.UserAgent == "" {
		errs = append(errs, errors.New("the user agent is missing"))
	}
	if c.IdleReload <= 0 {
		errs = append(errs, fmt.Errorf("a session's life must be positive, not %s", c.IdleReload))
	}
	return errors.Join(errs...)
}

// Deps are the live things a Client works with.
type Deps struct {
	Log zerolog.Logger
	Now func() time.Time
	// Slots is told how many slots can now take a visit, are in one, or have yet to get
	// the form. It must be quick and safe for concurrent use.
	Slots func(ready, busy, warming int)
}

// Client gets pages. Make one with New, keep Run going, call Visit from anywhere.
type Client struct {
	dispatch.Desk
	cfg       Config
	log       zerolog.Logger
	now       func() time.Time
	board     *dispatch.Board
	transport *http.Transport // one pool of connections for all sessions
	running   atomic.Bool
}

// New checks cfg and returns a Client that does nothing yet.
func New(cfg Config, deps Deps) (*Client, error) {
	if cfg.IdleReload == 0 {
		cfg.IdleReload = defaultIdleReload
	}
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("httpclient.New: %w", err)
	}
	board := dispatch.NewBoard(deps.Now, cfg.AttemptTimeout, deps.Slots)
	return &Client{
		Desk: dispatch.NewDesk(board), cfg: cfg, log: deps.Log, now: deps.Now, board: board,
		transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment, // as Chromium's
			MaxIdleConnsPerHost:    cfg.Slots,
			IdleConnTimeout:        cfg.IdleReload,
			MaxResponseHeaderBytes: 64 << 10,
			ForceAttemptHTTP2:      true,
		},
	}, nil
}

// Run keeps the sessions warm until ctx ends; then it lets the visits in hand finish (at
// most 10 s) and returns nil. It leaves no goroutine behind. Run works once.
func (c *Client) Run(ctx context.Context) error {
	if c.running.Swap(true) {
		return errors.New("httpclient.Run: called twice")
	}
	defer c.board.Stop()
	defer context.AfterFunc(ctx, c.board.Stop)()
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var slots sync.WaitGroup
	for i := range c.cfg.Slots {
		slots.Go(func() { newSlot(ctx, life, c, i).run() })
	}
	<-ctx.Done()
	cut := time.AfterFunc(dispatch.DrainWait, end)
	defer cut.Stop()
	slots.Wait()
	c.transport.CloseIdleConnections()
	return nil
}
