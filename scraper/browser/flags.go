package browser

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/chromedp/chromedp"
)

// MinShmBytes is the size of /dev/shm from which Chromium may use it. Docker gives
// 64 MB, and a full one looks like tabs that crash or hang.
const MinShmBytes = 256 << 20

// flagNoShm has Chromium use files in the temporary folder instead of /dev/shm.
const flagNoShm = "disable-dev-shm-usage"

// features are switched off by one flag: of two disable-features Chromium obeys
// only the last.
var disabledFeatures = []string{
	"Translate", "OptimizationHints", "MediaRouter", "DialMediaRouteProvider",
	"AutofillServerCommunication", "CertificateTransparencyComponentUpdater",
	"InterestFeedContentSuggestions", "BlinkGenPropertyTrees",
	// The form's address is the operator's: a plain http one must not be tried
	// over TLS first.
	"HttpsUpgrades",
	// A document takes over the frame of the one before it in the same process. To make a
	// frame for each is a fifth of the CPU of a visit, which loads two.
	"RenderDocument",
}

// flags returns Chromium's command line for c, by flag name; the value is a string,
// or true for a bare flag.
func flags(c Config, profile string) (map[string]any, error) {
	sandboxed, err := c.sandboxed()
	if err != nil {
		return nil, err
	}
	f := map[string]any{
		"user-data-dir": profile,

		// Run without a screen. The headless shell is its own program and knows no
		// other mode; in the full browser the same flag chooses the headless mode.
		"headless":                    true,
		"hide-scrollbars":             true,
		"mute-audio":                  true,
		"disable-gpu":                 true, // there is none: saves a failed start of its process
		"disable-software-rasterizer": true,
		"window-size":                 "1280,800",
		"lang":                        "es-PE",
		"accept-lang":                 "es-PE,es",

		// No traffic but ours, no work at the start.
		"no-first-run":                           true,
		"no-default-browser-check":               true,
		"no-pings":                               true,
		"disable-background-networking":          true,
		"disable-client-side-phishing-detection": true,
		"disable-component-update":               true,
		"disable-default-apps":                   true,
		"disable-domain-reliability":             true,
		"disable-extensions":                     true,
		"disable-sync":                           true,
		"metrics-recording-only":                 true,
		"safebrowsing-disable-auto-update":       true,
		"host-resolver-rules":                    resolverRules(c),
		"disable-quic":                           true, // one TCP path, as proxies and firewalls expect
		"disable-features":                       strings.Join(disabledFeatures, ","),

		// No crash helper: one process less, and none that leaves our process group.
		"disable-breakpad":       true,
		"disable-crash-reporter": true,

		// What a look-up does not need. Blocking by protocol rules instead gained
		// nothing measurable: the rules' own events cost what they saved.
		"blink-settings":       "imagesEnabled=false",
		"disable-remote-fonts": true,

		// Frames are drawn on command only, which nobody gives: see newTarget.
		"enable-begin-frame-control": true,

		// A tab that nobody looks at works at full speed.
		"disable-background-timer-throttling":    true,
		"disable-backgrounding-occluded-windows": true,
		"disable-renderer-backgrounding":         true,
		"disable-hang-monitor":                   true,
		"disable-ipc-flooding-protection":        true,
		"disable-popup-blocking":                 true, // popups are closed, and seen, by us
		"disable-prompt-on-repost":               true,

		// A page that eats memory dies by itself instead of taking the host along.
		"js-flags": "--max-old-space-size=128",

		"enable-automation": true, // says openly that a program drives it
		"password-store":    "basic",
		"use-mock-keychain": true,
	}
	if !sandboxed {
		f["no-sandbox"] = true
	}
	if size, ok := shmBytes(); ok && size < MinShmBytes {
		f[flagNoShm] = true
	}
	if c.UserAgent != "" {
		f["user-agent"] = c.UserAgent
	}
	for _, flag := range c.Flags {
		name, value := splitFlag(flag)
		if name == "disable-features" {
			value = fmt.Sprintf("%s,%s", f[name], value)
		}
		f[name] = value
	}
	return f, nil
}

// splitFlag takes "--name=value" or "name" apart. The value of a bare flag is true.
func splitFlag(flag string) (name string, value any) {
	name, text, hasValue := strings.Cut(strings.TrimLeft(strings.TrimSpace(flag), "-"), "=")
	if strings.ContainsAny(name, " \t\n") {
		return "", nil
	}
	if !hasValue {
		return name, true
	}
	return name, text
}

// allocatorOptions turns flags into options, in a fixed order. None of the library's
// default flags are added.
func allocatorOptions(f map[string]any) []chromedp.ExecAllocatorOption {
	opts := make([]chromedp.ExecAllocatorOption, 0, len(f))
	for _, name := range slices.Sorted(maps.Keys(f)) {
		opts = append(opts, chromedp.Flag(name, f[name]))
	}
	if _, off := f["no-sandbox"]; !off {
		// Said outright, because the library adds --no-sandbox for root otherwise.
		opts = append(opts, chromedp.Flag("no-sandbox", false))
	}
	return opts
}

// sandboxed reports whether Chromium's sandbox is to be used.
func (c Config) sandboxed() (bool, error) {
	switch strings.ToLower(c.Sandbox) {
	case "auto":
		return os.Getuid() != 0, nil
	case "on", "true":
		return true, nil
	case "off", "false":
		return false, nil
	}
	return false, fmt.Errorf("the sandbox is auto, on or off, not %q", c.Sandbox)
}

// passedOn are the variables of our environment that the browser gets. It renders
// other people's pages, and the rest may hold secrets.
var passedOn = []string{
	"HOME", "PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "FONTCONFIG_PATH", "FONTCONFIG_FILE",
	"XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
}

func environment(tmp string) []string {
	env := []string{"TMPDIR=" + tmp} // its org.chromium.* entries go where we remove them
	for _, name := range passedOn {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}
