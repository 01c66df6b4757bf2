// Package quickstart takes the first steps of the README, as a new user does.
package quickstart

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// alone, when it is set, has the test binary become a command in a network of its own:
// its loopback is brought up, and its arguments are started.
const alone = "RUCFLOW_TEST_ALONE"

func init() {
	if os.Getenv(alone) == "" {
		return
	}
	err := func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		ifr, err := unix.NewIfreq("lo")
		if err != nil {
			return err
		}
		ifr.SetUint16(unix.IFF_UP)
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
			return fmt.Errorf("bringing the loopback up: %w", err)
		}
		return unix.Exec("/bin/bash", append([]string{"bash"}, os.Args[1:]...), os.Environ())
	}()
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// TestQuickStart: the blocks of commands under "Try it", in both languages, do
// what is written beside them, in a copy of the project that has never run. The ports are
// the README's own, so all of it happens in a network that holds nothing else.
func TestQuickStart(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Fatalf("%v: apt-get install curl", err)
	}
	blocks := quickStart(t, "README.md", "Try it")
	if spanish := quickStart(t, "README.es.md", "Pruébelo"); !slices.EqualFunc(blocks, spanish, sameCommands) {
		t.Errorf("the two READMEs begin with different commands:\n%q\n%q", blocks, spanish)
	}
	if len(blocks) != 2 || blocks[0] != "make demo\n" {
		t.Fatalf("not a `make demo` and a block of requests: %q", blocks)
	}
	// As in two terminals; Ctrl-C goes to all of the first one's processes.
	requests := `up() { until curl -s localhost:8000/health | grep -q '"scrapers":1'; do sleep 0.1; done; }
up
echo "<<<"
` + blocks[1] + `echo ">>>"
kill -INT -- -$!
wait $! || true
`
	script := "set -eum\n" + strings.Repeat(strings.TrimSpace(blocks[0])+" &\n"+requests, 2)

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, "-c", script)
	cmd.Dir, cmd.Env = copyOfProject(t), append(os.Environ(), alone+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
	}
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, &out, log.Bytes()[max(0, log.Len()-(8<<10)):])
	}
	runs := regexp.MustCompile(`(?s)<<<\n(.*?)>>>`).FindAllString(out.String(), -1)
	if len(runs) != 2 {
		t.Fatalf("%d runs:\n%s", len(runs), &out)
	}
	for i, expected := range [][]string{
		{"HTTP/1.1 200", "Cache-Status: rucflow; fwd=miss; stored", "HTTP/1.1 200", "detail=memory", "HTTP/1.1 400", "debería ser 6", `"status":"healthy"`},
		{"HTTP/1.1 200", "detail=file", "HTTP/1.1 200", "detail=memory", "HTTP/1.1 400", "debería ser 6", `"status":"healthy"`},
	} {
		rest := runs[i]
		for _, what := range expected {
			_, after, found := strings.Cut(rest, what)
			if !found {
				t.Errorf("start %d: no %q in\n%s", i+1, what, runs[i])
				break
			}
			rest = after
		}
	}
}

// quickStart returns the blocks of commands below a heading.
func quickStart(t *testing.T, file, heading string) (blocks []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", file))
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(b), "\n## "+heading+"\n")
	section, _, ended := strings.Cut(section, "\n## ")
	if !ok || !ended {
		t.Fatalf("%s has no section %q", file, heading)
	}
	for _, m := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(section, -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

// sameCommands compares two blocks but for their comments.
func sameCommands(a, b string) bool {
	comment := regexp.MustCompile(`(?m)\s+#.*$`)
	return comment.ReplaceAllString(a, "") == comment.ReplaceAllString(b, "")
}

// copyOfProject copies what is part of it: nothing built, no data, no history.
func copyOfProject(t *testing.T) (dir string) {
	t.Helper()
	top, dir := filepath.Join("..", ".."), t.TempDir()
	err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		if slices.Contains([]string{".git", ".tools", "bin", "data", "secrets"}, rel) {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(dir, rel), 0o755)
		}
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, rel), b, info.Mode().Perm())
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
