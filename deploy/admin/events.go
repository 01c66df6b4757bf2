package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rucflow/rucflow/shared/client"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/wire"
)

// Watch says what to show of what happens, and how.
type Watch struct {
	NATS    service.NATSConfig
	Numbers string // only these, parted by commas; "" = all
	Types   string // likewise
	Whole   bool   // numbers and names of natural persons too
	JSON    bool   // the whole event, a line each
	Now     func() time.Time
}

// Run prints a line for each event until ctx ends, and on errs what becomes of the
// connection.
func (w Watch) Run(ctx context.Context, out, errs io.Writer) error {
	wanted := client.Subscription{}
	if w.Types != "" {
		for word := range strings.SplitSeq(w.Types, ",") {
			if !slices.Contains(client.Kinds(), client.Kind(word)) {
				return fmt.Errorf("-type: %q is none of %v; %w", word, client.Kinds(), service.ErrUsage)
			}
			wanted.Kinds = append(wanted.Kinds, client.Kind(word))
		}
	}
	if w.Numbers != "" {
		var err error
		if wanted.Numbers, err = parse(strings.Split(w.Numbers, ",")); err != nil {
			return err
		}
	}
	var mu sync.Mutex // the connection's loss is told by another goroutine
	notice := func(text string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(errs, "%s  %s\n", w.Now().Local().Format(time.TimeOnly), plain(text))
	}
	_, nc, err := connect(ctx, w.NATS, clientRole, asClient, nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
		if !nc.IsClosed() {
			notice(strings.TrimSuffix(fmt.Sprintf("the NATS connection was lost: %v", err), ": <nil>"))
		}
	}))
	if err != nil {
		return err
	}
	defer nc.Close()
	wanted.Listening = func() {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(errs, "listening to %s\n", plain(nc.ConnectedUrlRedacted()))
	}
	wanted.Gap = func(err error) error {
		if errors.Is(err, nats.ErrSlowConsumer) {
			notice("events came faster than they could be shown, and some are missing")
		} else {
			notice("the NATS connection is back; what happened meanwhile was not heard and is in the stream")
		}
		return nil
	}
	wanted.Bad = func(m *nats.Msg, err error) error {
		if wanted.Numbers != nil {
			return nil // nobody knows whose it is
		}
		return w.show(out, w.bad(m, err))
	}
	err = client.Subscribe(ctx, nc, wanted, func(e client.Event) error { return w.show(out, w.line(e)) })
	if errors.Is(err, nats.ErrPermissionViolation) {
		return notAllowed(w.NATS, clientRole, err)
	}
	return err
}

// show prints one event. The error means that nobody reads it any more.
func (w Watch) show(out io.Writer, e shownEvent) error {
	if w.JSON {
		return printJSON(out, e)
	}
	_, err := fmt.Fprintln(out, e.text(w.Whole))
	return err
}

// shownEvent is one event as -o json prints it.
type shownEvent struct {
	Type client.Kind `json:"type"`
	Seq  uint64      `json:"seq,omitempty"` // in RUC_EVENTS; progress is not stored
	Time time.Time   `json:"time"`          // of storing; of progress, when it was heard
	ID   string      `json:"id,omitempty"`
	RUC  string      `json:"ruc"`
	// Data is the body; where it is no JSON, its text.
	Data  any    `json:"data"`
	Error string `json:"error,omitempty"` // why it is no event of ours

	number ruc.Number
	says   string // name, code, stage
	name   bool   // says names somebody
}

// bad is a message that is no event of ours.
func (w Watch) bad(m *nats.Msg, err error) shownEvent {
	kind, _, _ := strings.Cut(strings.TrimPrefix(m.Subject, "ruc."), ".")
	e := shownEvent{Type: client.Kind(kind), Time: w.Now(), ID: m.Header.Get(nats.MsgIdHdr), Data: json.RawMessage(m.Data), Error: err.Error(), says: err.Error()}
	if !json.Valid(m.Data) {
		e.Data = string(m.Data)
	}
	return e
}

// line is what is shown of an event.
func (w Watch) line(heard client.Event) shownEvent {
	e := shownEvent{
		Type: heard.Kind, Seq: heard.Seq, Time: heard.Stored, ID: heard.ID, RUC: heard.RUC.String(), Data: json.RawMessage(heard.Body), number: heard.RUC,
	}
	switch heard.Kind {
	case client.Resolved:
		if e.says = string(ruc.NotFound); heard.Answer.Record != nil {
			e.says, e.name = string(heard.Answer.RazonSocial), true
		}
	case client.Failed:
		if e.says = string(heard.Problem.Code); heard.Problem.Attempts > 0 {
			e.says += fmt.Sprintf("  attempts %d", heard.Problem.Attempts)
		}
	case client.Changed:
		fields := make([]string, len(heard.Change.Cambios))
		for i, c := range heard.Change.Cambios {
			fields[i] = c.Campo
		}
		e.says = strings.Join(fields, ", ")
	case client.Progress:
		e.Time = w.Now()
		if p := heard.Progress; p.Stage == wire.StageQueued {
			e.says = fmt.Sprintf("queued  place %d", p.Position)
		} else {
			e.says = fmt.Sprintf("visiting  attempt %d of %d", p.Attempt, p.Attempts)
		}
	}
	return e
}

// text is the event for a person. A natural person's name is as little for whoever looks
// over one's shoulder as the number.
func (e shownEvent) text(whole bool) string {
	number, says := e.number.Masked(), e.says
	switch {
	case whole:
		number = e.number.String()
	case e.name && !e.number.Entity():
		says = "(persona natural)"
	}
	line := fmt.Sprintf("%s  %-8s  %-11s  %s", e.Time.Local().Format(time.TimeOnly), e.Type, number, plain(says))
	if e.Seq != 0 {
		line += fmt.Sprintf("  seq %d", e.Seq)
	}
	return line
}
