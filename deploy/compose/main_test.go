// Package compose checks the deployment files against the programs that they deploy:
// compose.yaml as Compose reads it, the Dockerfile by doing what its build stage does,
// the servers' configurations by the servers, Chromium's seccomp profile by Chromium.
// It needs no Docker engine, and so says nothing of what an engine makes of the files.
package compose

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"go.uber.org/goleak"
)

// top is the project's top folder.
const top = "../.."

// scratch holds what the tests share; TestMain removes it.
var scratch string

func TestMain(m *testing.M) {
	confineAndExec() // does not return in the process that the seccomp test starts
	var err error
	if scratch, err = os.MkdirTemp("", "rucflow-compose-*"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(scratch) // in the temporary folder anyway
		os.Exit(code)
	}))
}

// made is the folder in which secrets.sh has made what compose.yaml needs.
var made = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(scratch, "made")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	if out, err := exec.Command(filepath.Join(top, "deploy", "secrets.sh"), dir).CombinedOutput(); err != nil {
		return "", fmt.Errorf("secrets.sh: %w\n%s", err, out)
	}
	return dir, nil
})

// load reads compose.yaml as Compose does, with these variables and env files and none
// of this process's.
func load(env, envFiles, profiles []string) (*types.Project, error) {
	options := []cli.ProjectOptionsFn{cli.WithWorkingDirectory(top), cli.WithEnv(env)}
	if len(envFiles) > 0 {
		options = append(options, cli.WithEnvFiles(envFiles...), cli.WithDotEnv)
	}
	options = append(options, cli.WithDefaultProfiles(profiles...))
	o, err := cli.NewProjectOptions([]string{filepath.Join(top, "compose.yaml")}, options...)
	if err != nil {
		return nil, err
	}
	return o.LoadProject(context.Background())
}

// everything is compose.yaml with all its profiles, as .env.example makes it.
func everything(t *testing.T) *types.Project {
	t.Helper()
	dir, err := made()
	if err != nil {
		t.Fatal(err)
	}
	p, err := load(nil, []string{filepath.Join(dir, ".env")}, []string{"*"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// services calls f as a subtest for every service.
func services(t *testing.T, f func(t *testing.T, s types.ServiceConfig)) {
	t.Helper()
	p := everything(t)
	for _, name := range p.ServiceNames() {
		t.Run(name, func(t *testing.T) { f(t, p.Services[name]) })
	}
}

// ours are the services that are binaries with settings of package service.
var ours = []string{"provision", "gateway", "scraper", "cachewriter", "audit", "prewarm"}

// fleet are those of them that go on running.
var fleet = ours[1:]

// program is a binary and, of one that has several, the command.
type program []string

// programOf is what a service of ours runs: its image's binary, with its command.
func programOf(t *testing.T, s types.ServiceConfig) program {
	t.Helper()
	return append(program{binary(t, s.Build.Target)}, s.Command...)
}

// environ is what the service's process finds in its environment: what its image and
// what compose.yaml say, the secrets' paths being those of the files made here.
func environ(t *testing.T, s types.ServiceConfig) []string {
	t.Helper()
	dir, err := made()
	if err != nil {
		t.Fatal(err)
	}
	var env []string
	for _, in := range dockerfile(t).stage(t, s.Build.Target).instructions {
		if in.command == "ENV" {
			env = append(env, in.args...)
		}
	}
	for name, value := range s.Environment {
		if value != nil {
			env = append(env, name+"="+strings.Replace(*value, "/run/secrets", filepath.Join(dir, "secrets"), 1))
		}
	}
	return env
}

// setting is one line of a program's -help.
type setting struct {
	name string
	file string // the variable that names a file instead, for a secret
}

var settingLine = regexp.MustCompile(`(?m)^  ([A-Z][A-Z0-9_]*)(?: \(or ([A-Z0-9_]+)\))?(?: .*)?$`)

// settings are those that a program's -help lists.
func settings(t *testing.T, p program) []setting {
	t.Helper()
	out, err := exec.Command(p[0], append(p[1:len(p):len(p)], "-help")...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s -help: %v\n%s", p, err, out)
	}
	var all []setting
	for _, m := range settingLine.FindAllStringSubmatch(string(out), -1) {
		all = append(all, setting{name: m[1], file: m[2]})
	}
	if len(all) < 10 {
		t.Fatalf("%s -help lists %d settings:\n%s", p, len(all), out)
	}
	return all
}

// known reports whether a program reads a variable. Those of the Go runtime and of
// Chromium's host are read by every one.
func known(all []setting, name string) bool {
	if slices.Contains([]string{"GOMEMLIMIT", "HOME", "PATH"}, name) {
		return true
	}
	return slices.ContainsFunc(all, func(s setting) bool { return name == s.name || name == s.file && name != "" })
}

// effective runs -check-config and returns what is in force.
func effective(t *testing.T, p program, env []string) map[string]string {
	t.Helper()
	cmd := exec.Command(p[0], append(p[1:len(p):len(p)], "-check-config")...)
	cmd.Env = env
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s -check-config: %v\n%s", p, err, stderr.String())
	}
	values := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		values[name] = value
	}
	return values
}
