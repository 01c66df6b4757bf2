package service

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
	"golang.org/x/time/rate"
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
			if cause := explainNATS(err).Error(); cause != away {
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
			e := log.Error().Str("error", personal.ReplaceAllString(err.Error(), "$1*******$2"))
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
		return nil, fmt.Errorf("service.Connect: %w", explainNATS(err))
	}
	return nc, nil
}

func explainNATS(err error) error {
	if errors.Is(err, nats.ErrSecureConnWanted) {
		return fmt.Errorf("the server does not speak TLS, which NATS_CA, NATS_CERT or a tls:// address demands: %w", err)
	}
	return ExplainTLS("NATS", err)
}
