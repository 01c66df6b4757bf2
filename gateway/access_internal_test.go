package gateway

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

func TestConfig_RefusesMalformedAccess(t *testing.T) {
	for want, c := range map[string]Config{
		`RATE_LIMIT: "10" is not of the form 10/s`:          {RateLimit: "10"},
		`RATE_LIMIT: "0/s" is not`:                          {RateLimit: "0/s"},
		`RATE_LIMIT: "-1/s" is not`:                         {RateLimit: "-1/s"},
		`RATE_LIMIT: "10/w" is not`:                         {RateLimit: "10/w"},
		`RATE_LIMIT: "1.5/s" is not`:                        {RateLimit: "1.5/s"},
		`RATE_LIMIT: "10/s/s" is not`:                       {RateLimit: "10/s/s"},
		`RATE_LIMIT: "99999999999999999999/s" is not`:       {RateLimit: "99999999999999999999/s"},
		`TRUSTED_PROXIES: "proxy" is neither`:               {TrustedProxies: "10.0.0.1, proxy"},
		`TRUSTED_PROXIES: "10.0.0.0/33" is neither`:         {TrustedProxies: "10.0.0.0/33"},
		`TRUSTED_PROXIES: "fe80::1%eth0" is neither`:        {TrustedProxies: "fe80::1%eth0"},
		`TRUSTED_PROXIES: "::ffff:10.0.0.0/104" is neither`: {TrustedProxies: "::ffff:10.0.0.0/104"},
		`ALLOWED_HOSTS: "https://x.pe" is not a host`:       {AllowedHosts: "a.pe,https://x.pe"},
		`ALLOWED_HOSTS: "x.pe:8000" is not a host`:          {AllowedHosts: "x.pe:8000"},
		`ALLOWED_HOSTS: "x.pe/" is not a host`:              {AllowedHosts: "x.pe/"},
		`ALLOWED_HOSTS: "*" is not a host`:                  {AllowedHosts: "*"},
		`ALLOWED_HOSTS: "*." is not a host`:                 {AllowedHosts: "*."},
		`ALLOWED_HOSTS: "a.*.pe" is not a host`:             {AllowedHosts: "a.*.pe"},
		`ALLOWED_HOSTS: "a pe" is not a host`:               {AllowedHosts: "a pe"},
		`CORS_ORIGINS: "app.pe" is neither`:                 {CORSOrigins: "app.pe"},
		`CORS_ORIGINS: "null" is neither`:                   {CORSOrigins: "null"},
		`CORS_ORIGINS: "https://app.pe/x" is neither`:       {CORSOrigins: "https://app.pe/x"},
		`CORS_ORIGINS: "https://*.app.pe" is neither`:       {CORSOrigins: "https://*.app.pe"},
		`CORS_ORIGINS: "https://u@app.pe" is neither`:       {CORSOrigins: "https://u@app.pe"},
		`CORS_ORIGINS: "ftp://app.pe" is neither`:           {CORSOrigins: "ftp://app.pe"},
	} {
		if _, err := c.rules(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	all := Config{
		RateLimit: "600/m", TrustedProxies: " 10.0.0.0/8,::1 , 192.0.2.7,", AllowedHosts: "ruc.pe,*.ruc.pe,127.0.0.1,[::1],localhost,ruc.pe.",
		CORSOrigins: "https://app.pe, http://localhost:3000/,*",
	}
	if _, err := all.rules(); err != nil {
		t.Error(err)
	}
}

func TestHosts(t *testing.T) {
	r, err := Config{AllowedHosts: "Ruc.PE,*.example.com,192.0.2.1,[2001:db8::1]"}.rules()
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]bool{
		"ruc.pe": true, "RUC.pe": true, "ruc.pe:8000": true, "ruc.pe.": true, "ruc.pe.:80": true,
		"a.example.com": true, "a.b.example.com:1": true, "192.0.2.1": true, "192.0.2.1:8000": true,
		"[2001:db8::1]": true, "[2001:db8::1]:8000": true,
		"": false, ":8000": false, "evil.pe": false, "ruc.pe.evil.pe": false, "xruc.pe": false, "example.com": false,
		".example.com": false, "badexample.com": false, "a.example.com.evil.pe": false, "192.0.2.11": false, "[2001:db8::2]": false,
		"evil.pe:ruc.pe": false, "ruc.pe@evil.pe": false,
	} {
		if got := r.hosts.allow(host); got != want {
			t.Errorf("%q: %v", host, got)
		}
	}
}

func trusting(t *testing.T, networks string) proxies {
	t.Helper()
	r, err := Config{TrustedProxies: networks}.rules()
	if err != nil {
		t.Fatal(err)
	}
	return r.proxies
}

func TestProxies_Behind(t *testing.T) {
	p := trusting(t, "10.0.0.0/8,192.0.2.1,fd00::/8")
	for _, tc := range []struct {
		want      string
		forwarded []string // headers
	}{
		{"10.0.0.1", nil},
		{"10.0.0.1", []string{""}},
		{"203.0.113.9", []string{"203.0.113.9"}},
		{"203.0.113.9", []string{"1.2.3.4, 203.0.113.9"}},
		{"203.0.113.9", []string{"1.2.3.4,203.0.113.9,10.1.2.3,192.0.2.1"}},
		{"203.0.113.9", []string{"1.2.3.4", "5.6.7.8, 203.0.113.9", "10.1.2.3"}},
		{"203.0.113.9", []string{"203.0.113.9:4711"}},
		{"203.0.113.9", []string{"::ffff:203.0.113.9"}},
		{"2001:db8::5", []string{"10.9.9.9, 2001:db8::5"}},
		{"2001:db8::5", []string{"[2001:db8::5]:4711, fd00::1"}},
		{"2001:db8::5", []string{"[2001:db8::5]"}},
		{"2001:db8::5", []string{"2001:db8::5%eth0"}},
		{"10.1.2.3", []string{"1.2.3.4, nonsense, 10.1.2.3"}},
		{"10.0.0.1", []string{"1.2.3.4, unknown"}},
		{"10.0.0.1", []string{"1.2.3.4,"}},
		{"10.0.0.2", []string{"10.0.0.2, 10.0.0.3"}},
	} {
		var forwarded [][]byte
		for _, h := range tc.forwarded {
			forwarded = append(forwarded, []byte(h))
		}
		if got := p.behind(netip.MustParseAddr("10.0.0.1"), forwarded); got.String() != tc.want {
			t.Errorf("%q: %s, want %s", tc.forwarded, got, tc.want)
		}
	}
}

// Whatever a client writes into the header, the proxy's own entry at its end decides.
func FuzzProxies_NobodySpoofsAnAddress(f *testing.F) {
	for _, s := range []string{"", "1.2.3.4", "10.0.0.1", ",", "1.2.3.4, ", "\"", "for=1.2.3.4", strings.Repeat("10.0.0.1,", 100)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, spoofed string) {
		p := trusting(t, "10.0.0.0/8")
		truth := netip.AddrFrom4([4]byte{203, 0, 113, byte(rand.IntN(256))})
		for _, forwarded := range [][][]byte{
			{[]byte(spoofed + ", " + truth.String())},
			{[]byte(spoofed), []byte(truth.String())},
			{[]byte(spoofed), fmt.Appendf(nil, "%s, 10.3.2.1", truth)},
		} {
			if got := p.behind(netip.MustParseAddr("10.0.0.1"), forwarded); got != truth {
				t.Errorf("%q: %s, not %s", forwarded, got, truth)
			}
		}
	})
}

func TestClientAt(t *testing.T) {
	at := func(s string) client { return clientAt(plain(netip.MustParseAddr(s))) }
	if at("2001:db8:1:2::1") != at("2001:db8:1:2:ffff::9") || at("2001:db8:1:2::1") == at("2001:db8:1:3::1") {
		t.Error("IPv6 addresses are not told apart by their /64")
	}
	if at("203.0.113.1") == at("203.0.113.2") || at("203.0.113.1") != at("::ffff:203.0.113.1") {
		t.Error("IPv4 addresses are not told apart by the whole of them")
	}
	if clientAt(netip.Addr{}) == at("203.0.113.1") {
		t.Error("a connection without an address is taken for one with")
	}
}
