package browser

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSweep_RemovesOnlyWhatDeadOwnersLeft(t *testing.T) {
	parent := t.TempDir()
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	mkdir := func(name string, locked bool) string {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(parent, name, "profile"), 0o700); err != nil {
			t.Fatal(err)
		}
		if locked {
			if err := os.WriteFile(filepath.Join(parent, name, lockName), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return name
	}
	deadPid, ownPid := strconv.Itoa(dead.Process.Pid), strconv.Itoa(os.Getpid())
	gone := []string{
		mkdir(dirPrefix+deadPid+"-1", false),
		mkdir(dirPrefix+deadPid+"-2", true),
		// A restarted container: our pid, but the one who held the lock is dead.
		mkdir(dirPrefix+ownPid+"-3", true),
	}
	mkdir(dirPrefix+ownPid+"-4", false) // being made just now
	mkdir("chromedp-runner123", false)
	mkdir(dirPrefix+"x-5", false)
	live, err := newOwnedDir(parent)
	if err != nil {
		t.Fatal(err)
	}

	removed, err := sweepDirs(parent)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(gone)
	slices.Sort(removed)
	if diff := cmp.Diff(gone, removed); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
	for _, kept := range []string{live.path, filepath.Join(parent, "chromedp-runner123"), filepath.Join(parent, dirPrefix+"x-5")} {
		if _, err := os.Stat(kept); err != nil {
			t.Error(err)
		}
	}
	if err := live.remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(live.path); !os.IsNotExist(err) {
		t.Errorf("the directory stays: %v", err)
	}
}

func TestFlags_OperatorsReplaceAndFeaturesAdd(t *testing.T) {
	f, err := flags(Config{
		Sandbox:   "on",
		UserAgent: "agent",
		Flags:     []string{"--disable-features=Mine", "lang=es", "--proxy-server=http://proxy:1"},
	}, "/profile")
	if err != nil {
		t.Fatal(err)
	}
	if got := f["disable-features"].(string); !strings.HasSuffix(got, ",Mine") || !strings.HasPrefix(got, "Translate,") {
		t.Errorf("disable-features %q", got)
	}
	want := map[string]any{"lang": "es", "proxy-server": "http://proxy:1", "user-agent": "agent", "user-data-dir": "/profile"}
	for name, value := range want {
		if f[name] != value {
			t.Errorf("%s = %v, want %v", name, f[name], value)
		}
	}
	if _, off := f["no-sandbox"]; off {
		t.Error("no sandbox, although it was asked for")
	}
	if rules := f["host-resolver-rules"].(string); !strings.Contains(rules, "EXCLUDE proxy") {
		t.Errorf("the proxy must resolve: %s", rules)
	}
}

func TestResolverRules(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://user:secret@proxy.example:3128")
	for _, tt := range []struct {
		url, want string
		flags     []string
	}{
		{"https://e-consultaruc.sunat.gob.pe/x", "MAP * ~NOTFOUND, EXCLUDE e-consultaruc.sunat.gob.pe, EXCLUDE *.sunat.gob.pe, EXCLUDE proxy.example", nil},
		{"http://127.0.0.1:8088/x", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE a, EXCLUDE b.example, EXCLUDE proxy.example", []string{"--proxy-server=http=a:1;https=socks5://b.example:2"}},
	} {
		if got := resolverRules(Config{URL: tt.url, Flags: tt.flags}); got != tt.want {
			t.Errorf("%s: %s", tt.url, got)
		}
	}
}

func TestEnvironment_KeepsSecretsFromTheBrowser(t *testing.T) {
	t.Setenv("NATS_PASSWORD", "secret")
	t.Setenv("HTTPS_PROXY", "http://proxy:1")
	env := environment("/tmp/x")
	if slices.ContainsFunc(env, func(v string) bool { return strings.Contains(v, "secret") }) {
		t.Errorf("environment %v", env)
	}
	if !slices.Contains(env, "HTTPS_PROXY=http://proxy:1") || !slices.Contains(env, "TMPDIR=/tmp/x") {
		t.Errorf("environment %v", env)
	}
}

func TestFindChrome(t *testing.T) {
	found, err := FindChrome("")
	if err != nil {
		t.Fatal(err) // says how to install it
	}
	if !filepath.IsAbs(found) {
		t.Errorf("found %q", found)
	}
	if _, err := FindChrome(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("no error for a program that is not there")
	}
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if isELF(script) {
		t.Error("a script passes for a program")
	}
}
