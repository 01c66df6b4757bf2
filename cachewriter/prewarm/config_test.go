package prewarm

import (
	"testing"
	"time"
)

func TestHours(t *testing.T) {
	for text, cases := range map[string]map[string]time.Duration{
		"20-7":  {"20:00": 0, "23:59": 0, "00:00": 0, "06:59": 0, "07:00": 13 * time.Hour, "19:59": time.Minute},
		"1-5":   {"01:00": 0, "04:59": 0, "05:00": 20 * time.Hour, "00:30": 30 * time.Minute},
		"20-0":  {"20:00": 0, "23:59": 0, "00:00": 20 * time.Hour},
		"0-24":  {"00:00": 0, "23:59": 0},
		"22-24": {"21:00": time.Hour, "23:00": 0, "00:00": 22 * time.Hour},
		"":      {"12:00": 0},
	} {
		var h Hours
		if text != "" {
			if err := h.Set(text); err != nil {
				t.Fatal(err)
			}
		}
		if h.String() != text {
			t.Errorf("%q reads %q", text, h.String())
		}
		for at, want := range cases {
			now, err := time.ParseInLocation("2006-01-02 15:04", "2026-02-28 "+at, time.FixedZone("", -5*60*60))
			if err != nil {
				t.Fatal(err)
			}
			if got := h.left(now.UTC()); got != want {
				t.Errorf("%s at %s: %v, want %v", text, at, got, want)
			}
		}
	}
	for _, text := range []string{"", "20", "20-", "20-20", "-1-5", "24-5", "5-25", "20-7h", "20:00-7", "a-b", "20-7 "} {
		var h Hours
		if err := h.Set(text); err == nil {
			t.Errorf("%q is %v", text, h)
		}
	}
}

func TestConfig_Check(t *testing.T) {
	if err := settings.Check(); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*Config){
		"CACHE_REFRESH_AT: a prewarm needs more than 0 and less than 1": func(c *Config) { c.RefreshAt = 0 },
		"PREWARM_IDLE_MIN: more than 0":                                 func(c *Config) { c.IdleMin = 0 },
		"PREWARM_IDLE_MAX: not less than PREWARM_IDLE_MIN":              func(c *Config) { c.IdleMax = time.Millisecond },
		"-wait: more than 0":                                            func(c *Config) { c.Wait = 0 },
		"CACHE_TTL: more than 0":                                        func(c *Config) { c.CacheTTL = 0 },
	} {
		c := settings
		if spoil(&c); c.Check() == nil || c.Check().Error() != name {
			t.Errorf("%v, want %s", c.Check(), name)
		}
	}
}
