package service_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/certtest"
	"github.com/rucflow/rucflow/shared/mend"
	"github.com/rucflow/rucflow/shared/service"
)

// patience is how long a test waits for what should take milliseconds.
const patience = 15 * time.Second

// natsConfig is what a process makes of its environment.
func natsConfig(t *testing.T, environ ...string) service.NATSConfig {
	t.Helper()
	var cfg service.NATSConfig
	if err := service.Load(&cfg, environ); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// natsServer runs a server on 127.0.0.1.
func natsServer(t *testing.T, opts *server.Options) *server.Server {
	t.Helper()
	opts.Host, opts.Port, opts.NoSigs, opts.NoLog = "127.0.0.1", server.RANDOM_PORT, true, true
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server is not ready")
	}
	return s
}

func secured(t *testing.T, cert, key, ca string, verify bool) *server.Options {
	t.Helper()
	cfg, err := server.GenTLSConfig(&server.TLSConfigOpts{CertFile: cert, KeyFile: key, CaFile: ca, Verify: verify})
	if err != nil {
		t.Fatal(err)
	}
	return &server.Options{TLS: true, TLSVerify: verify, TLSConfig: cfg, TLSTimeout: patience.Seconds()}
}

// connectOnce connects as a command does, which says at once why it cannot.
func connectOnce(t *testing.T, environ ...string) error {
	t.Helper()
	nc, err := natsConfig(t, environ...).Connect("test", zerolog.Nop(), nats.RetryOnFailedConnect(false), nats.Timeout(patience))
	if err != nil {
		return err
	}
	defer nc.Close()
	return nc.FlushTimeout(patience)
}

func TestConnect_TLS(t *testing.T) {
	ours, others := certtest.NewAuthority(t, "our authority"), certtest.NewAuthority(t, "another authority")
	cert, key := ours.Issue("127.0.0.1")
	clientCert, clientKey := ours.Issue()
	otherCert, otherKey := others.Issue()
	elsewhere, elsewhereKey := ours.Issue("nats.example.com")
	ca, certificate := "NATS_CA="+ours.File, []string{"NATS_CERT=" + clientCert, "NATS_KEY=" + clientKey}

	plain := natsServer(t, &server.Options{})
	oneSided := natsServer(t, secured(t, cert, key, "", false))
	mutual := natsServer(t, secured(t, cert, key, ours.File, true))
	wrongName := natsServer(t, secured(t, elsewhere, elsewhereKey, "", false))
	for name, tc := range map[string]struct {
		server  *server.Server
		environ []string
		want    []string // of the error; nil = it connects
	}{
		"the authority is known":                 {oneSided, []string{ca}, nil},
		"a certificate that nobody asks for":     {oneSided, append(certificate, ca), nil},
		"the authority is not known":             {oneSided, nil, []string{`"CN=our authority"`, "NATS_CA", "x509"}},
		"another authority":                      {oneSided, []string{"NATS_CA=" + others.File}, []string{`"CN=our authority"`, "NATS_CA"}},
		"another host's certificate":             {wrongName, []string{ca}, []string{"x509", "127.0.0.1"}},
		"mutual":                                 {mutual, append(certificate, ca), nil},
		"mutual, no certificate":                 {mutual, []string{ca}, []string{"NATS_CERT", "NATS_KEY"}},
		"mutual, another authority's":            {mutual, []string{ca, "NATS_CERT=" + otherCert, "NATS_KEY=" + otherKey}, []string{"NATS_CERT", "NATS_KEY"}},
		"mutual, the server's authority unknown": {mutual, certificate, []string{`"CN=our authority"`, "NATS_CA"}},
		"no TLS where it is demanded":            {plain, []string{ca}, []string{"does not speak TLS"}},
	} {
		t.Run(name, func(t *testing.T) {
			url := strings.Replace(tc.server.ClientURL(), "tls://", "nats://", 1)
			err := connectOnce(t, append(tc.environ, "NATS_URL="+url)...)
			if (err == nil) != (tc.want == nil) {
				t.Fatalf("error %v, want one that says %q", err, tc.want)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want one that says %q", err, want)
				}
			}
		})
	}
	t.Run("tls:// where there is none", func(t *testing.T) {
		err := connectOnce(t, "NATS_URL="+strings.Replace(plain.ClientURL(), "nats://", "tls://", 1))
		if err == nil || !strings.Contains(err.Error(), "does not speak TLS") {
			t.Error(err)
		}
	})
}

// TestConnect_TakesARenewedCertificate: without a restart.
func TestConnect_TakesARenewedCertificate(t *testing.T) {
	ours, others := certtest.NewAuthority(t, "ours"), certtest.NewAuthority(t, "others")
	oldCert, oldKey := others.Issue()
	cert, key := ours.Issue()
	cfg, err := service.ClientTLS("NATS", ours.File, oldCert, oldKey)
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{cert: oldCert, key: oldKey} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := cfg.GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	want, err := tls.LoadX509KeyPair(cert, key)
	if err != nil || !bytes.Equal(got.Certificate[0], want.Certificate[0]) {
		t.Errorf("another certificate is used (%v)", err)
	}
}

func TestConnect_ErrorsNameTheSetting(t *testing.T) {
	ours := certtest.NewAuthority(t, "ours")
	cert, key := ours.Issue()
	_, otherKey := ours.Issue()
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		environ []string
		want    string
	}{
		"no such authority":           {[]string{"NATS_CA=" + empty + "x"}, "NATS_CA: "},
		"no certificate in it":        {[]string{"NATS_CA=" + empty}, "NATS_CA: "},
		"a certificate alone":         {[]string{"NATS_CERT=" + cert}, "NATS_KEY"},
		"a key alone":                 {[]string{"NATS_KEY=" + key}, "NATS_CERT"},
		"another certificate's key":   {[]string{"NATS_CERT=" + cert, "NATS_KEY=" + otherKey}, "NATS_KEY"},
		"no such key":                 {[]string{"NATS_CERT=" + cert, "NATS_KEY=" + empty + "x"}, "NATS_KEY"},
		"no such seed":                {[]string{"NATS_NKEY=" + empty + "x"}, "NATS_NKEY"},
		"blank in a password":         {[]string{"NATS_URL=nats://u:" + secret + " x@127.0.0.1:1"}, "NATS_URL"},
		"percent in a password":       {[]string{"NATS_URL=nats://u:%zz" + secret + "@127.0.0.1:1"}, "NATS_URL"},
		"slash in a password":         {[]string{"NATS_URL=nats://u:" + secret + "/x@127.0.0.1:1"}, "NATS_URL"},
		"slash after digits":          {[]string{"NATS_URL=nats://u:1/" + secret + "@127.0.0.1:1"}, "NATS_URL"},
		"comma in a password":         {[]string{"NATS_URL=nats://u:" + secret + ",x@127.0.0.1:1"}, "NATS_URL"},
		"hash in a token":             {[]string{"NATS_URL=nats://a#" + secret + "@127.0.0.1:1"}, "NATS_URL"},
		"the second of two addresses": {[]string{"NATS_URL=nats://127.0.0.1:1,u:" + secret + "/@127.0.0.1:1"}, "NATS_URL"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := natsConfig(t, tc.environ...)
			// With tries for ever, as a service has it: what cannot mend itself is said at once.
			nc, err := cfg.Connect("test", zerolog.Nop())
			if err == nil {
				nc.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), secret) {
				t.Errorf("error %v, want one that names %s", err, tc.want)
			}
			var printed strings.Builder
			if err := service.Print(&printed, &cfg); err != nil || strings.Contains(printed.String(), secret) {
				t.Errorf("printed (%v):\n%s", err, printed.String())
			}
		})
	}
}

const secret = "s3cr3t"

// logBuffer collects a log. It is safe for concurrent use.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// dialer counts the connections.
type dialer struct {
	net.Dialer
	n atomic.Int32
}

func (d *dialer) Dial(network, address string) (net.Conn, error) {
	d.n.Add(1)
	return d.Dialer.Dial(network, address)
}

// TestConnect_LogsWhyOnceAndNoSecret: a service goes on trying, and says why it must.
func TestConnect_LogsWhyOnceAndNoSecret(t *testing.T) {
	ours := certtest.NewAuthority(t, "our authority")
	cert, key := ours.Issue("127.0.0.1")
	tlsServer := natsServer(t, secured(t, cert, key, "", false))
	users := natsServer(t, &server.Options{Username: "u", Password: "right"})
	withUser := func(s *server.Server, user string) string {
		_, host, _ := strings.Cut(s.ClientURL(), "://")
		return "NATS_URL=nats://" + user + "@" + host
	}
	for name, tc := range map[string]struct {
		environ []string
		want    string
	}{
		"TLS":               {[]string{withUser(tlsServer, "u:"+secret)}, "CN=our authority"},
		"password":          {[]string{withUser(users, "u:"+secret)}, "Authorization Violation"},
		"password setting":  {[]string{"NATS_URL=" + users.ClientURL(), "NATS_USER=u", "NATS_PASSWORD=" + secret}, "Authorization Violation"},
		"token":             {[]string{withUser(users, secret)}, "Authorization Violation"},
		"token setting":     {[]string{"NATS_URL=" + users.ClientURL(), "NATS_TOKEN=" + secret}, "Authorization Violation"},
		"nobody is there":   {[]string{"NATS_URL=nats://u:" + secret + "@127.0.0.1:1"}, "connection refused"},
		"one of two is bad": {[]string{"NATS_URL=nats://u:" + secret + "@127.0.0.1:1,u:" + secret + "@127.0.0.1:2"}, "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			log := &logBuffer{}
			dials := &dialer{}
			nc, err := natsConfig(t, tc.environ...).Connect("test", zerolog.New(log), nats.SetCustomDialer(dials))
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, "it is said why", func() bool { return strings.Contains(log.String(), tc.want) })
			eventually(t, "it is tried again and again", func() bool { return dials.n.Load() >= 6 })
			nc.Close()
			if strings.Contains(log.String(), secret) {
				t.Errorf("the log tells the secret:\n%s", log)
			}
			if lines := strings.Count(log.String(), "\n"); lines > 3 {
				t.Errorf("said %d times:\n%s", lines, log)
			}
		})
	}
}

func TestExplainTLS_LeavesOtherErrorsAlone(t *testing.T) {
	if err := service.ExplainTLS("NATS", nil); err != nil {
		t.Error(err)
	}
	plain := errors.New("else")
	if err := service.ExplainTLS("NATS", plain); !errors.Is(err, plain) || err.Error() != "else" {
		t.Error(err)
	}
}

// mended is an error's finding and mend; "" where it has none.
func mended(err error) string {
	var known *mend.Error
	if !errors.As(err, &known) {
		return ""
	}
	return known.Finding + ": " + known.Mend
}

func TestExplainTLS_NamesTheCauseAndTheMend(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"an expired certificate":    {x509.CertificateInvalidError{Reason: x509.Expired}, "has expired, or is not valid yet: renew it"},
		"another host's":            {x509.HostnameError{Certificate: new(x509.Certificate), Host: "nats.example.com"}, `"nats.example.com"`},
		"an unknown authority":      {x509.UnknownAuthorityError{Cert: new(x509.Certificate)}, "set NATS_CA"},
		"none of the client":        {errors.New("remote error: tls: certificate required"), "set NATS_CERT and NATS_KEY"},
		"plain text":                {tls.RecordHeaderError{}, "does not speak TLS"},
		"a certificate for nothing": {x509.CertificateInvalidError{Reason: x509.IncompatibleUsage}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := service.ExplainTLS("NATS", fmt.Errorf("dialling: %w", tc.err))
			if got := mended(err); !errors.Is(err, tc.err) && !strings.Contains(err.Error(), tc.err.Error()) || !strings.Contains(got, tc.want) || (got == "") != (tc.want == "") {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}

func TestExplainNetwork_NamesTheCauseAndTheSetting(t *testing.T) {
	known := &mend.Error{Finding: "a cause", Mend: "a mend", Err: os.ErrDeadlineExceeded}
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"no such name":    {&net.DNSError{Name: "nats.example.com", IsNotFound: true}, `"nats.example.com" cannot be resolved: correct HERE`},
		"a slow resolver": {&net.DNSError{Name: "nats.example.com", IsTimeout: true}, "cannot be resolved"},
		"refused":         {&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, "start the server, or correct HERE"},
		"late":            {context.DeadlineExceeded, "no answer comes from there"},
		"no way":          {&net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}, "no answer comes from there"},
		"something else":  {io.ErrUnexpectedEOF, ""},
		"explained":       {known, "a cause: a mend"},
	} {
		t.Run(name, func(t *testing.T) {
			err := service.ExplainNetwork("HERE", tc.err)
			if got := mended(err); !errors.Is(err, tc.err) || !strings.Contains(got, tc.want) || (got == "") != (tc.want == "") {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}

func TestNATSConfig_TellsWhoAndWhereWithoutASecret(t *testing.T) {
	for name, tc := range map[string]struct {
		environ    []string
		who, where string
		identified bool
	}{
		"nothing":             {[]string{"NATS_URL=nats://a:1"}, "", "nats://a:1", false},
		"a user":              {[]string{"NATS_URL=nats://a:1", "NATS_USER=u", "NATS_PASSWORD=" + secret}, "u", "nats://a:1", true},
		"a user in addresses": {[]string{"NATS_URL=nats://a:1,nats://u:" + secret + "@b:2"}, "u", "nats://a:1,nats://********@b:2", true},
		"a token in one":      {[]string{"NATS_URL=nats://" + secret + "@a:1"}, "", "nats://********@a:1", true},
		"a token":             {[]string{"NATS_URL=a:1", "NATS_TOKEN=" + secret}, "", "a:1", true},
	} {
		t.Run(name, func(t *testing.T) {
			c := natsConfig(t, tc.environ...)
			if c.Who() != tc.who || c.Where() != tc.where || c.Identified() != tc.identified {
				t.Errorf("%q, %q, %v", c.Who(), c.Where(), c.Identified())
			}
		})
	}
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); <-time.After(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// What accepts and hangs up, as a proxy does whose server is away, must not be left with
// connections that nobody closes.
func TestNATSConfig_ConnectClosesWhatBringsNoGreeting(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // the collector closes them too
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	nc, err := natsConfig(t, "NATS_URL=nats://"+ln.Addr().String()).Connect("test", zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	var before net.Conn
	for range 4 {
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if before != nil {
			if err := before.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, before); err != nil {
				t.Fatalf("the connection before is still open: %v", err)
			}
		}
		before = c
	}
}
