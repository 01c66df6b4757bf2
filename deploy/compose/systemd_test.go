package compose

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// unit is a systemd unit: section, key, values in order.
type unit map[string]map[string][]string

func readUnit(t *testing.T, path string) unit {
	t.Helper()
	u, section := unit{}, ""
	for line := range strings.Lines(readFile(t, path)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]") {
			section = strings.Trim(line, "[]")
			u[section] = map[string][]string{}
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || u[section] == nil {
			t.Fatalf("%s: %q is no setting", path, line)
		}
		u[section][key] = append(u[section][key], value)
	}
	return u
}

func (u unit) one(t *testing.T, key string) string {
	t.Helper()
	values := u["Service"][key]
	if len(values) != 1 {
		t.Fatalf("%s: %v, want one value", key, values)
	}
	return values[0]
}

// variables are the assignments of an environment file; with commented, also those that
// are only shown.
func variables(text string, commented bool) []string {
	pattern := `(?m)^([A-Z][A-Z0-9_]*=.*)$`
	if commented {
		pattern = `(?m)^#?([A-Z][A-Z0-9_]*=.*)$`
	}
	var all []string
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	return all
}

func TestSystemd_Units(t *testing.T) {
	paths, err := filepath.Glob("../systemd/*.service")
	if err != nil || len(paths) != 7 {
		t.Fatalf("units %v (%v)", paths, err)
	}
	dir, err := made()
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".service")
		t.Run(name, func(t *testing.T) {
			u := readUnit(t, path)
			line, ok := strings.CutPrefix(u.one(t, "ExecStart"), "/opt/rucflow/bin/")
			words := strings.Fields(line)
			// The binary and its command, before the flags.
			called := words
			if i := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, "-") }); i >= 0 {
				called = words[:i]
			}
			if want := strings.TrimPrefix(name, "rucflow-"); !ok || called[len(called)-1] != want {
				t.Fatalf("starts %v, want %s", u.one(t, "ExecStart"), want)
			}
			if !strings.Contains(readFile(t, filepath.Join(top, "Makefile")), " bin/"+words[0]) {
				t.Errorf("make build does not make bin/%s", words[0])
			}
			run := append(program{binary(t, words[0])}, words[1:]...)
			all := settings(t, run)

			// The settings: of the file that is installed beside, and of the unit.
			file := strings.TrimPrefix(u.one(t, "EnvironmentFile"), "-")
			example := filepath.Base(file)
			used[example] = true
			if filepath.Dir(file) != "/etc/rucflow" {
				t.Errorf("reads %s", file)
			}
			env := variables(readFile(t, filepath.Join("../systemd", example)), false)

			// A secret is a credential of the unit and a file for the process.
			credentials := map[string]bool{}
			for _, c := range u["Service"]["LoadCredential"] {
				id, from, _ := strings.Cut(c, ":")
				credentials["%d/"+id] = false
				if from != "/etc/rucflow/secrets/"+id {
					t.Errorf("credential %s from %s", id, from)
				}
			}
			for _, line := range u["Service"]["Environment"] {
				for v := range strings.FieldsSeq(line) {
					variable, value, _ := strings.Cut(v, "=")
					if !known(all, variable) {
						t.Errorf("%s does not know %s", run, variable)
					}
					if strings.HasSuffix(variable, "_FILE") {
						if _, ok := credentials[value]; !ok {
							t.Errorf("%s=%s is no credential", variable, value)
						}
						credentials[value] = true
						value = filepath.Join(dir, "secrets", strings.TrimPrefix(value, "%d"))
					}
					env = append(env, variable+"="+strings.ReplaceAll(value, "%S", t.TempDir()))
				}
			}
			for c, read := range credentials {
				if !read {
					t.Errorf("nobody reads %s", c)
				}
			}
			in := effective(t, run, env)
			// The same users as in compose.yaml.
			if s, ok := everything(t).Services[called[len(called)-1]]; ok {
				container := effective(t, programOf(t, s), environ(t, s))
				for _, setting := range []string{"NATS_USER", "NATS_PASSWORD", "NATS_PROVISION", "REDIS_USERNAME", "REDIS_PASSWORD", "ADMIN_TOKEN"} {
					if in[setting] != container[setting] {
						t.Errorf("%s=%q, in compose.yaml it is %q", setting, in[setting], container[setting])
					}
				}
			}

			kind := "exec"
			if len(called) > 1 {
				kind = "oneshot"
			}
			for key, want := range map[string]string{
				"Type": kind, "Restart": "on-failure", "RestartPreventExitStatus": "2", "DynamicUser": "yes", "NoNewPrivileges": "yes",
				"CapabilityBoundingSet": "", "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes", "PrivateDevices": "yes",
				"SystemCallArchitectures": "native",
			} {
				if got := u.one(t, key); got != want {
					t.Errorf("%s=%s, want %s", key, got, want)
				}
			}
			u.one(t, "MemoryMax")
			u.one(t, "TasksMax")
			_, noCode := u["Service"]["MemoryDenyWriteExecute"]
			namespaces := u.one(t, "RestrictNamespaces")
			switch line {
			case "scraper", "rucflow": // with Chromium
				if noCode || namespaces != "user pid net" || !strings.Contains(u.one(t, "SystemCallFilter"), " chroot ") {
					t.Errorf("Chromium cannot work: MemoryDenyWriteExecute %v, RestrictNamespaces=%s", noCode, namespaces)
				}
				if u.one(t, "KillMode") != "mixed" {
					t.Error("the signal to stop would end Chromium before the visit in hand")
				}
			default:
				if !noCode || namespaces != "yes" {
					t.Errorf("MemoryDenyWriteExecute %v, RestrictNamespaces=%s", noCode, namespaces)
				}
			}
		})
	}
	examples, err := filepath.Glob("../systemd/*.env")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range examples {
		if !used[filepath.Base(e)] {
			t.Errorf("no unit reads %s, but %v", e, slices.Sorted(maps.Keys(used)))
		}
	}
}

// TestSystemd_EnvironmentFilesNameSettings: shown or set, each is one that a program of
// those that read the file knows, and one that it takes as it stands there.
func TestSystemd_EnvironmentFilesNameSettings(t *testing.T) {
	for file, programs := range map[string][]program{"fleet.env": {}, "rucflow.env": {{binary(t, "rucflow")}}} {
		if file == "fleet.env" {
			for _, name := range ours {
				programs = append(programs, programOf(t, everything(t).Services[name]))
			}
		}
		text := readFile(t, filepath.Join("../systemd", file))
		all := variables(text, true)
		for _, v := range all {
			name, value, _ := strings.Cut(v, "=")
			if !slices.ContainsFunc(programs, func(p program) bool { return known(settings(t, p), name) }) {
				t.Errorf("%s: nobody knows %s", file, name)
			}
			if value == "" {
				t.Errorf("%s: %s shows no value", file, name)
			}
		}
		for _, p := range programs {
			effective(t, p, append(all, "DATA_DIR="+t.TempDir()))
		}
	}
	if _, err := os.Stat("../systemd/fleet.env"); err != nil {
		t.Error(err)
	}
}
