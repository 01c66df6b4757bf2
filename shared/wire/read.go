package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rucflow/rucflow/shared/ruc"
)

const (
	// A page is what one request brings, and all of a stream that a reader holds. The
	// server counts for each request what is left, so small pages cost it more.
	pageMessages = 5000
	pageBytes    = 16 << 20 // of what is stored, and at most one message more
	// Those who follow the events may be many, so each holds less.
	eventsPageMessages = 1000
	eventsPageBytes    = 2 << 20
	// pageTimeout is how long the next message of a page may take.
	pageTimeout = 10 * time.Second

	headerLastSequence = "Nats-Last-Sequence"
)

// AnswerPage is a number of events of RUC_EVENTS, in the order in which they were stored.
type AnswerPage struct {
	Events []Event // answers; they share no memory with the next page
	Bad    int     // how many more there were that are no answers; cachewriters make dead letters of them
}

// ReadAnswers calls f with all answers that were stored at since or later, in pages, until
// f returns an error. It asks the stream directly and needs no right but
// $JS.API.DIRECT.GET.RUC_EVENTS. Answers that are stored meanwhile may be among them.
func ReadAnswers(ctx context.Context, nc *nats.Conn, since time.Time, f func(AnswerPage) error) error {
	err := readStream(ctx, nc, StreamEvents, directGet{NextFor: SubjectResolved + ".*", Since: &since, Batch: pageMessages, Bytes: pageBytes}, func(messages []*nats.Msg) error {
		var p AnswerPage
		for _, m := range messages {
			e, err := ParseEvent(m)
			if err != nil {
				p.Bad++
				continue
			}
			p.Events = append(p.Events, e)
		}
		return f(p)
	})
	if err != nil {
		return fmt.Errorf("wire.ReadAnswers: %w", err)
	}
	return nil
}

// ReadEvents calls f with all that RUC_EVENTS holds from the sequence first on, answers,
// failures and changes, in pages, until f returns an error or nothing is left. What is in a
// page may be no event of ours; KindOf, PlaceOf, ParseEvent and ParseChanged read it. It
// needs no right but $JS.API.DIRECT.GET.RUC_EVENTS.
func ReadEvents(ctx context.Context, nc *nats.Conn, first uint64, f func(page []*nats.Msg) error) error {
	err := readStream(ctx, nc, StreamEvents, directGet{Seq: max(first, 1), NextFor: everyEvent, Batch: eventsPageMessages, Bytes: eventsPageBytes}, f)
	if err != nil {
		return fmt.Errorf("wire.ReadEvents: %w", err)
	}
	return nil
}

// ReadEventsOf is ReadEvents for what was stored about one number at since or later.
func ReadEventsOf(ctx context.Context, nc *nats.Conn, n ruc.Number, since time.Time, f func(page []*nats.Msg) error) error {
	return readSince(ctx, nc, eventSubjects(n), since, f)
}

// ReadEventsSince is ReadEvents for what was stored at since or later.
func ReadEventsSince(ctx context.Context, nc *nats.Conn, since time.Time, f func(page []*nats.Msg) error) error {
	return readSince(ctx, nc, everyEvent, since, f)
}

func readSince(ctx context.Context, nc *nats.Conn, subjects string, since time.Time, f func(page []*nats.Msg) error) error {
	err := readStream(ctx, nc, StreamEvents, directGet{NextFor: subjects, Since: &since, Batch: eventsPageMessages, Bytes: eventsPageBytes}, f)
	if err != nil {
		return fmt.Errorf("wire.ReadEventsSince: %w", err)
	}
	return nil
}

// EventAt is where the message of that sequence stands in RUC_EVENTS; not ok where there
// is none any more.
func EventAt(ctx context.Context, nc *nats.Conn, seq uint64) (at Place, ok bool, err error) {
	m, ok, err := getOne(ctx, nc, directGet{Seq: seq})
	if err != nil || !ok {
		return Place{}, false, err
	}
	return PlaceOf(m), true, nil
}

// LastEvent is where the newest message of RUC_EVENTS stands; zero where it is empty.
func LastEvent(ctx context.Context, nc *nats.Conn) (Place, error) {
	m, ok, err := getOne(ctx, nc, directGet{LastFor: everyEvent})
	if err != nil || !ok {
		return Place{}, err
	}
	return PlaceOf(m), nil
}

// ReadLetters calls f with every message of RUC_DEAD, the oldest first, until f returns an
// error. bad is why a message is no dead letter; of l then only Subject and Body are known,
// which are the message's own. It needs no right but $JS.API.DIRECT.GET.RUC_DEAD.
func ReadLetters(ctx context.Context, nc *nats.Conn, f func(at Place, l Letter, bad error) error) error {
	err := readStream(ctx, nc, StreamDead, directGet{NextFor: DeadSubject("*"), Seq: 1, Batch: pageMessages, Bytes: pageBytes}, func(messages []*nats.Msg) error {
		for _, m := range messages {
			at := PlaceOf(m)
			m.Subject = m.Header.Get(headerSubject)
			l, bad := ParseDeadLetter(m)
			if bad != nil {
				l = Letter{Subject: m.Subject, Body: m.Data}
			}
			if err := f(at, l, bad); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("wire.ReadLetters: %w", err)
	}
	return nil
}

// Place is where a message stands in its stream.
type Place struct {
	Seq    uint64
	Stored time.Time // the server's time of storing
}

// PlaceOf is where a message that was republished, or read by a direct get, stands; zero
// where its headers do not say so.
func PlaceOf(m *nats.Msg) Place {
	stored, err := time.Parse(time.RFC3339Nano, m.Header.Get(headerTimeStamp))
	if err != nil {
		return Place{}
	}
	return Place{Seq: Sequence(m.Header.Get, headerSequence), Stored: stored}
}

// readStream calls f with page after page, as req says, of a stream that allows direct gets.
func readStream(ctx context.Context, nc *nats.Conn, stream string, req directGet, f func([]*nats.Msg) error) error {
	inbox := nc.NewInbox()
	replies, err := nc.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer func() { _ = replies.Unsubscribe() }() // fails only on a closed connection
	for {
		ask, err := json.Marshal(req)
		if err != nil {
			return err
		}
		if err := nc.PublishRequest(directGetPrefix+stream, inbox, ask); err != nil {
			return err
		}
		page, last, err := readPage(ctx, replies)
		if err != nil {
			return fmt.Errorf("%s: %w", stream, err)
		}
		if len(page) == 0 {
			return nil
		}
		if err := f(page); err != nil {
			return err
		}
		req.Seq, req.Since = last+1, nil
	}
}

// readPage returns the messages up to the end of one batch and the last one's sequence;
// none where nothing is left.
func readPage(ctx context.Context, replies *nats.Subscription) (page []*nats.Msg, last uint64, err error) {
	for {
		wait, cancel := context.WithTimeout(ctx, pageTimeout)
		m, err := replies.NextMsgWithContext(wait)
		cancel()
		switch {
		case errors.Is(err, nats.ErrNoResponders):
			return nil, 0, errors.New("there is no such stream, or it allows no direct gets")
		case ctx.Err() != nil:
			return nil, 0, context.Cause(ctx)
		case err != nil:
			return nil, 0, fmt.Errorf("reading a page: %w", err)
		}
		switch status := m.Header.Get(headerStatus); status {
		case "":
			page, last = append(page, m), Sequence(m.Header.Get, headerSequence)
		case statusEnd:
			// Everything came over one connection; that something is missing would be told
			// by nothing else.
			if said := m.Header.Get(headerLastSequence); said != strconv.FormatUint(last, 10) {
				return nil, 0, fmt.Errorf("a page ends with message %s and %d is the last that came", said, last)
			}
			return page, last, nil
		case statusNoMessage:
			return nil, 0, nil
		default:
			return nil, 0, fmt.Errorf("status %s %s", status, m.Header.Get(headerDescription))
		}
	}
}
