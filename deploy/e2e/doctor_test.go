package e2e

import (
	"errors"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rucflow/rucflow/scraper/replica"
)

// examined checks what the doctor has said of a fleet that is well.
func (f *fleet) examined(user string, skipped int) {
	f.t.Helper()
	out, errs, status := f.does(user, "doctor")
	if status != 0 || errs != "" || strings.Contains(out, "FAIL") || strings.Count(out, "\nskip ") != skipped {
		f.t.Errorf("doctor by %s: %d %s%s", user, status, out, errs)
	}
	if !strings.Contains(out, `as the user "`+user+`"`) {
		f.t.Errorf("doctor does not say that it is %s: %s", user, out)
	}
	for _, of := range []string{"nats_" + user, "redis_cachewriter"} {
		if strings.Contains(out+errs, f.secret(of)) {
			f.t.Errorf("the password in %s is told: %s%s", of, out, errs)
		}
	}
}

// privately runs a shell command where it may mount, and nobody else sees what.
func privately(t *testing.T, script string, environ ...string) (out string, status int) {
	t.Helper()
	var refused []string
	for _, flags := range []string{"-m", "-rm"} {
		if b, err := exec.Command("unshare", flags, "mount", "-t", "tmpfs", "tmpfs", "/dev/shm").CombinedOutput(); err != nil {
			refused = append(refused, strings.TrimSpace(string(b)))
			continue
		}
		cmd := exec.Command("unshare", flags, "sh", "-c", script)
		cmd.Env = slices.Concat(environ, []string{"PATH=" + os.Getenv("PATH")})
		b, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return string(b), cmd.ProcessState.ExitCode()
	}
	// The kernel or a container may forbid it; the bounds themselves are tested in deploy/admin.
	t.Skipf("nobody may mount here, neither root nor in a user namespace of his own: %s", strings.Join(refused, "; "))
	return "", 0
}

// TestDoctor_NamesTooLittleSharedMemory: as the cause, once, with what mends it.
func TestDoctor_NamesTooLittleSharedMemory(t *testing.T) {
	dir, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	site := replica.New(replica.Config{}, time.Now)
	server := httptest.NewServer(site)
	defer server.Close()
	defer site.Close()
	environ := []string{
		"SUNAT_URL=" + server.URL + replica.FormPath, "TMPDIR=" + t.TempDir(), "CHROME_PATH=" + os.Getenv("CHROME_PATH"),
		"DOCTOR=" + filepath.Join(dir, "rucflow"),
	}
	const doctor = `mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$DOCTOR" doctor -only chromium,sunat`
	out, status := privately(t, doctor, environ...)
	failed := slices.DeleteFunc(strings.Split(out, "\n"), func(l string) bool { return !strings.HasPrefix(l, "FAIL ") })
	if status != 1 || len(failed) != 1 || !strings.Contains(failed[0], "/dev/shm has 1.0 MiB") || !strings.Contains(failed[0], "shm_size: 256m") {
		t.Errorf("%d %s", status, out)
	}
	if ok := strings.Count(out, "ok   "); ok != 2 {
		t.Errorf("Chromium starts all the same, and the form is there: %s", out)
	}
	out, status = privately(t, doctor, append(environ, "CHROME_FLAGS=--disable-dev-shm-usage")...)
	if status != 0 || strings.Contains(out, "FAIL") {
		t.Errorf("with the mend: %d %s", status, out)
	}
}
