package admin_test

import (
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/deploy/admin"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/store"
	"github.com/rucflow/rucflow/shared/store/storetest"
	"github.com/rucflow/rucflow/shared/wire"
)

// bury sets the stored event with a sequence aside, as the cachewriter does.
func (b *bus) bury(seq uint64, reason wire.DeadReason) (letter uint64) {
	b.t.Helper()
	c, err := b.js.OrderedConsumer(b.t.Context(), wire.StreamEvents, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: seq})
	if err != nil {
		b.t.Fatal(err)
	}
	m, err := c.Next()
	if err != nil {
		b.t.Fatal(err)
	}
	return b.store(wire.DeadLetter(wire.ConsumerCachewriter, reason, m))
}

// letters are the sequences of the letters that are left.
func (b *bus) letters() (left []uint64) {
	b.t.Helper()
	err := wire.ReadLetters(b.t.Context(), b.nc, func(at wire.Place, _ wire.Letter, _ error) error {
		left = append(left, at.Seq)
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return left
}

func retry(t *testing.T, cfg admin.StoreConfig, d admin.DeadRetry) (string, error) {
	t.Helper()
	d.Now = time.Now
	var out strings.Builder
	err := d.Run(t.Context(), cfg, &out)
	return out.String(), err
}

func TestDeadRetry_StoresWhatCanBeUsed(t *testing.T) {
	b, s := newBus(t), storetest.StartRedis(t)
	numbers := storetest.Numbers(6)
	usable, body := b.found(numbers[0], "UNA", time.Hour)
	gone, _ := b.found(numbers[1], "VIEJA", 8*day)
	before, _ := b.found(numbers[2], "ANTES", 0)
	b.found(numbers[2], "DESPUÉS", 0)
	had, _ := b.found(numbers[3], "TENIDA", 0)
	b.put(s, store.Entry{RUC: numbers[3], Value: []byte("held"), TTL: time.Hour, Version: store.Version{Epoch: b.epoch(), Seq: had}})
	junk := b.store(&nats.Msg{Subject: wire.ResolvedSubject(numbers[4]), Data: []byte("{}")})
	failure := b.store(wire.FailedEvent(numbers[5], b.job(), wire.NewProblem(numbers[5], &ruc.Error{Code: ruc.Changed}), ruc.FuenteReplica, time.Now()))
	for _, seq := range []uint64{usable, gone, before, had} {
		b.bury(seq, wire.DeadRefused)
	}
	bad := []uint64{b.bury(junk, wire.DeadNoAnswer), b.bury(failure, wire.DeadBadSubject)}
	bad = append(bad, b.store(&nats.Msg{Subject: wire.DeadSubject("audit"), Data: []byte("x")}))

	out, err := retry(t, b.storeConfig(s), admin.DeadRetry{All: true})
	want := `1 written
2 dropped: the answer has expired
3 dropped: a newer answer is stored
4 dropped: the store has it, or a newer one
5 stays: wire.ParseEvent: not a valid event: not-an-answer: wire.ReadPrefix: not an encoded answer: field ruc
6 stays: it is a failure and no answer
7 stays: wire.ParseDeadLetter: Ruc-Dead-Reason is none that is known
`
	if diff := cmp.Diff(want, out); diff != "" || err == nil || err.Error() != "3 letters were left as they are" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if left := b.letters(); !slices.Equal(left, bad) {
		t.Errorf("letters %d are left, want %d", left, bad)
	}
	value, left := held(t, s.Client(), numbers[0])
	if value != string(body) || left > 7*day-time.Hour || left < 7*day-time.Hour-time.Minute {
		t.Errorf("%q for %v", value, left)
	}
	for _, n := range numbers[1:3] {
		if value, _ := held(t, s.Client(), n); value != "" {
			t.Errorf("%s was written", n)
		}
	}
}

func TestDeadRetry_OfSomeLetters(t *testing.T) {
	b, s := newBus(t), storetest.StartRedis(t)
	first, _ := b.found(company, "UNA", 0)
	second, _ := b.found(another, "OTRA", 0)
	letter, kept := b.bury(first, wire.DeadRefused), b.bury(second, wire.DeadRefused)
	cfg := b.storeConfig(s)
	if out, err := retry(t, cfg, admin.DeadRetry{Letters: []string{strconv.FormatUint(letter, 10)}}); err != nil || out != "1 written\n" {
		t.Errorf("%v, %q", err, out)
	}
	if left := b.letters(); !slices.Equal(left, []uint64{kept}) {
		t.Errorf("letters %d are left", left)
	}
	if out, err := retry(t, cfg, admin.DeadRetry{Letters: []string{"1"}}); err == nil || out != "1 stays: there is no such letter\n" {
		t.Errorf("%v, %q", err, out)
	}
	for _, d := range []admin.DeadRetry{{}, {All: true, Letters: []string{"1"}}, {Letters: []string{"x"}}, {Letters: []string{"0"}}} {
		if _, err := retry(t, cfg, d); !errors.Is(err, service.ErrUsage) {
			t.Errorf("%+v: %v", d, err)
		}
	}
	s.Kill()
	if out, err := retry(t, cfg, admin.DeadRetry{All: true}); err == nil || len(b.letters()) != 1 {
		t.Errorf("%v, %q", err, out)
	}
}

// A sequence says nothing of an order in another stream than its own.
func TestDeadRetry_LeavesLettersOfAnEarlierStream(t *testing.T) {
	b, s := newBus(t), storetest.StartRedis(t)
	seq, _ := b.found(company, "UNA", 0)
	b.bury(seq, wire.DeadRefused)
	<-time.After(1100 * time.Millisecond) // births of streams count in seconds
	if err := b.js.DeleteStream(t.Context(), wire.StreamEvents); err != nil {
		t.Fatal(err)
	}
	b.provision()
	out, err := retry(t, b.storeConfig(s), admin.DeadRetry{All: true})
	if err == nil || !strings.Contains(out, "1 stays: the stream was made anew") {
		t.Errorf("%v, %q", err, out)
	}
}

func TestDeadList_ShowsTheNewest(t *testing.T) {
	b := newBus(t)
	var out strings.Builder
	if err := (admin.DeadList{Newest: 1}).Run(t.Context(), b.cfg, &out); err != nil || out.String() != "no dead letters\n" {
		t.Errorf("%v, %q", err, out.String())
	}
	for _, n := range []ruc.Number{company, another, person} {
		seq := b.store(&nats.Msg{Subject: wire.ResolvedSubject(n), Data: []byte("{}")})
		b.bury(seq, wire.DeadNoAnswer)
	}
	out.Reset()
	if err := (admin.DeadList{Newest: 2}).Run(t.Context(), b.cfg, &out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "SEQ") {
		t.Fatal(out.String())
	}
	for i, want := range []string{"cachewriter|not-an-answer|ruc.resolved.20100055237|2|2", "cachewriter|not-an-answer|ruc.resolved." + person.Masked() + "|3|2"} {
		if got := blanks.ReplaceAllString(lines[i+1], "|"); !strings.HasSuffix(got, want) {
			t.Errorf("%s, want …%s", got, want)
		}
	}
	out.Reset()
	if err := (admin.DeadList{Newest: 1, JSON: true}).Run(t.Context(), b.cfg, &out); err != nil {
		t.Fatal(err)
	}
	var l struct {
		Seq, StreamSeq uint64
		Reason         wire.DeadReason
		Subject        string
		Bytes          int
	}
	if err := json.Unmarshal([]byte(out.String()), &l); err != nil || l.Seq != 3 || l.StreamSeq != 3 || l.Reason != wire.DeadNoAnswer || l.Subject != wire.ResolvedSubject(person) || l.Bytes != 2 {
		t.Errorf("%v: %s", err, out.String())
	}
	if err := (admin.DeadList{}).Run(t.Context(), b.cfg, io.Discard); !errors.Is(err, service.ErrUsage) {
		t.Error(err)
	}
}
