package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/rucflow/rucflow/scraper/browser"
)

const profilePath = "../seccomp/chromium.json"

// profile is Docker's form of a seccomp profile, as far as ours uses it.
type profile struct {
	DefaultAction   string `json:"defaultAction"`
	DefaultErrnoRet uint32 `json:"defaultErrnoRet"`
	ArchMap         []struct {
		Architecture     string   `json:"architecture"`
		SubArchitectures []string `json:"subArchitectures"`
	} `json:"archMap"`
	Syscalls []rule `json:"syscalls"`
}

type rule struct {
	Comment  string   `json:"comment"`
	Names    []string `json:"names"`
	Action   string   `json:"action"`
	ErrnoRet uint32   `json:"errnoRet"`
	Args     []struct {
		Index    uint32 `json:"index"`
		Value    uint64 `json:"value"`
		ValueTwo uint64 `json:"valueTwo"`
		Op       string `json:"op"`
	} `json:"args"`
}

func readProfile() (profile, error) {
	var p profile
	b, err := os.ReadFile(profilePath)
	if err != nil {
		return p, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return p, d.Decode(&p)
}

// callNumbers are the kernel's calls on an architecture, by name.
func callNumbers(arch string) (map[string]uint32, error) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/sys").Output()
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "unix", "zsysnum_linux_"+arch+".go"))
	if err != nil {
		return nil, err
	}
	numbers := map[string]uint32{}
	for _, m := range regexp.MustCompile(`(?m)^\s+SYS_(\w+)\s+= (\d+)$`).FindAllStringSubmatch(string(b), -1) {
		n, err := strconv.ParseUint(m[2], 10, 32)
		if err != nil {
			return nil, err
		}
		numbers[strings.ToLower(m[1])] = uint32(n)
	}
	return numbers, nil
}

// What a process that shows other people's pages never needs.
var neverAllowed = []string{
	"mount", "umount2", "move_mount", "open_tree", "fsopen", "fsmount", "mount_setattr", "pivot_root", "setns", "sethostname", "setdomainname",
	"ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "bpf", "perf_event_open", "userfaultfd",
	"io_uring_setup", "io_uring_enter", "io_uring_register", "add_key", "keyctl", "request_key", "open_by_handle_at", "name_to_handle_at",
	"init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff", "acct", "quotactl", "syslog",
	"clock_settime", "clock_adjtime", "settimeofday", "adjtimex", "iopl", "ioperm", "modify_ldt", "personality", "mknod", "mknodat", "vhangup",
}

func TestSeccomp_Profile(t *testing.T) {
	p, err := readProfile()
	if err != nil {
		t.Fatal(err)
	}
	if p.DefaultAction != "SCMP_ACT_ERRNO" || p.DefaultErrnoRet != uint32(unix.ENOSYS) {
		t.Errorf("what is not listed: %s %d", p.DefaultAction, p.DefaultErrnoRet)
	}
	for _, a := range p.ArchMap {
		// Calls of another kind of machine have numbers that no rule here means.
		if len(a.SubArchitectures) > 0 {
			t.Errorf("%s lets %v in", a.Architecture, a.SubArchitectures)
		}
	}
	exists := map[string]bool{}
	for _, arch := range []string{"amd64", "arm64"} {
		numbers, err := callNumbers(arch)
		if err != nil {
			t.Fatal(err)
		}
		if len(numbers) < 300 {
			t.Fatalf("%d calls of %s", len(numbers), arch)
		}
		for name := range numbers {
			exists[name] = true
		}
	}
	allowed, bare := map[string]bool{}, map[string]bool{}
	for _, r := range p.Syscalls {
		if r.Comment == "" || len(r.Names) == 0 || !slices.IsSorted(r.Names) {
			t.Errorf("a rule without comment or order: %v", r.Names)
		}
		for _, name := range r.Names {
			if !exists[name] {
				t.Errorf("the kernel knows no call %q", name)
			}
			if r.Action == "SCMP_ACT_ALLOW" {
				if bare[name] {
					t.Errorf("%s is allowed twice", name)
				}
				allowed[name], bare[name] = true, len(r.Args) == 0
			}
		}
	}
	for _, name := range neverAllowed {
		if !exists[name] {
			t.Errorf("the kernel knows no call %q", name)
		}
		if allowed[name] {
			t.Errorf("%s is allowed", name)
		}
	}
	for _, name := range []string{"clone", "unshare", "chroot", "socket", "execve", "seccomp"} {
		if !allowed[name] {
			t.Errorf("%s is not allowed", name)
		}
	}
	// The flags of clone3 cannot be looked at, so it must seem not to exist.
	for _, name := range []string{"clone", "unshare", "socket", "clone3"} {
		if bare[name] {
			t.Errorf("%s is allowed whatever its arguments", name)
		}
	}
	forbidden := map[string]uint64{
		"clone":   unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		"unshare": unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWTIME,
	}
	for _, r := range p.Syscalls {
		if want, ok := forbidden[r.Names[0]]; ok {
			if a := r.Args[0]; a.Op != "SCMP_CMP_MASKED_EQ" || a.Index != 0 || a.Value != want || a.ValueTwo != 0 {
				t.Errorf("%v: %+v, want no bit of %#x", r.Names, a, want)
			}
		}
	}
}

// The environment of the process that confines itself before it becomes Chromium.
const (
	confineEnv = "RUCFLOW_TEST_SECCOMP" // "" = no; see the constants below
	unfiltered = "none"
	filtered   = "profile"
	noUserNS   = "profile without user namespaces"
	nobody     = 65534
)

// TestSeccomp_ChromiumKeepsItsSandbox: under the profile, without privileges and not as
// root, Chromium does what it does without the profile; with user namespaces taken out
// of it, it does not even start.
func TestSeccomp_ChromiumKeepsItsSandbox(t *testing.T) {
	chrome, err := browser.FindChrome(os.Getenv("CHROME_PATH"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readProfile(); err != nil {
		t.Fatal(err)
	}
	works := func(filter string) (bool, string) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		dir, err := os.MkdirTemp("", "rucflow-seccomp-*")
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := os.RemoveAll(dir); err != nil {
				t.Error(err)
			}
		}()
		if os.Getuid() == 0 {
			if err := os.Chown(dir, nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		// No --no-sandbox: without a sandbox it refuses to start.
		cmd := exec.CommandContext(ctx, self, chrome, "--headless", "--disable-gpu", "--disable-breakpad", "--disable-crash-reporter",
			"--user-data-dir="+filepath.Join(dir, "profile"), "--dump-dom", "data:text/html,<script>document.write(6*7)</script>")
		cmd.Env = append(os.Environ(), confineEnv+"="+filter, "TMPDIR="+dir)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
		cmd.WaitDelay = time.Second
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err = cmd.Run()
		return err == nil && strings.Contains(stdout.String(), "42"), fmt.Sprintf("%v\n%s%s", err, stdout.String(), stderr.String())
	}
	var wg sync.WaitGroup
	type result struct {
		works bool
		said  string
	}
	results := map[string]*result{unfiltered: {}, filtered: {}, noUserNS: {}}
	for filter, r := range results {
		wg.Go(func() { r.works, r.said = works(filter) })
	}
	wg.Wait()
	if !results[unfiltered].works {
		// Some machines forbid user namespaces to everybody, containers as a rule.
		t.Logf("Chromium's sandbox does not work on this machine, with or without a profile: %s", results[unfiltered].said)
	}
	if results[filtered].works != results[unfiltered].works {
		t.Errorf("with the profile: %s", results[filtered].said)
	}
	if results[noUserNS].works {
		t.Error("Chromium worked without user namespaces, so this test proves nothing")
	}
}

// confineAndExec makes this process a confined Chromium if the environment says so.
func confineAndExec() {
	filter := os.Getenv(confineEnv)
	if filter == "" {
		return
	}
	err := confine(filter)
	if err == nil {
		env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "HOME=") })
		err = syscall.Exec(os.Args[1], os.Args[1:], env)
	}
	fmt.Fprintln(os.Stderr, "confining Chromium:", err)
	os.Exit(1)
}

// confine gives up root and every way back, and puts the filter on this thread, which
// then replaces the process.
func confine(filter string) error {
	runtime.LockOSThread()
	var program []unix.SockFilter
	if filter != unfiltered {
		p, err := readProfile()
		if err != nil {
			return err
		}
		if filter == noUserNS {
			for _, r := range p.Syscalls {
				if r.Names[0] == "clone" || r.Names[0] == "unshare" {
					r.Args[0].Value |= unix.CLONE_NEWUSER
				}
			}
		}
		numbers, err := callNumbers(runtime.GOARCH)
		if err != nil {
			return err
		}
		if program, err = assemble(p, numbers); err != nil {
			return err
		}
	}
	if os.Getuid() == 0 {
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(nobody), syscall.Setuid(nobody)); err != nil {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if program == nil {
		return nil
	}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}

// Offsets in the kernel's struct seccomp_data, and the machine it must be of.
const (
	atNumber = 0
	atArch   = 4
	atArgs   = 16
)

var auditArch = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// assemble translates a profile for the kernel: rule after rule, the first that fits
// decides. Arguments are compared by their lower half, which is all that the flags and
// families of ours have.
func assemble(p profile, numbers map[string]uint32) ([]unix.SockFilter, error) {
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	unless := func(value uint32, skip int) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: uint8(skip)}
	}
	ret := func(value uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: value}
	}
	program := []unix.SockFilter{
		load(atArch), unless(auditArch[runtime.GOARCH], 1),
		{Code: unix.BPF_JMP | unix.BPF_JA, K: 1}, ret(unix.SECCOMP_RET_KILL_PROCESS),
		load(atNumber),
	}
	for _, r := range p.Syscalls {
		var action uint32
		switch r.Action {
		case "SCMP_ACT_ALLOW":
			action = unix.SECCOMP_RET_ALLOW
		case "SCMP_ACT_ERRNO":
			action = unix.SECCOMP_RET_ERRNO | r.ErrnoRet
		default:
			return nil, fmt.Errorf("action %s", r.Action)
		}
		for _, name := range r.Names {
			number, ok := numbers[name]
			if !ok {
				continue // another architecture's
			}
			if len(r.Args) == 0 {
				program = append(program, unless(number, 1), ret(action))
				continue
			}
			a := r.Args[0]
			mask, value := ^uint32(0), uint32(a.Value)
			switch {
			case len(r.Args) > 1 || a.Value>>32 != 0:
				return nil, fmt.Errorf("%s: more than is understood here", name)
			case a.Op == "SCMP_CMP_MASKED_EQ":
				mask, value = uint32(a.Value), uint32(a.ValueTwo)
			case a.Op != "SCMP_CMP_EQ":
				return nil, fmt.Errorf("%s: %s", name, a.Op)
			}
			program = append(program,
				unless(number, 5), load(atArgs+8*a.Index), unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: mask},
				unless(value, 1), ret(action), load(atNumber))
		}
	}
	return append(program, ret(unix.SECCOMP_RET_ERRNO|p.DefaultErrnoRet)), nil
}
