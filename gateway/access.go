package gateway

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/cors"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// rules are the settings of access, read.
type rules struct {
	rate    allowance // zero = no limit
	proxies proxies
	hosts   hosts
	origins origins
}

// rules reads the settings of access; the error names the variable. The file of keys is
// not read: a faulty one must not make -health of a process that runs fail.
func (c Config) rules() (r rules, err error) {
	if c.RateLimit != "" {
		if r.rate, err = parseAllowance(c.RateLimit); err != nil {
			return rules{}, fmt.Errorf("RATE_LIMIT: %q is %w", c.RateLimit, err)
		}
	}
	for _, text := range list(c.TrustedProxies) {
		p, err := parseNetwork(text)
		if err != nil {
			return rules{}, fmt.Errorf("TRUSTED_PROXIES: %q is neither an address nor a network such as 10.0.0.0/8", text)
		}
		r.proxies = append(r.proxies, p)
	}
	for _, text := range list(c.AllowedHosts) {
		h, ok := parseHost(text)
		if !ok {
			return rules{}, fmt.Errorf("ALLOWED_HOSTS: %q is not a host such as ruc.example.com or *.example.com, without scheme and port", text)
		}
		r.hosts = append(r.hosts, h)
	}
	for _, text := range list(c.CORSOrigins) {
		o, ok := parseOrigin(text)
		if !ok {
			return rules{}, fmt.Errorf("CORS_ORIGINS: %q is neither an origin such as https://app.example.com nor *", text)
		}
		r.origins = append(r.origins, o)
	}
	return r, nil
}

// list splits a setting at its commas.
func list(s string) (items []string) {
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

// access decides which requests are let in. The zero access lets in all.
type access struct {
	rules
	keys    *keyring // nil = no key is asked for
	buckets *buckets // nil = no limit
	now     func() time.Time
	metrics *metrics
}

func newAccess(cfg Config, now func() time.Time, m *metrics, log zerolog.Logger) (*access, error) {
	a := &access{now: now, metrics: m}
	var err error
	if a.rules, err = cfg.rules(); err != nil {
		return nil, fmt.Errorf("gateway.newAccess: %w", err)
	}
	if cfg.APIKeysFile != "" {
		if a.keys, err = openKeys(cfg.APIKeysFile, log); err != nil {
			return nil, fmt.Errorf("gateway.newAccess: %w", err)
		}
	}
	if a.rate.count > 0 {
		if a.buckets, err = newBuckets(a.rate); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (a *access) close() {
	if a.buckets != nil {
		a.buckets.close()
	}
}

const headerAPIKey = "X-Api-Key" //nolint:gosec // the name of a header

// enter lets a request for a lookup in and says who asks. Every request counts on the
// rate, one without a valid key on that of its address. The asker is good also beside an
// error. Errors: ruc.Unauthorized, ruc.RateLimited.
func (a *access) enter(c *fiber.Ctx) (who asker, err error) {
	if a.keys == nil && a.buckets == nil {
		return asker{}, nil
	}
	if a.keys != nil {
		if key, ok := a.keys.find(givenKey(c)); ok {
			who.key, who.quota = key.name, key.quota
		} else {
			err = &ruc.Error{Code: ruc.Unauthorized, Detail: "Falta la clave de acceso o no es válida. Envíela en la cabecera Authorization: Bearer o en X-API-Key."}
		}
	}
	if a.buckets != nil {
		whose := client{key: who.key}
		if who.key == "" {
			whose = clientAt(a.proxies.clientOf(c))
		}
		who.bucket, who.policy = a.buckets.of(whose), a.buckets.item
		if now := a.now(); !who.bucket.AllowN(now, 1) {
			a.metrics.refuse(refusedRate)
			return who, &ruc.Error{Code: ruc.RateLimited, RetryAfter: max(time.Second, until(who.bucket, 1, now)), Err: fmt.Errorf("key %q", who.key)}
		}
	}
	if err != nil {
		a.metrics.refuse(refusedKey)
	}
	return who, err
}

// givenKey returns the key in the request's headers; empty = none.
func givenKey(c *fiber.Ctx) []byte {
	if key := c.Request().Header.Peek(headerAPIKey); len(key) > 0 {
		return key
	}
	kind, key, _ := bytes.Cut(c.Request().Header.Peek(fiber.HeaderAuthorization), []byte(" "))
	if !bytes.EqualFold(kind, []byte(scheme)) {
		return nil
	}
	return key
}

// proxies are the networks whose word about a client's address is taken.
type proxies []netip.Prefix

func parseNetwork(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err == nil && p.Addr().Is4In6() {
			err = fmt.Errorf("gateway.parseNetwork: %q", s) // addresses are compared in their IPv4 form
		}
		return p.Masked(), err
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("gateway.parseNetwork: %q", s)
	}
	return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
}

func (p proxies) trust(a netip.Addr) bool {
	return slices.ContainsFunc(p, func(n netip.Prefix) bool { return n.Contains(a) })
}

// clientOf returns the address of the client: the connection's or, where that is a trusted
// proxy's, the one that the trusted proxies say.
func (p proxies) clientOf(c *fiber.Ctx) netip.Addr {
	tcp, ok := c.Context().RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	peer := plain(tcp.AddrPort().Addr())
	if !p.trust(peer) {
		return peer
	}
	return p.behind(peer, c.Request().Header.PeekAll(fiber.HeaderXForwardedFor))
}

// behind reads X-Forwarded-For from its end, where each proxy adds whom it heard, up to the
// first address that is no trusted proxy's. What stands before it anybody may have written.
// Something that is no address ends the reading too, with the last proxy's own.
func (p proxies) behind(peer netip.Addr, forwarded [][]byte) netip.Addr {
	at := peer
	for _, header := range slices.Backward(forwarded) {
		rest, more := string(header), true
		for more {
			i := strings.LastIndexByte(rest, ',')
			more = i >= 0
			hop, ok := parseHop(rest[i+1:])
			if !ok {
				return at
			}
			if at = hop; !p.trust(at) {
				return at
			}
			rest = rest[:max(i, 0)]
		}
	}
	return at
}

// parseHop reads an address of X-Forwarded-For, to which some proxies add the port.
func parseHop(s string) (netip.Addr, bool) {
	s = strings.TrimSpace(s)
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return plain(a), true
	}
	a, err := netip.ParseAddrPort(s)
	return plain(a.Addr()), err == nil
}

// plain gives an address the one form in which it is compared.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// hosts are the names under which the gateway may be asked, in lower case; *.example.com
// stands for all names below example.com.
type hosts []string

func parseHost(s string) (string, bool) {
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return a.String(), true
	}
	name := strings.TrimPrefix(s, "*.")
	u, err := url.Parse("http://" + name)
	return s, err == nil && u.Host == name && u.Port() == "" && name != "" && !strings.ContainsAny(name, "*:[] ") &&
		!strings.HasPrefix(name, ".")
}

// allow reports whether a Host header names one of them, with any port.
func (h hosts) allow(header string) bool {
	name := header
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, ']') {
		name = name[:i]
	}
	name = strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(name, "["), "]"), ".")
	return slices.ContainsFunc(h, func(allowed string) bool {
		if suffix, any := strings.CutPrefix(allowed, "*"); any {
			return len(name) > len(suffix) && strings.EqualFold(name[len(name)-len(suffix):], suffix)
		}
		return strings.EqualFold(name, allowed)
	})
}

// host refuses a request that was meant for another host: a page that had its own name
// point here (DNS rebinding) would be taken for ours by the browser. The header alone is
// looked at, which browsers fill in; a host in the request's target changes nothing.
func (a *access) host(c *fiber.Ctx) error {
	if !a.hosts.allow(c.Get(fiber.HeaderHost)) {
		a.metrics.refuse(refusedHost)
		return &ruc.Error{Code: ruc.Forbidden, Detail: "Este servidor no atiende el nombre de host de la solicitud. El administrador puede agregarlo en ALLOWED_HOSTS."}
	}
	return c.Next()
}

// origins are the sites whose pages may ask, in lower case.
type origins []string

const anyOrigin = "*"

func parseOrigin(s string) (string, bool) {
	if s == anyOrigin {
		return s, true
	}
	s = strings.ToLower(strings.TrimSuffix(s, "/"))
	u, err := url.Parse(s)
	return s, err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" &&
		s == u.Scheme+"://"+u.Host && !strings.ContainsAny(s, "* ")
}

// allow reports whether a page of the origin may ask; "" is none.
func (o origins) allow(origin string) bool {
	return origin != "" && slices.ContainsFunc(o, func(allowed string) bool {
		return allowed == anyOrigin || strings.EqualFold(allowed, origin)
	})
}

const (
	headerFetchSite      = "Sec-Fetch-Site"
	headerResourcePolicy = "Cross-Origin-Resource-Policy"
)

// foreign reports whether a page of another site asks, by what browsers say of every
// request (https://www.w3.org/TR/fetch-metadata/). A site in CORS_ORIGINS is none. Programs
// that are no browsers say nothing.
func (a *access) foreign(c *fiber.Ctx) bool {
	switch c.Get(headerFetchSite) {
	case "", "same-origin", "none": // none: a person typed the address
		return false
	default:
		return !a.origins.allow(c.Get(fiber.HeaderOrigin))
	}
}

// crossOrigin answers preflights and lets pages of the allowed origins read answers. The
// origin is echoed for * as well, so that what a browser keeps says for whom it is.
func (a *access) crossOrigin() fiber.Handler {
	admin := func(c *fiber.Ctx) bool { return c.Method() == fiber.MethodDelete }
	share := cors.New(cors.Config{
		Next:             admin,
		AllowOriginsFunc: a.origins.allow,
		AllowMethods:     "GET,HEAD,POST",
		AllowHeaders: strings.Join([]string{
			fiber.HeaderAuthorization, headerAPIKey, fiber.HeaderContentType, fiber.HeaderCacheControl,
			fiber.HeaderIfNoneMatch, headerLastEvent, wire.HeaderRequestID, wire.HeaderTraceparent,
		}, ","),
		ExposeHeaders: strings.Join([]string{
			fiber.HeaderETag, fiber.HeaderAge, headerCacheStatus, fiber.HeaderLastModified, fiber.HeaderRetryAfter,
			headerRateLimit, headerRateLimitPolicy, wire.HeaderRequestID,
		}, ","),
		MaxAge: int(time.Hour / time.Second),
	})
	return func(c *fiber.Ctx) error {
		if !admin(c) && a.origins.allow(c.Get(fiber.HeaderOrigin)) {
			c.Set(headerResourcePolicy, "cross-origin")
		}
		return share(c)
	}
}
