package prewarm

import (
	"fmt"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
)

// counts is how far a run has come.
type counts struct {
	held, fetched, missing, failed, invalid int
}

func (c counts) done() int { return c.held + c.fetched + c.missing + c.failed }

func (c counts) String() string {
	return fmt.Sprintf("%d held already, %d fetched, %d not registered, %d failed, %d invalid lines", c.held, c.fetched, c.missing, c.failed, c.invalid)
}

// left estimates how long the others take, if none of them is held: all that was waited
// for counts, so pauses do too. "" while nothing was fetched.
func (c counts) left(total int, took time.Duration) string {
	asked := c.fetched + c.missing + c.failed
	if asked == 0 {
		return ""
	}
	each := took / time.Duration(asked)
	return fmt.Sprintf("; at most %v left", (time.Duration(total-c.done()) * each).Round(time.Second))
}

// display shows how far a run has come.
type display interface {
	show(c counts, took time.Duration)
	say(line string) // that stays to be read
	end()
}

// newDisplay is a bar on a terminal, and elsewhere a line now and then.
func newDisplay(out io.Writer, terminal bool, total int) display {
	if !terminal {
		return &plainLines{out: out, total: total}
	}
	return &bar{out: out, total: total, bar: progressbar.NewOptions(total,
		progressbar.OptionSetWriter(out), progressbar.OptionSetWidth(barWidth), progressbar.OptionShowCount(),
		progressbar.OptionSetPredictTime(false), progressbar.OptionSetElapsedTime(false), progressbar.OptionShowDescriptionAtLineEnd(),
	)}
}

const (
	barWidth = 20
	barPause = 100 * time.Millisecond
	// linePause is the time between two lines where there is no terminal.
	linePause = 30 * time.Second
)

// bar is a display whose writer is a terminal; when writing to that fails nobody sees it.
type bar struct {
	out   io.Writer
	total int
	bar   *progressbar.ProgressBar
	next  time.Duration // when to draw again
}

func (b *bar) show(c counts, took time.Duration) {
	if took < b.next {
		return
	}
	b.next = took + barPause
	_ = b.bar.Set(c.done())
	b.bar.Describe(fmt.Sprintf("%d held, %d fetched, %d not registered, %d failed%s", c.held, c.fetched, c.missing, c.failed, c.left(b.total, took)))
}

func (b *bar) say(line string) {
	_ = b.bar.Clear()
	fmt.Fprintln(b.out, line)
	_ = b.bar.RenderBlank()
}

func (b *bar) end() { _ = b.bar.Clear() }

type plainLines struct {
	out   io.Writer
	total int
	last  time.Duration // when the last line was
}

func (p *plainLines) show(c counts, took time.Duration) {
	if took-p.last < linePause {
		return
	}
	p.last = took
	fmt.Fprintf(p.out, "%d of %d: %v%s\n", c.done(), p.total, c, c.left(p.total, took))
}

func (p *plainLines) say(line string) { fmt.Fprintln(p.out, line) }

func (p *plainLines) end() {}
