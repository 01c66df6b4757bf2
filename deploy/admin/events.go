package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/wire"
)

// The types of what Watch hears, by the subjects they are heard on.
const (
	typeResolved = "resolved"
	typeFailed   = "failed"
	typeChanged  = "changed"
	typeProgress = "progress"
)

var eventTypes = []string{typeResolved, typeFailed, typeChanged, typeProgress}

// heldEvents is how many events wait for a slow terminal.
const heldEvents = 4096

// flushTimeout is how long the server may take to hear what is listened to.
const flushTimeout = 5 * time.Second

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
	types := eventTypes
	if w.Types != "" {
		types = strings.Split(w.Types, ",")
	}
	for _, t := range types {
		if !slices.Contains(eventTypes, t) {
			return fmt.Errorf("-type: %q is none of %s; %w", t, strings.Join(eventTypes, ", "), service.ErrUsage)
		}
	}
	var only []ruc.Number
	if w.Numbers != "" {
		var err error
		if only, err = parse(strings.Split(w.Numbers, ",")); err != nil {
			return err
		}
	}
	notices := make(chan string, 16)
	notice := func(text string) {
		select {
		case notices <- text:
		default: // as many are waiting to be read
		}
	}
	_, nc, err := connect(ctx, w.NATS, clientRole, asClient,
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			if !nc.IsClosed() {
				notice(strings.TrimSuffix(fmt.Sprintf("the NATS connection was lost: %v", err), ": <nil>"))
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) {
			notice("the NATS connection is back; what happened meanwhile was not heard and is in the stream")
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			switch {
			case errors.Is(err, nats.ErrPermissionViolation):
				err = notAllowed(w.NATS, clientRole, err)
			case errors.Is(err, nats.ErrSlowConsumer):
				err = errors.New("events came faster than they could be shown, and some are missing")
			}
			notice(err.Error())
		}))
	if err != nil {
		return err
	}
	defer nc.Close()
	heard := make(chan *nats.Msg, heldEvents)
	for _, t := range types {
		subject := "ruc." + t
		if t == typeProgress {
			subject = wire.SubjectProgress
		}
		if _, err := nc.ChanSubscribe(subject, heard); err != nil {
			return err
		}
	}
	if err := nc.FlushTimeout(flushTimeout); err != nil {
		return err
	}
	fmt.Fprintf(errs, "listening to %s\n", plain(nc.ConnectedUrlRedacted()))
	for {
		select {
		case <-ctx.Done():
			return nil
		case text := <-notices:
			fmt.Fprintf(errs, "%s  %s\n", w.Now().Local().Format(time.TimeOnly), plain(text))
		case m := <-heard:
			e := w.read(m)
			if len(only) > 0 && !slices.Contains(only, e.number) {
				continue
			}
			if w.JSON {
				err = printJSON(out, e)
			} else {
				_, err = fmt.Fprintln(out, e.line(w.Whole))
			}
			if err != nil {
				return err // nobody reads it any more
			}
		}
	}
}

// heardEvent is one event as -o json prints it.
type heardEvent struct {
	Type string    `json:"type"`
	Seq  uint64    `json:"seq,omitempty"` // in RUC_EVENTS; progress is not stored
	Time time.Time `json:"time"`          // of storing; of progress, when it was heard
	ID   string    `json:"id,omitempty"`
	RUC  string    `json:"ruc"`
	// Data is the body; where it is no JSON, its text.
	Data  any    `json:"data"`
	Error string `json:"error,omitempty"` // why it is no event of ours

	number ruc.Number
	text   string // name, code, stage
	name   bool   // text names somebody
}

// read understands a message as far as that is possible.
func (w Watch) read(m *nats.Msg) heardEvent {
	e := heardEvent{Type: strings.TrimPrefix(m.Subject, "ruc."), Time: w.Now(), ID: m.Header.Get(nats.MsgIdHdr), Data: json.RawMessage(m.Data)}
	if !json.Valid(m.Data) {
		e.Data = string(m.Data)
	}
	var err error
	switch m.Subject {
	case wire.SubjectResolved, wire.SubjectFailed:
		err = e.stored(m)
	case wire.SubjectChanged:
		err = e.changed(m)
	default:
		e.Type = typeProgress
		err = e.progress(m)
	}
	if err != nil {
		e.Error, e.text = err.Error(), err.Error()
	}
	if !e.number.IsZero() {
		e.RUC = e.number.String()
	}
	return e
}

func (e *heardEvent) stored(m *nats.Msg) error {
	stored, err := wire.ParseEvent(m)
	if err != nil {
		return err
	}
	e.number, e.Seq, e.Time = stored.RUC, stored.Seq, stored.Stored
	if stored.Failed {
		var p wire.Problem
		if err := json.Unmarshal(stored.Body, &p); err != nil {
			return err
		}
		e.text = string(p.Code)
		if p.Attempts > 0 {
			e.text += fmt.Sprintf("  attempts %d", p.Attempts)
		}
		return nil
	}
	var a ruc.Answer
	if err := json.Unmarshal(stored.Body, &a); err != nil {
		return err
	}
	if e.text = string(ruc.NotFound); a.Record != nil {
		e.text, e.name = string(a.RazonSocial), true
	}
	return nil
}

// changed reads what differs between two answers.
func (e *heardEvent) changed(m *nats.Msg) error {
	var c struct {
		RUC     ruc.Number `json:"ruc"`
		Cambios []struct {
			Campo string `json:"campo"`
		} `json:"cambios"`
	}
	if err := json.Unmarshal(m.Data, &c); err != nil {
		return err
	}
	at := wire.PlaceOf(m)
	e.number, e.Seq = c.RUC, at.Seq
	if !at.Stored.IsZero() {
		e.Time = at.Stored
	}
	fields := make([]string, len(c.Cambios))
	for i, f := range c.Cambios {
		fields[i] = f.Campo
	}
	e.text = strings.Join(fields, ", ")
	return nil
}

func (e *heardEvent) progress(m *nats.Msg) error {
	p, err := wire.ParseProgress(m)
	if err != nil {
		return err
	}
	if e.number = p.RUC; p.Stage == wire.StageQueued {
		e.text = fmt.Sprintf("queued  place %d", p.Position)
	} else {
		e.text = fmt.Sprintf("visiting  attempt %d of %d", p.Attempt, p.Attempts)
	}
	return nil
}

// line is the event for a person. A natural person's name is as little for whoever looks
// over one's shoulder as the number.
func (e heardEvent) line(whole bool) string {
	number, text := e.number.Masked(), e.text
	switch {
	case whole:
		number = e.number.String()
	case e.name && !e.number.Entity():
		text = "(persona natural)"
	}
	line := fmt.Sprintf("%s  %-8s  %-11s  %s", e.Time.Local().Format(time.TimeOnly), e.Type, number, plain(text))
	if e.Seq != 0 {
		line += fmt.Sprintf("  seq %d", e.Seq)
	}
	return line
}
