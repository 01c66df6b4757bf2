package admin_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/redis/go-redis/v9"

	"github.com/rucflow/rucflow/deploy/admin"
	"github.com/rucflow/rucflow/deploy/allinone"
	"github.com/rucflow/rucflow/scraper/browser"
	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/shared/certtest"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/store/storetest"
	"github.com/rucflow/rucflow/shared/wire"
)

// secret is every password and token of these tests but that of the bus; no output may
// tell either.
const secret = "s3cr3t-0f-test5"

// line is a finding as -o json prints it.
type line struct{ Check, Status, Finding, Mend string }

// examined runs the doctor with settings as the environment gives them, the last of a
// name, and returns what it found.
func examined(t *testing.T, d admin.Doctor, environ ...string) ([]line, error) {
	t.Helper()
	var cfg admin.DoctorConfig
	if err := service.Load(&cfg, append([]string{"CHROME_PATH=" + os.Getenv("CHROME_PATH")}, environ...)); err != nil {
		t.Fatal(err)
	}
	if err := cfg.Check(); err != nil {
		t.Fatal(err)
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	d.JSON = true
	var out strings.Builder
	err := d.Run(t.Context(), cfg, &out)
	for _, told := range []string{secret, token} {
		if strings.Contains(out.String(), told) || err != nil && strings.Contains(err.Error(), told) {
			t.Errorf("%s is told: %v\n%s", told, err, out.String())
		}
	}
	var lines []line
	for text := range strings.Lines(out.String()) {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		lines = append(lines, l)
	}
	return lines, err
}

func of(lines []line, status string) []line {
	return slices.DeleteFunc(slices.Clone(lines), func(l line) bool { return l.Status != status })
}

// setUp is a set-up in which nothing is broken, as its environment: a NATS server with the
// streams of the settings and a service of each kind, a Redis with a password, the replica.
type setUp struct {
	bus     *bus
	redis   *storetest.RedisServer
	site    *replica.Server
	environ []string
}

func newSetUp(t *testing.T) *setUp {
	t.Helper()
	s := &setUp{bus: newBus(t), redis: storetest.StartRedis(t, "--requirepass", secret, "--maxmemory-policy", "volatile-ttl"), site: replica.New(replica.Config{}, time.Now)}
	page := httptest.NewServer(s.site)
	t.Cleanup(func() { s.site.Close(); page.Close() })
	s.bus.serve(nil)
	if _, err := micro.AddService(s.bus.nc, micro.Config{Name: wire.ScraperService, Version: service.Version}); err != nil {
		t.Fatal(err)
	}
	s.environ = []string{
		"NATS_URL=" + s.bus.cfg.URL, "NATS_TOKEN=" + token, "SUNAT_URL=" + page.URL + replica.FormPath,
		"REDIS_URL=redis://" + s.redis.Addr(), "REDIS_PASSWORD=" + secret, "CHROME_FLAGS=--disable-dev-shm-usage",
	}
	var cfg admin.ProvisionConfig
	if err := service.Load(&cfg, s.environ); err != nil {
		t.Fatal(err)
	}
	if err := admin.Provision(t.Context(), cfg, io.Discard); err != nil {
		t.Fatal(err)
	}
	return s
}

// with is the set-up with other settings.
func (s *setUp) with(environ ...string) []string { return slices.Concat(s.environ, environ) }

func TestDoctor_FindsNothingInAHealthySetUp(t *testing.T) {
	t.Parallel()
	s := newSetUp(t)
	byAddress := strings.Replace(s.bus.cfg.URL, "://", "://"+token+"@", 1)
	lines, err := examined(t, admin.Doctor{}, s.with("NATS_TOKEN=", "NATS_URL="+byAddress)...)
	if bad := slices.DeleteFunc(slices.Clone(lines), func(l line) bool { return l.Status == "ok" && l.Mend == "" }); err != nil || len(bad) > 0 {
		t.Errorf("%v: %+v", err, bad)
	}
	var checks []string
	for _, l := range lines {
		checks = append(checks, l.Check)
	}
	want := []string{"nats", "jetstream", "streams", "services", "pause", "clock", "dead-letters", "redis", "source", "eviction", "chromium", "shm", "sunat"}
	if diff := cmp.Diff(want, checks); diff != "" {
		t.Errorf("another order (-want +got):\n%s", diff)
	}
	if stats := s.site.Stats(); stats.Posts > 0 || stats.Forms != 1 {
		t.Errorf("of the site more was asked than its form, once: %+v", stats)
	}
}

// TestDoctor_AsksForNoChromiumWhereNoneIsUsed: and for one where it is.
func TestDoctor_AsksForNoChromiumWhereNoneIsUsed(t *testing.T) {
	t.Parallel()
	for engine, want := range map[string]string{ruc.MotorHTTP: "skip", ruc.MotorFetch: "fail"} {
		lines, err := examined(t, admin.Doctor{Only: "chromium"}, "SUNAT_ENGINE="+engine, "CHROME_PATH=/nowhere/chromium")
		if (err != nil) != (want == "fail") || len(lines) != 2 || lines[0].Check != "chromium" || lines[0].Status != want {
			t.Errorf("%s: %v, %+v", engine, err, lines)
		}
	}
}

// natsServer runs a server on 127.0.0.1.
func natsServer(t *testing.T, opts *server.Options) string {
	t.Helper()
	opts.Host, opts.Port, opts.NoSigs, opts.NoLog, opts.StoreDir = "127.0.0.1", server.RANDOM_PORT, true, true, t.TempDir()
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server is not ready")
	}
	return strings.Replace(s.ClientURL(), "tls://", "nats://", 1)
}

// listener serves each connection by f until the test ends, and returns its address.
func listener(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f(c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// oldNATS greets and answers pings as a server of that version does.
func oldNATS(t *testing.T, version string) string {
	t.Helper()
	return "nats://" + listener(t, func(c net.Conn) {
		fmt.Fprintf(c, "INFO {\"server_id\":\"old\",\"version\":%q,\"proto\":1,\"headers\":true,\"jetstream\":true,\"max_payload\":1048576}\r\n", version)
		for s := bufio.NewScanner(c); s.Scan(); {
			if s.Text() == "PING" {
				fmt.Fprint(c, "PONG\r\n")
			}
		}
	})
}

// mute takes connections and says nothing until the other side leaves.
func mute(t *testing.T) string {
	t.Helper()
	return listener(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
}

// page serves one answer to everything.
func page(t *testing.T, status int, body string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// TestDoctor_NamesEachCauseOnce: of a set-up in which one thing is broken, one line fails. It
// names the cause and the mend, and the rest is looked at as far as it can be.
func TestDoctor_NamesEachCauseOnce(t *testing.T) {
	t.Parallel()
	s := newSetUp(t)
	ours := certtest.NewAuthority(t, "our authority")
	cert, key := ours.Issue("127.0.0.1")
	elsewhere, elsewhereKey := ours.Issue("nats.example.com")
	natsTLS := func(cert, key string) string {
		cfg, err := server.GenTLSConfig(&server.TLSConfigOpts{CertFile: cert, KeyFile: key})
		if err != nil {
			t.Fatal(err)
		}
		return natsServer(t, &server.Options{TLS: true, TLSConfig: cfg, JetStream: true, Authorization: token})
	}
	secureRedis := storetest.StartRedis(t, "--tls-port", "0", "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ours.File, "--tls-auth-clients", "no", "--requirepass", secret)
	users := natsServer(t, &server.Options{JetStream: true, Users: []*server.User{{Username: "admin", Password: "right"}}})
	silent := mute(t)
	script := filepath.Join(t.TempDir(), "chromium")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho 'FATAL: No usable sandbox! Update your kernel' >&2\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "fuente"), []byte(ruc.FuenteSunat+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	noRedis := []string{"REDIS_URL=", "REDIS_PASSWORD=", "USE_FILE_CACHE=true"}

	for name, tc := range map[string]struct {
		environ []string
		check   string
		want    []string // of the one line that fails
	}{
		"no NATS":                       {[]string{"NATS_URL=nats://" + secret + "@127.0.0.1:1"}, "nats", []string{"nobody listens there", "NATS_URL"}},
		"a NATS that says nothing":      {[]string{"NATS_URL=nats://" + silent}, "nats", []string{"no answer comes", "NATS_URL"}},
		"NATS without JetStream":        {[]string{"NATS_URL=" + natsServer(t, &server.Options{Authorization: token})}, "jetstream", []string{"without JetStream", "-js"}},
		"NATS too old":                  {[]string{"NATS_URL=" + oldNATS(t, "2.9.25")}, "nats", []string{"version 2.9.25", wire.MinServer + " or newer", "update it"}},
		"wrong NATS password":           {[]string{"NATS_URL=" + users, "NATS_TOKEN=", "NATS_USER=admin", "NATS_PASSWORD=" + secret}, "nats", []string{`the user "admin" or its password`, "NATS_PASSWORD_FILE"}},
		"wrong NATS token":              {[]string{"NATS_TOKEN=" + secret}, "nats", []string{"refuses the token", "NATS_TOKEN"}},
		"wrong NATS token in address":   {[]string{"NATS_TOKEN=", "NATS_URL=" + strings.Replace(s.bus.cfg.URL, "://", "://"+secret+"@", 1)}, "nats", []string{"refuses the token", "NATS_TOKEN"}},
		"no NATS token":                 {[]string{"NATS_TOKEN="}, "nats", []string{"wants to know who we are", "NATS_TOKEN"}},
		"NATS of an unknown authority":  {[]string{"NATS_URL=" + natsTLS(cert, key)}, "nats", []string{`"CN=our authority"`, "set NATS_CA"}},
		"NATS of another name":          {[]string{"NATS_URL=" + natsTLS(elsewhere, elsewhereKey), "NATS_CA=" + ours.File}, "nats", []string{"127.0.0.1", "a name of its certificate"}},
		"NATS without the TLS we want":  {[]string{"NATS_CA=" + ours.File}, "nats", []string{"does not speak TLS", "NATS_URL"}},
		"NATS with other data":          {[]string{"NATS_URL=" + ofSunat(t)}, "streams", []string{`source "sunat"`, "another NATS server"}},
		"Redis refused":                 {[]string{"REDIS_URL=redis://:" + secret + "@127.0.0.1:1"}, "redis", []string{"127.0.0.1:1", "nobody listens there", "REDIS_URL"}},
		"a Redis that says nothing":     {[]string{"REDIS_URL=redis://" + silent}, "redis", []string{"no answer comes", "REDIS_URL"}},
		"wrong Redis password":          {[]string{"REDIS_PASSWORD=" + secret + "x"}, "redis", []string{"refuses the password", "REDIS_PASSWORD_FILE"}},
		"no Redis password":             {[]string{"REDIS_PASSWORD="}, "redis", []string{"wants a password", "REDIS_PASSWORD_FILE"}},
		"Redis wants TLS":               {[]string{"REDIS_URL=redis://" + secureRedis.Addr()}, "redis", []string{"expects TLS", "REDIS_TLS=true"}},
		"Redis has no TLS":              {[]string{"REDIS_TLS=true"}, "redis", []string{"does not speak TLS", "REDIS_URL"}},
		"Redis of an unknown authority": {[]string{"REDIS_URL=rediss://" + secureRedis.Addr()}, "redis", []string{`"CN=our authority"`, "set REDIS_CA"}},
		"files of another source":       {append(noRedis, "CACHE_DIR="+foreign), "files", []string{`source "sunat"`, "choose another place"}},
		"no folder":                     {append(noRedis, "CACHE_DIR="+filepath.Join(foreign, "fuente", "x")), "files", []string{"not a directory", "CACHE_DIR"}},
		"no Chromium":                   {[]string{"CHROME_PATH=/nowhere/chromium"}, "chromium", []string{"cannot be run", "CHROME_PATH"}},
		"some other program":            {[]string{"CHROME_PATH=/bin/true"}, "chromium", []string{"/bin/true does not start", "CHROME_PATH"}},
		"no sandbox":                    {[]string{"CHROME_PATH=" + script}, "chromium", []string{"no usable sandbox", "CHROME_SANDBOX=off"}},
		"SUNAT unreachable":             {[]string{"SUNAT_URL=http://127.0.0.1:1/"}, "sunat", []string{"nobody listens there", "SUNAT_URL"}},
		"SUNAT refuses":                 {[]string{"SUNAT_URL=" + page(t, 403, "")}, "sunat", []string{"refuses this machine", "rest"}},
		"SUNAT fails":                   {[]string{"SUNAT_URL=" + page(t, 500, "")}, "sunat", []string{"status 500", "wait"}},
		"not the form":                  {[]string{"SUNAT_URL=" + page(t, 200, "<title>router</title><p>log in")}, "sunat", []string{"not SUNAT's search form", "SUNAT_URL"}},
		"the form has moved":            {[]string{"SUNAT_URL=" + page(t, 302, "")}, "sunat", []string{"status 302"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := admin.Doctor{Skip: "nats"} // which waits a second for services
			switch tc.check {
			case "nats", "jetstream", "streams":
				d.Skip = "chromium"
			case "redis", "files", "sunat":
				d.Skip = "nats,chromium"
			}
			lines, err := examined(t, d, s.with(tc.environ...)...)
			failed := of(lines, "fail")
			if err == nil || len(failed) != 1 || failed[0].Check != tc.check {
				t.Fatalf("%v: %+v", err, lines)
			}
			for _, want := range tc.want {
				if !strings.Contains(failed[0].Finding+": "+failed[0].Mend, want) {
					t.Errorf("%q is missing in %+v", want, failed[0])
				}
			}
			if failed[0].Mend == "" {
				t.Error("no mend")
			}
			if ok := of(lines, "ok"); len(ok) == 0 {
				t.Errorf("what is well was not looked at: %+v", lines)
			}
		})
	}
}

// ofSunat is a server whose streams hold SUNAT's own data.
func ofSunat(t *testing.T) string {
	t.Helper()
	url := natsServer(t, &server.Options{JetStream: true, Authorization: token})
	var cfg admin.ProvisionConfig
	if err := service.Load(&cfg, []string{"NATS_URL=" + url, "NATS_TOKEN=" + token}); err != nil {
		t.Fatal(err)
	}
	if err := admin.Provision(t.Context(), cfg, io.Discard); err != nil {
		t.Fatal(err)
	}
	return url
}

// TestDoctor_WarnsOfWhatIsNotAsItShouldBe: and fails by none of it.
func TestDoctor_WarnsOfWhatIsNotAsItShouldBe(t *testing.T) {
	t.Parallel()
	s := newSetUp(t)
	b := s.bus
	b.bury(b.store(&nats.Msg{Subject: wire.ResolvedSubject(person), Data: []byte("{}")}), wire.DeadNoAnswer)
	if _, err := b.js.Publish(t.Context(), "$KV."+wire.BucketState+"."+wire.KeyPause, wire.Pause{For: time.Hour, N: 3}.Encode()); err != nil {
		t.Fatal(err)
	}
	if err := s.redis.Client(withPassword).ConfigSet(t.Context(), "maxmemory-policy", "allkeys-lru").Err(); err != nil {
		t.Fatal(err)
	}
	d := admin.Doctor{Now: func() time.Time { return time.Now().Add(time.Minute) }}
	lines, err := examined(t, d, s.with("SUNAT_QUEUE=7", "CHROME_PATH="+wrapper(t))...)
	if err != nil {
		t.Error(err)
	}
	want := map[string]string{
		"streams": "RUC_VISITS: max_msgs is 64 there and 7 by the settings", "pause": "because SUNAT refused it 3 times", "clock": "differ by 1m0s",
		"dead-letters": "dead letters: 1", "eviction": "allkeys-lru", "chromium": "it is a script",
	}
	got := map[string]string{}
	for _, l := range of(lines, "warn") {
		if want := want[l.Check]; want == "" || !strings.Contains(l.Finding, want) || l.Mend == "" {
			t.Errorf("%+v, want %q", l, want)
		}
		got[l.Check] = l.Finding
	}
	if missing := slices.DeleteFunc(slices.Sorted(maps.Keys(want)), func(c string) bool { return got[c] != "" }); len(missing) > 0 {
		t.Errorf("no warning of %v: %+v", missing, lines)
	}
	if left := of(lines, "skip"); len(left) != 1 || left[0].Check != "sunat" || s.site.Stats().Forms != 0 {
		t.Errorf("a SUNAT that refuses is left alone: %+v", left)
	}
}

func withPassword(o *redis.Options) { o.Password = secret }

// wrapper is a script around Chromium, as Debian has it.
func wrapper(t *testing.T) string {
	t.Helper()
	path, err := browser.FindChrome(os.Getenv("CHROME_PATH"))
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "chromium")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexec "+path+` "$@"`+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return script
}

// TestDoctor_OfAnEmptyServer: what the services will make is missing without harm, unless
// they may not.
func TestDoctor_OfAnEmptyServer(t *testing.T) {
	t.Parallel()
	environ := []string{"NATS_URL=" + natsServer(t, &server.Options{JetStream: true, Authorization: token}), "NATS_TOKEN=" + token, "SUNAT_URL=http://127.0.0.1:1/"}
	for provision, status := range map[string]string{"true": "warn", "false": "fail"} {
		lines, err := examined(t, admin.Doctor{Only: "nats"}, append(environ, "NATS_PROVISION="+provision)...)
		var missing []string
		for _, l := range of(lines, status) {
			if what, is := strings.CutSuffix(l.Finding, " is missing"); is && strings.Contains(l.Mend, "rucflow provision") {
				missing = append(missing, what)
			}
		}
		want := []string{"RUC_EVENTS", "RUC_VISITS", "RUC_VISITS/slots", "RUC_TURN", "RUC_TURN/turn", "KV_RUC_STATE", "RUC_EVENTS/cachewriter", "RUC_DEAD"}
		if diff := cmp.Diff(want, missing); diff != "" || (err == nil) != (status == "warn") {
			t.Errorf("NATS_PROVISION=%s: %v (-want +got):\n%s", provision, err, diff)
		}
	}
}

// A fleet whose turn was lost would never visit again.
func TestDoctor_FindsALostTurn(t *testing.T) {
	t.Parallel()
	s := newSetUp(t)
	turn, err := s.bus.js.Stream(t.Context(), wire.StreamTurn)
	if err != nil {
		t.Fatal(err)
	}
	if err := turn.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	lines, err := examined(t, admin.Doctor{Only: "nats"}, s.with("NATS_PROVISION=false")...)
	if failed := of(lines, "fail"); err == nil || len(failed) != 1 || !strings.Contains(failed[0].Finding, "the message of RUC_TURN is missing") {
		t.Errorf("%v: %+v", err, failed)
	}
}

// TestDoctor_OfAnAllInOne: DATA_DIR suffices to find its token and its cache.
func TestDoctor_OfAnAllInOne(t *testing.T) {
	t.Parallel()
	s, dir := newSetUp(t), t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, allinone.TokenFile), []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	lines, err := examined(t, admin.Doctor{Skip: "chromium,sunat"}, s.with("NATS_TOKEN=", "REDIS_URL=", "REDIS_PASSWORD=", "DATA_DIR="+dir)...)
	var checks []string
	for _, l := range lines {
		checks = append(checks, l.Check)
		if l.Status != "ok" && l.Check != "disk" { // the machine's own
			t.Errorf("%+v", l)
		}
	}
	want := []string{"nats", "jetstream", "streams", "services", "pause", "clock", "dead-letters", "redis", "files", "disk", "files", "disk"}
	if diff := cmp.Diff(want, checks); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("the folder was changed: %v, %v", left, err)
	}
}

func TestDoctor_PrintsALineForEachFinding(t *testing.T) {
	t.Parallel()
	var cfg admin.DoctorConfig
	if err := service.Load(&cfg, []string{"SUNAT_URL=http://127.0.0.1:1/"}); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	err := admin.Doctor{Only: "sunat,redis", Now: time.Now}.Run(t.Context(), cfg, &out)
	want := `warn Redis is not configured: answers are kept in memory only, not shared and lost on restart: set REDIS_URL or REDIS_HOST, or USE_FILE_CACHE=true
FAIL http://127.0.0.1:1/: nobody listens there: start the server, or correct SUNAT_URL
`
	if diff := cmp.Diff(want, out.String()); diff != "" || err == nil || err.Error() != "1 failed" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for _, d := range []admin.Doctor{{Only: "dns"}, {Skip: "nats,"}} {
		if err := d.Run(t.Context(), cfg, io.Discard); !errors.Is(err, service.ErrUsage) {
			t.Errorf("%+v: %v", d, err)
		}
	}
}
