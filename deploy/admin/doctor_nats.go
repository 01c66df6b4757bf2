package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/wire"
)

const (
	// natsDial bounds the connection to one address, natsPatience that and what is asked.
	natsDial     = 2 * time.Second
	natsPatience = 4 * time.Second
	// clockTolerance is how far a clock may be off before a person should know. Nothing
	// that rucflow does depends on it: ages are taken by the server's clock.
	clockTolerance = 2 * time.Second
	nearlyFull     = 0.9
)

// The checks of the group nats.
const (
	checkNATS      = "nats"
	checkJetStream = "jetstream"
	checkStreams   = "streams"
	checkServices  = "services"
	checkPause     = "pause"
	checkClock     = "clock"
	checkDead      = "dead-letters"
)

// natsStep is what is asked on one connection.
type natsStep struct {
	checks []string // what it looks at; the first one's finding says why there is none of the others
	look   func(context.Context, *nats.Conn, jetstream.JetStream) ([]finding, error)
	needs  bool // JetStream
}

// nats looks at the server first, then at what is on it.
func (e *examination) nats(ctx context.Context) []finding {
	defer close(e.pauseRead)
	steps := []natsStep{
		{[]string{checkStreams}, e.streams, true},
		{[]string{checkServices}, e.services, false},
		{[]string{checkPause, checkClock}, e.pause, true},
		{[]string{checkDead}, e.deadLetters, true},
	}
	found := make([][]finding, len(steps))
	server := e.onNATS(ctx, natsStep{checks: []string{checkNATS}, look: e.server})
	if server[0].Status == statusFail {
		for i, step := range steps {
			found[i] = skipAll(step.checks, "NATS cannot be asked")
		}
		return slices.Concat(server, skipAll([]string{checkJetStream}, "NATS cannot be asked"), slices.Concat(found...))
	}
	storage := e.onNATS(ctx, natsStep{checks: []string{checkJetStream}, look: e.jetStream})
	var wg sync.WaitGroup
	for i, step := range steps {
		if step.needs && storage[0].Status == statusFail {
			found[i] = skipAll(step.checks, "there is no JetStream")
			continue
		}
		wg.Go(func() { found[i] = e.onNATS(ctx, step) })
	}
	wg.Wait()
	return slices.Concat(server, storage, slices.Concat(found...))
}

func skipAll(checks []string, why string) []finding {
	var all []finding
	for _, check := range checks {
		all = append(all, finding{check, statusSkip, check + ": " + why, ""})
	}
	return all
}

// onNATS gives a step a connection of its own, because the server's refusal of a question
// names no question, and ends the step.
func (e *examination) onNATS(ctx context.Context, step natsStep) []finding {
	ctx, cancel := context.WithTimeout(ctx, natsPatience)
	defer cancel()
	at := "NATS at " + e.cfg.NATS.Where() + ": "
	const otherwise = "look at the server's log and correct NATS_URL and the other NATS_ settings"
	ctx, nc, err := connect(ctx, e.cfg.NATS, operatorRole, nats.Timeout(natsDial), ownInbox(e.cfg.NATS))
	if err != nil {
		return []finding{broken(step.checks[0], at, err, otherwise)}
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	var found []finding
	if err == nil {
		found, err = step.look(ctx, nc, js)
	}
	err = because(ctx, err)
	first, rest := step.checks[0], skipAll(step.checks[1:], "NATS could not be asked")
	switch {
	case err == nil:
		return found
	case errors.Is(err, nats.ErrPermissionViolation):
		return append(found, skipAll(step.checks, err.Error())...)
	case errors.Is(err, context.DeadlineExceeded):
		found = append(found, finding{first, statusFail, at + fmt.Sprintf("no answer about %s within %v", first, natsPatience),
			"look at the server's log: a JetStream without a leader answers nothing"})
	default:
		found = append(found, broken(first, at, err, otherwise))
	}
	return append(found, rest...)
}

// ownInbox is where the user of the settings may read replies; the operator's commands
// read theirs in another place when a service's user runs them.
func ownInbox(cfg service.NATSConfig) nats.Option {
	switch who := cfg.Who(); who {
	case clientRole:
		return asClient
	case "gateway", "scraper", "cachewriter", "setup":
		return nats.CustomInboxPrefix("_INBOX_" + who)
	default:
		return nats.CustomInboxPrefix("_INBOX_" + operatorRole)
	}
}

// server looks at who answers and as whom he takes us.
func (e *examination) server(ctx context.Context, nc *nats.Conn, _ jetstream.JetStream) ([]finding, error) {
	if err := wire.AwaitServer(ctx, nc); err != nil {
		return nil, err
	}
	if least := int64(2 * wire.MaxAnswerBytes); nc.MaxPayload() < least {
		return []finding{{checkNATS, statusFail,
			fmt.Sprintf("the NATS server takes messages of at most %s, and events have up to %s", size(nc.MaxPayload()), size(least)),
			"raise max_payload in its configuration to 1MB"}}, nil
	}
	as := "without a name"
	switch cfg := e.cfg.NATS; {
	case cfg.Who() != "":
		as = fmt.Sprintf("as the user %q", cfg.Who())
	case cfg.Identified():
		as = "by a token or key"
	}
	text := fmt.Sprintf("NATS %s at %s takes us %s", nc.ConnectedServerVersion(), nc.ConnectedAddr(), as)
	if _, err := nc.TLSConnectionState(); err == nil {
		text += ", over TLS"
	}
	return []finding{{checkNATS, statusOK, text, ""}}, nil
}

func (e *examination) jetStream(ctx context.Context, _ *nats.Conn, js jetstream.JetStream) ([]finding, error) {
	info, err := js.AccountInfo(ctx)
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled):
		return []finding{{checkJetStream, statusFail, "the NATS server runs without JetStream",
			"start it with -js, or with a jetstream block in its configuration as deploy/nats/nats-server.conf has"}}, nil
	case errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return []finding{{checkJetStream, statusFail, "JetStream is off for this account of the NATS server", "write jetstream: enabled into the account"}}, nil
	case err != nil:
		return nil, err
	}
	used, limit := int64(info.Store), info.Limits.MaxStore //nolint:gosec // no disk is that large
	switch {
	case limit <= 0:
		return []finding{{checkJetStream, statusOK, fmt.Sprintf("JetStream holds %d streams, %s", info.Streams, size(used)), ""}}, nil
	case info.Streams == 0 && limit < wire.ReservedBytes:
		return []finding{{checkJetStream, statusFail,
			fmt.Sprintf("JetStream gives this account %s, and the streams reserve %s", size(limit), size(wire.ReservedBytes)),
			"raise the account's max_file"}}, nil
	case float64(used) > nearlyFull*float64(limit):
		return []finding{{checkJetStream, statusWarn, fmt.Sprintf("JetStream is nearly full: %s of %s", size(used), size(limit)), "raise the account's max_file"}}, nil
	}
	return []finding{{checkJetStream, statusOK, fmt.Sprintf("JetStream holds %d streams, %s of %s", info.Streams, size(used), size(limit)), ""}}, nil
}

// streams compares what is there with what the settings would make.
func (e *examination) streams(ctx context.Context, _ *nats.Conn, js jetstream.JetStream) ([]finding, error) {
	missing := finding{checkStreams, statusWarn, " is missing", "start the services, which make it, or run `rucflow provision`"}
	if !e.cfg.NATS.Provision {
		missing.Status, missing.Mend = statusFail, "run `rucflow provision`, for with NATS_PROVISION=false nobody else makes it"
	}
	var all []finding
	p := wire.Provisioner{
		JS: js, Source: e.cfg.Scraper.Source(),
		Warn: func(what, field, want, found string) {
			all = append(all, finding{checkStreams, statusWarn, fmt.Sprintf("%s: %s is %s there and %s by the settings", what, field, cmp.Or(found, "unset"), want),
				"give all services the same settings, or run `rucflow provision` with these"})
		},
		Missing: func(what string) {
			f := missing
			f.Finding = what + f.Finding
			all = append(all, f)
		},
	}
	err := provisionAll(ctx, p, e.cfg.Scraper, e.cfg.Cachewriter)
	if len(all) == 0 && err == nil {
		all = append(all, finding{checkStreams, statusOK, "the streams and consumers are as the settings say", ""})
	}
	return all, err
}

func (e *examination) services(ctx context.Context, nc *nats.Conn, _ jetstream.JetStream) ([]finding, error) {
	all, err := askServices(ctx, nc)
	if err != nil {
		return nil, err
	}
	count := map[string]int{}
	for _, s := range all {
		count[s.Name]++
	}
	text := fmt.Sprintf("gateways that answer: %d, scrapers: %d", count[wire.GatewayService], count[wire.ScraperService])
	if count[wire.GatewayService] == 0 || count[wire.ScraperService] == 0 {
		return []finding{{checkServices, statusWarn, text, "start what is missing; a scraper without a tab does not answer either, and its log says why"}}, nil
	}
	return []finding{{checkServices, statusOK, text, ""}}, nil
}

// pause reads whether the fleet rests and, as it goes, the server's time.
func (e *examination) pause(ctx context.Context, nc *nats.Conn, js jetstream.JetStream) ([]finding, error) {
	clock := wire.NewClock(e.now)
	var unread error
	watch := wire.NewPauseWatch(nc, js, clock, func(err error) {
		if unread == nil {
			unread = err
		}
	})
	stop := service.Background(ctx, watch.Run)
	select {
	case <-watch.Known():
	case <-ctx.Done():
	}
	stop()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if errors.Is(unread, jetstream.ErrStreamNotFound) {
		return skipAll([]string{checkPause, checkClock}, "there is no "+wire.BucketState+" yet"), nil
	}
	if unread != nil {
		return nil, unread
	}
	found := finding{checkPause, statusOK, "the fleet does not rest", ""}
	if s := watch.Current(); s.Set() {
		e.rests = s.Left
		found = finding{checkPause, statusWarn, fmt.Sprintf("the fleet rests for another %v, because SUNAT refused it %d times in a row", s.Left.Round(time.Second), s.N),
			"wait; `nats kv del " + wire.BucketState + " " + wire.KeyPause + "` ends it at once"}
	}
	return []finding{found, offset(clock)}, nil
}

func offset(clock *wire.Clock) finding {
	d, known := clock.Offset()
	off := d.Abs().Round(100 * time.Millisecond)
	switch {
	case !known:
		return finding{checkClock, statusSkip, checkClock + ": the NATS server did not tell its time", ""}
	case off > clockTolerance:
		return finding{checkClock, statusWarn, fmt.Sprintf("this machine's clock and the NATS server's differ by %v", off), "synchronise both, by chrony or systemd-timesyncd"}
	}
	return finding{checkClock, statusOK, fmt.Sprintf("this machine's clock and the NATS server's differ by %v", off), ""}
}

func (e *examination) deadLetters(ctx context.Context, _ *nats.Conn, js jetstream.JetStream) ([]finding, error) {
	s, err := js.Stream(ctx, wire.StreamDead)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return skipAll([]string{checkDead}, "there is no "+wire.StreamDead+" yet"), nil
	case err != nil:
		return nil, err
	}
	if n := s.CachedInfo().State.Msgs; n > 0 {
		return []finding{{checkDead, statusWarn, fmt.Sprintf("dead letters: %d", n), "see `rucflow dead list`, then `rucflow dead retry -all`"}}, nil
	}
	return []finding{{checkDead, statusOK, "no dead letters", ""}}, nil
}

// size is a number of bytes for people.
func size(bytes int64) string {
	switch {
	case bytes >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30))
	case bytes >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
	default:
		return fmt.Sprintf("%.1f KiB", float64(bytes)/(1<<10))
	}
}
