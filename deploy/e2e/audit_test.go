package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/rucflow/rucflow/shared/ruc"
)

// auditing prepares an audit into a folder.
func (f *fleet) auditing(dir string, args ...string) *exec.Cmd {
	f.t.Helper()
	bin, err := binaries()
	if err != nil {
		f.t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(bin, "audit"), args...)
	cmd.Env = append(f.as("audit"), append(f.environ, "AUDIT_DIR="+dir, "OPS_ADDR=")...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// audited writes what has happened down, with one more lookup, and asks for the past of its
// number, which must be the same lines.
func (f *fleet) audited() {
	f.t.Helper()
	dir, n := f.t.TempDir(), fresh(9506)
	lines := func(of ruc.Number) (text []byte) {
		files, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
		if err != nil {
			f.t.Fatal(err)
		}
		for _, name := range files {
			b, err := os.ReadFile(name)
			if err != nil {
				f.t.Fatal(err)
			}
			for line := range bytes.Lines(b) {
				if bytes.Contains(line, []byte(`"subject":"`+of.String()+`"`)) && bytes.HasSuffix(line, []byte("\n")) {
					text = append(text, line...)
				}
			}
		}
		return text
	}
	cmd := f.auditing(dir)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	defer func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			f.t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			f.t.Errorf("%v: %s", err, said.String())
		}
	}()
	f.get("/v1/ruc/" + n.String())
	f.eventually("the audit has "+n.String(), readyWait, func() bool { return len(lines(n)) > 0 })
	past, err := f.auditing("", "-ruc", n.String()).Output()
	if err != nil || !bytes.Equal(past, lines(n)) || !strings.Contains(string(past), `"type":"pe.ruc.resolved.v1"`) {
		f.t.Errorf("%v: the past is %q, and it was written down as %q", err, past, lines(n))
	}
}
