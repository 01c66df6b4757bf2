package scraper

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/scraper/sunat"
)

const (
	defaultChangedDir = "./data/changed"
	// changedAge is how long a page is kept after it was seen last.
	changedAge = 7 * 24 * time.Hour
	// maxChangedPages of different structure are kept.
	maxChangedPages              = 20
	changedSweep                 = time.Hour
	changedPrefix, changedSuffix = "page-", ".html"
)

// changedPages keeps the structure of pages that the parser has no rule for, one file
// for each structure, so that somebody can mend the parser. What a page says of a
// taxpayer is not kept; see sunat.Skeleton. A folder that cannot be written costs a log
// line: the answer does not depend on it.
type changedPages struct {
	dir     string
	now     func() time.Time
	counter prometheus.Counter
	log     zerolog.Logger
}

// keep counts a page that nobody can read and keeps its structure.
func (c *changedPages) keep(p sunat.Page, why error) {
	c.counter.Inc()
	skeleton := sunat.Skeleton(p.HTML)
	sum := sha256.Sum256([]byte(skeleton))
	path := filepath.Join(c.dir, changedPrefix+hex.EncodeToString(sum[:6])+changedSuffix)
	if err := c.write(path, fmt.Sprintf("<!-- status %d; %v; ‹n› stands for a text of n characters -->\n%s", p.Status, why, skeleton)); err != nil {
		c.log.Warn().Err(err).Msg("the structure of a changed page could not be kept")
		return
	}
	c.log.Error().Err(why).Str("file", path).Msg("SUNAT's page has changed; its structure is kept")
	c.sweep()
}

// write makes the file, or notes that its page was seen again.
func (c *changedPages) write(path, content string) error {
	now := c.now()
	if err := os.Chtimes(path, now, now); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	if err := renameio.WriteFile(path, []byte(content), 0o600, renameio.WithTempDir(c.dir)); err != nil {
		return err
	}
	return os.Chtimes(path, now, now)
}

// run removes what is too old until ctx ends.
func (c *changedPages) run(ctx context.Context) {
	for {
		c.sweep()
		if sleep(ctx, changedSweep) != nil {
			return
		}
	}
}

// sweep removes pages not seen for changedAge, and of the rest all but the latest
// maxChangedPages.
func (c *changedPages) sweep() {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return // nothing was kept yet; a folder that cannot be read was told of by keep
	}
	var kept []fs.FileInfo
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || !strings.HasPrefix(e.Name(), changedPrefix) || !strings.HasSuffix(e.Name(), changedSuffix) {
			continue // somebody else's, or just removed by another scraper
		}
		kept = append(kept, info)
	}
	slices.SortFunc(kept, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	for i, info := range kept {
		if i < maxChangedPages && c.now().Sub(info.ModTime()) < changedAge {
			continue
		}
		if err := os.Remove(filepath.Join(c.dir, info.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			c.log.Warn().Err(err).Msg("a page kept too long could not be removed")
		}
	}
}
