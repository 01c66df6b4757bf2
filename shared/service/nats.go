package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"github.com/rucflow/rucflow/shared/mend"
)

// NATSConfig says where NATS is and who we are there.
type NATSConfig struct {
	URL       string `env:"NATS_URL" envDefault:"nats://127.0.0.1:4222" secret:"userinfo" help:"NATS servers, separated by commas"`
	Creds     string `env:"NATS_CREDS" help:"path of a credentials file"`
	NKey      string `env:"NATS_NKEY" help:"path of a file with an nkey seed"`
	User      string `env:"NATS_USER" help:"user name"`
	Password  string `env:"NATS_PASSWORD" secret:"true" help:"password"`
	Token     string `env:"NATS_TOKEN" secret:"true" help:"token"`
	CA        string `env:"NATS_CA" help:"path of the certificate authority"`
	Cert      string `env:"NATS_CERT" help:"path of the client certificate"`
	Key       string `env:"NATS_KEY" help:"path of the client certificate's key"`
	Provision bool   `env:"NATS_PROVISION" envDefault:"true" help:"create missing streams and consumers at start"`
}

// NATSReady reports whether nc is connected, for a probe.
func NATSReady(nc *nats.Conn) func() error {
	return func() error {
		if !nc.IsConnected() {
			return errors.New("NATS is not connected")
		}
		return nil
	}
}

// personal finds the numbers of natural persons, which hold a national id.
var personal = regexp.MustCompile(`\b(1[0-9])[0-9]{7}([0-9]{2})\b`)

// MaskNumbers returns text for logs: the numbers of natural persons in it, which need not
// be valid, as ruc.Number.Masked shows them.
func MaskNumbers(text string) string { return personal.ReplaceAllString(text, "$1*******$2") }

const (
	reconnectWait   = 100 * time.Millisecond
	reconnectJitter = 50 * time.Millisecond
	pingInterval    = 5 * time.Second // a dead peer is found within two of them
	maxPingsOut     = 2
)

// awayLog bounds the lines about a connection that cannot be had.
func awayLog() *rate.Sometimes { return &rate.Sometimes{First: 3, Interval: time.Minute} }

// Connect connects as role, which names the connection and its inbox (so that no
// role can read another's replies). It does not fail when no server answers yet:
// it goes on trying, as it does after every loss, for ever. extra options serve
// an embedded server.
func (c NATSConfig) Connect(role string, log zerolog.Logger, extra ...nats.Option) (*nats.Conn, error) {
	// Why there is no connection, and how often that is logged. The library calls one
	// handler at a time.
	away, saying := "", awayLog()
	here := func() { away, saying = "", awayLog() }
	opts := []nats.Option{
		nats.Name("rucflow-" + role),
		// Beside the default one, _INBOX, which is for everybody else: so that a user may
		// be given all of that and still reads no reply to a service.
		nats.CustomInboxPrefix("_INBOX_" + role),
		nats.SetCustomDialer(&soleDialer{Dialer: net.Dialer{Timeout: nats.DefaultTimeout}}),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectJitter, reconnectJitter),
		nats.RetryOnFailedConnect(true),
		// Credentials that are refused now may be right again once somebody has mended
		// the server; a gateway serves what it holds meanwhile.
		nats.IgnoreAuthErrorAbort(),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(maxPingsOut),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			if !nc.IsClosed() {
				log.Warn().Err(err).Msg("the NATS connection was lost")
			}
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
			// It is tried ten times a second, and the reason stays the same, or alternates
			// between several addresses.
			if cause := c.explain(err).Error(); cause != away {
				away = cause
				saying.Do(func() { log.Warn().Str("error", cause).Msg("NATS cannot be reached and is tried again") })
			}
		}),
		nats.ConnectHandler(func(*nats.Conn) { here() }),
		nats.ReconnectHandler(func(*nats.Conn) {
			here()
			log.Info().Msg("the NATS connection is back")
		}),
		nats.ErrorHandler(func(_ *nats.Conn, s *nats.Subscription, err error) {
			// A refused right is named with its subject, which may end with a number.
			e := log.Error().Str("error", MaskNumbers(err.Error()))
			if s != nil {
				e = e.Str("subject", s.Subject)
			}
			e.Msg("NATS reported an error")
		}),
	}
	if c.Creds != "" {
		opts = append(opts, nats.UserCredentials(c.Creds))
	}
	if c.NKey != "" {
		o, err := nats.NkeyOptionFromSeed(c.NKey)
		if err != nil {
			return nil, fmt.Errorf("service.Connect: NATS_NKEY: %w", err)
		}
		opts = append(opts, o)
	}
	if c.User != "" {
		opts = append(opts, nats.UserInfo(c.User, c.Password))
	}
	if c.Token != "" {
		opts = append(opts, nats.Token(c.Token))
	}
	if c.CA != "" || c.Cert != "" || c.Key != "" {
		secure, err := ClientTLS("NATS", c.CA, c.Cert, c.Key)
		if err != nil {
			return nil, fmt.Errorf("service.Connect: %w", err)
		}
		opts = append(opts, nats.Secure(secure))
	}
	// The library's own error would quote the address, and a password that makes it one
	// that cannot be read.
	if c.URL != "" && slices.ContainsFunc(strings.Split(c.URL, ","), func(address string) bool { return parseAddress(address) == nil }) {
		return nil, errors.New("service.Connect: NATS_URL: cannot be read; expected nats://host:port or tls://host:port, " +
			"or several of them separated by commas; special characters of a password percent-encoded")
	}
	nc, err := nats.Connect(c.URL, append(opts, extra...)...)
	if err != nil {
		return nil, fmt.Errorf("service.Connect: %w", c.explain(err))
	}
	return nc, nil
}

// Where says where NATS is, without credentials.
func (c NATSConfig) Where() string { return maskUserinfo(c.URL) }

// Who is the user that the settings name; "" where they name none.
func (c NATSConfig) Who() string {
	if c.User != "" {
		return c.User
	}
	for address := range strings.SplitSeq(c.URL, ",") {
		if u := parseAddress(address); u != nil && u.User != nil {
			if _, hasPassword := u.User.Password(); hasPassword { // a name alone is a token
				return u.User.Username()
			}
		}
	}
	return ""
}

// Identified reports whether the settings say who we are, by whatever means, a user or a
// token in the address among them.
func (c NATSConfig) Identified() bool {
	return c.Creds != "" || c.NKey != "" || c.User != "" || c.Token != "" || maskUserinfo(c.URL) != c.URL
}

// explain says what mends a connection that cannot be had.
func (c NATSConfig) explain(err error) error {
	switch {
	case errors.Is(err, nats.ErrSecureConnWanted):
		return NoTLS("NATS", err)
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return c.explainRefusal(err)
	case errors.Is(err, nats.ErrNoServers): // the library's word for a refused connection
		return ExplainNetwork("NATS_URL", fmt.Errorf("%w: %w", err, syscall.ECONNREFUSED))
	case errors.Is(err, nats.ErrTimeout):
		return ExplainNetwork("NATS_URL", fmt.Errorf("%w: %w", err, os.ErrDeadlineExceeded))
	}
	return ExplainNetwork("NATS_URL", ExplainTLS("NATS", err))
}

// explainRefusal tells who was not let in. The server does not say which half of it was wrong.
func (c NATSConfig) explainRefusal(err error) error {
	refused := &mend.Error{Err: err}
	switch {
	case c.Who() != "":
		refused.Finding = fmt.Sprintf("the server refuses the user %q or its password", c.Who())
		refused.Mend = "set NATS_USER, and NATS_PASSWORD (or NATS_PASSWORD_FILE), to those of a user of the server"
	case c.Creds != "" || c.NKey != "":
		refused.Finding = "the server refuses the key"
		refused.Mend = "name a file in NATS_CREDS, or NATS_NKEY, that the server knows"
	case c.Identified():
		refused.Finding = "the server refuses the token"
		refused.Mend = "set NATS_TOKEN (or NATS_TOKEN_FILE) to the server's; an all-in-one keeps its in the file nats-token of DATA_DIR"
	default:
		refused.Finding = "the server wants to know who we are"
		refused.Mend = "set NATS_USER and NATS_PASSWORD, or NATS_TOKEN, NATS_CREDS or NATS_NKEY; an all-in-one keeps its token in the file nats-token of DATA_DIR"
	}
	return refused
}

// soleDialer dials for one nats.Conn, which has one connection at a time, and closes the
// one before. A connection on which the server hangs up before its greeting the library
// (1.55) leaves to the garbage collector: ten sockets a second, while something in between
// accepts for a server that is away.
type soleDialer struct {
	net.Dialer

	mu   sync.Mutex
	last net.Conn
}

func (d *soleDialer) Dial(network, address string) (net.Conn, error) {
	c, err := d.DialContext(context.Background(), network, address)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last != nil {
		_ = d.last.Close() // mostly for the second time
	}
	d.last = c
	return c, err
}
