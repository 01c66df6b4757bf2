package compose

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// instruction is one of a Dockerfile, its flags (--name=value) apart.
type instruction struct {
	command string
	flags   []string
	args    []string // split at blanks; a JSON list taken apart
	text    string   // the same as one string
}

type stage struct {
	name, base   string
	instructions []instruction
}

type stages []stage

func (all stages) find(name string) (stage, bool) {
	i := slices.IndexFunc(all, func(s stage) bool { return s.name == name })
	if i < 0 {
		return stage{}, false
	}
	return all[i], true
}

func (all stages) stage(t *testing.T, name string) stage {
	t.Helper()
	s, ok := all.find(name)
	if !ok {
		t.Fatalf("the Dockerfile has no target %q", name)
	}
	return s
}

// last returns the last instruction of a kind, which counts.
func (s stage) last(command string) instruction {
	for _, in := range slices.Backward(s.instructions) {
		if in.command == command {
			return in
		}
	}
	return instruction{}
}

func parseDockerfile() (stages, error) {
	b, err := os.ReadFile(filepath.Join(top, "deploy", "Dockerfile"))
	if err != nil {
		return nil, err
	}
	text := regexp.MustCompile(`(?m)^\s*#.*\n`).ReplaceAllString(string(b), "")
	var all stages
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		in := instruction{command: words[0]}
		words = words[1:]
		for len(words) > 0 && strings.HasPrefix(words[0], "--") {
			in.flags, words = append(in.flags, words[0]), words[1:]
		}
		in.args, in.text = words, strings.Join(words, " ")
		if strings.HasPrefix(in.text, "[") {
			if err := json.Unmarshal([]byte(in.text), &in.args); err != nil {
				return nil, fmt.Errorf("%s %s: %w", in.command, in.text, err)
			}
		}
		if in.command == "FROM" {
			if len(in.args) != 3 || in.args[1] != "AS" {
				return nil, fmt.Errorf("%q: expected FROM image AS name", line)
			}
			all = append(all, stage{base: in.args[0], name: in.args[2]})
			continue
		}
		if len(all) == 0 {
			return nil, fmt.Errorf("%q comes before the first FROM", line)
		}
		last := &all[len(all)-1]
		last.instructions = append(last.instructions, in)
	}
	return all, nil
}

func dockerfile(t *testing.T) stages {
	t.Helper()
	all, err := parseDockerfile()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// inContext reports whether .dockerignore lets a file into the build. Its lines are: all
// is out, these are in, and of those never these.
func inContext(name string) (bool, error) {
	b, err := os.ReadFile(filepath.Join(top, ".dockerignore"))
	if err != nil {
		return false, err
	}
	in := true
	for line := range strings.Lines(string(b)) {
		pattern := strings.TrimSpace(line)
		if pattern == "" || strings.HasPrefix(pattern, "#") {
			continue
		}
		wanted, negated := strings.CutPrefix(pattern, "!")
		var hit bool
		if rest, anywhere := strings.CutPrefix(wanted, "**/"); anywhere {
			for dir := name; dir != "." && !hit; dir = path.Dir(dir) {
				hit, err = path.Match(rest, path.Base(dir))
				if err != nil {
					return false, err
				}
			}
		} else {
			hit = wanted == "*" || name == wanted || strings.HasPrefix(name, wanted+"/")
		}
		if hit {
			in = negated
		}
	}
	return in, nil
}

// copyIn does COPY src… dst from the build context into a folder.
func copyIn(in instruction, into string) error {
	sources, dst := in.args[:len(in.args)-1], in.args[len(in.args)-1]
	for _, src := range sources {
		copied := 0
		err := filepath.WalkDir(filepath.Join(top, src), func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			name, err := filepath.Rel(top, p)
			if err != nil {
				return err
			}
			if ok, err := inContext(filepath.ToSlash(name)); err != nil || !ok {
				return err
			}
			rel, err := filepath.Rel(filepath.Join(top, src), p)
			if err != nil {
				return err
			}
			target := filepath.Join(into, dst, rel)
			if rel == "." { // a file and not a folder
				target = filepath.Join(into, dst, filepath.Base(src))
			}
			copied++
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
				return err
			}
			return os.WriteFile(target, b, 0o644)
		})
		if err != nil {
			return fmt.Errorf("COPY %s: %w", src, err)
		}
		if copied == 0 {
			return fmt.Errorf("COPY %s: .dockerignore leaves nothing of it", src)
		}
	}
	return nil
}

// built is the folder of the binaries that the Dockerfile's build stage makes, made here
// from nothing but what it copies.
var built = sync.OnceValues(func() (string, error) {
	all, err := parseDockerfile()
	if err != nil {
		return "", err
	}
	build, ok := all.find("build")
	if !ok {
		return "", fmt.Errorf("the Dockerfile has no stage build")
	}
	src, out := filepath.Join(scratch, "src"), filepath.Join(scratch, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		return "", err
	}
	run := func(dir, command string) error {
		cmd := exec.Command("sh", "-ec", command)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOWORK=", "GOFLAGS=")
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", command, err, text)
		}
		return nil
	}
	for _, in := range build.instructions {
		switch in.command {
		case "COPY":
			err = copyIn(in, src)
		case "RUN":
			err = run(src, strings.ReplaceAll(in.text, "/out/", out+"/"))
		}
		if err != nil {
			return "", fmt.Errorf("the Dockerfile's build stage: %w", err)
		}
	}
	return out, nil
})

// binary is the path of a binary that was built.
func binary(t *testing.T, name string) string {
	t.Helper()
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	p := filepath.Join(dir, name)
	if _, err := os.Stat(p); err != nil {
		t.Fatalf("%s was not built: %v", name, err)
	}
	return p
}

var numericUser = regexp.MustCompile(`^[1-9][0-9]*:[1-9][0-9]*$`)

func TestDockerfile_FinalStages(t *testing.T) {
	for _, s := range dockerfile(t) {
		if s.name == "build" {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			if user := s.last("USER").text; !numericUser.MatchString(user) {
				t.Errorf("user %q, want number:number other than root", user)
			}
			for _, in := range s.instructions {
				if in.command != "COPY" {
					continue
				}
				dst := in.args[len(in.args)-1]
				for _, src := range in.args[:len(in.args)-1] {
					name, fromBuild := strings.CutPrefix(src, "/out/")
					switch {
					case fromBuild && slices.Contains(in.flags, "--from=build"):
						binary(t, name)
						if entry := s.last("ENTRYPOINT").args; len(entry) != 1 || entry[0] != dst+name {
							t.Errorf("it starts %q and holds %s%s", entry, dst, name)
						}
					case slices.Contains(in.flags, "--from=build"):
					default:
						if err := copyIn(instruction{args: []string{src, "."}}, t.TempDir()); err != nil {
							t.Error(err)
						}
						if !slices.ContainsFunc(in.flags, func(f string) bool { return strings.HasPrefix(f, "--chmod=") }) {
							t.Errorf("COPY %s: without --chmod its mode is the checkout's, which its user may not be able to read", src)
						}
					}
				}
			}
		})
	}
}

// exactTag is a version of three numbers, or of two where there are no more (Debian).
var exactTag = regexp.MustCompile(`^[a-z0-9./-]+:v?[0-9]+\.[0-9]+(\.[0-9]+)?(-[a-z0-9.]+)?(@sha256:[0-9a-f]{64})?$`)

func TestDockerfile_BasesArePinned(t *testing.T) {
	for _, s := range dockerfile(t) {
		if s.base != "scratch" && !exactTag.MatchString(s.base) {
			t.Errorf("%s: %s is no exact version", s.name, s.base)
		}
	}
}

func TestDockerfile_GoIsTheModules(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(top, "go.work"))
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^go (\S+)$`).FindSubmatch(b)
	if version == nil {
		t.Fatal("go.work names no version")
	}
	if base := dockerfile(t).stage(t, "build").base; !strings.HasPrefix(base, "golang:"+string(version[1])+"-") {
		t.Errorf("built with %s, go.work says %s", base, version[1])
	}
}

func TestDockerignore_KeepsSecretsOut(t *testing.T) {
	for name, want := range map[string]bool{
		".env": false, "secrets/nats_client": false, ".git": false, "data/replica/nats-token": false, "bin/gateway": false,
		"deploy/systemd/fleet.env": false, "deploy/e2e/rig_test.go": false, "shared/ruc/number_test.go": false, "scraper/sunat/testdata/x": false,
		"shared/ruc/number.go": true, "deploy/go.mod": true, "deploy/redis/redis.conf": true,
	} {
		if got, err := inContext(name); err != nil || got != want {
			t.Errorf("%s: in the build context: %v, want %v (%v)", name, got, want, err)
		}
	}
}
