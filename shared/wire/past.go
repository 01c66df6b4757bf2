package wire

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rucflow/rucflow/shared/ruc"
)

// directGet is a question to a stream, as the server's direct get takes it in a body
// (ADR-31 of nats-io/nats-architecture-and-design; batches since 2.11). In this form the
// right to ask is $JS.API.DIRECT.GET.<stream>, for whatever subject.
type directGet struct {
	Seq     uint64     `json:"seq,omitempty"`        // from here on; 0 = from the first
	Since   *time.Time `json:"start_time,omitempty"` // from then on, instead
	NextFor string     `json:"next_by_subj,omitempty"`
	Batch   uint64     `json:"batch,omitempty"`     // the most messages
	Bytes   uint64     `json:"max_bytes,omitempty"` // of them together
	LastFor string     `json:"last_by_subj,omitempty"`
	Last    []string   `json:"multi_last,omitempty"`
	UpToSeq uint64     `json:"up_to_seq,omitempty"` // 0 would be no bound
}

const (
	directGetPrefix  = "$JS.API.DIRECT.GET."
	subjectDirectGet = directGetPrefix + StreamEvents
	// statusEnd ends the answer to a question that may have several messages.
	statusEnd         = "204"
	headerDescription = "Description"
	headerPending     = "Nats-Num-Pending" // how many more there are
)

// ErrNotConnected says that the stream was not asked.
var ErrNotConnected = errors.New("no connection to NATS")

// getAll asks all questions at once, each of which wants Batch or Last, and gives every
// message of their answers to each, in their order.
func getAll(ctx context.Context, nc *nats.Conn, questions []directGet, each func(question int, m *nats.Msg)) error {
	if !nc.IsConnected() {
		return fmt.Errorf("wire.getAll: %w", ErrNotConnected) // they would wait in a buffer
	}
	inbox := nc.NewInbox() + "."
	sub, err := nc.SubscribeSync(inbox + "*")
	if err != nil {
		return fmt.Errorf("wire.getAll: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only on a closed connection
	for i, q := range questions {
		b, err := json.Marshal(q)
		if err == nil {
			err = nc.PublishRequest(subjectDirectGet, inbox+strconv.Itoa(i), b)
		}
		if err != nil {
			return fmt.Errorf("wire.getAll: %w", err)
		}
	}
	for open := len(questions); open > 0; {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return fmt.Errorf("wire.getAll: %w", err)
		}
		i, err := strconv.Atoi(strings.TrimPrefix(m.Subject, inbox))
		if err != nil || i < 0 || i >= len(questions) {
			continue // not the server's
		}
		switch status := m.Header.Get(headerStatus); status {
		case "":
			each(i, m)
		case statusEnd, statusNoMessage:
			open--
		default:
			return fmt.Errorf("wire.getAll: status %s %s", status, m.Header.Get(headerDescription))
		}
	}
	return nil
}

// getOne asks for one message; ok is false where there is none.
func getOne(ctx context.Context, nc *nats.Conn, q directGet) (m *nats.Msg, ok bool, err error) {
	b, err := json.Marshal(q)
	if err != nil {
		return nil, false, fmt.Errorf("wire.getOne: %w", err)
	}
	if m, err = nc.RequestWithContext(ctx, subjectDirectGet, b); err != nil {
		return nil, false, fmt.Errorf("wire.getOne: %w", err)
	}
	switch status := m.Header.Get(headerStatus); status {
	case "":
		return m, true, nil
	case statusNoMessage:
		return nil, false, nil
	default:
		return nil, false, fmt.Errorf("wire.getOne: status %s %s", status, m.Header.Get(headerDescription))
	}
}

// Predecessor is the answer that the stream held of a number before another one.
type Predecessor struct {
	Event Event
	OK    bool  // there was one
	Err   error // it is not known
}

// ErrNotHeld says that the stream does not hold an event: it was purged or is too old,
// or the replica that was asked does not have it yet.
var ErrNotHeld = errors.New("the stream does not hold the event")

const (
	// nearBy is how far apart two answers may be whose past is read together.
	nearBy = 16
	// fewAnswers are so few that reading them again costs nothing.
	fewAnswers = 4
	// maxBad bounds the messages that are no events, before an answer, which are passed
	// over.
	maxBad = 16
)

// Before returns for each answer the one before it in the stream.
//
// The first answer of each number is asked for first, which the server finds by its
// index: as a rule it is the answer itself, or the one before it. Only then are the last
// ones below a sequence asked for, of all numbers at once: for that the server looks
// through the subjects of each block on its way back, once for each question, however
// many subjects that one names. The figures are in BenchmarkBefore.
func Before(ctx context.Context, nc *nats.Conn, answers []Event) []Predecessor {
	before := make([]Predecessor, len(answers))
	firsts, err := firstAnswers(ctx, nc, answers)
	if err != nil {
		for i := range before {
			before[i] = Predecessor{Err: err}
		}
		return before
	}
	var older []int // the answers that have others before them
	for i, e := range answers {
		switch f := firsts[e.RUC]; {
		case f.seq == e.Seq:
		case f.seq == 0 || f.seq > e.Seq:
			before[i] = Predecessor{Err: ErrNotHeld}
		case f.count == 2 && f.event.Seq != 0:
			before[i] = Predecessor{Event: f.event, OK: true}
		default:
			older = append(older, i)
		}
	}
	slices.SortFunc(older, func(a, b int) int { return cmp.Compare(answers[a].Seq, answers[b].Seq) })
	for len(older) > 0 {
		end := 1
		for end < len(older) && answers[older[end]].Seq-answers[older[end-1]].Seq <= nearBy {
			end++
		}
		beforeTogether(ctx, nc, answers, older[:end], before)
		older = older[end:]
	}
	return before
}

// first is the first answer of a number that the stream holds.
type first struct {
	event Event  // zero where the message is none
	seq   uint64 // 0 = there is none
	count uint64 // of the number's answers
}

func firstAnswers(ctx context.Context, nc *nats.Conn, answers []Event) (map[ruc.Number]first, error) {
	firsts := make(map[ruc.Number]first, len(answers))
	var numbers []ruc.Number
	var questions []directGet
	for _, e := range answers {
		if _, twice := firsts[e.RUC]; twice {
			continue
		}
		firsts[e.RUC] = first{}
		numbers = append(numbers, e.RUC)
		questions = append(questions, directGet{NextFor: ResolvedSubject(e.RUC), Batch: 1})
	}
	err := getAll(ctx, nc, questions, func(i int, m *nats.Msg) {
		f := first{seq: Sequence(m.Header.Get, headerSequence), count: Sequence(m.Header.Get, headerPending) + 1}
		if f.count == 2 { // else nobody wants it
			f.event, _ = ParseEvent(m) // zero: it is somebody else's message
		}
		firsts[numbers[i]] = f
	})
	return firsts, err
}

// beforeTogether fills before for the answers at those places, which are near each other
// and in the stream's order.
func beforeTogether(ctx context.Context, nc *nats.Conn, answers []Event, places []int, before []Predecessor) {
	low, high := answers[places[0]].Seq, answers[places[len(places)-1]].Seq
	known := map[ruc.Number][]Event{} // by number, oldest first
	bad := map[ruc.Number]bool{}      // something else stands before
	note := func(_ int, m *nats.Msg) {
		e, err := ParseEvent(m)
		if err == nil {
			known[e.RUC] = append(known[e.RUC], e)
		} else if n, err := NumberOf(m.Header.Get(headerSubject)); err == nil {
			bad[n] = true
		}
	}
	last := directGet{UpToSeq: low - 1}
	named := map[ruc.Number]bool{}
	for _, i := range places {
		if n := answers[i].RUC; !named[n] {
			named[n] = true
			last.Last = append(last.Last, ResolvedSubject(n))
		}
	}
	err := getAll(ctx, nc, []directGet{last}, note)
	// What another cachewriter has in hand stands between. A few are read again also to
	// see that they are there: a replica that lags may not have what is before them either.
	between := high-low >= uint64(len(places))
	if err == nil && (between || len(places) <= fewAnswers) {
		err = getAll(ctx, nc, []directGet{{Seq: low, NextFor: SubjectResolved + ".*", Batch: high - low + 1}}, note)
	} else {
		for _, i := range places {
			known[answers[i].RUC] = append(known[answers[i].RUC], answers[i])
		}
	}
	for _, i := range places {
		e := answers[i]
		all := known[e.RUC]
		at := slices.IndexFunc(all, func(k Event) bool { return k.Seq == e.Seq })
		switch {
		case err != nil:
			before[i] = Predecessor{Err: err}
		case at < 0:
			before[i] = Predecessor{Err: ErrNotHeld}
		case at > 0:
			before[i] = Predecessor{Event: all[at-1], OK: true}
		case bad[e.RUC]:
			before[i] = lastBefore(ctx, nc, e)
		}
	}
}

// lastBefore is Before for one answer, and passes over what is no event.
func lastBefore(ctx context.Context, nc *nats.Conn, e Event) Predecessor {
	subject := ResolvedSubject(e.RUC)
	upTo := e.Seq
	for range maxBad {
		var found *nats.Msg
		err := getAll(ctx, nc, []directGet{{Last: []string{subject}, UpToSeq: upTo}}, func(_ int, m *nats.Msg) { found = m })
		if err != nil {
			return Predecessor{Err: err}
		}
		if upTo == e.Seq { // to see that it is there
			if found == nil || Sequence(found.Header.Get, headerSequence) != e.Seq {
				return Predecessor{Err: ErrNotHeld}
			}
			upTo--
			continue
		}
		if found == nil {
			return Predecessor{} // purged meanwhile, but for this one
		}
		if before, err := ParseEvent(found); err == nil {
			return Predecessor{Event: before, OK: true}
		}
		if upTo = Sequence(found.Header.Get, headerSequence) - 1; upTo == 0 {
			return Predecessor{}
		}
	}
	return Predecessor{}
}

// History gives the answers of n that the stream holds to each, oldest first: at most
// the newest most, or a little more than half of them where there are more, which whole
// says. It needs the right to $JS.API.DIRECT.GET.RUC_EVENTS.
func History(ctx context.Context, nc *nats.Conn, n ruc.Number, most uint64, each func(Event)) (whole bool, err error) {
	from, whole, err := historyFrom(ctx, nc, n, most)
	for err == nil && from > 0 {
		next := uint64(0)
		err = getAll(ctx, nc, []directGet{{Seq: from, NextFor: ResolvedSubject(n), Batch: historyPage}}, func(_ int, m *nats.Msg) {
			if next = 0; Sequence(m.Header.Get, headerPending) > 0 {
				next = Sequence(m.Header.Get, headerSequence) + 1
			}
			if e, err := ParseEvent(m); err == nil {
				each(e)
			}
		})
		from = next
	}
	return whole, err
}

// historyPage is how many answers are read at a time: half a megabyte, as a rule.
const historyPage = 256

// historyFrom returns the sequence from which on there are at most most answers of n, 0
// where there are none at all.
func historyFrom(ctx context.Context, nc *nats.Conn, n ruc.Number, most uint64) (from uint64, whole bool, err error) {
	// at returns the first answer from seq on, and how many there are with it.
	at := func(seq uint64) (found, count uint64, err error) {
		err = getAll(ctx, nc, []directGet{{Seq: seq, NextFor: ResolvedSubject(n), Batch: 1}}, func(_ int, m *nats.Msg) {
			found, count = Sequence(m.Header.Get, headerSequence), Sequence(m.Header.Get, headerPending)+1
		})
		return found, count, err
	}
	first, count, err := at(0)
	if err != nil || first == 0 || count <= most {
		return first, true, err
	}
	newest, ok, err := getOne(ctx, nc, directGet{LastFor: ResolvedSubject(n)})
	if err != nil || !ok {
		return 0, true, err
	}
	from = Sequence(newest.Header.Get, headerSequence)
	for low, high := first+1, from; low < high; {
		middle := low + (high-low)/2
		found, count, err := at(middle)
		switch {
		case err != nil:
			return 0, false, err
		case found == 0 || count <= most/2:
			high = middle
		case count > most:
			low = middle + 1
		default:
			return found, false, nil
		}
		if found > 0 && count <= most {
			from = min(from, found)
		}
	}
	return from, false, nil
}
