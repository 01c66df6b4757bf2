package compose

import (
	"cmp"
	"errors"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
	"go.yaml.in/yaml/v4"

	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/store/storetest"
	"github.com/rucflow/rucflow/shared/wire"
)

// secretsOf makes a folder with the secrets that compose.yaml gives a container, and no
// others. Each is its own name, with the line's end that a shell leaves, but those that
// are given.
func secretsOf(t *testing.T, container string, given map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for _, ref := range everything(t).Services[container].Secrets {
		if err := os.WriteFile(filepath.Join(dir, ref.Source), []byte(cmp.Or(given[ref.Source], "the."+ref.Source)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A secret that is empty would mean that there is none; the others would end the line of
// the configuration that they stand in, or the password in a URL.
var unusable = []string{" ", "two words", "a\nuser b on nopass +@all ~*", `a"b`, "a/b", "a@b", "$a", "a#b"}

// startFake runs a server's start.sh with a server that only tells how it was started:
// its arguments in the first line, and after it what it finds by tell, a shell command.
func startFake(t *testing.T, script, name, secrets, tell string) (args, found string, err error) {
	t.Helper()
	dir := t.TempDir()
	fake := "#!/bin/sh\nprintf '%s\\n' \"$*\"\n" + tell + "\n"
	if err := os.WriteFile(filepath.Join(dir, name), []byte(fake), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", script, "--further", "option")
	cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "SECRETS_DIR=" + secrets}
	out, err := cmd.Output()
	args, found, _ = strings.Cut(string(out), "\n")
	return args, found, err
}

// natsOptions are the deployed configuration's, as the server that start.sh starts reads
// it with these passwords.
func natsOptions(t *testing.T, given map[string]string) (*server.Options, error) {
	t.Helper()
	args, env, err := startFake(t, "../nats/start.sh", "nats-server", secretsOf(t, "nats", given), "env")
	if err != nil {
		return nil, err
	}
	if args != "--config ../nats/nats-server.conf --further option" {
		t.Errorf("started with %s", args)
	}
	for line := range strings.Lines(env) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), "="); strings.HasPrefix(name, "nats_") {
			t.Setenv(name, value)
		}
	}
	return server.ProcessConfigFile("../nats/nats-server.conf")
}

func TestNATS_StartsWithItsPasswordsOrNotAtAll(t *testing.T) {
	for _, ref := range everything(t).Services["nats"].Secrets {
		for _, password := range unusable {
			if _, err := natsOptions(t, map[string]string{ref.Source: password}); err == nil {
				t.Errorf("%s: started with %q", ref.Source, password)
			}
		}
	}
	// Some of these would be numbers to the server's reader if they stood alone.
	for _, password := range []string{"123456", "12e5", "10k", "0123456789abcdef0123456789abcdef0123456789abcdef", "true", "a.b_c~d-e"} {
		t.Run(password, func(t *testing.T) {
			opts, err := natsOptions(t, map[string]string{"nats_gateway": password})
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, u := range opts.Users {
				want := "the.nats_" + u.Username
				if u.Username == "gateway" {
					want = password
				}
				if u.Password != want || u.Permissions == nil {
					t.Errorf("%s has the password %q, want %q, and the rights %v", u.Username, u.Password, want, u.Permissions)
				}
				names = append(names, u.Username)
			}
			if want := []string{"setup", "gateway", "scraper", "cachewriter", "audit", "prewarm", "client", "admin"}; !slices.Equal(names, want) || opts.Authorization != "" {
				t.Errorf("users %v, want %v; token %q", names, want, opts.Authorization)
			}
		})
	}
}

func TestNATS_ConfigurationServesTheFleet(t *testing.T) {
	opts, err := natsOptions(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := everything(t)
	for _, name := range ours {
		u, err := url.Parse(*p.Services[name].Environment["NATS_URL"])
		if err != nil || u.Host != net.JoinHostPort("nats", strconv.Itoa(opts.Port)) {
			t.Errorf("%s goes to %v, the server is nats:%d", name, u, opts.Port)
		}
	}
	health := healthTest(p.Services["nats"])
	if want := "http://" + net.JoinHostPort(opts.HTTPHost, strconv.Itoa(opts.HTTPPort)) + "/healthz"; health[len(health)-1] != want {
		t.Errorf("the health check asks %s, want %s", health[len(health)-1], want)
	}
	if ip := net.ParseIP(opts.HTTPHost); ip == nil || !ip.IsLoopback() {
		t.Errorf("monitoring is open to %s", opts.HTTPHost)
	}
	if v := p.Services["nats"].Volumes[0].Target; opts.StoreDir != v || !opts.JetStream {
		t.Errorf("JetStream %v in %s, the volume is %s", opts.JetStream, opts.StoreDir, v)
	}
	if opts.SyncInterval != 10*time.Second {
		t.Errorf("synced every %v", opts.SyncInterval)
	}

	// The same configuration, here and on this machine's loopback only.
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
	for _, wrong := range []nats.Option{nats.Name("nobody"), nats.Token("the.nats_setup"), nats.UserInfo("setup", ""), nats.UserInfo("setup", "the.nats_client")} {
		if nc, err := nats.Connect(s.ClientURL(), wrong); err == nil {
			nc.Close()
			t.Errorf("connected as user %q", nc.Opts.User)
		}
	}
	cfg := service.NATSConfig{URL: s.ClientURL(), User: "setup", Password: "the.nats_setup"}
	nc, err := cfg.Connect("setup", zerolog.Nop(), nats.RetryOnFailedConnect(false))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	// What is provisioned fits into its limits.
	provisioner := wire.Provisioner{JS: js, Warn: func(what, field, want, found string) {
		t.Errorf("%s: %s is %s, want %s", what, field, found, want)
	}}
	if err := provisioner.Events(t.Context(), 1080*time.Hour); err != nil {
		t.Error(err)
	}
	if err := provisioner.Visits(t.Context(), 64, 1, 1100*time.Millisecond); err != nil {
		t.Error(err)
	}
	if err := provisioner.State(t.Context()); err != nil {
		t.Error(err)
	}
	if err := provisioner.Cachewriter(t.Context()); err != nil {
		t.Error(err)
	}
	if err := provisioner.Dead(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestRedis_StartsWithItsPasswordsOrNotAtAll(t *testing.T) {
	start := func(given map[string]string) (args, found string, err error) {
		return startFake(t, "../redis/start.sh", "redis-server", secretsOf(t, "redis", given), "cat; echo; env")
	}
	for _, ref := range everything(t).Services["redis"].Secrets {
		for _, password := range unusable {
			if args, _, err := start(map[string]string{ref.Source: password}); err == nil {
				t.Errorf("%s %q: started with %s", ref.Source, password, args)
			}
		}
	}
	args, found, err := start(nil)
	if err != nil {
		t.Fatal(err)
	}
	if args != "../redis/redis.conf --further option -" {
		t.Errorf("started with %s", args)
	}
	config, env, _ := strings.Cut(found, "\n\n")
	for _, ref := range everything(t).Services["redis"].Secrets {
		if !strings.Contains(config, "user "+strings.TrimPrefix(ref.Source, "redis_")+" on >the."+ref.Source+" ") || strings.Contains(env, "the.") {
			t.Errorf("on standard input:\n%s\nin the environment:\n%s", config, env)
		}
	}
}

func TestRedis_Configuration(t *testing.T) {
	s := everything(t).Services["redis"]
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	args := slices.Clone(s.Command)
	args[slices.Index(args, "--dir")+1] = dir
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Fatal("redis-server is not on the PATH: apt-get install redis-server")
	}
	// No user of it may ask for its configuration, so the test brings one.
	args = append(args, "--bind", "127.0.0.1", "--port", "0", "--unixsocket", socket, "--user", "test", "on", ">test", "+config")
	cmd := exec.Command("sh", append([]string{"../redis/start.sh"}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "SECRETS_DIR=" + secretsOf(t, "redis", nil)}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		if err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()); err != nil {
			t.Error(err)
		}
	})
	defer stop()

	plain := redis.NewClient(&redis.Options{Network: "unix", Addr: socket, Protocol: 2, DisableIdentity: true})
	defer plain.Close()
	storetest.Eventually(t, 10*time.Second, "Redis asks for a password", func() bool {
		err := plain.Ping(t.Context()).Err()
		return err != nil && strings.HasPrefix(err.Error(), "NOAUTH")
	})
	client := redis.NewClient(&redis.Options{Network: "unix", Addr: socket, Username: "test", Password: "test", Protocol: 2, DisableIdentity: true})
	defer client.Close()
	for name, want := range map[string]string{
		"maxmemory-policy": "volatile-ttl", "appendonly": "yes", "appendfsync": "always", "save": "", "maxmemory": strconv.Itoa(512 << 20), "protected-mode": "yes",
	} {
		if got, err := client.ConfigGet(t.Context(), name).Result(); err != nil || got[name] != want {
			t.Errorf("%s is %q, want %q (%v)", name, got[name], want, err)
		}
	}
	if s.MemLimit < 2*512<<20 {
		t.Errorf("%d bytes for maxmemory 512mb and a rewrite", s.MemLimit)
	}
	if !strings.Contains(readFile(t, "../redis/redis.conf"), "\nport 6379\n") {
		t.Error("it does not listen where the services look")
	}
	// The health check, by the redis-cli that finds the password itself.
	real, err := exec.LookPath("redis-cli")
	if err != nil {
		t.Fatal("redis-cli is not on the PATH: apt-get install redis-tools")
	}
	check := func() error {
		test := healthTest(s)
		if test[0] != "CMD-SHELL" {
			t.Fatalf("health check %v", test)
		}
		line := strings.Replace(test[1], "redis-cli", "../redis/redis-cli -s "+socket, 1)
		health := exec.Command("sh", "-c", line)
		health.Env = append(slices.Clone(cmd.Env), "REDIS_CLI="+real)
		return health.Run()
	}
	if err := check(); err != nil {
		t.Errorf("a healthy Redis: %v", err)
	}
	stop()
	if check() == nil {
		t.Error("a Redis that is gone is healthy")
	}
}

// TestPrometheus_ScrapesEveryService: by its name, where OPS_ADDR has it listen.
func TestPrometheus_ScrapesEveryService(t *testing.T) {
	var config struct {
		Global        map[string]any `yaml:"global"`
		RuleFiles     []string       `yaml:"rule_files"`
		ScrapeConfigs []struct {
			JobName string `yaml:"job_name"`
			DNS     []struct {
				Names []string `yaml:"names"`
				Type  string   `yaml:"type"`
				Port  int      `yaml:"port"`
			} `yaml:"dns_sd_configs"`
			Static []struct {
				Targets []string `yaml:"targets"`
			} `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	if err := yaml.Load([]byte(readFile(t, "../prometheus/prometheus.yml")), &config, yaml.WithKnownFields()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(config.RuleFiles, []string{"rules.yml"}) {
		t.Errorf("rule files %v", config.RuleFiles)
	}
	scraped := map[string]string{}
	for _, c := range config.ScrapeConfigs {
		for _, d := range c.DNS {
			if len(d.Names) != 1 || d.Names[0] != c.JobName || d.Type != "A" {
				t.Errorf("job %s asks %v for %s", c.JobName, d.Names, d.Type)
			}
			scraped[d.Names[0]] = net.JoinHostPort("0.0.0.0", strconv.Itoa(d.Port))
		}
	}
	p := everything(t)
	for _, name := range fleet {
		s := p.Services[name]
		if addr := *s.Environment["OPS_ADDR"]; scraped[name] != addr {
			t.Errorf("%s shows its metrics on %s, asked is %q", name, addr, scraped[name])
		}
		if _, ok := s.Networks["inside"]; !ok {
			t.Errorf("%s is not where Prometheus is", name)
		}
		delete(scraped, name)
	}
	if len(scraped) > 0 {
		t.Errorf("asked, but not there: %v", scraped)
	}
}
