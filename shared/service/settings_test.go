package service_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rucflow/rucflow/shared/service"
)

type inner struct {
	Pace time.Duration `env:"PACE" envDefault:"1.1s" help:"time between"`
}

type settings struct {
	Inner  inner
	Size   service.Bytes `env:"SIZE" envDefault:"64MiB" help:"bound"`
	Secret string        `env:"SECRET" secret:"true" help:"hidden"`
	Addr   string        `env:"ADDR" envDefault:"127.0.0.1:1" empty:"keep"`
	Name   string        `env:"NAME" envDefault:"x"`
}

func load(t *testing.T, environ ...string) settings {
	t.Helper()
	var s settings
	if err := service.Load(&s, environ); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLoad_DefaultsAndForms(t *testing.T) {
	if s := load(t); s.Inner.Pace != 1100*time.Millisecond || s.Size != 64<<20 || s.Addr == "" {
		t.Errorf("%+v", s)
	}
	if s := load(t, "PACE=0", "SIZE=2GiB", "ADDR=", "NAME="); s.Inner.Pace != 0 || s.Size != 2<<30 || s.Addr != "" || s.Name != "x" {
		t.Errorf("%+v", s)
	}
	if s := load(t, "PACE=2.5", "SIZE=1000"); s.Inner.Pace != 2500*time.Millisecond || s.Size != 1000 {
		t.Errorf("%+v", s)
	}
}

func TestLoad_ErrorsNameTheVariable(t *testing.T) {
	for _, kv := range []string{"PACE=often", "PACE=-1s", "SIZE=big", "SIZE=-1"} {
		var s settings
		name, _, _ := strings.Cut(kv, "=")
		if err := service.Load(&s, []string{kv}); err == nil || !strings.Contains(err.Error(), name+": ") {
			t.Errorf("%s: %v", kv, err)
		}
	}
}

func TestLoad_SecretsFromFilesAndNeverShown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := load(t, "SECRET_FILE="+path)
	if s.Secret != "hunter2" {
		t.Errorf("secret %q", s.Secret)
	}
	var out strings.Builder
	if err := service.Print(&out, &s); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "hunter2") || !strings.Contains(out.String(), "SECRET=****") || !strings.Contains(out.String(), "SIZE=64MiB\n") {
		t.Errorf("printed:\n%s", out.String())
	}
	if err := service.Load(&s, []string{"SECRET=a", "SECRET_FILE=" + path}); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("both set: %v", err)
	}
	if err := service.Load(&s, []string{"SECRET_FILE=" + path + "x"}); err == nil {
		t.Error("a missing file was accepted")
	}
}

func TestHelp_NamesEverySetting(t *testing.T) {
	var out strings.Builder
	if err := service.Help(&out, &settings{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"PACE", "1.1s", "SIZE", "SECRET_FILE", "ADDR"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %s in:\n%s", want, out.String())
		}
	}
}

func TestPrint_MasksCredentialsInAddresses(t *testing.T) {
	for url, want := range map[string]string{
		"nats://bob:hunter2@h:4222":                   "nats://********@h:4222",
		"nats://token@h:4222,tls://a:p@i:1, nats://j": "nats://********@h:4222,tls://********@i:1, nats://j",
		"bob:hunter2@h:4222":                          "********@h:4222",
		"nats://127.0.0.1:4222":                       "nats://127.0.0.1:4222",
		"nats://[::1]:4222, h":                        "nats://[::1]:4222, h",
		"nats://h:4222,nats://u:hunter2/@i":           "nats://h:4222,********",
	} {
		var out strings.Builder
		if err := service.Print(&out, &service.NATSConfig{URL: url}); err != nil || !strings.Contains(out.String(), "NATS_URL="+want+"\n") {
			t.Errorf("%s: %v: %s", url, err, out.String())
		}
	}
}
