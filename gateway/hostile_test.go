package gateway_test

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rucflow/rucflow/gateway"
)

var hostileSeed = flag.Uint64("hostile-seed", 1, "of what TestHostile sends")

const (
	hostileRequests = 10_000
	hostileWorkers  = 8
	slowClients     = 32 // of each kind
	// Heap in use after the attack, against before; and goroutines more than before, for
	// those that come and go by themselves.
	heapSlack      = 0.10
	goroutineSlack = 4
)

// mischief makes what a hostile client sends. One seed, one sequence.
type mischief struct {
	*rand.Rand
	key string // a valid one
}

func pick[T any](m mischief, from ...T) T { return from[m.IntN(len(from))] }

// noise is a text of up to n bytes: any of them, or only those that look like HTTP.
func (m mischief) noise(n int) string {
	const plain = "abcXYZ019/%?&=.;:,\"'<>{}[]()*-_ \t\\~"
	b := make([]byte, m.IntN(n+1))
	anything := m.IntN(3) == 0
	for i := range b {
		if b[i] = plain[m.IntN(len(plain))]; anything {
			b[i] = byte(m.Uint32())
		}
	}
	return string(b)
}

func (m mischief) path() string {
	switch m.IntN(6) {
	case 0:
		return "/" + m.noise(200)
	case 1:
		return pick(m, "/v1/ruc/", "/obtener-ruc/") + m.noise(40)
	case 2:
		return pick(m, "/v1/ruc/", "/obtener-ruc/", "//127.0.0.1/v1/ruc/") + fmt.Sprintf("%011d", m.Int64N(1e11))
	case 3:
		return pick(m, "", "/", "//", "/%00", "/..", "/v1/cache/invalidar", "/health?"+m.noise(50), "/%2e%2e/%2e%2e/etc/passwd", "http://evil.example/", "*", "/v1/ruc/"+strings.Repeat("9", m.IntN(20<<10)))
	default:
		return "/v1/ruc/" + pick(m, number, second, third).String() + pick(m, "", "/", "?"+m.noise(30), "%20", "%0d%0aX:%20y", "#x")
	}
}

func (m mischief) header() string {
	switch m.IntN(8) {
	case 0:
		return m.noise(30) + ":" + m.noise(100)
	case 1:
		return pick(m, "X-Forwarded-For", "Forwarded", "X-Real-Ip") + ": " + pick(m, m.noise(60), fmt.Sprintf("198.51.100.%d", m.IntN(100)), strings.Repeat("127.0.0.1,", m.IntN(1000)))
	case 2:
		return pick(m, "Authorization: Bearer ", "X-API-Key: ", "Authorization: ") + pick(m, m.key, m.noise(80), "rucflow_"+m.noise(43))
	case 3:
		return "Cache-Control: " + pick(m, "no-cache", "max-age="+m.noise(20), "max-stale", "only-if-cached", m.noise(60), strings.Repeat(",", m.IntN(2000)))
	case 4:
		return pick(m, "Sec-Fetch-Site: cross-site", "Origin: https://app.example.com", "Origin: "+m.noise(60), "Access-Control-Request-Method: "+m.noise(10))
	case 5:
		return pick(m, "If-None-Match: ", "X-Request-Id: ", "Traceparent: ", "Range: ", "Expect: ", "Connection: ", "Upgrade: ", "Accept-Encoding: ", "Cookie: ") + pick(m, m.noise(200), "100-continue", "close", "*", "bytes=0-1")
	case 6:
		return pick(m, "Content-Length: ", "Transfer-Encoding: ", "Content-Encoding: ", "Content-Type: ") + pick(m, m.noise(20), "-1", "99999999999999999999", "chunked", "gzip", "application/json", "multipart/form-data; boundary=x")
	default:
		return "X: " + strings.Repeat("x", m.IntN(20<<10))
	}
}

// request is bytes that are a request, or nearly so.
func (m mischief) request() string {
	if m.IntN(20) == 0 {
		return m.noise(4000)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s\r\n", pick(m, "GET", "GET", "GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "TRACE", "CONNECT", m.noise(10)), m.path(), pick(m, "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/9.9", m.noise(10)))
	fmt.Fprintf(&b, "Host: %s\r\n", pick(m, "127.0.0.1", "127.0.0.1", "evil.example", "", m.noise(40)))
	for range m.IntN(8) {
		b.WriteString(m.header() + pick(m, "\r\n", "\r\n", "\r\n", "\n", "\r"))
	}
	body := m.noise(200)
	if m.IntN(10) == 0 {
		body = strings.Repeat(body, 1+m.IntN(1000)) // up to three times what is taken
	}
	switch m.IntN(6) {
	case 0:
		fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	case 1:
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body)+m.IntN(1000)-500, body) // more or less than comes
	case 2:
		fmt.Fprintf(&b, "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n%s", len(body)+m.IntN(3)-1, body, pick(m, "0\r\n\r\n", "0\r\nX: y\r\n\r\n", "zz\r\n", ""))
	default:
		b.WriteString("\r\n")
	}
	return b.String()
}

// send makes a connection, sends everything, and reads what comes until the server ends
// it. Some leave before.
func (m mischief) send(addr string, requests string) ([]byte, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	tcp := conn.(*net.TCPConn)
	leaves := m.IntN(10) == 0
	if leaves {
		_ = tcp.SetLinger(0) // with a reset, in the middle of it
		_, _ = io.WriteString(conn, requests[:m.IntN(len(requests)+1)])
		return nil, nil
	}
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		_, _ = io.WriteString(conn, requests) // the server may have closed before
		_ = tcp.CloseWrite()
	}()
	b, _ := io.ReadAll(conn) // a reset is an end too
	_ = conn.Close()
	<-wrote
	return b, nil
}

// slow sends a byte now and then until stop: of headers that do not end, or of a body.
func slow(addr, begin, more string, stop <-chan struct{}) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		_, err = io.WriteString(conn, begin)
		for err == nil {
			select {
			case <-stop:
				_ = conn.Close()
				return
			case <-tick.C:
				_, err = io.WriteString(conn, more)
			}
		}
		_ = conn.Close() // the server was tired of it; once more
	}
}

// usage returns the heap in use after a collection, and the goroutines.
func usage() (heap uint64, goroutines int) {
	runtime.GC() // the first one moves what pools hold aside, the second one drops it
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc, runtime.NumGoroutine()
}

func TestHostile_ClientsHarmNobodyElse(t *testing.T) {
	t.Logf("-hostile-seed=%d", *hostileSeed)
	file, key := keys(t, "normal", "-", "hostile", "1000/s")
	reg := prometheus.NewRegistry()
	r := start(t, func(c *gateway.Config, d *gateway.Deps) {
		c.APIKeysFile, c.AdminToken, c.RateLimit = file, adminToken, "1000000/s"
		c.TrustedProxies, c.AllowedHosts, c.CORSOrigins = "127.0.0.1", "127.0.0.1", "https://app.example.com"
		d.Registry = reg
	})
	r.scraper(r.resolves)
	addr := strings.TrimPrefix(r.url, "http://")
	normal := func() bool {
		got := r.get(path, "X-API-Key", key["normal"])
		if got.StatusCode != http.StatusOK || !strings.Contains(got.body, `"ruc":"`+number.String()+`"`) {
			t.Errorf("the normal client got %d %s", got.StatusCode, got.body)
			return false
		}
		return true
	}
	attack := func(seed uint64, count int) (answered int64) {
		var wg, others sync.WaitGroup
		stop := make(chan struct{})
		for range slowClients {
			others.Go(func() { slow(addr, "GET "+path+" HTTP/1.1\r\nHost: 127.0.0.1\r\nX", "x", stop) })
			others.Go(func() {
				slow(addr, "POST /v1/cache/invalidar HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 60000\r\n\r\n", "{", stop)
			})
			others.Go(func() {
				slow(addr, "POST /v1/ruc/lote HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\n{\r\n", stop)
			})
			others.Go(func() { slow(addr, "", "\r\n", stop) })
		}
		others.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for normal() {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
			}
		})
		var sent, answers atomic.Int64
		for worker := range hostileWorkers {
			wg.Go(func() {
				m := mischief{rand.New(rand.NewPCG(seed, uint64(worker))), key["hostile"]}
				for sent.Load() < int64(count) {
					var all strings.Builder
					n := 1 + m.IntN(4) // in a row, without waiting for answers
					for range n {
						all.WriteString(m.request())
					}
					sent.Add(int64(n))
					got, err := m.send(addr, all.String())
					if err != nil {
						t.Errorf("cannot connect: %v", err)
						return
					}
					answers.Add(int64(bytes.Count(got, []byte("HTTP/1.1 "))))
					if len(got) > 0 && !bytes.HasPrefix(got, []byte("HTTP/1.1 ")) || bytes.Contains(got, []byte("HTTP/1.1 500")) {
						t.Errorf("seed %d, worker %d: %.300q\nwas answered %.600q", seed, worker, all.String(), got)
					}
				}
			})
		}
		wg.Wait()
		close(stop)
		others.Wait()
		return answers.Load()
	}

	normal()
	r.web.CloseIdleConnections()
	_, goroutinesBefore := usage()
	calm := func() uint64 {
		t.Helper()
		r.web.CloseIdleConnections()
		eventually(t, "goroutines end", func() bool { return runtime.NumGoroutine() <= goroutinesBefore+goroutineSlack })
		heap, _ := usage()
		return heap
	}
	attack(^*hostileSeed, hostileRequests/20) // fills what is kept for ever, such as the buckets of addresses
	before := calm()
	began := time.Now()
	answers := attack(*hostileSeed, hostileRequests)
	took := time.Since(began)
	limit := uint64(float64(before) * (1 + heapSlack))
	var after uint64
	eventually(t, "the heap is back", func() bool {
		after = calm()
		return after <= limit
	})
	if !normal() {
		t.Error("afterwards")
	}
	_, goroutinesAfter := usage()
	t.Logf("%d requests, %d answers in %v; heap %d KiB, then %d; goroutines %d, then %d", hostileRequests, answers, took, before>>10, after>>10, goroutinesBefore, goroutinesAfter)
	if answers < hostileRequests/4 {
		t.Errorf("only %d of %d requests were answered: the attack does not get through", answers, hostileRequests)
	}
}
