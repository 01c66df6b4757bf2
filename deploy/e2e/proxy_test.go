package e2e

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// proxy stands between a service and a server, and can be a bad line.
type proxy struct {
	target string
	ln     net.Listener
	wg     sync.WaitGroup

	mu    sync.Mutex
	state line
	conns map[net.Conn]struct{}
	moved chan struct{} // closed when the state changes
}

// line is how good the line is.
type line int

const (
	lineGood line = iota
	lineCut       // connections are closed, new ones at once
	lineMute      // connections stand, and nothing comes through
	lineSlow      // everything comes late
)

// slowness is how much later than it was sent everything comes on a slow line.
const slowness = 150 * time.Millisecond

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{target: target, ln: ln, conns: map[net.Conn]struct{}{}, moved: make(chan struct{})}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = ln.Close()
		p.set(lineCut)
		p.wg.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.ln.Addr().String() }

// set changes the line.
func (p *proxy) set(to line) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state = to
	close(p.moved)
	p.moved = make(chan struct{})
	if to == lineCut {
		for c := range p.conns {
			_ = c.Close()
		}
	}
}

func (p *proxy) now() (line, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state, p.moved
}

// hold notes a connection, or refuses it while the line is cut.
func (p *proxy) hold(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == lineCut {
		_ = c.Close()
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	_ = c.Close()
}

func (p *proxy) accept() {
	for {
		near, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(near) })
	}
}

func (p *proxy) serve(near net.Conn) {
	if !p.hold(near) {
		return
	}
	defer p.drop(near)
	far, err := net.Dial("tcp", p.target)
	if err != nil || !p.hold(far) {
		return
	}
	defer p.drop(far)
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		both.Go(func() {
			p.carry(way[0], way[1])
			_ = way[1].Close() // an end on one side is the end of both
		})
	}
	both.Wait()
}

// carry brings bytes from one side to the other as the line allows.
func (p *proxy) carry(from io.Reader, to io.Writer) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			for state, moved := p.now(); state == lineMute; state, moved = p.now() {
				<-moved
			}
			if state, moved := p.now(); state == lineSlow {
				select {
				case <-moved:
				case <-time.After(slowness):
				}
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
