package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rucflow/rucflow/scraper/replica"
	"github.com/rucflow/rucflow/shared/certtest"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

// TestRights_EachIsUsed: the fleet's whole work needs every right that a user of
// deploy/nats/users.conf has. With any one less the server would refuse something, and
// newFleet's own check would fail.
func TestRights_EachIsUsed(t *testing.T) {
	f := newFleetOn(t, servers{nats: []string{"--trace"}}, "SUNAT_PACE=20ms", "SUNAT_PAUSE=500ms", "SUNAT_ATTEMPT_TIMEOUT=2s")
	f.environ = append(f.environ, "SUNAT_QUEUE=65")
	f.provision() // an update
	f.start(1, 1, 1)
	nc, admin := f.connect(), f.connectAs("admin")
	events := f.hears(nc)

	// A lookup over NATS and over HTTP, one that fails, one that is answered all the same.
	n := fresh(9500)
	if got := request(t, nc, wire.SubjectLookup, n); got != "" {
		t.Errorf("looked up: %s", got)
	}
	status, _, body := f.lookup(n)
	f.answer(n, status, body)
	f.fault(replica.Fault{Kind: replica.FaultError})
	if got := request(t, nc, wire.SubjectResolve, fresh(9501)); got != ruc.Unavailable {
		t.Errorf("SUNAT fails: %q", got)
	}
	f.eventually("the last known answer is served", readyWait, func() bool { // once it is too old to count as a visit
		f.invalidate(t, n)
		status, h, _ := f.lookup(n)
		return status == http.StatusOK && strings.HasSuffix(h.Get("Cache-Status"), "detail=stream")
	})
	f.clear()

	// SUNAT refuses, and answers again after a pause.
	f.fault(replica.Fault{Kind: replica.FaultWAF})
	if got := request(t, nc, wire.SubjectResolve, fresh(9502)); got != ruc.Blocked {
		t.Errorf("SUNAT refuses: %q", got)
	}
	f.clear()
	f.eventually("the pause is over", readyWait, func() bool { return request(t, nc, wire.SubjectResolve, fresh(9503)) == "" })

	// A job that another's event made needless, and an event that is none.
	job := nats.NewMsg(wire.VisitSubject(n))
	job.Header.Set(wire.HeaderWait, "1")
	store := f.connectAs("scraper")
	if err := store.PublishMsg(job); err != nil {
		t.Fatal(err)
	}
	if err := store.Publish(wire.ResolvedSubject(fresh(9504)), []byte("{}")); err != nil {
		t.Fatal(err)
	}
	// An answer that says something else than the one before, and what was said so far.
	if err := store.Publish(wire.ResolvedSubject(n), []byte(altered(body))); err != nil {
		t.Fatal(err)
	}
	f.eventually("a client hears "+wire.SubjectChanged, readyWait, func() bool { return events(wire.SubjectChanged) })
	if status, _, history := f.get("/v1/ruc/" + n.String() + "/historial"); status != http.StatusOK || strings.Count(history, `"desde":`) < 2 {
		t.Errorf("the history: %d %s", status, history)
	}
	operator(t, f, admin)
	f.audited()
	if said, status := f.prewarm(fresh(9505)); status != 0 || !strings.Contains(said, "1 fetched") {
		t.Errorf("prewarm: %d %s", status, said)
	}
	for _, subject := range []string{wire.SubjectResolved, wire.SubjectFailed, wire.SubjectProgress} {
		f.eventually("a client hears "+subject, readyWait, func() bool { return events(subject) })
	}
	f.eventually("the dropped job is announced", readyWait, func() bool { return f.nats.log.has("PUB " + wire.SubjectDropped + " ") })
	// A watch that ends, ends its consumer: the processes do so at their end.
	for _, p := range slices.Concat(f.gateways, f.scrapers, f.writers) {
		p.stop(syscall.SIGTERM)
	}
	if err := admin.Flush(); err != nil {
		t.Fatal(err)
	}
	f.everyRightIsUsed(t)
}

// altered is an encoded answer with another name, and so another huella.
func altered(body string) string {
	const name, huella = `"razonSocial":"`, `"huella":"`
	body = strings.Replace(body, name, name+"EX ", 1)
	i := strings.Index(body, huella) + len(huella)
	return body[:i] + strings.Repeat("0", ruc.HuellaLen) + body[i+ruc.HuellaLen:]
}

// hears subscribes to what a client may hear and tells whether there was something.
func (f *fleet) hears(nc *nats.Conn) func(subject string) bool {
	f.t.Helper()
	subs := map[string]*nats.Subscription{}
	for _, subject := range []string{wire.SubjectResolved, wire.SubjectFailed, wire.SubjectChanged, wire.SubjectProgress} {
		s, err := nc.SubscribeSync(subject)
		if err != nil {
			f.t.Fatal(err)
		}
		subs[subject] = s
	}
	return func(subject string) bool {
		pending, _, err := subs[subject].Pending()
		return err == nil && pending > 0
	}
}

// request asks for n and returns the code of a problem.
func request(t *testing.T, nc *nats.Conn, subject string, n ruc.Number) ruc.Code {
	t.Helper()
	m, err := nc.Request(subject, []byte(n.String()), readyWait)
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	if _, err = wire.ReadReply(n, m); err != nil {
		return ruc.CodeOf(err)
	}
	return ""
}

// invalidate makes everybody forget n, and what begins like it.
func (f *fleet) invalidate(t *testing.T, n ruc.Number) {
	t.Helper()
	for method, path := range map[string]string{http.MethodDelete: "/v1/ruc/" + n.String(), http.MethodPost: "/v1/cache/invalidar"} {
		req, err := http.NewRequest(method, "http://"+f.HTTP+path, strings.NewReader(`{"patron":"2055*"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		if status, _, body := f.do(req); status >= 300 {
			t.Errorf("%s %s: %d %s", method, path, status, body)
		}
	}
}

// operator does what the operator's user is for.
func operator(t *testing.T, f *fleet, nc *nats.Conn) {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ok := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err = nc.Request("$SRV.STATS."+wire.GatewayService, nil, readyWait)
	ok("asking the services", err)
	_, err = nc.Request("$SRV.PING."+wire.ScraperService, nil, readyWait)
	ok("asking the services", err)
	_, err = js.AccountInfo(t.Context())
	ok("the account", err)
	streams := js.ListStreams(t.Context())
	for s := range streams.Info() {
		stream, err := js.Stream(t.Context(), s.Config.Name)
		ok("a stream", err)
		consumers := stream.ListConsumers(t.Context())
		for range consumers.Info() {
		}
		ok("the consumers", consumers.Err())
		names := stream.ConsumerNames(t.Context())
		for range names.Name() {
		}
		ok("the consumers' names", names.Err())
	}
	ok("the streams", streams.Err())
	names := js.StreamNames(t.Context())
	for range names.Name() {
	}
	ok("the streams' names", names.Err())
	_, err = js.Consumer(t.Context(), wire.StreamVisits, wire.ConsumerSlots)
	ok("a consumer", err)

	dead, err := js.Stream(t.Context(), wire.StreamDead)
	ok("the dead letters", err)
	f.eventually("there is a dead letter", readyWait, func() bool {
		_, err := dead.GetLastMsgForSubject(t.Context(), wire.DeadSubject(wire.ConsumerCachewriter))
		return err == nil
	})
	for _, n := range []ruc.Number{fresh(9500), fresh(9504)} {
		ok("forgetting a number", wire.Forget(t.Context(), js, n))
	}
	ok("forgetting the dead letters", dead.Purge(t.Context()))
	turn, err := js.Stream(t.Context(), wire.StreamTurn)
	ok("the turn", err)
	_, err = turn.GetMsg(t.Context(), 1) // of a stream without direct gets
	ok("the turn's message", err)

	state, err := js.KeyValue(t.Context(), wire.BucketState)
	ok("the state", err)
	watch, err := state.Watch(t.Context(), wire.KeyPause)
	ok("watching the pause", err)
	_, err = state.Put(t.Context(), wire.KeyPause, wire.Pause{For: time.Minute, N: 1}.Encode())
	ok("pausing the fleet", err)
	f.eventually("the gateway shows the pause", readyWait, func() bool {
		var h struct {
			SUNAT string `json:"sunat"`
		}
		_, _, body := f.get("/health")
		return json.Unmarshal([]byte(body), &h) == nil && h.SUNAT == "paused"
	})
	ok("ending the pause", state.Delete(t.Context(), wire.KeyPause))
	ok("ending the watch", watch.Stop())
}

// traced are the lines in which the server's trace says what a user published or
// subscribed to.
var traced = regexp.MustCompile(`"\$G/user:(\w+)" - <<- \[(H?PUB|SUB) (\S+) (.*)\]$`)

// everyRightIsUsed compares the users' rights with what they did. A right is used if one
// subject needed it and no other.
func (f *fleet) everyRightIsUsed(t *testing.T) {
	t.Helper()
	for _, name := range []string{"setup", "gateway", "scraper", "cachewriter", "audit", "prewarm", "client", "admin"} {
		t.Setenv("nats_"+name, f.secret("nats_"+name))
	}
	t.Setenv("nats_store_dir", t.TempDir())
	opts, err := server.ProcessConfigFile(filepath.Join("..", "nats", "nats-server.conf"))
	if err != nil {
		t.Fatal(err)
	}
	done := map[string]map[string]bool{} // user → verb and subject
	for _, line := range f.nats.log.with("<<- [") {
		m := traced.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		user, verb, subject := m[1], "pub ", m[3]
		if m[2] == "SUB" {
			verb = "sub "
			if queue := strings.Fields(m[4]); len(queue) == 2 {
				subject += " " + queue[0]
			}
		}
		if done[user] == nil {
			done[user] = map[string]bool{}
		}
		done[user][verb+subject] = true
	}
	for _, u := range opts.Users {
		var rights []string
		for _, subject := range u.Permissions.Publish.Allow {
			rights = append(rights, "pub "+subject)
		}
		for _, subject := range u.Permissions.Subscribe.Allow {
			rights = append(rights, "sub "+subject)
		}
		used := map[string]bool{}
		for what := range done[u.Username] {
			var needed []string
			for _, right := range rights {
				if covers(right, what) {
					needed = append(needed, right)
				}
			}
			switch len(needed) {
			case 0:
				t.Errorf("%s did what it may not: %s", u.Username, what)
			case 1:
				used[needed[0]] = true
			}
		}
		for _, right := range rights {
			if !used[right] {
				t.Errorf("%s may and need not: %s", u.Username, right)
			}
		}
	}
}

// covers reports whether a right is enough for a subject.
func covers(right, what string) bool {
	rights, subject := strings.Split(right, "."), strings.Split(what, ".")
	for i, token := range rights {
		if token == ">" {
			return i < len(subject)
		}
		if i >= len(subject) || token != "*" && token != subject[i] {
			return false
		}
	}
	return len(rights) == len(subject)
}

// TestRights_AReplySubjectGivesNone: who may only ask cannot make a service publish for
// it, by naming as the reply's subject one on which the service may publish.
func TestRights_AReplySubjectGivesNone(t *testing.T) {
	f := startFleet(t, 1, 1, 1)
	f.mayRefuse = true
	known, victim := fresh(9600), fresh(9601)
	nc, admin := f.connect(), f.connectAs("admin")
	js, err := jetstream.New(admin)
	if err != nil {
		t.Fatal(err)
	}
	if got := request(t, nc, wire.SubjectLookup, known); got != "" {
		t.Fatal(got)
	}
	state := func() (last map[string]uint64) {
		last = map[string]uint64{}
		for _, name := range []string{wire.StreamEvents, wire.StreamVisits, "KV_" + wire.BucketState} {
			s, err := js.Stream(t.Context(), name)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			last[name] = s.CachedInfo().State.LastSeq
			if name == wire.StreamEvents { // a job may still be waiting for its acknowledgement
				last[name+"'s messages"] = s.CachedInfo().State.Msgs
			}
		}
		return last
	}
	before := state()
	for _, reply := range []string{
		wire.ResolvedSubject(victim), wire.FailedSubject(victim), wire.VisitSubject(victim), wire.SubjectDropped, "$KV.RUC_STATE.pause",
		"$JS.API.STREAM.PURGE.RUC_EVENTS", "$JS.API.STREAM.DELETE.RUC_EVENTS", "$JS.API.CONSUMER.DELETE.RUC_VISITS.slots", "$JS.API.CONSUMER.DELETE.KV_RUC_STATE.x",
	} {
		for _, subject := range []string{wire.SubjectLookup, wire.SubjectResolve} {
			for _, payload := range []string{"x", known.String()} {
				if err := nc.PublishRequest(subject, reply, []byte(payload)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	// A request is handled after those before it.
	for _, subject := range []string{wire.SubjectLookup, wire.SubjectResolve} {
		if m, err := nc.Request(subject, []byte("x"), readyWait); err != nil || m.Header.Get(wire.HeaderError) != string(ruc.Invalid) {
			t.Errorf("%s: %v", subject, err)
		}
	}
	for name, want := range before {
		if got := state()[name]; got != want {
			t.Errorf("%s has changed: %x is %x", name, want, got)
		}
	}
	if v := f.visits(victim); v != 0 {
		t.Errorf("%d visits", v)
	}
	if violations := f.nats.log.with("Violation"); len(violations) > 0 {
		t.Errorf("it went as far as the server: %s", violations)
	}
}

// TestRights_OneOperatorWithAToken: where the server knows a token and no users, the
// services make the streams themselves.
func TestRights_OneOperatorWithAToken(t *testing.T) {
	f := newFleet(t)
	f.nats.stop(syscall.SIGTERM)
	host, port, err := net.SplitHostPort(strings.TrimPrefix(f.NATS, "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "nats.conf")
	text := fmt.Sprintf("host: %s\nport: %s\nauthorization { token: %q }\njetstream { store_dir: %q }\n", host, port, token, t.TempDir())
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	launchCommand(t, "nats-server", []string{"nats-server", "-c", config})
	f.environ = append(f.environ, "NATS_PROVISION=true", "NATS_TOKEN="+token)
	for name, all := range map[string]*[]*process{"scraper": &f.scrapers, "cachewriter": &f.writers, "gateway": &f.gateways} {
		who := slices.DeleteFunc(f.as(name), func(v string) bool { return strings.HasPrefix(v, "NATS_") })
		*all = append(*all, launch(t, name, append(who, f.environ...)...))
	}
	f.whole()
	f.HTTP = f.gateways[0].addr("http")
	status, _, body := f.lookup(sunat)
	f.answer(sunat, status, body)
	f.eventually("the answer is in Redis", readyWait, func() bool {
		return f.reader().Exists(t.Context(), "sunat:ruc:"+sunat.String()).Val() == 1
	})
}

// TestRights_MutualTLS: every program reaches NATS and Redis where both take clients with a
// certificate only.
func TestRights_MutualTLS(t *testing.T) {
	authority := certtest.NewAuthority(t, "authority")
	cert, key := authority.Issue("127.0.0.1")
	clientCert, clientKey := authority.Issue()
	f := newFleetOn(t, servers{
		nats:  []string{"--tls", "--tlscert", cert, "--tlskey", key, "--tlsverify", "--tlscacert", authority.File},
		redis: []string{"--tls-port", "0", "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", authority.File},
	}, "NATS_CA="+authority.File, "NATS_CERT="+clientCert, "NATS_KEY="+clientKey,
		"REDIS_TLS=true", "REDIS_CA="+authority.File, "REDIS_CERT="+clientCert, "REDIS_KEY="+clientKey, "REDIS_TIMEOUT=5s", "L1_TTL=1ms")
	f.mayRefuse = true // which the test's own users, without a certificate, could not ask
	f.start(1, 1, 1)
	status, _, body := f.lookup(sunat)
	f.answer(sunat, status, body)
	f.eventually("the answer comes from Redis", readyWait, func() bool {
		status, h, again := f.lookup(sunat)
		return status == http.StatusOK && again == body && strings.HasSuffix(h.Get("Cache-Status"), "detail=redis")
	})
}
