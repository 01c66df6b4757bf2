package service

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
)

type greeting struct {
	Name string `env:"NAME" envDefault:"world" help:"who is greeted"`
}

func TestChoose_RunsTheCommandThatTheFirstArgumentNames(t *testing.T) {
	loud := false
	commands := []Command{Program[greeting]{
		Name: "prog greet", Summary: "greets", Args: "<word>",
		Flags: func(fs *flag.FlagSet) { fs.BoolVar(&loud, "loud", false, "with emphasis") },
		Run: func(_ context.Context, c greeting, f Frame) error {
			switch {
			case len(f.Args) != 1:
				return fmt.Errorf("one word: %w", ErrUsage)
			case f.Args[0] == "fail":
				return errors.New("no luck")
			}
			fmt.Fprintln(f.Out, f.Args[0], c.Name, loud)
			return nil
		},
	}, Program[greeting]{
		Name: "prog say bye", Summary: "takes leave",
		Run: func(_ context.Context, c greeting, f Frame) error {
			fmt.Fprintln(f.Out, "bye", c.Name)
			fmt.Fprintln(f.Err, "so long")
			return nil
		},
	}}
	root := Program[struct{ Frame Config }]{
		Name: "prog", Summary: "serves",
		Frame: func(c *struct{ Frame Config }) Config { return c.Frame },
		Ops:   func(*struct{ Frame Config }) string { return "" },
		Run:   func(context.Context, struct{ Frame Config }, Frame) error { return errors.New("served") },
	}
	for _, tc := range []struct {
		args           string
		code           int
		stdout, stderr string
	}{
		{"greet hello", 0, "hello world false\n", ""},
		{"greet -loud hello", 0, "hello world true\n", ""},
		{"greet", 2, "", "prog greet: one word: see -help\n"},
		{"greet fail", 1, "", "prog greet: no luck\n"},
		{"greet -health", 2, "", "not defined: -health"},
		{"greet -check-config", 0, "NAME=world\n", ""},
		{"greet -help", 0, "", "Usage: prog greet [flags] <word>"},
		{"-help", 0, "", "prog greet\n    \tgreets"},
		{"other", 2, "", `unexpected argument "other"`},
		{"say bye", 0, "bye world\n", "so long\n"},
		{"say", 2, "", `unexpected argument "say"`},
		{"", 1, "", `"error":"served"`},
		{"-health", 1, "", "OPS_ADDR is empty"},
	} {
		var stdout, stderr strings.Builder
		loud = false
		code := choose(root, commands, strings.Fields(tc.args), nil, &stdout, &stderr)
		if code != tc.code || stdout.String() != tc.stdout || !strings.Contains(stderr.String(), tc.stderr) || tc.stderr == "" && stderr.Len() > 0 {
			t.Errorf("%q: %d, stdout %q, stderr %q", tc.args, code, stdout.String(), stderr.String())
		}
	}
}

func TestProgram_SamplesMemoryWhereItsProfileCanBeHad(t *testing.T) {
	rate := runtime.MemProfileRate
	t.Cleanup(func() { runtime.MemProfileRate = rate })
	for environ, want := range map[string]int{"OPS_PPROF=true": rate, "OPS_PPROF=false": 0} {
		runtime.MemProfileRate = rate
		got := -1
		p := Program[struct{ Frame Config }]{
			Name: "prog", Frame: func(c *struct{ Frame Config }) Config { return c.Frame },
			Run: func(context.Context, struct{ Frame Config }, Frame) error { got = runtime.MemProfileRate; return nil },
		}
		if code := p.main(nil, []string{environ}, io.Discard, io.Discard); code != 0 || got != want {
			t.Errorf("%s: exit %d, a sample for each %d bytes; want %d", environ, code, got, want)
		}
	}
}
