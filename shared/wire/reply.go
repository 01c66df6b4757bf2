package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/rucflow/rucflow/shared/ruc"
)

// Respond sends the problem as the error reply to a micro request.
func (p Problem) Respond(req micro.Request) error { return p.respond(req, 0) }

func (p Problem) respond(req micro.Request, seq uint64) error {
	return req.Error(strconv.Itoa(p.Status), string(p.Code), p.Encode(), micro.WithHeaders(replyHeaders(ProblemType, seq)))
}

// replyHeaders are the headers of every reply; seq is 0 where no event is behind it.
func replyHeaders(contentType string, seq uint64) micro.Headers {
	h := micro.Headers{headerContentType: {contentType}}
	if seq != 0 {
		h[HeaderSeq] = []string{strconv.FormatUint(seq, 10)}
	}
	return h
}

// Reply is what came back to a request on ruc.lookup or ruc.resolve: an answer,
// or a *ruc.Error.
type Reply struct {
	Body   []byte // the encoded answer, found or not
	Prefix Prefix
	Seq    uint64 // sequence of the event behind it, 0 where unknown
}

// Answer decodes the body.
func (r Reply) Answer() (a ruc.Answer, err error) {
	if err := json.Unmarshal(r.Body, &a); err != nil {
		return ruc.Answer{}, fmt.Errorf("wire.Reply.Answer: %w", err)
	}
	return a, nil
}

// RespondAnswer sends an encoded answer as the reply to a micro request: the
// bytes as they are when it was found, else the not-found problem. seq is the
// sequence of the event behind it, 0 where unknown.
func RespondAnswer(req micro.Request, body []byte, found bool, seq uint64) error {
	if found {
		return req.Respond(body, micro.WithHeaders(replyHeaders("application/json", seq)))
	}
	p, err := ProblemOfAnswer(body)
	if err != nil {
		return err
	}
	return p.respond(req, seq)
}

// ReadReply reads the reply to a request for n. A service error is a successful
// request for NATS, so the header decides. Errors are *ruc.Error; a reply that
// cannot be read, or that names another number, is ruc.Internal.
func ReadReply(n ruc.Number, m *nats.Msg) (Reply, error) {
	r := Reply{Body: m.Data, Seq: Sequence(m.Header.Get, HeaderSeq)}
	if m.Header.Get(HeaderError) != "" || m.Header.Get(HeaderErrorCode) != "" {
		var p Problem
		if err := json.Unmarshal(m.Data, &p); err != nil {
			return Reply{}, &ruc.Error{Code: ruc.Internal, Err: fmt.Errorf("wire.ReadReply: %w", err)}
		}
		if p.Code != ruc.NotFound || p.ObtenidoEn == nil || p.RUC != n.String() {
			return Reply{}, p.Err()
		}
		body, err := ruc.Missing(n, *p.ObtenidoEn, p.Fuente, p.Motor).Encode()
		if err != nil {
			return Reply{}, &ruc.Error{Code: ruc.Internal, Err: err}
		}
		r.Body = body
	}
	var err error
	if r.Prefix, err = ReadPrefix(r.Body); err != nil {
		return Reply{}, &ruc.Error{Code: ruc.Internal, Err: err}
	}
	if r.Prefix.RUC != n {
		return Reply{}, &ruc.Error{Code: ruc.Internal, Err: errors.New("wire.ReadReply: the reply names another number")}
	}
	return r, nil
}

// Handler is the micro handler of f. It leaves out the requests whose reply would go to a
// subject of ours or of the server's: a reply is published with our rights, whatever it
// is named by who asks, who could so store events, put jobs and begin pauses.
func Handler(f func(micro.Request)) micro.Handler {
	return micro.HandlerFunc(func(req micro.Request) {
		if reply := req.Reply(); !strings.HasPrefix(reply, "ruc.") && !strings.HasPrefix(reply, "$") {
			f(req)
		}
	})
}

// HandOver returns req for an answer after its handler has returned: micro reads for
// its statistics, once the handler is done, what its own Request.Error writes, which
// the race detector reports. The price is that those errors are missing from the
// statistics.
func HandOver(req micro.Request, nc *nats.Conn) micro.Request { return handedOver{req, nc} }

type handedOver struct {
	micro.Request
	nc *nats.Conn
}

// Respond sends the reply.
func (r handedOver) Respond(data []byte, opts ...micro.RespondOpt) error {
	return r.send(&nats.Msg{Subject: r.Reply(), Data: data}, opts)
}

// Error sends the error reply.
func (r handedOver) Error(code, description string, data []byte, opts ...micro.RespondOpt) error {
	header := nats.Header{HeaderErrorCode: {code}, HeaderError: {description}}
	return r.send(&nats.Msg{Subject: r.Reply(), Data: data, Header: header}, opts)
}

func (r handedOver) send(m *nats.Msg, opts []micro.RespondOpt) error {
	for _, opt := range opts {
		opt(m)
	}
	return r.nc.PublishMsg(m)
}
