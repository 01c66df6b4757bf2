package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rucflow/rucflow/cachewriter"
	"github.com/rucflow/rucflow/deploy/allinone"
	"github.com/rucflow/rucflow/scraper"
	"github.com/rucflow/rucflow/shared/mend"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/store"
)

// doctorTimeout bounds the whole; every check has a shorter bound of its own.
const doctorTimeout = 20 * time.Second

// DoctorConfig is what a set-up is looked at by: the settings of its services.
type DoctorConfig struct {
	NATS        service.NATSConfig
	Scraper     scraper.Config
	Cachewriter cachewriter.Config

	// An all-in-one has files by default, and a token that nobody set.
	DataDir      string `env:"DATA_DIR" help:"folder of an all-in-one: where set, that is what is looked at, with its token and its cache"`
	UseFileCache string `env:"USE_FILE_CACHE" help:"keep answers in files where no Redis is configured; with DATA_DIR true by default"`
	CacheDir     string `env:"CACHE_DIR" help:"folder of the file cache; ./data/cache, with DATA_DIR its cache by default"`
	Store        store.Config
}

// Check completes and validates the settings; the error names the variable.
func (c *DoctorConfig) Check() error {
	if c.DataDir != "" {
		if c.UseFileCache == "" {
			c.Store.UseFile = true
		}
		c.Store.Dir = cmp.Or(c.CacheDir, filepath.Join(c.DataDir, allinone.CacheDir))
		if !c.NATS.Identified() {
			token, err := os.ReadFile(filepath.Join(c.DataDir, allinone.TokenFile))
			if err != nil && !errors.Is(err, os.ErrNotExist) { // it is made at the first start
				return fmt.Errorf("DATA_DIR: %w", err)
			}
			c.NATS.Token = strings.TrimSpace(string(token))
		}
	}
	c.UseFileCache, c.CacheDir = strconv.FormatBool(c.Store.UseFile), c.Store.Dir
	return errors.Join(c.Scraper.Check(), c.Cachewriter.Check(), c.Store.Check())
}

// Doctor says what of a set-up to look at, and how to tell it.
type Doctor struct {
	Only, Skip string // groups of checks, parted by commas; "" = all, and none
	JSON       bool   // a line of JSON for each finding
	Now        func() time.Time
}

// status is what a finding means.
type status string

const (
	statusOK   status = "ok"
	statusWarn status = "warn" // it works, and not as it should
	statusFail status = "fail"
	statusSkip status = "skip" // it could not be looked at
)

// finding is what one check has found.
type finding struct {
	Check   string `json:"check"`
	Status  status `json:"status"`
	Finding string `json:"finding"`
	Mend    string `json:"mend"` // "" where nothing is to be done
}

// broken is the finding of an err; of is what it happened to, otherwise mends an error that
// does not say what does.
func broken(check, of string, err error, otherwise string) finding {
	var known *mend.Error
	if errors.As(err, &known) {
		return finding{check, statusFail, of + known.Finding, known.Mend}
	}
	return finding{check, statusFail, of + err.Error(), otherwise}
}

func (f finding) String() string {
	word := string(f.Status)
	if f.Status == statusFail {
		word = strings.ToUpper(word) // to be found among many lines
	}
	line := fmt.Sprintf("%-4s %s", word, plain(f.Finding))
	if f.Mend != "" {
		line += ": " + plain(f.Mend)
	}
	return line
}

// examination is one run of a Doctor.
type examination struct {
	cfg DoctorConfig
	now func() time.Time

	pauseRead chan struct{} // closed when it is known whether the fleet rests, or will not be
	rests     time.Duration // for how long it does, from then on
}

// groups are what -only and -skip name, in the order in which they are printed.
var groups = []struct {
	name    string
	examine func(*examination, context.Context) []finding
}{
	{"nats", (*examination).nats},
	{"redis", (*examination).redis},
	{"files", (*examination).files},
	{"chromium", (*examination).chromium},
	{"sunat", (*examination).sunat},
}

// Groups are the words that Only and Skip may have.
func Groups() []string {
	var names []string
	for _, g := range groups {
		names = append(names, g.name)
	}
	return names
}

// Run looks at everything at one time and prints a line for each finding, in a fixed
// order. It is an error where anything fails; what is worth a warning is none.
func (d Doctor) Run(ctx context.Context, cfg DoctorConfig, out io.Writer) error {
	only, err := chosen("-only", d.Only)
	if err != nil {
		return err
	}
	skipped, err := chosen("-skip", d.Skip)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, doctorTimeout)
	defer cancel()
	e := &examination{cfg: cfg, now: d.Now, pauseRead: make(chan struct{})}
	wanted := func(name string) bool {
		return (len(only) == 0 || slices.Contains(only, name)) && !slices.Contains(skipped, name)
	}
	if !wanted("nats") {
		close(e.pauseRead)
	}
	var results []chan []finding
	for _, g := range groups {
		if wanted(g.name) {
			result := make(chan []finding, 1)
			results = append(results, result)
			go func() { result <- g.examine(e, ctx) }()
		}
	}
	failures := 0
	for _, result := range results {
		for _, f := range <-result {
			if f.Status == statusFail {
				failures++
			}
			if err == nil {
				err = d.print(out, f)
			}
		}
	}
	if err == nil && failures > 0 {
		err = fmt.Errorf("%d failed", failures)
	}
	return err
}

func (d Doctor) print(out io.Writer, f finding) error {
	if d.JSON {
		return printJSON(out, f)
	}
	_, err := fmt.Fprintln(out, f)
	return err
}

// chosen reads the value of a flag that names groups.
func chosen(flag, names string) ([]string, error) {
	if names == "" {
		return nil, nil
	}
	all := strings.Split(names, ",")
	for _, name := range all {
		if !slices.Contains(Groups(), name) {
			return nil, fmt.Errorf("%s: %q is none of %s; %w", flag, name, strings.Join(Groups(), ", "), service.ErrUsage)
		}
	}
	return all, nil
}
