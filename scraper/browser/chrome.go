package browser

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	cdpbrowser "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/scraper/dispatch"
	"github.com/rucflow/rucflow/shared/mend"
)

const (
	// startWait bounds a start. Over a pipe the library itself waits for ever for a
	// browser that runs but never answers. A start takes 0.3 s, or 2 s when crowded.
	startWait = 10 * time.Second
	// stopWait bounds the wait for killed processes to be gone.
	stopWait = 3 * time.Second
	// pingEvery and pingWait find a browser that runs but no longer answers: commands
	// to it end only by their deadlines. An answer takes a millisecond.
	pingEvery = 5 * time.Second
	pingWait  = 2 * time.Second
)

// noAnswer begins the error of a browser that runs and never answers.
const noAnswer = "no answer within"

// ErrNoChrome is wrapped by the error of a search that found no Chromium.
var ErrNoChrome error = &mend.Error{Finding: "no Chromium found", Mend: "install one, for example: apt-get install chromium-headless-shell"}

// chromeFiles are looked at first. They are the programs themselves: what Debian puts
// into /usr/bin is a shell script that does not exec, so that signals and the kernel's
// parent-death signal reach the shell only. The headless shell comes first: it starts
// in a quarter of the time and a look-up costs it half the CPU.
var chromeFiles = []string{
	"/usr/lib/chromium/chromium-headless-shell",
	"/usr/lib/chromium-browser/headless_shell",
	"/headless-shell/headless-shell",
	"/usr/lib/chromium/chromium",
	"/usr/lib/chromium-browser/chromium-browser",
	"/opt/google/chrome/chrome",
}

// chromeNames are looked for in PATH after that.
var chromeNames = []string{
	"chromium-headless-shell", "headless-shell", "headless_shell",
	"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
}

// FindChrome returns the program to start: the one named by path (a file, or a name in
// PATH), or for an empty path the first that is installed of chromium-headless-shell,
// chromium and chrome. An error about an empty path wraps [ErrNoChrome].
func FindChrome(path string) (string, error) {
	if path != "" {
		found, err := exec.LookPath(path)
		if err != nil {
			return "", &mend.Error{Finding: "the Chromium that was set cannot be run", Mend: "correct CHROME_PATH, or unset it to search", Err: err}
		}
		return found, nil
	}
	for _, file := range chromeFiles {
		if isELF(file) {
			return file, nil
		}
	}
	for _, name := range chromeNames {
		if found, err := exec.LookPath(name); err == nil {
			return found, nil
		}
	}
	return "", ErrNoChrome
}

// isELF reports whether path is a program and not a script around one.
func isELF(path string) bool {
	if _, err := exec.LookPath(path); err != nil {
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }() // nothing was written
	magic := make([]byte, 4)
	_, err = io.ReadFull(f, magic)
	return err == nil && bytes.Equal(magic, []byte("\x7fELF"))
}

// chrome is one running Chromium: a process group, a connection and a directory.
type chrome struct {
	log     zerolog.Logger
	pid     int // and process group
	version string
	site    string // the form's address
	fetch   bool   // Config.Fetch
	dir     *ownedDir
	// ctx is the library's context of the browser. It lives as long as the browser:
	// a deadline on the context of a first call would be the end of what it opened.
	ctx    context.Context
	cancel func() // waits for the process to exit
	client *chromedp.Browser
	// life ends, with the reason as its cause, when the browser can no longer be used.
	life context.Context
	end  context.CancelCauseFunc

	suspicious chan struct{} // a tab misbehaved: ask the browser at once
	// firstTab holds the tab that the browser started with until newTarget takes it.
	firstTab chan target.ID

	background sync.WaitGroup
	spawning   sync.Mutex // orders spawn and the end of spawning
	stopping   bool
}

// spawn runs f in a goroutine that stop waits for, unless stop has begun.
func (c *chrome) spawn(f func()) {
	c.spawning.Lock()
	defer c.spawning.Unlock()
	if !c.stopping {
		c.background.Go(f)
	}
}

// launch starts Chromium and waits until it answers.
func launch(ctx context.Context, cfg Config, path string, log zerolog.Logger) (_ *chrome, err error) {
	dir, err := newOwnedDir(cfg.TempDir)
	if err != nil {
		return nil, fmt.Errorf("browser.launch: %w", err)
	}
	c := &chrome{log: log, site: cfg.URL, fetch: cfg.Fetch, dir: dir, suspicious: make(chan struct{}, 1), firstTab: make(chan target.ID, 1)}
	f, err := flags(cfg, dir.profile())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("browser.launch: %w", err), dir.remove())
	}

	var command *exec.Cmd
	opts := append(allocatorOptions(f),
		chromedp.ExecPath(path),
		chromedp.NoInheritEnv,
		chromedp.Env(environment(dir.tmp())...),
		chromedp.ModifyCmdFunc(func(cmd *exec.Cmd) {
			cmd.SysProcAttr = ownGroup()
			cmd.Dir = dir.path // should a crash leave a core, it goes with the rest
			command = cmd
		}),
	)
	toDebug := func(format string, args ...any) { log.Debug().Msgf("chromedp: "+format, args...) }
	// Not a child of ctx: the visits in hand outlive it.
	base, kill := context.WithCancel(context.WithoutCancel(ctx))
	allocator, freeAllocator := chromedp.NewExecAllocator(base, opts...)
	var cancelBrowser context.CancelFunc
	c.ctx, cancelBrowser = chromedp.NewContext(allocator, chromedp.WithLogf(toDebug), chromedp.WithErrorf(toDebug))
	c.cancel = func() { kill(); cancelBrowser(); freeAllocator() }
	c.life, c.end = context.WithCancelCause(context.WithoutCancel(ctx))

	started := make(chan error, 1)
	go func() {
		// A browser command and not a tab's: the library then opens no tab of its own.
		version, err := chromedp.CallBrowser(c.ctx, cdpbrowser.GetVersion, cdp.Empty{})
		c.version = version.Product
		started <- err
	}()
	watchdog := time.NewTimer(startWait)
	defer watchdog.Stop()
	select {
	case err = <-started:
	case <-watchdog.C:
		kill() // the process, and so the call; c.cancel works only once
		err = errors.Join(fmt.Errorf("%s %s", noAnswer, startWait), <-started)
	case <-ctx.Done():
		kill()
		err = errors.Join(ctx.Err(), <-started)
	}
	if command != nil && command.Process != nil {
		c.pid = command.Process.Pid
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("browser.launch %s: %w", path, explainStart(path, err)), c.stop())
	}
	c.client = chromedp.FromContext(c.ctx).Browser
	if err := c.watchTargets(); err != nil {
		return nil, errors.Join(fmt.Errorf("browser.launch %s: %w", path, err), c.stop())
	}
	c.spawn(c.watch)
	return c, nil
}

// watchTargets finds the tab that the browser started with, which newTarget uses or closes
// so that its renderer is not left idle, and from then on closes every window that a page
// opens: otherwise one more stays with every document that opens one.
func (c *chrome) watchTargets() error {
	if err := chromedp.ListenBrowser(c.ctx, func(ev any) {
		created, ok := ev.(*target.EventTargetCreated)
		if !ok || created.TargetInfo.Type != "page" || created.TargetInfo.OpenerID == "" {
			return
		}
		// A listener runs on the goroutine that reads the connection, and a command
		// from there would wait for itself.
		c.spawn(func() {
			ctx, cancel := context.WithTimeout(c.life, closeWait)
			defer cancel()
			_, err := cdp.Call(ctx, c.client, target.CloseTarget, target.CloseTargetParams{TargetID: created.TargetInfo.TargetID})
			c.log.Debug().Err(err).Msg("popup closed")
		})
	}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.life, openWait)
	defer cancel()
	if _, err := cdp.Call(ctx, c.client, target.SetDiscoverTargets, target.SetDiscoverTargetsParams{Discover: true}); err != nil {
		return err
	}
	targets, err := cdp.Call(ctx, c.client, target.GetTargets, target.GetTargetsParams{})
	if err != nil {
		return err
	}
	for _, info := range targets.TargetInfos {
		if info.Type == "page" {
			c.firstTab <- info.TargetID
			break
		}
	}
	return nil
}

// watch ends the life of the browser when its connection drops or it stops answering.
func (c *chrome) watch() {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		select {
		case <-c.client.LostConnection:
			c.end(errLost)
			return
		case <-c.life.Done():
			return
		case <-c.suspicious:
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(c.life, pingWait)
		_, err := cdp.Call(ctx, c.client, cdpbrowser.GetVersion, cdp.Empty{})
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			c.end(errFrozen)
			return
		}
	}
}

// suspect has the browser asked at once whether it still answers.
func (c *chrome) suspect() {
	select {
	case c.suspicious <- struct{}{}:
	default:
	}
}

// lost reports whether the browser is gone, also in the moment before watch saw it.
func (c *chrome) lost() bool {
	select {
	case <-c.client.LostConnection:
		return true
	case <-c.life.Done():
		return true
	default:
		return false
	}
}

// stop kills the browser with all its helpers and removes its directory. The profile is
// thrown away, so there is nothing to close gently, and a frozen browser would not
// listen. It takes 0.1 to 0.3 s and must be called once.
func (c *chrome) stop() error {
	c.end(dispatch.ErrStopped)
	c.spawning.Lock()
	c.stopping = true
	c.spawning.Unlock()
	var errs []error
	if c.pid != 0 {
		errs = append(errs, killGroup(c.pid, stopWait))
	}
	c.cancel()
	c.background.Wait()
	return errors.Join(append(errs, c.dir.remove())...)
}
