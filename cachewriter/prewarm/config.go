package prewarm

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/rucflow/rucflow/shared/service"
)

// Config is what a prewarm is told, by its environment and its flags.
type Config struct {
	service.Lifetimes
	RefreshAt float64       `env:"CACHE_REFRESH_AT" envDefault:"0.9" help:"share of an answer's life after which -watch has it fetched again"`
	IdleMin   time.Duration `env:"PREWARM_IDLE_MIN" envDefault:"1s" help:"shortest time for which the queue of visits must have been idle before prewarm asks for one; in between it is twice the median visit"`
	IdleMax   time.Duration `env:"PREWARM_IDLE_MAX" envDefault:"1m" help:"longest such time"`

	// What the flags say. One of File and Watch is set.
	File   string        // the list to fetch once; "-" is standard input
	Watch  string        // the list to keep fresh
	Column string        // where a list has the numbers: a column's number, from 1, or its name
	Hours  Hours         // when visits may be asked for
	Wait   time.Duration // how long to wait for each answer
}

// Check validates the settings; the error names the variable or the flag.
func (c Config) Check() error {
	switch {
	case c.RefreshAt <= 0 || c.RefreshAt >= 1:
		return errors.New("CACHE_REFRESH_AT: a prewarm needs more than 0 and less than 1")
	case c.IdleMin <= 0:
		return errors.New("PREWARM_IDLE_MIN: more than 0")
	case c.IdleMax < c.IdleMin:
		return errors.New("PREWARM_IDLE_MAX: not less than PREWARM_IDLE_MIN")
	case c.Wait <= 0:
		return errors.New("-wait: more than 0")
	}
	return c.Lifetimes.Check()
}

// lima is Peru's time, which has no daylight saving.
var lima = time.FixedZone("America/Lima", -5*60*60)

const hoursPerDay = 24

// Hours are those of the day in Lima within which visits may be asked for, such as 20-7:
// from 20:00 to before 7:00. The zero value is the whole day. It is a flag.Value.
type Hours struct{ from, to int }

// Set reads hours such as 20-7.
func (h *Hours) Set(text string) error {
	begin, end, _ := strings.Cut(text, "-")
	from, err := strconv.ParseUint(begin, 10, 8)
	to, err2 := strconv.ParseUint(end, 10, 8)
	if err != nil || err2 != nil || from >= hoursPerDay || to > hoursPerDay || from == to {
		return fmt.Errorf("%q are not hours such as 20-7, from 0 to 24", text)
	}
	*h = Hours{int(from), int(to)}
	return nil
}

// String returns what Set reads; "" for the whole day.
func (h Hours) String() string {
	if h == (Hours{}) {
		return ""
	}
	return fmt.Sprintf("%d-%d", h.from, h.to)
}

// left returns how long it is until they begin; 0 within them.
func (h Hours) left(now time.Time) time.Duration {
	t := now.In(lima)
	begun, ended := t.Hour() >= h.from, t.Hour() >= h.to
	if h == (Hours{}) || begun && !ended || h.from > h.to && (begun || !ended) {
		return 0
	}
	next := time.Date(t.Year(), t.Month(), t.Day(), h.from, 0, 0, 0, lima)
	if next.Before(t) {
		next = next.AddDate(0, 0, 1)
	}
	return next.Sub(t)
}
