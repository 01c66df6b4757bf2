package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/store"
	"github.com/rucflow/rucflow/shared/wire"
)

// DeadList says which dead letters to show, and how.
type DeadList struct {
	Newest int  // how many of the newest
	Whole  bool // numbers of natural persons too
	JSON   bool // a line each instead of a table
}

// deadLine is a dead letter as -o json prints it.
type deadLine struct {
	Seq      uint64          `json:"seq"` // in RUC_DEAD, like When
	When     time.Time       `json:"when"`
	Consumer string          `json:"consumer,omitempty"`
	Reason   wire.DeadReason `json:"reason,omitempty"`
	Subject  string          `json:"subject"` // of the message, like what follows
	Stream   string          `json:"stream,omitempty"`
	Original uint64          `json:"streamSeq,omitempty"`
	Bytes    int             `json:"bytes"`
	Error    string          `json:"error,omitempty"` // why it is no dead letter of ours
}

// Run prints the newest dead letters, the oldest of them first.
func (d DeadList) Run(ctx context.Context, cfg service.NATSConfig, out io.Writer) error {
	if d.Newest < 1 {
		return fmt.Errorf("-n: at least 1; %w", service.ErrUsage)
	}
	ctx, nc, err := connect(ctx, cfg, operatorRole)
	if err != nil {
		return err
	}
	defer nc.Close()
	var newest []deadLine
	err = wire.ReadLetters(ctx, nc, func(at wire.Place, l wire.Letter, bad error) error {
		line := deadLine{
			Seq: at.Seq, When: at.Stored, Consumer: l.Consumer, Reason: l.Reason,
			Subject: l.Subject, Stream: l.Stream, Original: l.Seq, Bytes: len(l.Body),
		}
		if bad != nil {
			line.Error = bad.Error()
		}
		if newest = append(newest, line); len(newest) > d.Newest {
			newest = newest[1:]
		}
		return nil
	})
	if err != nil {
		return because(ctx, err)
	}
	var rows []string
	for _, l := range newest {
		if d.JSON {
			if err := printJSON(out, l); err != nil {
				return err
			}
			continue
		}
		rows = append(rows, l.row(d.Whole))
	}
	if len(newest) == 0 && !d.JSON {
		fmt.Fprintln(out, "no dead letters")
	}
	return table(out, "SEQ\tWHEN\tCONSUMER\tREASON\tSUBJECT\tSTREAM SEQ\tBYTES", rows)
}

const maxSubjectShown = 60

func (l deadLine) row(whole bool) string {
	subject, reason := l.Subject, string(l.Reason)
	if n, err := wire.NumberOf(subject); err == nil && !whole {
		subject = subject[:len(subject)-ruc.Digits] + n.Masked()
	}
	if l.Error != "" {
		reason = "not a letter"
	}
	return fmt.Sprintf("%d\t%s\t%s\t%s\t%.*s\t%d\t%d",
		l.Seq, l.When.Local().Format(time.DateTime), cell(l.Consumer), cell(reason), maxSubjectShown, cell(subject), l.Original, l.Bytes)
}

// DeadRetry says which dead letters to try again.
type DeadRetry struct {
	Letters []string // their sequences in RUC_DEAD
	All     bool
	Now     func() time.Time
}

// errStays says that letters were left where they are.
var errStays = errors.New("left as they are")

// Run does with the letters of cachewriters what a cachewriter would do with their messages
// now: an answer that can be used goes into the store with the version that it had, unless
// RUC_EVENTS has a newer one or it is fresh no longer. A letter that is done with is
// deleted; one that is as bad as it was stays, which is an error in the end.
//
// Nothing is published anew: whoever may publish ruc.resolved.* writes the cache, and an
// answer from the past would count as the newest.
func (d DeadRetry) Run(ctx context.Context, cfg StoreConfig, out io.Writer) error {
	if (len(d.Letters) > 0) == d.All {
		return fmt.Errorf("give the numbers of letters, as `rucflow dead list` shows them, or -all; %w", service.ErrUsage)
	}
	var wanted []uint64
	for _, text := range d.Letters {
		seq, err := strconv.ParseUint(text, 10, 64)
		if err != nil || seq == 0 {
			return fmt.Errorf("%q is not the number of a letter; %w", text, service.ErrUsage)
		}
		if !slices.Contains(wanted, seq) {
			wanted = append(wanted, seq)
		}
	}
	ctx, w, err := openStore(ctx, cfg, d.Now, false)
	if err != nil {
		return err
	}
	defer w.close()
	letters, err := w.js.Stream(ctx, wire.StreamDead)
	if err != nil {
		return because(ctx, fmt.Errorf("%s: %w", wire.StreamDead, err))
	}
	stay := 0
	one := func(seq uint64, l wire.Letter, err error) error {
		var done string
		if err == nil {
			done, err = w.retry(ctx, l)
		}
		var away storeAway
		switch {
		case errors.As(err, &away):
			return err
		case err != nil:
			stay++
			fmt.Fprintf(out, "%d stays: %s\n", seq, plain(err.Error()))
			return nil
		}
		if err := letters.SecureDeleteMsg(ctx, seq); err != nil {
			return fmt.Errorf("%d is %s, but the letter could not be deleted: %w", seq, done, err)
		}
		fmt.Fprintf(out, "%d %s\n", seq, done)
		return nil
	}
	if d.All {
		err = wire.ReadLetters(ctx, w.nc, func(at wire.Place, l wire.Letter, bad error) error { return one(at.Seq, l, bad) })
	} else {
		for _, seq := range wanted {
			if err = w.letter(ctx, letters, seq, one); err != nil {
				break
			}
		}
	}
	if err == nil && stay > 0 {
		err = fmt.Errorf("%d letters were %w", stay, errStays)
	}
	return because(ctx, err)
}

// letter reads one letter.
func (w *storeWriter) letter(ctx context.Context, letters jetstream.Stream, seq uint64, f func(uint64, wire.Letter, error) error) error {
	m, err := letters.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return f(seq, wire.Letter{}, errors.New("there is no such letter"))
	}
	if err != nil {
		return err
	}
	l, err := wire.ParseDeadLetter(&nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data})
	return f(seq, l, err)
}

// storeAway is a failure for which no letter is to blame.
type storeAway struct{ error }

func (s storeAway) Unwrap() error { return s.error }

// retry returns what was done with a letter, in a word for the operator, or why it stays.
func (w *storeWriter) retry(ctx context.Context, l wire.Letter) (done string, err error) {
	if l.Consumer != wire.ConsumerCachewriter || l.Stream != wire.StreamEvents {
		return "", fmt.Errorf("it is of %s on %s, and only the cachewriter's can be tried again", l.Consumer, l.Stream)
	}
	e, err := l.Event()
	if err != nil {
		return "", err
	}
	if e.Failed {
		return "", errors.New("it is a failure and no answer")
	}
	if e.Stored.Unix() < w.epoch {
		// Its sequence belongs to a stream that is no more, and would count as any other.
		return "", errors.New("the stream was made anew since, and nobody can tell what is newer")
	}
	newest, ok, err := wire.NewestAnswer(ctx, w.nc, e.RUC)
	if err != nil {
		return "", storeAway{err}
	}
	if ok && newest.Seq > e.Seq {
		return "dropped: a newer answer is stored", nil
	}
	f := w.policy.Freshness(e.Prefix.Found, e.Prefix.ObtainedAt, w.clock.Now())
	if f.State != ruc.Fresh {
		return "dropped: the answer has expired", nil
	}
	wrote, err := w.redis.PutTold(ctx, []store.Entry{{RUC: e.RUC, Value: e.Body, TTL: f.Left, Version: store.Version{Epoch: w.epoch, Seq: e.Seq}}})
	switch {
	case errors.Is(err, store.ErrRefused):
		return "", store.EntryError(err, 0)
	case err != nil:
		return "", storeAway{err}
	case wrote[0]:
		return "written", nil
	}
	return "dropped: the store has it, or a newer one", nil
}
