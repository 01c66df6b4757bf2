package compose

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/store"
	"github.com/rucflow/rucflow/shared/store/storetest"
)

// That the rights suffice, and that none is more than is needed, is seen where the
// services run: deploy/e2e/rights_test.go.

// natsRights says of a subject who may publish or subscribe to it. Everybody else is
// refused.
var natsRights = []struct {
	subject string
	users   string
}{
	// What decides what is in the cache.
	{"pub ruc.resolved.20131312955", "scraper"},
	{"pub ruc.failed.20131312955", "scraper"},
	{"pub ruc.changed.20131312955", "cachewriter"},
	{"pub ruc.changed", ""},
	{"pub ruc.changed.a.b", ""},
	{"pub ruc.resolved", ""}, // the stream alone says it
	{"pub ruc.failed", ""},
	{"pub ruc.resolved.a.b", ""},
	{"pub ruc.invalidated", "gateway"},
	{"pub ruc.dead.cachewriter", "cachewriter"},
	{"pub ruc.dead.scraper", ""},

	// What makes visits.
	{"pub ruc.visit.20131312955", "scraper"},
	{"pub ruc.turn", "setup"},
	{"pub ruc.dropped", "scraper"},
	{"pub ruc.progress.20131312955", "scraper"},
	{"pub ruc.progress", ""},
	{"pub $KV.RUC_STATE.pause", "scraper admin"},
	{"pub $KV.RUC_STATE.other", ""},
	{"pub ruc.resolve", "gateway client"},
	{"pub ruc.lookup", "prewarm client"},

	// Streams and consumers.
	{"pub $JS.API.STREAM.CREATE.RUC_EVENTS", "setup"},
	{"pub $JS.API.STREAM.UPDATE.RUC_EVENTS", "setup"},
	{"pub $JS.API.STREAM.DELETE.RUC_EVENTS", ""},
	{"pub $JS.API.STREAM.PURGE.RUC_EVENTS", "admin"},
	{"pub $JS.API.STREAM.PURGE.RUC_DEAD", "admin"},
	{"pub $JS.API.STREAM.PURGE.RUC_VISITS", "admin"},
	{"pub $JS.API.STREAM.MSG.DELETE.RUC_DEAD", "admin"},
	{"pub $JS.API.STREAM.PURGE.KV_RUC_STATE", ""},
	{"pub $JS.API.STREAM.MSG.DELETE.RUC_EVENTS", ""},
	{"pub $JS.API.STREAM.MSG.GET.RUC_EVENTS", "admin"},
	{"pub $JS.API.STREAM.INFO.RUC_EVENTS", "setup admin"},
	{"pub $JS.API.STREAM.INFO.KV_RUC_STATE", "setup admin gateway scraper"},
	{"pub $JS.API.STREAM.INFO.RUC_VISITS", "setup admin gateway"},
	{"pub $JS.API.STREAM.NAMES", "admin"},
	{"pub $JS.API.STREAM.LIST", "admin"},
	{"pub $JS.API.STREAM.SNAPSHOT.RUC_EVENTS", ""},
	{"pub $JS.API.STREAM.RESTORE.RUC_EVENTS", ""},
	{"pub $JS.API.STREAM.TEMPLATE.CREATE.x", ""},
	{"pub $JS.API.STREAM.LEADER.STEPDOWN.RUC_EVENTS", ""},
	{"pub $JS.API.INFO", "admin"},
	{"pub $JS.API.ACCOUNT.PURGE.$G", ""},
	{"pub $JS.API.SERVER.REMOVE", ""},
	{"pub $JS.API.CONSUMER.CREATE.RUC_EVENTS.x", "setup"},
	{"pub $JS.API.CONSUMER.CREATE.RUC_EVENTS", ""},
	{"pub $JS.API.CONSUMER.CREATE.RUC_EVENTS.x.ruc.resolved.*", ""},
	{"pub $JS.API.CONSUMER.CREATE.RUC_VISITS.x.ruc.visit.*", ""},
	{"pub $JS.API.CONSUMER.CREATE.KV_RUC_STATE.x.$KV.RUC_STATE.pause", "gateway scraper admin"},
	{"pub $JS.API.CONSUMER.DURABLE.CREATE.RUC_EVENTS.x", ""},
	{"pub $JS.API.CONSUMER.DELETE.RUC_EVENTS.cachewriter", ""},
	{"pub $JS.API.CONSUMER.DELETE.RUC_VISITS.slots", ""},
	{"pub $JS.API.CONSUMER.DELETE.RUC_TURN.turn", ""},
	{"pub $JS.API.CONSUMER.DELETE.KV_RUC_STATE.x", "gateway scraper admin"},
	{"pub $JS.API.CONSUMER.PAUSE.RUC_EVENTS.cachewriter", ""},
	{"pub $JS.API.CONSUMER.INFO.RUC_EVENTS.cachewriter", "setup admin cachewriter"},
	{"pub $JS.API.CONSUMER.INFO.RUC_VISITS.slots", "setup admin scraper prewarm"},
	{"pub $JS.API.CONSUMER.LIST.RUC_EVENTS", "admin"},
	{"pub $JS.API.CONSUMER.MSG.NEXT.RUC_EVENTS.cachewriter", "cachewriter"},
	{"pub $JS.API.CONSUMER.MSG.NEXT.RUC_VISITS.slots", "scraper"},
	{"pub $JS.API.CONSUMER.MSG.NEXT.RUC_TURN.turn", "scraper"},
	{"pub $JS.ACK.RUC_EVENTS.cachewriter.1.1.1.1.0", "cachewriter"},
	{"pub $JS.ACK.RUC_VISITS.slots.1.1.1.1.0", "scraper"},
	{"pub $JS.ACK.RUC_TURN.turn.1.1.1.1.0", "scraper"},
	{"pub $JS.ACK.RUC_EVENTS.slots.1.1.1.1.0", ""},
	{"pub $JS.API.DIRECT.GET.RUC_EVENTS.ruc.resolved.20131312955", "gateway scraper admin"},
	{"pub $JS.API.DIRECT.GET.RUC_EVENTS.ruc.failed.20131312955", "scraper admin"},
	{"pub $JS.API.DIRECT.GET.RUC_EVENTS.ruc.changed.20131312955", "admin"},
	{"pub $JS.API.DIRECT.GET.RUC_EVENTS", "gateway cachewriter audit admin"},
	{"pub $JS.API.DIRECT.GET.RUC_DEAD", "admin"},

	// Discovery, the system, other people's subjects.
	{"pub $SRV.PING", "admin"},
	{"pub $SRV.STATS.ruc-gateway", "admin"},
	{"pub $SRV.PING.ruc-scraper", "gateway admin"},
	{"pub $SYS.REQ.SERVER.PING", ""},
	{"pub $SYS.REQ.SERVER.x.RELOAD", ""},
	{"pub other", ""},
	{"pub ruc", ""},

	// Replies: written to who asks, read by who asked.
	{"pub _INBOX.x", "gateway scraper"},
	{"pub _INBOX_gateway.x", "scraper"},
	{"pub _INBOX_admin.x", "gateway scraper"},
	{"pub _INBOX_audit.x", ""},
	{"pub _INBOX_prewarm.x", "gateway"},
	{"pub _INBOX_scraper.x", ""},
	{"pub _INBOX_cachewriter.x", ""},
	{"pub _INBOX_setup.x", ""},
	{"sub _INBOX.>", "client"},
	{"sub _INBOX_setup.>", "setup"},
	{"sub _INBOX_gateway.>", "gateway"},
	{"sub _INBOX_scraper.>", "scraper"},
	{"sub _INBOX_cachewriter.>", "cachewriter"},
	{"sub _INBOX_audit.>", "audit"},
	{"sub _INBOX_prewarm.>", "prewarm"},
	{"sub _INBOX_admin.>", "admin"},

	{"sub ruc.resolved", "gateway scraper audit client"},
	{"sub ruc.failed", "gateway scraper audit client"},
	{"sub ruc.changed", "gateway audit client"},
	{"sub ruc.resolved.*", ""},
	{"sub ruc.visit.*", ""},
	{"sub ruc.dropped", "scraper"},
	{"sub ruc.progress.*", "gateway client"},
	{"sub ruc.invalidated", "gateway"},
	{"sub ruc.dead.*", ""},
	{"sub ruc.turn", ""},
	{"sub ruc.*", ""},
	{"sub ruc.>", ""},
	{"sub >", ""},
	{"sub *.*", ""},
	{"sub ruc.lookup", ""}, // beside the gateways, it would hear every request
	{"sub ruc.resolve", ""},
	{"sub ruc.lookup gateway", "gateway"},
	{"sub ruc.lookup other", ""},
	{"sub ruc.resolve scraper", "scraper"},
	{"sub ruc.resolve gateway", ""},
	{"sub $SRV.PING", "gateway scraper"},
	{"sub $SRV.INFO.ruc-gateway.x", "gateway"},
	{"sub $SRV.INFO.ruc-scraper.x", "scraper"},
	{"sub $SRV.>", ""},
	{"sub $KV.RUC_STATE.pause", ""},
	{"sub $JS.>", ""},
	{"sub $JS.API.>", ""},
	{"sub $JS.ACK.>", ""},
	{"sub $JS.EVENT.ADVISORY.>", ""},
	{"sub $SYS.>", ""},
}

func TestNATS_EachUserMayDoItsWorkAndNothingElse(t *testing.T) {
	opts, err := natsOptions(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	opts.Host, opts.Port, opts.HTTPPort, opts.StoreDir = "127.0.0.1", server.RANDOM_PORT, 0, t.TempDir()
	opts.NoSigs, opts.NoLog = true, true
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server is not ready")
	}
	for _, u := range opts.Users {
		t.Run(u.Username, func(t *testing.T) {
			for _, right := range natsRights {
				err := natsTry(s, u, right.subject)
				if err != nil && !errors.Is(err, nats.ErrPermissionViolation) {
					t.Fatalf("%s: %v", right.subject, err)
				}
				if allowed := slices.Contains(strings.Fields(right.users), u.Username); allowed != (err == nil) {
					t.Errorf("%s: allowed is %v, want %v", right.subject, err == nil, allowed)
				}
			}
		})
	}
}

// natsTry publishes or subscribes once and returns what the server said to it.
func natsTry(s *server.Server, u *server.User, what string) error {
	nc, err := nats.Connect("", nats.InProcessServer(s), nats.UserInfo(u.Username, u.Password), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		return err
	}
	defer nc.Close()
	words := strings.Fields(what)
	switch {
	case words[0] == "pub":
		err = nc.Publish(words[1], nil)
	case len(words) == 3:
		_, err = nc.QueueSubscribeSync(words[1], words[2])
	default:
		_, err = nc.SubscribeSync(words[1])
	}
	if err != nil {
		return err
	}
	if err := nc.Flush(); err != nil {
		return err
	}
	return nc.LastError()
}

// startRedis starts the deployed Redis, with a user of the test's own that may do
// everything.
func startRedis(t *testing.T) (server *storetest.RedisServer, all *redis.Client) {
	t.Helper()
	t.Setenv("SECRETS_DIR", secretsOf(t, "redis", nil))
	server = storetest.StartRedis(t, "../redis/start.sh", "--user", "test", "on", ">test", "~*", "&*", "+@all")
	return server, redisAs(server, "test", "test")
}

func redisAs(server *storetest.RedisServer, user, password string) *redis.Client {
	return server.Client(func(o *redis.Options) { o.Username, o.Password = user, password })
}

// openAs opens the store as one of the users.
func openAs(t *testing.T, server *storetest.RedisServer, user string) *store.Redis {
	t.Helper()
	cfg := server.RedisConfig()
	cfg.Username, cfg.Password = user, "the.redis_"+user
	r, err := store.NewRedis(cfg, ruc.FuenteReplica, time.Now, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// redisRights says of a command who may give it.
var redisRights = []struct {
	command string
	users   string
}{
	{"GET sunat:ruc:20131312955", "gateway cachewriter reader"},
	{"GET sunat:fuente", "gateway cachewriter reader"},
	{"GET seq:{sunat:ruc:20131312955}", "cachewriter reader"},
	{"GET other", ""},
	{"SET sunat:ruc:20131312955 x", "cachewriter"},
	{"SET seq:{sunat:ruc:20131312955} x", "cachewriter"},
	{"SET sunat:fuente x NX", "cachewriter"},
	{"SET sunat:other x", ""},
	{"SET other x", ""},
	{"DEL sunat:ruc:20131312955", "gateway"},
	{"DEL seq:{sunat:ruc:20131312955}", ""},
	{"DEL sunat:fuente", ""},
	{"DEL other", ""},
	{"UNLINK sunat:ruc:20131312955", ""},
	{"EXPIRE sunat:ruc:20131312955 1", ""},
	{"RENAME sunat:ruc:20131312955 sunat:ruc:20100055237", ""},
	{"SCAN 0", "gateway reader"},
	{"TTL sunat:ruc:20131312955", "reader"},
	{"EXISTS sunat:ruc:20131312955", "reader"},
	{"PING", "reader"},
	{"EVAL return 0", "cachewriter"},
	{"EVALSHA 0000000000000000000000000000000000000000 0", "cachewriter"},
	{"EVAL_RO return 0", ""},
	{"SCRIPT FLUSH", ""},
	{"SCRIPT LOAD x", ""},
	{"FUNCTION LIST", ""},
	{"KEYS *", ""},
	{"DBSIZE", ""},
	{"RANDOMKEY", ""},
	{"FLUSHALL", ""},
	{"FLUSHDB", ""},
	{"CONFIG GET *", ""},
	{"CONFIG SET appendonly no", ""},
	{"ACL LIST", ""},
	{"ACL WHOAMI", ""},
	{"INFO", ""},
	{"MONITOR", ""},
	{"CLIENT LIST", ""},
	{"CLIENT KILL ID 1", ""},
	{"SAVE", ""},
	{"BGREWRITEAOF", ""},
	{"SHUTDOWN NOSAVE", ""},
	{"REPLICAOF 127.0.0.1 1", ""},
	{"MODULE LIST", ""},
	{"MIGRATE 127.0.0.1 1 x 0 1", ""},
	{"DUMP sunat:ruc:20131312955", ""},
	{"RESTORE sunat:ruc:20131312955 0 x", ""},
	{"SUBSCRIBE x", ""},
	{"PUBLISH x y", ""},
	{"MULTI", "cachewriter"},
	{"WATCH seq:{sunat:ruc:20131312955}", "cachewriter"},
	{"WATCH other", ""},
	{"UNWATCH", "cachewriter"},
	{"SELECT 1", ""},
	{"SWAPDB 0 1", ""},
	{"SLOWLOG GET", ""},
	{"LATENCY RESET", ""},
}

func TestRedis_EachUserMayDoItsWorkAndNothingElse(t *testing.T) {
	server, _ := startRedis(t)
	for _, user := range []string{"gateway", "cachewriter", "reader"} {
		t.Run(user, func(t *testing.T) {
			for _, right := range redisRights {
				var args []any
				for _, word := range strings.Fields(right.command) {
					args = append(args, word)
				}
				if strings.HasPrefix(right.command, "EVAL") && len(args) == 3 && args[1] == "return" {
					args = []any{args[0], "return 0", 0}
				}
				err := redisAs(server, user, "the.redis_"+user).Do(t.Context(), args...).Err()
				if allowed := slices.Contains(strings.Fields(right.users), user); allowed == redis.IsPermissionError(err) {
					t.Errorf("%s: allowed should be %v: %v", right.command, allowed, err)
				}
			}
		})
	}
	t.Run("a script has the rights of its user", func(t *testing.T) {
		for _, command := range []string{"FLUSHALL", "DEL", "KEYS"} {
			err := redisAs(server, "cachewriter", "the.redis_cachewriter").Eval(t.Context(), "return redis.call(ARGV[1], KEYS[1])", []string{"sunat:ruc:x"}, command).Err()
			if err == nil || !strings.Contains(err.Error(), "can't run this command") {
				t.Errorf("%s: %v", command, err)
			}
		}
	})
	t.Run("nobody else", func(t *testing.T) {
		for _, c := range []*redis.Client{redisAs(server, "", ""), redisAs(server, "", "x"), redisAs(server, "default", ""), redisAs(server, "gateway", "the.redis_reader")} {
			err := c.Get(t.Context(), "sunat:fuente").Err()
			if err == nil || !strings.HasPrefix(err.Error(), "NOAUTH") && !strings.HasPrefix(err.Error(), "WRONGPASS") {
				t.Errorf("%s: %v", c.Options().Username, err)
			}
		}
	})
}

// TestRedis_EachRightIsNeeded: with any one less, something of its user's work fails.
func TestRedis_EachRightIsNeeded(t *testing.T) {
	server, all := startRedis(t)
	number := ruc.MustParse("20131312955")
	seq := uint64(0)
	work := map[string]func(t *testing.T) error{
		"cachewriter": func(t *testing.T) error {
			seq++
			return openAs(t, server, "cachewriter").Put(t.Context(), []store.Entry{{RUC: number, Value: []byte("x"), Version: store.Version{Epoch: 1, Seq: seq}, TTL: time.Hour}})
		},
		"gateway": func(t *testing.T) error {
			r := openAs(t, server, "gateway")
			_, _, get := r.Get(t.Context(), number)
			_, pattern := r.DeletePattern(t.Context(), ruc.MustParsePattern("201*"), false)
			return errors.Join(get, r.Delete(t.Context(), number), pattern)
		},
	}
	for user, less := range map[string][]string{
		"cachewriter": {"-get", "-set", "-eval -watch", "-evalsha -watch", "resetkeys ~sunat:ruc:* ~sunat:fuente", "resetkeys ~seq:{sunat:ruc:* ~sunat:fuente", "resetkeys ~sunat:ruc:* ~seq:{sunat:ruc:*"},
		"gateway":     {"-get", "-del", "-scan", "resetkeys", "clearselectors"},
	} {
		for _, rule := range less {
			t.Run(user+" "+rule, func(t *testing.T) {
				// From nothing, but for the marker, which the gateway only reads.
				if err := errors.Join(all.FlushAll(t.Context()).Err(), all.ScriptFlush(t.Context()).Err(), all.Set(t.Context(), "sunat:fuente", ruc.FuenteReplica, 0).Err()); err != nil {
					t.Fatal(err)
				}
				before := strings.Fields(aclOf(t, all, user))
				if err := work[user](t); err != nil {
					t.Fatalf("with all its rights: %v", err)
				}
				if err := all.ScriptFlush(t.Context()).Err(); err != nil {
					t.Fatal(err)
				}
				setUser(t, all, user, strings.Fields(rule))
				if err := work[user](t); err == nil {
					t.Error("its work does not need that")
				}
				setUser(t, all, user, append([]string{"reset"}, before...))
			})
		}
	}
}

// Answers to many numbers are put in a transaction, for which the cachewriter has the rights;
// where it has them not they are put all the same.
func TestRedis_ManyArePutTogether(t *testing.T) {
	server, all := startRedis(t)
	var entries []store.Entry
	for i, n := range storetest.Numbers(100) {
		entries = append(entries, store.Entry{RUC: n, Value: []byte("x"), Version: store.Version{Epoch: 1, Seq: uint64(i + 1)}, TTL: time.Hour})
	}
	for _, tc := range []struct {
		rule, by, not string
	}{{"+watch", "cmdstat_exec:", "cmdstat_evalsha:"}, {"-watch", "cmdstat_evalsha:", "cmdstat_exec:"}} {
		setUser(t, all, "cachewriter", []string{tc.rule})
		if err := errors.Join(all.FlushAll(t.Context()).Err(), all.ConfigResetStat(t.Context()).Err()); err != nil {
			t.Fatal(err)
		}
		if err := openAs(t, server, "cachewriter").Put(t.Context(), entries); err != nil {
			t.Fatal(err)
		}
		size, err := all.DBSize(t.Context()).Result()
		if err != nil || size != 201 { // with the marker
			t.Errorf("%s: %d keys, %v", tc.rule, size, err)
		}
		stats, err := all.Info(t.Context(), "commandstats").Result()
		if err != nil || !strings.Contains(stats, tc.by) || strings.Contains(stats, tc.not) {
			t.Errorf("%s: %v\n%s", tc.rule, err, stats)
		}
	}
}

// TestRedis_ARestartLosesNothing: Redis reads what a script had written with the rights of
// a user that nobody can be.
func TestRedis_ARestartLosesNothing(t *testing.T) {
	t.Setenv("SECRETS_DIR", secretsOf(t, "redis", nil))
	server := storetest.StartRedis(t, "../redis/start.sh", "--appendonly", "yes", "--dir", t.TempDir())
	number := ruc.MustParse("20131312955")
	if err := openAs(t, server, "cachewriter").Put(t.Context(), []store.Entry{{RUC: number, Value: []byte("x"), Version: store.Version{Epoch: 1, Seq: 1}, TTL: time.Hour}}); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	server.Restart()
	if value, ok, err := openAs(t, server, "gateway").Get(t.Context(), number); err != nil || !ok || string(value) != "x" {
		t.Errorf("%q, %v, %v", value, ok, err)
	}
}

// aclOf is a user's line of ACL LIST, without its name.
func aclOf(t *testing.T, c *redis.Client, user string) string {
	t.Helper()
	lines, err := c.ACLList(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		if rules, ok := strings.CutPrefix(line, "user "+user+" "); ok {
			return rules
		}
	}
	t.Fatalf("no user %s in %v", user, lines)
	return ""
}

func setUser(t *testing.T, c *redis.Client, user string, rules []string) {
	t.Helper()
	if err := c.ACLSetUser(t.Context(), user, rules...).Err(); err != nil {
		t.Fatal(err)
	}
}

// TestImages_HoldWhatStarts: what start.sh and prometheus.yml read lies beside them in the
// image.
func TestImages_HoldWhatStarts(t *testing.T) {
	for target, dir := range map[string]string{"nats": "../nats", "redis": "../redis", "prometheus": "../prometheus"} {
		var copied []string
		for _, in := range dockerfile(t).stage(t, target).instructions {
			if in.command == "COPY" {
				for _, src := range in.args[:len(in.args)-1] {
					copied = append(copied, filepath.Base(src))
				}
			}
		}
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if !slices.Contains(copied, filepath.Base(f)) {
				t.Errorf("the image %s lacks %s", target, filepath.Base(f))
			}
		}
	}
}
