// Package client is how a Go program asks rucflow over NATS, without HTTP: the same
// cache, the same one visit however many ask, and the same errors. Subscribe hears what
// becomes known, whoever asked.
//
//	nc, err := nats.Connect("nats://127.0.0.1:4222")
//	…
//	n, err := ruc.Parse("20131312955") // no I/O: format and check digit
//	…
//	reply, err := client.Lookup(ctx, nc, n, client.Request{Wait: 45 * time.Second})
//	switch ruc.CodeOf(err) {
//	case "":
//		answer, err := reply.Answer() // answer.Record is nil where SUNAT does not know n
//	case ruc.Overloaded, ruc.Blocked, ruc.Unavailable:
//		// later: the *ruc.Error says when, in RetryAfter
//	}
//
// The connection is the caller's, who names its inbox: where NATS has the users of
// deploy/nats/users.conf, a gateway replies to the default inbox, _INBOX, and to those of
// rucflow's own programs. Everything here may be used by several goroutines at a time.
// What goes over the wire, for other languages, is the text of package wire.
package client

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// Request says how to ask. Its zero value asks as most do.
type Request struct {
	// Wait is how long to wait for the answer; 0 = wire.DefaultWait. A gateway waits no
	// longer than its own REQUEST_TIMEOUT.
	Wait time.Duration
	// CacheControl is that header of RFC 9111, as over HTTP: "only-if-cached" causes no
	// visit, "max-age=60" takes nothing older than a minute, "no-cache" takes nothing that
	// is held. With the latter two an answer that is no longer fresh never stands in for a
	// visit that cannot be had. "" = what is fresh, else a visit.
	CacheControl string
}

// replyMargin is for the gateway's own answer that it took too long, which comes when the
// wait is over.
const replyMargin = time.Second

// Lookup asks the gateways for n. That SUNAT does not know n is an answer too:
// Reply.Prefix.Found tells the two apart. The error is always a *ruc.Error: what the
// gateway says; ruc.NotHeld, only for only-if-cached; ruc.Timeout when the wait is over;
// and ruc.Unavailable where no gateway answers (it wraps nats.ErrNoResponders), where the
// request could not be sent, or where ctx was cancelled.
func Lookup(ctx context.Context, nc *nats.Conn, n ruc.Number, r Request) (wire.Reply, error) {
	wait := cmp.Or(r.Wait, wire.DefaultWait)
	m := nats.NewMsg(wire.SubjectLookup)
	m.Data = n.AppendTo(nil)
	wire.SetWait(m.Header, wait)
	if r.CacheControl != "" {
		m.Header.Set(wire.HeaderCacheControl, r.CacheControl)
	}
	ctx, cancel := context.WithTimeout(ctx, wait+replyMargin)
	defer cancel()
	reply, err := nc.RequestMsgWithContext(ctx, m)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return wire.Reply{}, &ruc.Error{Code: ruc.Unavailable, Detail: "Ningún gateway responde en este servidor NATS.", Err: err}
	case errors.Is(err, context.DeadlineExceeded):
		return wire.Reply{}, &ruc.Error{Code: ruc.Timeout, Err: err}
	case err != nil:
		return wire.Reply{}, &ruc.Error{Code: ruc.Unavailable, Detail: "La consulta no llegó al servidor NATS, o se perdió la conexión.", Err: err}
	}
	return wire.ReadReply(n, reply)
}
