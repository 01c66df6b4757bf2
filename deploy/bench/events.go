//go:build linux

package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sys/unix"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// The variants of events that are read.
const (
	bareAudit    = "nats.go, the same lines by bufio, fsync at the end"
	auditWrites  = "audit, its start included"
	replayWrites = "rucflow replay, its start included"
	gatewayFan   = "gateway"
	bareFan      = "bare Fiber"
)

// The measures of them.
const (
	deliveries    = "deliveries per second"
	deliveryCPU   = "CPU µs per delivery"
	natsPerStored = "NATS CPU µs per event"
	mostMiB       = "most MiB"
)

const (
	fanBatch = 64 // less than a gateway lets a reader leave unread
	// readEvents is of several rounds of the cachewriter's, so that a start of 0.1 s is
	// little of it.
	readEvents = 3 * writerEvents
)

// fanReaders are the numbers of readers that follow the events of one gateway.
var fanReaders = []int{1, 100, 1000}

// events measures those who read events: the streams of a gateway, audit and replay.
func events(ctx context.Context, l *lab) (f Figures, err error) {
	err = l.apart(ctx, &f, fan, readAll)
	return f, err
}

// fan compares a gateway that sends every event to readers with the least program that does.
func fan(ctx context.Context, l *lab, f *Figures) error {
	s, err := l.startServers(ctx)
	if err != nil {
		return err
	}
	js, err := l.connect(ctx, s)
	if err != nil {
		return err
	}
	g, err := l.startService(ctx, "gateway", s)
	if err != nil {
		return err
	}
	b, err := l.startFanBare(ctx, s)
	if err != nil {
		return err
	}
	source := &source{js: js, now: l.now}
	for _, count := range fanReaders {
		for _, v := range []struct {
			name string
			server
		}{{bareFan, b}, {gatewayFan, g}} {
			round, err := l.fanRound(ctx, s, source, v.server, count)
			if err != nil {
				return fmt.Errorf("%s, %d readers: %w", v.name, count, err)
			}
			f.add(fmt.Sprintf("%s, readers: %d", v.name, count), round)
		}
	}
	return nil
}

func (l *lab) startFanBare(ctx context.Context, s servers) (v server, err error) {
	if v.http, err = freeAddr(ctx); err != nil {
		return v, err
	}
	if v.process, err = l.start("bare", "bare", []string{"-addr", v.http, "-nats", "nats://" + s.natsAddr}, nil); err != nil {
		return v, err
	}
	return v, l.await(ctx, v.process, "it should serve", func() bool {
		status, _, _, err := get(ctx, "http://"+v.http+"/")
		return err == nil && status == http.StatusNotFound
	})
}

// fanRound stores batches of events, each once every reader has all of the one before.
func (l *lab) fanRound(ctx context.Context, s servers, source *source, v server, count int) (round map[string]float64, err error) {
	r, err := l.follow(ctx, v.http, count)
	if err != nil {
		return nil, err
	}
	defer r.close()
	if err := l.fanBatch(ctx, source, r); err != nil { // the first sends make what later ones use
		return nil, err
	}
	before, err := cpuOfAll(v.process, s.nats)
	if err != nil {
		return nil, err
	}
	began, sent := l.now(), 0
	for l.now().Sub(began) < l.duration() {
		if err := l.fanBatch(ctx, source, r); err != nil {
			return nil, err
		}
		sent += fanBatch
	}
	took := l.now().Sub(began).Seconds()
	after, err := cpuOfAll(v.process, s.nats)
	if err != nil {
		return nil, err
	}
	events, delivered := float64(sent), float64(sent*count)
	return map[string]float64{
		perSecond: events / took, deliveries: delivered / took,
		deliveryCPU: float64((after[0]-before[0])/time.Microsecond) / delivered, natsPerStored: float64((after[1]-before[1])/time.Microsecond) / events,
	}, nil
}

func (l *lab) fanBatch(ctx context.Context, source *source, r *readers) error {
	if err := source.store(ctx, fanBatch); err != nil {
		return err
	}
	r.due += fanBatch
	return r.await(ctx, l.now, r.haveAll)
}

// source stores events, each of another number, faster than slots would.
type source struct {
	js     jetstream.JetStream
	now    func() time.Time
	stored int
	// unnamed leaves out the ids by which the server knows a repetition for ten minutes: a
	// fleet has 550 in that time, and a source that is quicker should not have more.
	unnamed bool
}

func (s *source) store(ctx context.Context, count int) error {
	for count > 0 {
		batch := min(count, pipelined) // with thousands under way nats.go refuses more
		count -= batch
		for range batch {
			if err := s.publish(); err != nil {
				return err
			}
		}
		select {
		case <-s.js.PublishAsyncComplete():
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (s *source) publish() error {
	n, at := company(s.stored), s.now()
	body, err := answer(n, at)
	if err != nil {
		return err
	}
	s.stored++
	m := wire.ResolvedEvent(n, wire.Job{Seq: uint64(s.stored), Time: at}, body, ruc.FuenteReplica, at) //nolint:gosec // counted up from 0
	if s.unnamed {
		m.Header.Del(nats.MsgIdHdr)
	}
	_, err = s.js.PublishMsgAsync(m)
	return err
}

// readers follow the events of one server. They count and keep nothing, so that little of
// the machine goes into reading.
type readers struct {
	ep    int
	all   map[int32]*reader
	due   int // events that each should have
	marks int // that one event has, of what is counted
	buf   []byte
}

type reader struct {
	head  []byte // until the stream has begun
	begun bool
	marks int
}

// mark is what is counted: the body of every event has as many, and nothing else of the
// stream has any.
const mark = '{'

// begins is the first line of a stream of events.
var begins = []byte("\nretry: ")

// follow opens streams of events and waits until all have begun.
func (l *lab) follow(ctx context.Context, addr string, count int) (r *readers, err error) {
	body, err := answer(company(0), l.now())
	if err != nil {
		return nil, err
	}
	r = &readers{all: map[int32]*reader{}, marks: bytes.Count(body, []byte{mark}), buf: make([]byte, 256<<10)}
	if r.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	for range count {
		if err := r.open(addr); err != nil {
			r.close()
			return nil, err
		}
	}
	if err := r.await(ctx, l.now, r.haveBegun); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *readers) open(addr string) error {
	fd, err := dial(addr)
	if err != nil {
		return err
	}
	r.all[int32(fd)] = &reader{}                                                                             //nolint:gosec // descriptors are small
	err = unix.EpollCtl(r.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}) //nolint:gosec // as above
	if err == nil {
		_, err = unix.Write(fd, request(http.MethodGet, "/v1/eventos?tipo=resolved"))
	}
	return err
}

func (r *readers) close() {
	for fd := range r.all {
		_ = unix.Close(int(fd))
	}
	_ = unix.Close(r.ep)
}

func (r *readers) haveBegun(one *reader) bool { return one.begun }
func (r *readers) haveAll(one *reader) bool   { return one.marks >= r.due*r.marks }

// await reads until ok of every reader.
func (r *readers) await(ctx context.Context, now func() time.Time, ok func(*reader) bool) error {
	missing := 0
	for _, one := range r.all {
		if !ok(one) {
			missing++
		}
	}
	events := make([]unix.EpollEvent, len(r.all))
	for end := now().Add(readyWait); missing > 0; {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case now().After(end):
			return fmt.Errorf("%d of %d readers wait in vain", missing, len(r.all))
		}
		n, err := unix.EpollWait(r.ep, events, epollWait)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		for _, e := range events[:max(n, 0)] {
			one := r.all[e.Fd]
			had := ok(one)
			n, err := unix.Read(int(e.Fd), r.buf)
			switch {
			case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
				continue
			case err != nil:
				return err
			case n == 0:
				return errors.New("a stream of events came to its end")
			}
			one.take(r.buf[:n])
			if !had && ok(one) {
				missing--
			}
		}
	}
	return nil
}

func (one *reader) take(b []byte) {
	if !one.begun {
		one.head = append(one.head, b...)
		_, b, one.begun = bytes.Cut(one.head, begins)
	}
	if one.begun {
		one.head = nil
		one.marks += bytes.Count(b, []byte{mark})
	}
}

// readAll compares audit and replay, which begin when all events are stored, with the
// least that reads and writes as much.
func readAll(ctx context.Context, l *lab, f *Figures) error {
	s, err := l.startServers(ctx)
	if err != nil {
		return err
	}
	js, err := l.connect(ctx, s)
	if err != nil {
		return err
	}
	source := &source{js: js, now: l.now}
	if err := source.store(ctx, readEvents); err != nil {
		return err
	}
	folder, err := l.folder("audit")
	if err != nil {
		return err
	}
	round, err := l.auditRound(ctx, s, folder)
	if err != nil {
		return err
	}
	f.add(auditWrites, round)
	if round, err = l.bareAudit(ctx, js, folder); err != nil {
		return err
	}
	f.add(bareAudit, round)
	client := redis.NewClient(&redis.Options{Addr: s.redisAddr})
	l.stops = append(l.stops, func() { _ = client.Close() })
	bodies, err := l.bodies(0)
	if err != nil {
		return err
	}
	if round, err = l.pipeline(ctx, s, client, bodies); err != nil {
		return err
	}
	f.add(pipelineWrites, round)
	if err := client.FlushDB(ctx).Err(); err != nil {
		return err
	}
	if round, err = l.replayRound(ctx, s, readEvents); err != nil {
		return err
	}
	f.add(replayWrites, round)
	return nil
}

// startAudit starts an audit that writes into a folder.
func (l *lab) startAudit(ctx context.Context, s servers, folder string) (server, error) {
	return l.startService(ctx, "audit", s, "AUDIT_DIR="+folder)
}

// audited waits until an audit has written so many events. Its metrics would say so too,
// but to be asked for them every few milliseconds took a fifth of its CPU.
func (l *lab) audited(ctx context.Context, a server, folder string, count int) error {
	last := fmt.Appendf(nil, `{"seq":%d,`, count)
	return l.await(ctx, a.process, "it should write every event", func() bool {
		files, err := filepath.Glob(filepath.Join(folder, "*.jsonl"))
		if err != nil || len(files) == 0 {
			return false
		}
		b, err := endOf(slices.Max(files))
		return err == nil && bytes.Contains(b, last) && bytes.HasSuffix(b, []byte("\n"))
	})
}

// endOf is the end of a file, with its last line in it.
func endOf(path string) ([]byte, error) {
	const length = 8 << 10
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	b := make([]byte, min(size, length))
	_, err = f.ReadAt(b, size-int64(len(b)))
	return b, err
}

func (l *lab) auditRound(ctx context.Context, s servers, folder string) (map[string]float64, error) {
	began := l.now()
	a, err := l.startAudit(ctx, s, folder)
	if err != nil {
		return nil, err
	}
	if err := l.audited(ctx, a, folder, readEvents); err != nil {
		return nil, err
	}
	took := l.now().Sub(began)
	cpu, err := a.cpu()
	if err != nil {
		return nil, err
	}
	a.stop() // it writes to the folder no more
	return map[string]float64{perSecond: readEvents / took.Seconds(), serverCPU: float64(cpu/time.Microsecond) / readEvents}, nil
}

// bareAudit reads the events and writes for each the line that the audit wrote.
func (l *lab) bareAudit(ctx context.Context, js jetstream.JetStream, folder string) (round map[string]float64, err error) {
	lines, err := linesOf(folder)
	if err != nil {
		return nil, err
	}
	if len(lines) != readEvents {
		return nil, fmt.Errorf("the audit has %d lines and not %d", len(lines), readEvents)
	}
	file, err := os.Create(filepath.Join(l.dir, "bare.jsonl"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	before, err := cpuOfPid(os.Getpid())
	if err != nil {
		return nil, err
	}
	began := l.now()
	consumer, err := js.OrderedConsumer(ctx, wire.StreamEvents, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return nil, err
	}
	messages, err := consumer.Messages()
	if err != nil {
		return nil, err
	}
	defer messages.Stop()
	w := bufio.NewWriter(file)
	for _, line := range lines {
		if _, err := messages.Next(jetstream.NextContext(ctx)); err != nil {
			return nil, err
		}
		if _, err := w.Write(line); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(w.Flush(), file.Sync()); err != nil {
		return nil, err
	}
	took := l.now().Sub(began)
	after, err := cpuOfPid(os.Getpid())
	return map[string]float64{perSecond: readEvents / took.Seconds(), serverCPU: float64((after-before)/time.Microsecond) / readEvents}, err
}

// linesOf are the lines of an audit's files.
func linesOf(folder string) (lines [][]byte, err error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.jsonl"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		lines = slices.AppendSeq(lines, bytes.Lines(b))
	}
	return lines, nil
}

// replayRound writes so many events, which are all, into an empty Redis.
func (l *lab) replayRound(ctx context.Context, s servers, count int) (map[string]float64, error) {
	began := l.now()
	p, err := l.start("replay", "rucflow", []string{"replay"}, []string{
		"NATS_URL=nats://" + s.natsAddr, "REDIS_URL=redis://" + s.redisAddr, "SUNAT_URL=http://127.0.0.1:1/",
	})
	if err != nil {
		return nil, err
	}
	most, err := l.most(ctx, p)
	if err != nil {
		return nil, err
	}
	took := l.now().Sub(began)
	if !bytes.Contains(p.tail(), fmt.Appendf(nil, "%d written, ", count)) {
		return nil, fmt.Errorf("not all were replayed: %s", p.tail())
	}
	return map[string]float64{
		perSecond: float64(count) / took.Seconds(),
		serverCPU: float64(p.cmd.ProcessState.SystemTime()+p.cmd.ProcessState.UserTime()) / float64(time.Microsecond) / float64(count),
		mostMiB:   most / mib,
	}, nil
}

// most waits until a process has ended and returns the most memory that it held, in bytes,
// but for its last moments. (What the kernel says of one that has ended counts the memory
// of who started it.)
func (l *lab) most(ctx context.Context, p *process) (bytes float64, err error) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if now, err := peakOf(p.pid()); err == nil { // it has just ended
				bytes = now
			}
		case <-p.exited:
			return bytes, nil
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}
