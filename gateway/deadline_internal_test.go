package gateway

import (
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener of one connection, whose other end a test holds.
type pipes struct {
	net.Listener
	conn net.Conn
}

func (p pipes) Accept() (net.Conn, error) { return p.conn, nil }

// counted counts how often its deadlines are set.
type counted struct {
	net.Conn
	sets int
}

func (c *counted) SetReadDeadline(t time.Time) error  { c.sets++; return c.Conn.SetReadDeadline(t) }
func (c *counted) SetWriteDeadline(t time.Time) error { c.sets++; return c.Conn.SetWriteDeadline(t) }

// lazy runs a test with both ends of a lazy connection, in a time of its own.
func lazy(t *testing.T, test func(t *testing.T, conn, other net.Conn, below *counted)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		below := &counted{Conn: near}
		conn, err := lazyListener{pipes{conn: below}}.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = conn.Close(), far.Close() })
		test(t, conn, far, below)
	})
}

// endsAfter fails unless the operation ends with a timeout after d exactly.
func endsAfter(t *testing.T, d time.Duration, op func([]byte) (int, error)) {
	t.Helper()
	began := time.Now()
	if _, err := op(make([]byte, 8)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != d {
		t.Errorf("ended after %v, not %v: %v", time.Since(began), d, err)
	}
}

func TestLazyConn_EndsAtTheDeadlineThatHolds(t *testing.T) {
	for name, choose := range map[string]func(net.Conn) (func([]byte) (int, error), func(time.Time) error){
		"read": func(c net.Conn) (func([]byte) (int, error), func(time.Time) error) { return c.Read, c.SetReadDeadline },
		"write": func(c net.Conn) (func([]byte) (int, error), func(time.Time) error) {
			return c.Write, c.SetWriteDeadline
		},
		"both": func(c net.Conn) (func([]byte) (int, error), func(time.Time) error) { return c.Read, c.SetDeadline },
	} {
		t.Run(name, func(t *testing.T) {
			lazy(t, func(t *testing.T, conn, _ net.Conn, _ *counted) {
				op, set := choose(conn)
				in := func(d time.Duration) {
					t.Helper()
					if err := set(time.Now().Add(d)); err != nil {
						t.Fatal(err)
					}
				}
				in(10 * time.Second)
				endsAfter(t, 10*time.Second, op)
				endsAfter(t, 0, op)
				in(time.Minute) // later than what is armed, and that is over
				endsAfter(t, time.Minute, op)
				in(time.Minute)
				in(2 * time.Minute)
				in(90 * time.Second) // between the armed one and the one before
				endsAfter(t, 90*time.Second, op)
				in(time.Minute)
				in(time.Second) // earlier
				endsAfter(t, time.Second, op)

				in(time.Minute)
				time.AfterFunc(3*time.Second, func() { _ = set(time.Unix(1, 0)) })
				endsAfter(t, 3*time.Second, op) // ended by another goroutine

				in(time.Second)
				if err := set(time.Time{}); err != nil {
					t.Fatal(err)
				}
				time.AfterFunc(time.Hour, func() { _ = set(time.Unix(1, 0)) })
				endsAfter(t, time.Hour, op) // none held
			})
		})
	}
}

func TestLazyConn_LaterDeadlinesCostNoTimer(t *testing.T) {
	lazy(t, func(t *testing.T, conn, other net.Conn, below *counted) {
		go func() {
			for b := make([]byte, 1); ; {
				if _, err := other.Read(b); err != nil {
					return
				}
				_, _ = other.Write(b)
			}
		}()
		b := make([]byte, 1)
		for range 1000 { // as the server does, once a millisecond
			for _, err := range []error{
				conn.SetReadDeadline(time.Now().Add(idleTimeout)),
				conn.SetReadDeadline(time.Now().Add(readTimeout)),
				conn.SetWriteDeadline(time.Now().Add(writeMargin)),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			_, err := conn.Write(b)
			if err == nil {
				_, err = conn.Read(b)
			}
			if err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Millisecond)
		}
		if below.sets > 4 {
			t.Errorf("1,000 requests set %d deadlines", below.sets)
		}
	})
}

// A write that a stale timer ends half-way goes on where it was.
func TestLazyConn_WritesAllOfIt(t *testing.T) {
	lazy(t, func(t *testing.T, conn, other net.Conn, _ *counted) {
		read := make(chan string)
		go func() {
			var got []byte
			for b := make([]byte, 1); len(got) < 5; {
				if _, err := other.Read(b); err != nil {
					t.Error(err)
					break
				}
				got = append(got, b...)
				<-time.After(time.Second)
			}
			read <- string(got)
		}()
		for _, d := range []time.Duration{2500 * time.Millisecond, time.Minute} {
			if err := conn.SetWriteDeadline(time.Now().Add(d)); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := conn.Write([]byte("abcde")); n != 5 || err != nil {
			t.Errorf("%d %v", n, err)
		}
		if got := <-read; got != "abcde" {
			t.Errorf("%q", got)
		}
	})
}
