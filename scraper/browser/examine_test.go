package browser_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/scraper/browser"
	"github.com/rucflow/rucflow/shared/mend"
)

// TestExamine_StartsChromiumAndLeavesNothing: neither of a browser that starts nor of one
// that says why it does not.
func TestExamine_StartsChromiumAndLeavesNothing(t *testing.T) {
	says := func(text string) string {
		path := filepath.Join(t.TempDir(), "chromium")
		if err := os.WriteFile(path, []byte("#!/bin/sh\necho '"+text+"' >&2\nexit 1\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, tc := range map[string]struct {
		path string
		want string // of the mend; "" = it starts
	}{
		"Chromium":          {os.Getenv("CHROME_PATH"), ""},
		"a sandbox as root": {says("Running as root without --no-sandbox is not supported."), "CHROME_SANDBOX=auto"},
		"no sandbox":        {says("No usable sandbox! If you are running on Ubuntu 23.10+"), "CHROME_SANDBOX=off"},
		"no namespace":      {says("Failed to move to new namespace: PID namespaces supported"), "CHROME_SANDBOX=off"},
		"no library":        {says("error while loading shared libraries: libnss3.so"), "apt-get install"},
		"something else":    {says("hello"), "CHROME_PATH"},
		"nothing":           {filepath.Join(t.TempDir(), "chromium"), "CHROME_PATH"},
	} {
		t.Run(name, func(t *testing.T) {
			temp, err := os.MkdirTemp("", "") // with the test's name the full browser's socket has too long a path
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(temp) })
			seen, err := browser.Examine(context.Background(), browser.Config{URL: "http://127.0.0.1:1/", ChromePath: tc.path, TempDir: temp}, zerolog.Nop())
			var known *mend.Error
			switch {
			case tc.want == "" && (err != nil || !strings.Contains(seen.Version, "Chrome/") || seen.Path == "" || seen.Sandboxed == (os.Getuid() == 0)):
				t.Errorf("%v, %+v", err, seen)
			case tc.want != "" && (!errors.As(err, &known) || !strings.Contains(known.Mend, tc.want)):
				t.Errorf("%v, want a mend with %q", err, tc.want)
			}
			if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
				t.Errorf("left in the temp directory: %v, %v", left, err)
			}
		})
	}
}
