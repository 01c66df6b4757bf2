package gateway

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// lazyListener accepts connections with lazy deadlines. The server moves three deadlines
// per request, nearly always further away, and each costs a timer: 0.3 µs.
type lazyListener struct{ net.Listener }

func (l lazyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &lazyConn{Conn: c, read: deadline{set: c.SetReadDeadline}, write: deadline{set: c.SetWriteDeadline}}, nil
}

// lazyConn is a connection whose timer stays where it is when a deadline moves further
// away. Should it fire, what waits is taken up again with the deadline that then holds.
type lazyConn struct {
	net.Conn
	read, write deadline
}

func (c *lazyConn) Read(b []byte) (n int, err error) {
	for {
		if n, err = c.Conn.Read(b); err == nil || n > 0 || !c.read.extend(err) {
			return n, err
		}
	}
}

func (c *lazyConn) Write(b []byte) (n int, err error) {
	for {
		written, err := c.Conn.Write(b[n:])
		if n += written; err == nil || !c.write.extend(err) {
			return n, err
		}
	}
}

func (c *lazyConn) SetReadDeadline(t time.Time) error  { return c.read.move(t) }
func (c *lazyConn) SetWriteDeadline(t time.Time) error { return c.write.move(t) }

func (c *lazyConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// deadline is one of the two of a connection. Safe for concurrent use.
type deadline struct {
	set func(time.Time) error // the connection's own

	mu     sync.Mutex
	wanted time.Time
	armed  time.Time // the connection's: never later than wanted; zero = none
}

func (d *deadline) move(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wanted = t
	if !d.armed.IsZero() && !t.Before(d.armed) {
		return nil
	}
	return d.arm()
}

// extend reports whether what ended with err ended before its time, and arms the
// connection anew then.
func (d *deadline) extend(err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.armed.Equal(d.wanted) && d.arm() == nil
}

func (d *deadline) arm() error {
	d.armed = d.wanted
	return d.set(d.wanted)
}
