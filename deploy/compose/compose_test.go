package compose

import (
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/rucflow/rucflow/scraper/replica"
)

func TestCompose_ServicesAndProfiles(t *testing.T) {
	want := map[string][]string{
		"provision": nil, "gateway": nil, "scraper": nil, "cachewriter": nil, "nats": nil, "redis": nil,
		"replica": {"demo"}, "audit": {"audit"}, "prewarm": {"prewarm"}, "nats-box": {"tools"}, "nats-admin": {"tools"}, "prometheus": {"monitoring"}, "grafana": {"monitoring"},
	}
	p := everything(t)
	for name, profiles := range want {
		if s, ok := p.Services[name]; !ok || !slices.Equal(s.Profiles, profiles) {
			t.Errorf("%s: profiles %v, want %v", name, s.Profiles, profiles)
		}
	}
	if len(p.Services) != len(want) {
		t.Errorf("services %v", p.ServiceNames())
	}
}

func TestCompose_WithoutItsSecretsNothingStarts(t *testing.T) {
	for _, env := range [][]string{nil, {"SECRETS_DIR="}} {
		if _, err := load(env, nil, nil); err == nil || !strings.Contains(err.Error(), "SECRETS_DIR") || !strings.Contains(err.Error(), "deploy/secrets.sh") {
			t.Errorf("with %v: %v", env, err)
		}
	}
	for name, s := range everything(t).Secrets {
		if s.File == "" {
			// Compose copies others into the container, which a read-only root refuses
			// (docker/compose pull request 12531).
			t.Errorf("secret %s is no file", name)
		}
		if filepath.Base(s.File) != name {
			t.Errorf("secret %s is the file %s", name, s.File)
		}
	}
}

// TestCompose_EnvExampleNamesEveryVariable: and none that compose.yaml does not read.
func TestCompose_EnvExampleNamesEveryVariable(t *testing.T) {
	names := func(file, pattern string) []string {
		b, err := os.ReadFile(filepath.Join(top, file))
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]bool{}
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(b), -1) {
			found[m[1]] = true
		}
		return slices.Sorted(maps.Keys(found))
	}
	read, named := names("compose.yaml", `\$\{([A-Z_0-9]+)`), names(".env.example", `(?m)^#?([A-Z_0-9]+)=`)
	if !slices.Equal(read, named) {
		t.Errorf("compose.yaml reads  %v\n.env.example names %v", read, named)
	}
}

func TestCompose_Environment(t *testing.T) {
	services(t, func(t *testing.T, s types.ServiceConfig) {
		if !slices.Contains(ours, s.Name) {
			return
		}
		program := programOf(t, s)
		all := settings(t, program)
		for name := range s.Environment {
			if !known(all, name) {
				t.Errorf("%s does not know %s", s.Name, name)
			}
		}
		for _, secret := range all {
			if secret.file != "" && s.Environment[secret.name] != nil {
				t.Errorf("%s is a secret and stands in the environment; %s takes a file", secret.name, secret.file)
			}
		}
		in := effective(t, program, environ(t, s))
		want := map[string]string{"NATS_URL": "nats://nats:4222", "NATS_USER": s.Name, "NATS_PASSWORD": "********", "NATS_TOKEN": "", "NATS_PROVISION": "false"}
		switch s.Name {
		case "provision": // which is there to make them, whatever NATS_PROVISION says
			want["NATS_USER"] = "setup"
			delete(want, "NATS_PROVISION")
		case "gateway":
			want["ADMIN_TOKEN"] = "********"
			fallthrough
		case "cachewriter":
			want["REDIS_HOST"], want["REDIS_PORT"], want["REDIS_USERNAME"], want["REDIS_PASSWORD"] = "redis", "6379", s.Name, "********"
		case "scraper":
			want["CHROME_PATH"], want["CHROME_SANDBOX"] = "/usr/lib/chromium/chromium-headless-shell", "on"
		}
		for name, value := range want {
			if in[name] != value {
				t.Errorf("%s=%q, want %q", name, in[name], value)
			}
		}
		// Two read and ask what others have, and know no site.
		if _, ok := in["SUNAT_URL"]; ok == (s.Name == "audit" || s.Name == "prewarm") || ok && !strings.HasPrefix(in["SUNAT_URL"], "https://e-consultaruc.sunat.gob.pe/") {
			t.Errorf("SUNAT_URL=%s", in["SUNAT_URL"])
		}
		if s.Name == "provision" {
			return // it does not listen, and ends by itself
		}
		// Seen from other containers, and from the container's own health check.
		if host, _, err := net.SplitHostPort(in["OPS_ADDR"]); err != nil || host != "0.0.0.0" {
			t.Errorf("OPS_ADDR=%s", in["OPS_ADDR"])
		}
		stop, err := time.ParseDuration(in["SHUTDOWN_TIMEOUT"])
		if err != nil {
			t.Fatal(err)
		}
		if s.StopGracePeriod == nil || time.Duration(*s.StopGracePeriod) <= stop {
			t.Errorf("it may take %v to stop, and is given %v", stop, s.StopGracePeriod)
		}
	})
}

// TestCompose_SettingsReachTheServices: a value in .env is the one in force.
func TestCompose_SettingsReachTheServices(t *testing.T) {
	given := map[string]string{
		"LOG_LEVEL": "debug", "REQUEST_TIMEOUT": "44s", "RATE_LIMIT": "7/m", "TRUSTED_PROXIES": "10.0.0.0/8", "ALLOWED_HOSTS": "ruc.pe", "CORS_ORIGINS": "https://app.pe", "CACHE_TTL": "100h0m0s", "CACHE_NEGATIVE_TTL": "2h0m0s", "CACHE_GRACE": "200h0m0s",
		"EVENTS_MAX_AGE": "1000h0m0s", "SUNAT_URL": "http://replica:8088/x", "SUNAT_SLOTS": "3", "SUNAT_MAX_CONCURRENT": "4", "SUNAT_PACE": "7s", "SUNAT_PAUSE": "6m0s",
		"SUNAT_ATTEMPTS": "5", "SUNAT_ATTEMPT_TIMEOUT": "9s", "SUNAT_QUEUE": "65", "SUNAT_USER_AGENT": "somebody", "AUDIT_FILE_BYTES": "7MiB", "AUDIT_KEEP": "300h0m0s",
	}
	env := []string{"SECRETS_DIR=./x"}
	for name, value := range given {
		env = append(env, name+"="+value)
	}
	p, err := load(env, nil, []string{"audit", "prewarm"})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, name := range ours {
		for setting, value := range effective(t, programOf(t, p.Services[name]), environ(t, p.Services[name])) {
			want, set := given[setting]
			seen[setting] = seen[setting] || set
			if set && value != want {
				t.Errorf("%s: %s=%s, want %s", name, setting, value, want)
			}
		}
	}
	for name := range given {
		if !seen[name] {
			t.Errorf("%s reaches nobody", name)
		}
	}
}

func TestCompose_LeastPrivilege(t *testing.T) {
	services(t, func(t *testing.T, s types.ServiceConfig) {
		if !numericUser.MatchString(s.User) {
			t.Errorf("user %q, want number:number other than root", s.User)
		}
		if s.Build != nil {
			if user := dockerfile(t).stage(t, s.Build.Target).last("USER").text; user != s.User {
				t.Errorf("user %s here, %s in the Dockerfile", s.User, user)
			}
		}
		if !s.ReadOnly {
			t.Error("its root can be written")
		}
		if !slices.Equal(s.CapDrop, []string{"ALL"}) || len(s.CapAdd) > 0 || s.Privileged {
			t.Errorf("capabilities: drop %v, add %v, privileged %v", s.CapDrop, s.CapAdd, s.Privileged)
		}
		if !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("security options %v", s.SecurityOpt)
		}
		for _, o := range s.SecurityOpt {
			if file, ok := strings.CutPrefix(o, "seccomp="); ok {
				if _, err := os.Stat(filepath.Join(top, file)); err != nil {
					t.Error(err)
				}
			}
		}
		if s.MemLimit == 0 || s.CPUS == 0 || s.PidsLimit == 0 {
			t.Errorf("limits: memory %d, CPUs %v, processes %d", s.MemLimit, s.CPUS, s.PidsLimit)
		}
		if s.CPUS > 1 {
			t.Errorf("%v CPUs: a machine with one would refuse it", s.CPUS)
		}
		if s.Logging == nil || s.Logging.Options["max-size"] == "" || s.Logging.Options["max-file"] == "" {
			t.Errorf("its log has no bound: %v", s.Logging)
		}
		want := types.RestartPolicyUnlessStopped
		if endsByItself(s) {
			want = types.RestartPolicyNo
		}
		if s.Restart != want {
			t.Errorf("restart: %s, want %s", s.Restart, want)
		}
	})
}

// secretArgument are ways to hand a secret to a program where everybody can read it.
var secretArgument = regexp.MustCompile(`(?i)requirepass|--pass\b|--auth\b|--token|--user\b|(^|\s)-a(\s|$)|://[^$ ]*@`)

func TestCompose_SecretsAreFiles(t *testing.T) {
	dir, err := made()
	if err != nil {
		t.Fatal(err)
	}
	services(t, func(t *testing.T, s types.ServiceConfig) {
		text := strings.Join(slices.Concat([]string(s.Entrypoint), []string(s.Command), healthTest(s)), " ")
		if found := secretArgument.FindString(text); found != "" {
			t.Errorf("%q in %q", found, text)
		}
		paths := map[string]bool{}
		for _, ref := range s.Secrets {
			paths["/run/secrets/"+ref.Source] = true
		}
		for _, path := range regexp.MustCompile(`/run/secrets/\w+`).FindAllString(text, -1) {
			if !paths[path] {
				t.Errorf("it reads %s, and its secrets are %v", path, slices.Sorted(maps.Keys(paths)))
			}
		}
		for name, value := range s.Environment {
			switch {
			case value == nil:
				t.Errorf("%s comes from whoever starts it", name)
			case strings.HasSuffix(name, "_FILE") && !paths[*value]:
				t.Errorf("%s=%s, and its secrets are %v", name, *value, slices.Sorted(maps.Keys(paths)))
			case !strings.HasSuffix(name, "_FILE") && regexp.MustCompile(`PASSWORD|TOKEN|SECRET`).MatchString(name):
				t.Errorf("%s stands in the environment", name)
			}
		}
	})
	// Each secret is somebody's, and what secrets.sh makes is what compose.yaml names:
	// nobody else on the machine gets to the files, and inside a container every user can
	// read its own.
	p, used := everything(t), map[string]bool{}
	for _, s := range p.Services {
		for _, ref := range s.Secrets {
			used[ref.Source] = true
		}
	}
	names := slices.Sorted(maps.Keys(p.Secrets))
	if got := slices.Sorted(maps.Keys(used)); !slices.Equal(got, names) {
		t.Errorf("services read %v of %v", got, names)
	}
	files, err := os.ReadDir(filepath.Join(dir, "secrets"))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "secrets")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("secrets: mode %v (%v)", info.Mode(), err)
	}
	values := map[string]string{}
	for i, f := range files {
		values[f.Name()] = readFile(t, filepath.Join(dir, "secrets", f.Name()))
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o444 || len(values[f.Name()]) != 48 || i >= len(names) || f.Name() != names[i] {
			t.Errorf("%s: mode %v, %d bytes (%v); named are %v", f.Name(), info.Mode(), len(values[f.Name()]), err, names)
		}
	}
	if different := len(slices.Compact(slices.Sorted(maps.Values(values)))); different != len(values) {
		t.Errorf("%d different secrets of %d", different, len(values))
	}
	// Again: nothing changes, but for an .env of before there was SECRETS_DIR.
	if err := os.WriteFile(filepath.Join(scratch, "old.env"), []byte("LOG_LEVEL=debug\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	again := t.TempDir()
	for from, to := range map[string]string{filepath.Join(dir, "secrets"): "secrets", filepath.Join(scratch, "old.env"): ".env"} {
		if out, err := exec.Command("cp", "-rp", from, filepath.Join(again, to)).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	for range 2 {
		if out, err := exec.Command(filepath.Join(top, "deploy", "secrets.sh"), again).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if env := readFile(t, filepath.Join(again, ".env")); env != "LOG_LEVEL=debug\nSECRETS_DIR=./secrets\n" {
		t.Errorf(".env is now %q", env)
	}
	for name, value := range values {
		if readFile(t, filepath.Join(again, "secrets", name)) != value {
			t.Errorf("%s has changed", name)
		}
	}
}

// endsByItself reports whether a container is for one task.
func endsByItself(s types.ServiceConfig) bool {
	return slices.Contains([]string{"provision", "nats-box", "nats-admin"}, s.Name)
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func healthTest(s types.ServiceConfig) []string {
	if s.HealthCheck == nil {
		return nil
	}
	return s.HealthCheck.Test
}

func TestCompose_HealthChecks(t *testing.T) {
	services(t, func(t *testing.T, s types.ServiceConfig) {
		test := healthTest(s)
		if s.Name == "provision" {
			return // it has ended before anybody asks
		}
		if len(test) < 2 || s.HealthCheck.Disable || s.HealthCheck.Timeout == nil || s.HealthCheck.Interval == nil {
			t.Fatalf("health check %v", s.HealthCheck)
		}
		if slices.Contains(fleet, s.Name) {
			entry := dockerfile(t).stage(t, s.Build.Target).last("ENTRYPOINT").args
			if want := append([]string{"CMD"}, append(entry, "-health")...); !slices.Equal(test, want) {
				t.Errorf("%v, want %v", test, want)
			}
			// What it asks must be there to be asked, and longer than its own limit of 3 s.
			if time.Duration(*s.HealthCheck.Timeout) <= 3*time.Second {
				t.Errorf("timeout %v", s.HealthCheck.Timeout)
			}
		}
	})
}

// TestCompose_OnlyTheGatewayIsPublished: and Grafana to the machine itself, with a password.
func TestCompose_OnlyTheGatewayIsPublished(t *testing.T) {
	services(t, func(t *testing.T, s types.ServiceConfig) {
		if s.NetworkMode != "" {
			t.Errorf("network mode %s", s.NetworkMode)
		}
		if s.Name == "grafana" {
			if len(s.Ports) != 1 || s.Ports[0].HostIP != "127.0.0.1" || s.Environment["GF_SECURITY_ADMIN_PASSWORD__FILE"] == nil || s.Environment["GF_AUTH_ANONYMOUS_ENABLED"] != nil {
				t.Errorf("publishes %v; %v", s.Ports, s.Environment)
			}
			return
		}
		if s.Name != "gateway" {
			if len(s.Ports) > 0 {
				t.Errorf("publishes %v", s.Ports)
			}
			return
		}
		in := effective(t, programOf(t, s), environ(t, s))
		if len(s.Ports) != 1 || s.Ports[0].Published != "8000" || s.Ports[0].Target != 8000 || in["HTTP_ADDR"] != ":8000" {
			t.Errorf("publishes %v of %s", s.Ports, in["HTTP_ADDR"])
		}
	})
	dir, err := made()
	if err != nil {
		t.Fatal(err)
	}
	p, err := load([]string{"HTTP_PUBLISH=127.0.0.1:8080"}, []string{filepath.Join(dir, ".env")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if port := p.Services["gateway"].Ports[0]; port.HostIP != "127.0.0.1" || port.Published != "8080" || port.Target != 8000 {
		t.Errorf("HTTP_PUBLISH=127.0.0.1:8080 publishes %+v", port)
	}
}

func TestCompose_Networks(t *testing.T) {
	p := everything(t)
	if !p.Networks["inside"].Internal {
		t.Error("there is a way out of the network inside")
	}
	want := map[string][]string{
		"gateway": {"edge", "inside"}, "grafana": {"edge", "inside"}, "scraper": {"inside", "outside"}, "replica": {"outside"},
	}
	services(t, func(t *testing.T, s types.ServiceConfig) {
		nets, ok := want[s.Name]
		if !ok {
			nets = []string{"inside"}
		}
		if got := slices.Sorted(maps.Keys(s.Networks)); !slices.Equal(got, nets) {
			t.Errorf("networks %v, want %v", got, nets)
		}
	})
	for name, conditions := range map[string]map[string]string{
		"gateway":     {"nats": types.ServiceConditionStarted, "redis": types.ServiceConditionStarted},
		"provision":   {"nats": types.ServiceConditionHealthy},
		"scraper":     {"provision": types.ServiceConditionCompletedSuccessfully},
		"cachewriter": {"provision": types.ServiceConditionCompletedSuccessfully, "redis": types.ServiceConditionStarted},
		"audit":       {"provision": types.ServiceConditionCompletedSuccessfully},
		"prewarm":     {"provision": types.ServiceConditionCompletedSuccessfully},
	} {
		got := map[string]string{}
		for on, d := range p.Services[name].DependsOn {
			got[on] = d.Condition
		}
		if !maps.Equal(got, conditions) {
			t.Errorf("%s waits for %v, want %v", name, got, conditions)
		}
	}
}

func TestCompose_ImagesAreBuiltOrPinned(t *testing.T) {
	services(t, func(t *testing.T, s types.ServiceConfig) {
		if s.Build == nil {
			if !exactTag.MatchString(s.Image) {
				t.Errorf("%s is no exact version", s.Image)
			}
			return
		}
		dockerfile(t).stage(t, s.Build.Target)
		file, context := s.Build.Dockerfile, s.Build.Context
		if !filepath.IsAbs(file) {
			file = filepath.Join(context, file)
		}
		if want, err := filepath.Abs(filepath.Join(top, "deploy", "Dockerfile")); err != nil || file != want {
			t.Errorf("built from %s", file)
		}
		if want := "rucflow/" + s.Build.Target + ":local"; s.Image != want {
			t.Errorf("image %s, want %s", s.Image, want)
		}
	})
}

func TestCompose_StateIsInVolumes(t *testing.T) {
	p := everything(t)
	for name, target := range map[string]string{"nats": "/data", "redis": "/data", "prometheus": "/prometheus", "grafana": "/var/lib/grafana"} {
		v := p.Services[name].Volumes
		if len(v) != 1 || v[0].Type != types.VolumeTypeVolume || v[0].Source != name || v[0].Target != target {
			t.Errorf("%s: volumes %v", name, v)
		}
	}
}

func TestCompose_ScraperHasWhatChromiumNeeds(t *testing.T) {
	s := everything(t).Services["scraper"]
	const enough = 256 << 20 // scraper/browser/flags.go: with less it does without
	if s.ShmSize < enough {
		t.Errorf("/dev/shm has %d bytes", s.ShmSize)
	}
	if s.Init == nil || !*s.Init {
		t.Error("nobody reaps the helpers of a killed Chromium")
	}
	if !slices.Contains(s.SecurityOpt, "seccomp=./deploy/seccomp/chromium.json") {
		t.Errorf("security options %v", s.SecurityOpt)
	}
	if s.PidsLimit < 512 {
		t.Errorf("%d processes", s.PidsLimit)
	}
	in := effective(t, programOf(t, s), environ(t, s))
	if in["SUNAT_SLOTS"] != "2" || s.MemLimit < (200+2*150+256)<<20 {
		t.Errorf("%s tabs in %d bytes", in["SUNAT_SLOTS"], s.MemLimit)
	}
	if len(s.Tmpfs) != 1 || !strings.HasPrefix(s.Tmpfs[0], "/tmp:") {
		t.Errorf("it cannot write its profile: %v", s.Tmpfs)
	}
}

// TestCompose_Demo: deploy/demo.env turns the same files into the demo.
func TestCompose_Demo(t *testing.T) {
	dir, err := made()
	if err != nil {
		t.Fatal(err)
	}
	p, err := load(nil, []string{filepath.Join(dir, ".env"), filepath.Join(top, "deploy", "demo.env")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	// A stream and a cache that hold SUNAT's data refuse the replica's, so the demo has
	// volumes of its own: those of another project.
	if p.Name == everything(t).Name {
		t.Errorf("the demo is the project %s too", p.Name)
	}
	r, ok := p.Services["replica"]
	if !ok {
		t.Fatalf("no replica among %v", p.ServiceNames())
	}
	if want := []string{"-addr", "0.0.0.0:8088"}; !slices.Equal(r.Command, want) {
		t.Errorf("command %v, want %v", r.Command, want)
	}
	for _, name := range ours {
		if _, ok := p.Services[name]; !ok && (name == "audit" || name == "prewarm") {
			continue // of another profile
		}
		if in := effective(t, programOf(t, p.Services[name]), environ(t, p.Services[name])); in["SUNAT_URL"] != "http://replica:8088"+replica.FormPath {
			t.Errorf("%s: SUNAT_URL=%s", name, in["SUNAT_URL"])
		}
	}
	if url := healthTest(r)[len(healthTest(r))-1]; url != "http://127.0.0.1:8088"+replica.FormPath {
		t.Errorf("its health check asks %s", url)
	}
}
