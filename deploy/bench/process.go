//go:build linux

package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	readyWait = 30 * time.Second // for anything to happen that must happen
	pollEvery = 5 * time.Millisecond
	stopWait  = 20 * time.Second
)

// process is one running program. What it says goes to a file, as under a supervisor:
// reading it would take the machine's time while it is measured.
type process struct {
	name          string
	program       string
	args, environ []string
	cmd           *exec.Cmd
	log           string
	exited        chan struct{}
}

// start starts a program, one that was built here before others, with nothing of this
// one's environment but where programs and temporary files are. name tells several of a
// kind apart.
func (l *lab) start(name, program string, args, environ []string) (*process, error) {
	path := filepath.Join(l.dir, program)
	if _, err := os.Stat(path); err != nil {
		path = program
	}
	log, err := os.CreateTemp(l.dir, name+"-*.log")
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the process has its own
	p := &process{name: name, program: program, args: args, environ: environ, log: log.Name(), exited: make(chan struct{})}
	p.cmd = exec.Command(path, args...) //nolint:noctx,gosec // stop ends it, orderly; what is run is named in this package
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + l.dir, "TMPDIR=" + l.dir, "CHROME_PATH=" + os.Getenv("CHROME_PATH")}, environ...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() {
		defer close(p.exited)
		_ = p.cmd.Wait() // who waits for something of it is told that it ended
	}()
	l.stops = append(l.stops, p.stop)
	return p, nil
}

// restart kills a process, as a lack of memory would, unless it has ended, and starts it
// anew as it was.
func (l *lab) restart(p *process) (*process, error) {
	if err := p.signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return nil, err
	}
	<-p.exited
	return l.start(p.name, p.program, p.args, p.environ)
}

// stop ends the process orderly, if it still runs.
func (p *process) stop() {
	_ = p.signal(syscall.SIGCONT)
	_ = p.signal(syscall.SIGTERM)
	late := time.AfterFunc(stopWait, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	<-p.exited
}

func (p *process) signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// await waits until ok. A process that ends before is an error with its last words.
func (l *lab) await(ctx context.Context, p *process, what string, ok func() bool) error {
	return l.awaitFor(ctx, readyWait, p, what, ok)
}

func (l *lab) awaitFor(ctx context.Context, most time.Duration, p *process, what string, ok func() bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, most, fmt.Errorf("not within %v", most))
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for !ok() {
		var err error
		select {
		case <-tick.C:
			continue
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-p.exited:
			err = errors.New("it ended")
		}
		return fmt.Errorf("%s: %s: %w\n%s", p.name, what, err, p.tail())
	}
	return nil
}

const tailBytes = 2 << 10

// tail is the end of what the process has said.
func (p *process) tail() []byte {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return []byte(err.Error())
	}
	return b[max(0, len(b)-tailBytes):]
}

// said waits for a line with a text.
func (l *lab) said(ctx context.Context, p *process, text string) error {
	return l.await(ctx, p, fmt.Sprintf("it should say %q", text), func() bool {
		b, err := os.ReadFile(p.log)
		_, rest, found := bytes.Cut(b, []byte(text))
		return err == nil && found && bytes.Contains(rest, []byte("\n"))
	})
}

// freeAddr is an address of the loopback that nobody listens on. (With port 0 a program
// would have to say which one it took; Redis does not, nor a gateway that logs warnings only.)
func freeAddr(ctx context.Context) (string, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}

// metric is the sum over the series of a service's metrics that begin with a text.
func metric(ctx context.Context, ops, series string) (sum float64, err error) {
	_, _, body, err := get(ctx, "http://"+ops+"/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(body)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.HasPrefix(name, series) {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return 0, err
			}
			sum += v
		}
	}
	return sum, nil
}

// userHZ is what the kernel counts the time of processes in: USER_HZ, which is 100 on
// every platform that Go has.
const userHZ = 100

func (p *process) pid() int { return p.cmd.Process.Pid }

// cpu is the processor time that the process has taken.
func (p *process) cpu() (time.Duration, error) { return cpuOfPid(p.pid()) }

func cpuOfPid(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return cpuOf(string(b))
}

// The fields of /proc/<pid>/stat that are looked at (proc(5)).
const (
	statParent = 4
	statUtime  = 14
	statStime  = 15
)

// cpuOf reads the processor time from the text of /proc/<pid>/stat.
func cpuOf(stat string) (time.Duration, error) {
	user, err := statField(stat, statUtime)
	if err != nil {
		return 0, err
	}
	system, err := statField(stat, statStime)
	return time.Duration(user+system) * (time.Second / userHZ), err
}

// parentOf reads the parent's pid from the text of /proc/<pid>/stat.
func parentOf(stat string) (int, error) { return statField(stat, statParent) }

// statField reads a number. The second field is the program's name in parentheses, which
// may hold anything, blanks and parentheses too.
func statField(stat string, field int) (int, error) {
	const first = 3 // after the name
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) <= field-first {
		return 0, fmt.Errorf("not a line of /proc/<pid>/stat: %q", stat)
	}
	n, err := strconv.Atoi(fields[field-first])
	if err != nil {
		return 0, fmt.Errorf("not a line of /proc/<pid>/stat: %q", stat)
	}
	return n, nil
}
