package gateway

import (
	"bufio"
	"net"
	"time"
)

// patient writes a response that may last for ever: each send may take writeMargin. The
// deadline that the server set for the whole response is not for such.
type patient struct {
	conn net.Conn
	w    *bufio.Writer
}

// newPatient takes the deadline from the connection; not ok where that is closed.
func newPatient(conn net.Conn, w *bufio.Writer) (p patient, ok bool) {
	return patient{conn, w}, conn.SetWriteDeadline(time.Time{}) == nil
}

// send writes pieces and reports whether the client is still there.
func (p patient) send(pieces ...[]byte) bool {
	late := time.AfterFunc(writeMargin, func() { _ = p.conn.SetWriteDeadline(time.Unix(1, 0)) }) // ends a write at once
	defer late.Stop()
	for _, b := range pieces {
		if _, err := p.w.Write(b); err != nil {
			return false
		}
	}
	return p.w.Flush() == nil
}
