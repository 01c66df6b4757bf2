package wire

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/shared/mend"
)

// The streams and the durable consumers on them.
const (
	StreamEvents = "RUC_EVENTS" // every stored answer and failure: the system of record
	StreamVisits = "RUC_VISITS" // the work queue of visits
	StreamTurn   = "RUC_TURN"   // one message: the right to send the next POST
	StreamDead   = "RUC_DEAD"   // what a consumer could not use, for a person to look at

	ConsumerSlots       = "slots"       // on RUC_VISITS, shared by every slot of the fleet
	ConsumerTurn        = "turn"        // on RUC_TURN
	ConsumerCachewriter = "cachewriter" // on RUC_EVENTS
)

// The timing of a job in flight. Takeover after a dead slot takes what is left
// of SlotAckWait; a shorter one ends before a restarted server lets InProgress
// through, because it stores pending times rounded to seconds.
const (
	SlotAckWait   = 10 * time.Second
	SlotHeartbeat = 3 * time.Second // how often a slot says InProgress
)

const (
	duplicatesWindow = 10 * time.Minute
	visitsMaxAge     = time.Hour // a broom for forgotten jobs, never a limit on waiting
	minTurnAckWait   = time.Second
	eventsMaxBytes   = 8 << 30

	// Dead letters are for a person to see and mend, which a month leaves time for.
	// They hold what people published, maybe of natural persons, and no number
	// finds them, so they are not kept for longer.
	deadMaxAge = 30 * 24 * time.Hour
	// deadMaxBytes is some 20,000 letters of the usual size, or 500 of the largest
	// event. Whoever publishes nonsense drives out old letters and nothing else.
	deadMaxBytes = 64 << 20
	// deadDuplicates outlasts a fleet that stood still between storing a letter and
	// discarding its message, which then comes again.
	deadDuplicates = 24 * time.Hour

	stateDuplicates = 2 * time.Minute // as CreateKeyValue sets it

	writerAckWait       = 30 * time.Second
	writerMaxAckPending = 1000

	metaSource  = "rucflow.fuente"
	metaVersion = "rucflow.version"
	metaPace    = "rucflow.pace-ms"
	metaEpoch   = "rucflow.epoch"
)

// settingsVersion counts the changes to the settings of streams and consumers below.
// It is kept in their metadata and never lowered.
const settingsVersion = 1

// The API errors of JetStream that the protocol reads.
const (
	codeQueueFull   jetstream.ErrorCode = 10077 // maximum messages exceeded
	codeWrongLast   jetstream.ErrorCode = 10071 // wrong last sequence: N
	codeNameInUse   jetstream.ErrorCode = 10058
	codeStreamLimit jetstream.ErrorCode = 10049 // seen once when a stream was recreated at once
	// codeStorage: no room for its MaxBytes. Who loses a race for RUC_EVENTS hears it where
	// there is room for one of them.
	codeStorage jetstream.ErrorCode = 10047
)

// IsQueueFull reports whether a put was refused because the queue is full.
func IsQueueFull(err error) bool { return hasAPICode(err, codeQueueFull) }

// JobThere reports whether a put was refused because the job is there already,
// and its sequence (0 where the server's text does not give it: the front works
// without, by putting again).
func JobThere(err error) (seq uint64, there bool) {
	var api *jetstream.APIError
	if !errors.As(err, &api) || api.ErrorCode != codeWrongLast {
		return 0, false
	}
	end := len(api.Description)
	start := end
	for start > 0 && api.Description[start-1] >= '0' && api.Description[start-1] <= '9' {
		start--
	}
	seq, _ = strconv.ParseUint(api.Description[start:end], 10, 64) // 0 when empty, as documented
	return seq, true
}

func hasAPICode(err error, code jetstream.ErrorCode) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == code
}

// Provisioner creates what a service needs and is missing. What exists is never
// changed unless Update is set: a difference is reported to Warn instead, because
// a fleet of processes with different settings would otherwise flip them at
// every start.
type Provisioner struct {
	JS      jetstream.JetStream
	Source  string                                // whose data it is; that of another source is refused
	Update  bool                                  // change what exists; for the one owner of the server
	Warn    func(what, field, want, found string) // called for each difference that stays
	Changed func(what, field, want, found string) // called for each difference that was mended; may be nil
	Created func(what string)                     // called for what was missing; may be nil
	// Missing only looks: it is called for what is missing, in place of making that. It
	// must not be set together with Update.
	Missing func(what string)
}

// ReservedBytes is how much of the server's disk the streams reserve at once.
const ReservedBytes = eventsMaxBytes + deadMaxBytes

// Events makes RUC_EVENTS. maxAge bounds how long an event is kept.
func (p Provisioner) Events(ctx context.Context, maxAge time.Duration) error {
	return p.stream(ctx, jetstream.StreamConfig{
		Name:        StreamEvents,
		Description: "rucflow: answers and failures, newest per subject = last known",
		Subjects:    []string{SubjectResolved + ".*", SubjectFailed + ".*", SubjectChanged + ".*"},
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardOld,
		MaxAge:      maxAge,
		MaxBytes:    eventsMaxBytes,
		MaxMsgSize:  2 * MaxAnswerBytes,
		AllowDirect: true,
		Duplicates:  duplicatesWindow,
		// After storing: who hears ruc.resolved may rely on the event being there.
		RePublish: &jetstream.RePublish{Source: everyEvent, Destination: "ruc.{{wildcard(1)}}"},
		Metadata:  map[string]string{metaSource: p.Source},
	})
}

// CheckSource refuses a consumer of another source's data. It is what a process can
// see that may not ask the streams.
func CheckSource(info *jetstream.ConsumerInfo, source string) error {
	return checkSource(info.Stream+"/"+info.Name, info.Config.Metadata, source)
}

func checkSource(what string, metadata map[string]string, source string) error {
	found, marked := metadata[metaSource]
	if !marked {
		return fmt.Errorf("wire.CheckSource: %w", &mend.Error{
			Finding: what + " does not say whose data it holds", Mend: fmt.Sprintf("`rucflow provision` marks it as %q's", source),
		})
	}
	if found != source {
		return fmt.Errorf("wire.CheckSource: %w", &mend.Error{
			Finding: fmt.Sprintf("%s holds data of source %q and this process works with %q", what, found, source),
			Mend:    "use another NATS server (or DATA_DIR), or delete the stream first",
		})
	}
	return nil
}

// Dead makes RUC_DEAD, which any consumer's dead letters go to.
func (p Provisioner) Dead(ctx context.Context) error {
	// It has no MaxMsgSize: a letter that it refused could never leave its stream.
	return p.stream(ctx, jetstream.StreamConfig{
		Name:        StreamDead,
		Description: "rucflow: messages that a consumer could not use, with the reason",
		Subjects:    []string{DeadSubject("*")},
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardOld,
		MaxAge:      deadMaxAge,
		MaxBytes:    deadMaxBytes,
		AllowDirect: true,
		Duplicates:  deadDuplicates,
	})
}

// State makes the KV bucket RUC_STATE. It is the stream that CreateKeyValue would
// make, so that the same rules hold for it as for the others.
func (p Provisioner) State(ctx context.Context) error {
	return p.stream(ctx, jetstream.StreamConfig{
		Name:              streamState,
		Description:       "rucflow: the pause of the fleet",
		Subjects:          []string{"$KV." + BucketState + ".>"},
		Storage:           jetstream.FileStorage,
		Retention:         jetstream.LimitsPolicy,
		Discard:           jetstream.DiscardNew,
		MaxMsgsPerSubject: 1,
		AllowDirect:       true,
		AllowRollup:       true,
		DenyDelete:        true,
		Duplicates:        stateDuplicates,
	})
}

// Visits makes the work queue, its consumer and the turn. queue bounds the
// waiting jobs, maxConcurrent the visits at one time in the whole fleet, pace the
// time between two POSTs (0 = no pace).
func (p Provisioner) Visits(ctx context.Context, queue, maxConcurrent int, pace time.Duration) error {
	if err := p.stream(ctx, jetstream.StreamConfig{
		Name:                 StreamVisits,
		Description:          "rucflow: visits waiting or in flight, one per number",
		Subjects:             []string{visitPrefix + "*"},
		Storage:              jetstream.FileStorage,
		Retention:            jetstream.WorkQueuePolicy,
		Discard:              jetstream.DiscardNew,
		DiscardNewPerSubject: true,
		MaxMsgsPerSubject:    1,
		MaxMsgs:              int64(queue),
		MaxAge:               visitsMaxAge,
		Duplicates:           duplicatesWindow,
	}); err != nil {
		return err
	}
	if err := p.consumer(ctx, StreamVisits, jetstream.ConsumerConfig{
		Durable:       ConsumerSlots,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       SlotAckWait,
		MaxAckPending: maxConcurrent,
		// The slot counts deliveries itself: beyond MaxDeliver the server would
		// keep the message and so block its number until MaxAge.
		MaxDeliver: -1,
		Metadata:   map[string]string{metaSource: p.Source},
	}); err != nil {
		return err
	}
	if err := p.stream(ctx, jetstream.StreamConfig{
		Name:        StreamTurn,
		Description: "rucflow: one message, the right to send the next POST",
		Subjects:    []string{SubjectTurn},
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		MaxMsgs:     1,
		Duplicates:  duplicatesWindow,
	}); err != nil {
		return err
	}
	if err := p.consumer(ctx, StreamTurn, jetstream.ConsumerConfig{
		Durable:       ConsumerTurn,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       max(pace, minTurnAckWait), // a turn taken by a process that died comes back
		MaxAckPending: 1,
		MaxDeliver:    -1,
		Metadata:      map[string]string{metaPace: strconv.FormatInt(pace.Milliseconds(), 10)},
	}); err != nil {
		return err
	}
	if p.Missing != nil {
		return p.lookForTurn(ctx)
	}
	_, err := p.JS.Publish(ctx, SubjectTurn, nil, jetstream.WithExpectLastSequencePerSubject(0))
	if _, there := JobThere(err); err != nil && !there && !IsQueueFull(err) {
		return fmt.Errorf("wire.Provisioner.Visits: putting the turn: %w", err)
	}
	return nil
}

// lookForTurn reports a turn that was lost: nobody could visit any more.
func (p Provisioner) lookForTurn(ctx context.Context) error {
	s, err := p.readStream(ctx, StreamTurn)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound): // reported already
	case err != nil:
		return fmt.Errorf("wire.Provisioner.Visits: %w", err)
	case s.CachedInfo().State.Msgs == 0:
		p.Missing("the message of " + StreamTurn)
	}
	return nil
}

// Cachewriter makes the cachewriter's durable consumer on RUC_EVENTS, which must
// exist. The consumer repeats when the stream was created, so that a cachewriter
// needs no right to ask the stream.
func (p Provisioner) Cachewriter(ctx context.Context) error {
	s, err := p.readStream(ctx, StreamEvents)
	if p.Missing != nil && errors.Is(err, jetstream.ErrStreamNotFound) {
		p.Missing(StreamEvents + "/" + ConsumerCachewriter)
		return nil
	}
	if err != nil {
		return fmt.Errorf("wire.Provisioner.Cachewriter: %w", err)
	}
	return p.consumer(ctx, StreamEvents, jetstream.ConsumerConfig{
		Durable:        ConsumerCachewriter,
		AckPolicy:      jetstream.AckExplicitPolicy,
		DeliverPolicy:  jetstream.DeliverAllPolicy,
		FilterSubjects: []string{SubjectResolved + ".*"},
		AckWait:        writerAckWait,
		MaxAckPending:  writerMaxAckPending,
		MaxDeliver:     -1,
		Metadata: map[string]string{
			metaEpoch:  strconv.FormatInt(s.CachedInfo().Created.Unix(), 10),
			metaSource: p.Source,
		},
	})
}

// Epoch returns when the stream behind the cachewriter's consumer was created, in
// Unix seconds. A consumer made by hand has its own birth instead, which is later
// than the stream's and dies with it.
func Epoch(info *jetstream.ConsumerInfo) int64 {
	epoch, err := strconv.ParseInt(info.Config.Metadata[metaEpoch], 10, 64)
	if err != nil {
		return info.Created.Unix()
	}
	return epoch
}

// Pace returns the fleet's pace, as the consumer of RUC_TURN holds it.
func Pace(info *jetstream.ConsumerInfo) time.Duration {
	ms, err := strconv.ParseInt(info.Config.Metadata[metaPace], 10, 64)
	if err != nil {
		return info.Config.AckWait // made by hand: its pace cannot be longer
	}
	return time.Duration(ms) * time.Millisecond
}

// createTries bounds the retries of a creation that lost a race against another
// process's, createPause parts them.
const (
	createTries = 5
	createPause = 100 * time.Millisecond
)

// readWait bounds one question to the server, which answers within milliseconds.
const readWait = 2 * time.Second

func (p Provisioner) readStream(ctx context.Context, name string) (jetstream.Stream, error) {
	return readAgain(ctx, func(ctx context.Context) (jetstream.Stream, error) { return p.JS.Stream(ctx, name) })
}

func (p Provisioner) readConsumer(ctx context.Context, stream, name string) (jetstream.Consumer, error) {
	return readAgain(ctx, func(ctx context.Context) (jetstream.Consumer, error) { return p.JS.Consumer(ctx, stream, name) })
}

// readAgain asks until ctx ends. A reply that is lost would otherwise take all the time that
// a start has.
func readAgain[T any](ctx context.Context, read func(context.Context) (T, error)) (T, error) {
	for {
		try, cancel := context.WithTimeout(ctx, readWait)
		v, err := read(try)
		cancel()
		if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return v, err
		}
	}
}

func (p Provisioner) stream(ctx context.Context, want jetstream.StreamConfig) error {
	want.Metadata = versioned(want.Metadata)
	var lastErr error
	for range createTries {
		s, err := p.readStream(ctx, want.Name)
		switch {
		case p.Missing != nil && errors.Is(err, jetstream.ErrStreamNotFound):
			p.Missing(want.Name)
			return nil
		case errors.Is(err, jetstream.ErrStreamNotFound):
			_, err = p.JS.CreateStream(ctx, want)
			if err == nil {
				p.created(want.Name)
				return nil
			}
			if !hasAPICode(err, codeNameInUse) && !hasAPICode(err, codeStreamLimit) && !hasAPICode(err, codeStorage) {
				return fmt.Errorf("wire.Provisioner: creating %s: %w", want.Name, err)
			}
			lastErr = err
			select {
			case <-ctx.Done():
			case <-time.After(createPause):
			}
			continue
		case err != nil:
			return fmt.Errorf("wire.Provisioner: reading %s: %w", want.Name, err)
		}
		found := s.CachedInfo().Config
		_, ours := want.Metadata[metaSource]
		_, marked := found.Metadata[metaSource]
		if ours && (marked || !p.Update) {
			if err := checkSource(want.Name, found.Metadata, p.Source); err != nil {
				return err
			}
		}
		diff := streamDiff(want, found)
		if len(diff) == 0 {
			return nil
		}
		if !p.Update {
			p.report(want.Name, diff)
			return nil
		}
		if err := checkVersion(want.Name, found.Metadata); err != nil {
			return err
		}
		if _, err := p.JS.UpdateStream(ctx, updatedStream(found, want)); err != nil {
			return fmt.Errorf("wire.Provisioner: updating %s: %w", want.Name, err)
		}
		p.changed(want.Name, diff)
		return nil
	}
	return fmt.Errorf("wire.Provisioner: creating %s: %w", want.Name, lastErr)
}

func (p Provisioner) consumer(ctx context.Context, stream string, want jetstream.ConsumerConfig) error {
	name := stream + "/" + want.Durable
	want.Metadata = versioned(want.Metadata)
	c, err := p.readConsumer(ctx, stream, want.Durable)
	switch {
	case p.Missing != nil && (errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound)):
		p.Missing(name)
		return nil
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		// Creating the same consumer twice is no error for the server, so a lost
		// race needs no retry.
		if _, err = p.JS.CreateConsumer(ctx, stream, want); err != nil && !errors.Is(err, jetstream.ErrConsumerExists) {
			return fmt.Errorf("wire.Provisioner: creating %s: %w", name, err)
		}
		p.created(name)
		return nil
	case err != nil:
		return fmt.Errorf("wire.Provisioner: reading %s: %w", name, err)
	}
	found := c.CachedInfo().Config
	diff := consumerDiff(want, found)
	if len(diff) == 0 {
		return nil
	}
	if !p.Update {
		p.report(name, diff)
		return nil
	}
	if err := checkVersion(name, found.Metadata); err != nil {
		return err
	}
	if _, ours := want.Metadata[metaEpoch]; ours {
		// Versions that were written with the epoch so far must not become newer ones.
		want.Metadata[metaEpoch] = strconv.FormatInt(Epoch(c.CachedInfo()), 10)
	}
	if _, err := p.JS.UpdateConsumer(ctx, stream, updatedConsumer(found, want)); err != nil {
		return fmt.Errorf("wire.Provisioner: updating %s: %w", name, err)
	}
	p.changed(name, diff)
	return nil
}

// updatedStream is found with what streamDiff compares as it is wanted. All else, such
// as the replicas, belongs to the operator.
func updatedStream(found, want jetstream.StreamConfig) jetstream.StreamConfig {
	next := found
	next.Subjects = want.Subjects
	next.MaxMsgs, next.MaxBytes, next.MaxAge, next.MaxMsgSize = want.MaxMsgs, want.MaxBytes, want.MaxAge, want.MaxMsgSize
	next.MaxMsgsPerSubject, next.DiscardNewPerSubject = want.MaxMsgsPerSubject, want.DiscardNewPerSubject
	next.Retention, next.Discard, next.Duplicates = want.Retention, want.Discard, want.Duplicates
	next.AllowDirect, next.RePublish = want.AllowDirect, want.RePublish
	next.Metadata = merged(found.Metadata, want.Metadata)
	return next
}

// updatedConsumer is the same for consumers.
func updatedConsumer(found, want jetstream.ConsumerConfig) jetstream.ConsumerConfig {
	next := found
	next.AckWait, next.MaxAckPending, next.MaxDeliver = want.AckWait, want.MaxAckPending, want.MaxDeliver
	next.Metadata = merged(found.Metadata, want.Metadata)
	return next
}

func merged(found, want map[string]string) map[string]string {
	all := map[string]string{}
	maps.Copy(all, found)
	maps.Copy(all, want)
	return all
}

func versioned(metadata map[string]string) map[string]string {
	return merged(map[string]string{metaVersion: strconv.Itoa(settingsVersion)}, metadata)
}

// checkVersion keeps an older rucflow from undoing what a newer one has set.
func checkVersion(what string, found map[string]string) error {
	version, err := strconv.Atoi(found[metaVersion])
	if err == nil && version > settingsVersion {
		return fmt.Errorf("wire.Provisioner: %s was set up by a newer rucflow (settings %d, this one's are %d) and is left as it is: use the newer one",
			what, version, settingsVersion)
	}
	return nil
}

func (p Provisioner) created(what string) {
	if p.Created != nil {
		p.Created(what)
	}
}

func (p Provisioner) changed(what string, diff []difference) {
	if p.Changed == nil {
		return
	}
	for _, d := range diff {
		p.Changed(what, d.field, d.want, d.found)
	}
}

type difference struct{ field, want, found string }

func (p Provisioner) report(what string, diff []difference) {
	for _, d := range diff {
		p.Warn(what, d.field, d.want, d.found)
	}
}

func streamDiff(want, found jetstream.StreamConfig) []difference {
	return differences([]difference{
		{"subjects", fmt.Sprint(slices.Sorted(slices.Values(want.Subjects))), fmt.Sprint(slices.Sorted(slices.Values(found.Subjects)))},
		{"max_msgs", fmt.Sprint(limit(want.MaxMsgs)), fmt.Sprint(limit(found.MaxMsgs))},
		{"max_bytes", fmt.Sprint(limit(want.MaxBytes)), fmt.Sprint(limit(found.MaxBytes))},
		{"max_age", want.MaxAge.String(), found.MaxAge.String()},
		{"max_msgs_per_subject", fmt.Sprint(limit(want.MaxMsgsPerSubject)), fmt.Sprint(limit(found.MaxMsgsPerSubject))},
		{"retention", want.Retention.String(), found.Retention.String()},
		{"discard", want.Discard.String(), found.Discard.String()},
		{"max_msg_size", fmt.Sprint(limit(int64(want.MaxMsgSize))), fmt.Sprint(limit(int64(found.MaxMsgSize)))},
		{"duplicate_window", want.Duplicates.String(), found.Duplicates.String()},
		{"allow_direct", fmt.Sprint(want.AllowDirect), fmt.Sprint(found.AllowDirect)},
		{"republish", fmt.Sprint(want.RePublish != nil), fmt.Sprint(found.RePublish != nil)},
		{"fuente", want.Metadata[metaSource], found.Metadata[metaSource]},
		{"version", want.Metadata[metaVersion], found.Metadata[metaVersion]},
	})
}

func consumerDiff(want, found jetstream.ConsumerConfig) []difference {
	return differences([]difference{
		{"ack_wait", want.AckWait.String(), found.AckWait.String()},
		{"max_ack_pending", fmt.Sprint(want.MaxAckPending), fmt.Sprint(found.MaxAckPending)},
		{"max_deliver", fmt.Sprint(want.MaxDeliver), fmt.Sprint(found.MaxDeliver)},
		{"pace_ms", want.Metadata[metaPace], found.Metadata[metaPace]},
		{"fuente", want.Metadata[metaSource], found.Metadata[metaSource]},
		{"version", want.Metadata[metaVersion], found.Metadata[metaVersion]},
	})
}

func differences(all []difference) []difference {
	return slices.DeleteFunc(all, func(d difference) bool { return d.want == d.found })
}

// limit maps the two ways to say "no limit" to one.
func limit(n int64) int64 {
	if n <= 0 {
		return -1
	}
	return n
}
