package store

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/rucflow/rucflow/shared/service"
)

// RedisConfig says where Redis is and who we are there: a URL, or a host with its
// port, or the addresses of a cluster or of sentinels. Its errors name the
// variable and never repeat a URL, whose password could be anywhere in it once it
// is mistyped.
type RedisConfig struct {
	URL            string        `env:"REDIS_URL" secret:"true" help:"redis://, rediss:// (TLS) or unix:// with user:password@host:port/db; not the https address of a REST service"`
	Host           string        `env:"REDIS_HOST" help:"host name or address, instead of REDIS_URL"`
	Port           int           `env:"REDIS_PORT" envDefault:"6379" help:"port at REDIS_HOST"`
	DB             int           `env:"REDIS_DB" envDefault:"0" help:"database number"`
	Username       string        `env:"REDIS_USERNAME" help:"ACL user name"`
	Password       string        `env:"REDIS_PASSWORD" secret:"true" help:"password"`
	TLS            bool          `env:"REDIS_TLS" envDefault:"false" help:"speak TLS"`
	CA             string        `env:"REDIS_CA" help:"path of the certificate authority, where the system's do not suffice"`
	Cert           string        `env:"REDIS_CERT" help:"path of the client certificate"`
	Key            string        `env:"REDIS_KEY" help:"path of the client certificate's key"`
	SentinelMaster string        `env:"REDIS_SENTINEL_MASTER" help:"name of the master that the sentinels at REDIS_ADDRS watch"`
	Cluster        bool          `env:"REDIS_CLUSTER" envDefault:"false" help:"Redis is a cluster"`
	Addrs          string        `env:"REDIS_ADDRS" help:"host:port of sentinels or cluster nodes, separated by commas"`
	Timeout        time.Duration `env:"REDIS_TIMEOUT" envDefault:"30ms" help:"how long one read or write may take; across a WAN about twice the healthy p99"`
}

// What a URL is expected to be, for errors that must not repeat the one given.
const urlForm = "expected redis://user:password@host:port/db (rediss:// for TLS, unix:///path?db=n), special characters of the password percent-encoded"

// maxRedisTimeout also catches a bare 30, which means seconds, written for
// milliseconds.
const maxRedisTimeout = 5 * time.Second

// Configured reports whether the settings choose Redis.
func (c RedisConfig) Configured() bool { return c.URL != "" || c.Host != "" || c.Addrs != "" }

// Check validates the settings without asking anything of the network. It reads the
// certificates. Nothing is wrong with settings that do not choose Redis.
func (c RedisConfig) Check() error {
	_, err := c.options()
	if err != nil && !errors.Is(err, errNotConfigured) {
		return err
	}
	return nil
}

var errNotConfigured = errors.New("none of REDIS_URL, REDIS_HOST and REDIS_ADDRS is set")

// options translates the settings for go-redis: where, who and how, without the
// times and pool sizes.
func (c RedisConfig) options() (*redis.UniversalOptions, error) {
	if err := c.contradiction(); err != nil {
		return nil, err
	}
	o := &redis.UniversalOptions{
		DB: c.DB, Username: c.Username, Password: c.Password,
		MasterName: c.SentinelMaster, IsClusterMode: c.Cluster,
	}
	secure := c.TLS
	var err error
	switch {
	case c.URL != "":
		secure, err = c.readURL(o)
	case c.Host != "":
		o.Addrs = []string{net.JoinHostPort(c.Host, strconv.Itoa(c.Port))}
	case c.Addrs != "":
		o.Addrs, err = splitAddrs(c.Addrs)
	}
	if err != nil {
		return nil, err
	}
	if c.Cluster && o.DB != 0 {
		return nil, errors.New("REDIS_DB: a cluster has database 0 only")
	}
	if !secure {
		for _, file := range []struct{ name, path string }{{"REDIS_CA", c.CA}, {"REDIS_CERT", c.Cert}, {"REDIS_KEY", c.Key}} {
			if file.path != "" {
				return nil, fmt.Errorf("%s: there is no TLS: set REDIS_TLS=true or write rediss:// in REDIS_URL", file.name)
			}
		}
		return o, nil
	}
	// It names no server: go-redis takes the name from each address, which in a cluster
	// differs from node to node.
	o.TLSConfig, err = service.ClientTLS("REDIS", c.CA, c.Cert, c.Key)
	return o, err
}

// contradiction finds settings that are wrong whatever REDIS_URL says, or that do
// not go together.
func (c RedisConfig) contradiction() error {
	switch {
	case !c.Configured() && c.SentinelMaster != "":
		return errors.New("REDIS_SENTINEL_MASTER: REDIS_ADDRS is missing")
	case !c.Configured() && c.Cluster:
		return errors.New("REDIS_CLUSTER: REDIS_ADDRS is missing")
	case !c.Configured():
		return errNotConfigured
	case c.Timeout <= 0 || c.Timeout > maxRedisTimeout:
		return fmt.Errorf("REDIS_TIMEOUT: %v is not between 0 and %v (a bare number means seconds)", c.Timeout, maxRedisTimeout)
	case c.DB < 0:
		return fmt.Errorf("REDIS_DB: %d is not a database number", c.DB)
	case c.URL != "" && c.Host != "":
		return errors.New("REDIS_HOST: REDIS_URL is set too: set one")
	case c.Addrs != "" && (c.URL != "" || c.Host != ""):
		return errors.New("REDIS_ADDRS: REDIS_URL or REDIS_HOST is set too: set one")
	case c.Host != "" && strings.ContainsAny(c.Host, "/@"):
		return errors.New("REDIS_HOST: a host name is expected; a URL belongs into REDIS_URL")
	case c.Host != "" && (c.Port < 1 || c.Port > 65535):
		return fmt.Errorf("REDIS_PORT: %d is not a port", c.Port)
	case c.SentinelMaster != "" && c.Cluster:
		return errors.New("REDIS_CLUSTER: REDIS_SENTINEL_MASTER is set too: set one")
	case c.SentinelMaster != "" && c.Addrs == "":
		return errors.New("REDIS_SENTINEL_MASTER: the sentinels are expected in REDIS_ADDRS")
	case c.Addrs != "" && c.SentinelMaster == "" && !c.Cluster:
		return errors.New("REDIS_ADDRS: set REDIS_SENTINEL_MASTER or REDIS_CLUSTER=true as well")
	}
	return nil
}

// readURL fills o from REDIS_URL. Its errors are constant sentences: those of
// net/url and go-redis quote what they could not read.
func (c RedisConfig) readURL(o *redis.UniversalOptions) (secure bool, err error) {
	scheme, _, _ := strings.Cut(c.URL, "://")
	switch strings.ToLower(scheme) {
	case "redis", "rediss", "unix":
	case "http", "https":
		return false, errors.New("REDIS_URL: this is the address of a REST service; take the Redis endpoint, at Upstash rediss://default:TOKEN@HOST:6379")
	default:
		return false, errors.New("REDIS_URL: unknown kind of address; " + urlForm)
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		return false, errors.New("REDIS_URL: cannot be read; " + urlForm)
	}
	for name := range u.Query() {
		if name != "db" {
			return false, errors.New("REDIS_URL: takes no parameter but db; the times are set by REDIS_TIMEOUT")
		}
	}
	parsed, err := redis.ParseURL(c.URL)
	if err != nil {
		return false, errors.New("REDIS_URL: cannot be read; " + urlForm)
	}
	secure = c.TLS || parsed.TLSConfig != nil
	switch {
	case parsed.Network == "unix" && (secure || c.Cluster):
		return false, errors.New("REDIS_URL: neither TLS nor a cluster goes through a unix socket")
	case parsed.DB != 0 && c.DB != 0 && parsed.DB != c.DB:
		return false, errors.New("REDIS_DB: REDIS_URL names another database")
	case parsed.Username != "" && c.Username != "" && parsed.Username != c.Username:
		return false, errors.New("REDIS_USERNAME: REDIS_URL names another user")
	case parsed.Password != "" && c.Password != "" && parsed.Password != c.Password:
		return false, errors.New("REDIS_PASSWORD: REDIS_URL has another password")
	}
	o.Addrs = []string{parsed.Addr}
	o.DB = max(o.DB, parsed.DB)
	if parsed.Username != "" {
		o.Username = parsed.Username
	}
	if parsed.Password != "" {
		o.Password = parsed.Password
	}
	return secure, nil
}

func splitAddrs(s string) ([]string, error) {
	var addrs []string
	for a := range strings.SplitSeq(s, ",") {
		a = strings.TrimSpace(a)
		if host, port, err := net.SplitHostPort(a); err != nil || host == "" || port == "" || strings.ContainsAny(a, "/@") {
			return nil, errors.New("REDIS_ADDRS: expected host:port,host:port")
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

// The times of a lookup, measured with 64 callers against a Redis that is frozen,
// killed, mute or unreachable: with go-redis' defaults a GET takes 1 to 30 s to
// fail, with these and a breaker 40 ms at most, then nothing.
const (
	budgetMargin = 10 * time.Millisecond // beside REDIS_TIMEOUT, for the pool: 40 ms in all
	readPool     = 20
	readIdle     = 4
	// tlsDialFactor leaves a handshake its round trips. A dial goes on behind the
	// caller, who leaves when the budget is over, so it costs lookups nothing.
	tlsDialFactor = 5
)

// The times of a writer, who has nobody waiting and tries again.
const (
	writeTimeout = 2 * time.Second
	writePool    = 4
)

// budget is how long a Get takes at most.
func (c RedisConfig) budget() time.Duration { return c.Timeout + budgetMargin }

// readOptions tunes o for lookups.
func (c RedisConfig) readOptions(o redis.UniversalOptions) *redis.UniversalOptions {
	o.DialTimeout = c.budget()
	if o.TLSConfig != nil {
		o.DialTimeout *= tlsDialFactor
	}
	o.ReadTimeout, o.WriteTimeout = c.Timeout, c.Timeout
	o.PoolTimeout = c.Timeout * 2 / 3 // 20 ms of 30
	o.PoolSize, o.MinIdleConns = readPool, readIdle
	return tuned(&o)
}

// writeOptions tunes o for pipelines.
func (c RedisConfig) writeOptions(o redis.UniversalOptions) *redis.UniversalOptions {
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout, o.PoolTimeout = writeTimeout, writeTimeout, writeTimeout, writeTimeout
	if c.Timeout*2 > writeTimeout {
		o.ReadTimeout, o.WriteTimeout = c.Timeout*2, c.Timeout*2
	}
	o.PoolSize = writePool
	return tuned(&o)
}

// tuned sets what both clients share.
func tuned(o *redis.UniversalOptions) *redis.UniversalOptions {
	o.ContextTimeoutEnabled = true // without it a context of 50 ms lasted 5 s against a frozen server
	o.DialerRetries = 1            // the default of 5, 100 ms apart, made every refused call last 400 ms
	o.MaxRetries = -1
	o.Protocol = 2           // nothing here needs RESP3, and every server and proxy speaks RESP2
	o.DisableIdentity = true // so that an ACL user needs no CLIENT command
	o.PipelinePoolSize = -1  // the writers' client does nothing but pipelines
	// Only servers of Redis Ltd send them; elsewhere every connection would try in
	// vain (go-redis issue 3536).
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return o
}
