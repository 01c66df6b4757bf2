package admin

import (
	"testing"

	"github.com/rucflow/rucflow/scraper/browser"
	"github.com/rucflow/rucflow/shared/store"
)

func TestSharedMemory_SaysWhatIsTooLittle(t *testing.T) {
	for name, tc := range map[string]struct {
		seen browser.Examination
		want status
	}{
		"none at all":            {browser.Examination{ShmKnown: true}, statusFail},
		"1 MB":                   {browser.Examination{ShmKnown: true, ShmBytes: 1 << 20}, statusFail},
		"Docker's":               {browser.Examination{ShmKnown: true, ShmBytes: 64 << 20}, statusWarn},
		"as compose.yaml has":    {browser.Examination{ShmKnown: true, ShmBytes: 256 << 20}, statusOK},
		"1 MB, and not used":     {browser.Examination{ShmKnown: true, ShmBytes: 1 << 20, ShmOff: true}, statusOK},
		"another kind of system": {browser.Examination{}, statusSkip},
	} {
		t.Run(name, func(t *testing.T) {
			f := sharedMemory(tc.seen)
			if f.Status != tc.want || (f.Mend != "") != (tc.want == statusFail || tc.want == statusWarn) {
				t.Errorf("%+v, want %s", f, tc.want)
			}
		})
	}
}

func TestEviction_SaysWhatLosesAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		report store.RedisReport
		want   status
	}{
		"what soonest expires goes":           {store.RedisReport{Eviction: "volatile-ttl", MaxBytes: 100, UsedBytes: 100}, statusOK},
		"nothing goes, and there is room":     {store.RedisReport{Eviction: "noeviction", MaxBytes: 100, UsedBytes: 50}, statusOK},
		"nothing goes, and it is full":        {store.RedisReport{Eviction: "noeviction", MaxBytes: 100, UsedBytes: 95}, statusWarn},
		"nothing goes, and nothing bounds":    {store.RedisReport{Eviction: "noeviction", UsedBytes: 1 << 40}, statusOK},
		"what is seldom read goes":            {store.RedisReport{Eviction: "allkeys-lru"}, statusWarn},
		"what expires goes, least used first": {store.RedisReport{Eviction: "volatile-lru"}, statusWarn},
	} {
		t.Run(name, func(t *testing.T) {
			if f := eviction(tc.report); f.Status != tc.want {
				t.Errorf("%+v, want %s", f, tc.want)
			}
		})
	}
}
