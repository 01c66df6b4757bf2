//go:build linux

package bench

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// load is what callers ask a server: each sends its next request as soon as the last one
// was answered, over a connection that stays, and never two at a time. Two threads serve
// them by epoll, so that little of the machine goes into asking and yet two cores are busy:
// were asking the bottleneck, every server would look alike. (wrk does the same, but waits
// for ever for the body of a response to HEAD.)
type load struct {
	addr     string
	requests [][]byte
	order    []int // places in requests, in which each caller walks in a circle from a start of its own
	each     int   // how many requests each caller sends; 0 = until the time is over
	status   int   // of every response; another one is an error
	bodiless bool  // no response has a body, whatever its Content-Length says
	few      int   // how many callers there are, where not callers
}

const (
	callers = 64
	threads = 2
	// maxResponse bounds a response; those asked for have 3 KB.
	maxResponse = 64 << 10
	epollWait   = 100 // ms; how late the end of ctx may be noticed
)

// request is a GET as wrk would send it, or another method, with further header lines.
func request(method, path string, lines ...string) []byte {
	b := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\n", method, path)
	for _, l := range lines {
		b = append(b, l+"\r\n"...)
	}
	return append(b, "\r\n"...)
}

// caller is one connection.
type caller struct {
	fd   int
	at   int // in the order
	left int // requests to send
	sent time.Time
	buf  []byte
	got  int
}

// run asks for d, or until each caller was answered often enough, and returns how long
// each response took, sorted, in microseconds. Every request that was sent was answered.
func (l load) run(ctx context.Context, d time.Duration, now func() time.Time) (took []uint32, err error) {
	var wg sync.WaitGroup
	var parts [threads][]uint32
	var errs [threads]error
	for i := range threads {
		wg.Go(func() { parts[i], errs[i] = l.thread(ctx, i, d, now) })
	}
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	took = slices.Concat(parts[:]...)
	slices.Sort(took)
	return took, nil
}

// thread is run for the callers of one thread.
func (l load) thread(ctx context.Context, i int, d time.Duration, now func() time.Time) (took []uint32, err error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(ep) }()
	all := map[int32]*caller{}
	defer func() {
		for fd := range all {
			_ = unix.Close(int(fd))
		}
	}()
	count := cmp.Or(l.few, callers)
	for k := i; k < count; k += threads {
		fd, err := dial(l.addr)
		if err != nil {
			return nil, err
		}
		c := &caller{fd: fd, at: k * len(l.order) / count, left: l.each, buf: make([]byte, maxResponse)}
		all[int32(fd)] = c                                                                                                       //nolint:gosec // descriptors are small
		if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil { //nolint:gosec // as above
			return nil, err
		}
		if err := l.send(c, now()); err != nil {
			return nil, err
		}
	}
	events := make([]unix.EpollEvent, len(all))
	for end, asking := now().Add(d), len(all); asking > 0; {
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case now().After(end.Add(readyWait)):
			return nil, fmt.Errorf("%s owes %d answers", l.addr, asking)
		}
		n, err := unix.EpollWait(ep, events, epollWait)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return nil, err
		}
		for _, e := range events[:max(n, 0)] {
			c := all[e.Fd]
			whole, err := l.receive(c)
			if err != nil {
				return nil, err
			}
			if !whole {
				continue
			}
			at := now()
			took = append(took, uint32(at.Sub(c.sent)/time.Microsecond)) //nolint:gosec // a load does not last for an hour
			if c.left--; c.left == 0 || at.After(end) {
				asking--
				continue
			}
			if err := l.send(c, at); err != nil {
				return nil, err
			}
		}
	}
	return took, nil
}

func dial(addr string) (fd int, err error) {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return 0, err
	}
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()})
	err = errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1), unix.SetNonblock(fd, true))
	if err != nil {
		_ = unix.Close(fd)
		return 0, fmt.Errorf("%s: %w", addr, err)
	}
	return fd, nil
}

// send sends the caller's next request, which a socket that nothing waits in takes whole.
func (l load) send(c *caller, at time.Time) error {
	r := l.requests[l.order[c.at]]
	c.at, c.got, c.sent = (c.at+1)%len(l.order), 0, at
	for {
		n, err := unix.Write(c.fd, r)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil && n < len(r):
			err = errors.New("a request did not fit into the socket")
		}
		return err
	}
}

// receive reads what is there; whole once the response has come to its end.
func (l load) receive(c *caller) (whole bool, err error) {
	n, err := unix.Read(c.fd, c.buf[c.got:])
	switch {
	case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
		return false, nil
	case err != nil:
		return false, err
	case n == 0:
		return false, fmt.Errorf("%s closed a connection, or its response has more than %d bytes", l.addr, maxResponse)
	}
	c.got += n
	status, size, ok, err := response(c.buf[:c.got], l.bodiless)
	switch {
	case err != nil || !ok:
		return false, err
	case status != l.status:
		return false, fmt.Errorf("%s answered with status %d and not %d", l.addr, status, l.status)
	}
	return c.got >= size, nil
}

var (
	headEnd       = []byte("\r\n\r\n")
	contentLength = []byte("\r\nContent-Length: ")
)

// response reads the status and the whole size of a response from its beginning; ok is
// false while its head is not complete.
func response(b []byte, bodiless bool) (status, size int, ok bool, err error) {
	end := bytes.Index(b, headEnd)
	if end < 0 {
		return 0, 0, false, nil
	}
	head := b[:end]
	const prefix = len("HTTP/1.1 ")
	if len(head) < prefix+3 {
		return 0, 0, false, fmt.Errorf("no response: %q", head)
	}
	if status, err = strconv.Atoi(string(head[prefix : prefix+3])); err != nil {
		return 0, 0, false, fmt.Errorf("no response: %q", head)
	}
	size = end + len(headEnd)
	if bodiless {
		return status, size, true, nil
	}
	_, after, found := bytes.Cut(head, contentLength)
	if !found {
		return 0, 0, false, fmt.Errorf("a response without Content-Length: %q", head)
	}
	digits, _, _ := bytes.Cut(after, []byte("\r"))
	length, err := strconv.Atoi(string(digits))
	if err != nil {
		return 0, 0, false, fmt.Errorf("a response with Content-Length %q", digits)
	}
	return status, size + length, true, nil
}
