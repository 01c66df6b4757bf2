package admin

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/rucflow/rucflow/scraper"
	"github.com/rucflow/rucflow/scraper/browser"
	"github.com/rucflow/rucflow/shared/store"
)

// The checks beside NATS.
const (
	checkRedis    = "redis"
	checkSource   = "source"
	checkEviction = "eviction"
	checkFiles    = "files"
	checkDisk     = "disk"
	checkChromium = "chromium"
	checkShm      = "shm"
	checkSunat    = "sunat"
)

const (
	redisPatience    = 5 * time.Second
	chromiumPatience = 15 * time.Second
	sunatPatience    = 8 * time.Second

	// A folder that has less room will be full soon, or is.
	littleDisk = 1 << 30
	noDisk     = 64 << 20
	// dockerShm is what a container has whose /dev/shm nobody thought of. The scraper
	// copes with it; less was made so by somebody.
	dockerShm = 64 << 20
)

// redis looks at Redis, or says what takes its place.
func (e *examination) redis(ctx context.Context) []finding {
	cfg := e.cfg.Store
	switch {
	case !cfg.Redis.Configured() && cfg.UseFile:
		return []finding{{checkRedis, statusOK, "Redis is not configured: answers are kept in files, in " + cfg.Dir, ""}}
	case !cfg.Redis.Configured():
		return []finding{{checkRedis, statusWarn, "Redis is not configured: answers are kept in memory only, not shared and lost on restart",
			"set REDIS_URL or REDIS_HOST, or USE_FILE_CACHE=true"}}
	}
	ctx, cancel := context.WithTimeout(ctx, redisPatience)
	defer cancel()
	at := "Redis at " + cfg.Redis.Where()
	r, err := store.ExamineRedis(ctx, cfg.Redis, e.cfg.Scraper.Source())
	if err != nil {
		all := []finding{broken(checkRedis, at+": ", err, "look at its log and correct the REDIS_ settings")}
		return append(all, skipAll([]string{checkSource, checkEviction}, "Redis cannot be asked")...)
	}
	source := finding{checkSource, statusOK, fmt.Sprintf("Redis holds data of source %q", r.Source), ""}
	if r.Source == "" {
		source.Finding = "Redis holds data of no source yet"
	}
	if r.Hidden != nil {
		return []finding{
			{checkRedis, statusOK, at + " answers", ""}, source,
			{checkEviction, statusSkip, fmt.Sprintf("%s: Redis does not tell this user: %v", checkEviction, r.Hidden), ""},
		}
	}
	return []finding{{checkRedis, statusOK, fmt.Sprintf("Redis %s at %s", r.Version, cfg.Redis.Where()), ""}, source, eviction(r)}
}

func eviction(r store.RedisReport) finding {
	limit := "no limit"
	if r.MaxBytes > 0 {
		limit = size(r.MaxBytes)
	}
	text := fmt.Sprintf("Redis uses %s of %s, maxmemory-policy %s", size(r.UsedBytes), limit, r.Eviction)
	switch {
	case !slices.Contains([]string{"volatile-ttl", "noeviction"}, r.Eviction):
		return finding{checkEviction, statusWarn, text + ", which may drop the versions before the answers", "set maxmemory-policy volatile-ttl"}
	case r.MaxBytes > 0 && r.Eviction == "noeviction" && float64(r.UsedBytes) > nearlyFull*float64(r.MaxBytes):
		return finding{checkEviction, statusWarn, text + ", so that it soon takes no answers", "raise maxmemory, or set maxmemory-policy volatile-ttl"}
	}
	return finding{checkEviction, statusOK, text, ""}
}

// files looks at the folders that the settings use.
func (e *examination) files(context.Context) []finding {
	var all []finding
	if e.cfg.DataDir != "" {
		all = append(all, e.folder("DATA_DIR", e.cfg.DataDir)...)
	}
	if e.cfg.Store.UseFile && !e.cfg.Store.Redis.Configured() {
		all = append(all, e.folder("CACHE_DIR", e.cfg.Store.Dir)...)
	}
	return all
}

func (e *examination) folder(setting, dir string) []finding {
	existing, err := store.ExamineDir(setting, dir, e.cfg.Scraper.Source())
	if err != nil {
		return append([]finding{broken(checkFiles, "", err, "correct "+setting)}, skipAll([]string{checkDisk}, dir+" cannot be used")...)
	}
	return []finding{{checkFiles, statusOK, fmt.Sprintf("the folder %s can be written", dir), ""}, disk(setting, existing)}
}

func disk(setting, dir string) finding {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return finding{checkDisk, statusSkip, fmt.Sprintf("%s: %s: %v", checkDisk, dir, err), ""}
	}
	free := int64(fs.Bavail * uint64(fs.Bsize)) //nolint:gosec // no disk is that large
	f := finding{checkDisk, statusOK, fmt.Sprintf("%s free for %s", size(free), setting), ""}
	mend := fmt.Sprintf("make room on the disk of %s, or set %s to a folder of another", dir, setting)
	switch {
	case free < noDisk:
		f.Status, f.Mend = statusFail, mend
	case free < littleDisk:
		f.Status, f.Mend = statusWarn, mend
	}
	return f
}

// chromium starts it and ends it.
func (e *examination) chromium(ctx context.Context) []finding {
	if !e.cfg.Scraper.UsesChromium() {
		return skipAll([]string{checkChromium, checkShm}, "the engine "+e.cfg.Scraper.Engine+" does without Chromium")
	}
	ctx, cancel := context.WithTimeout(ctx, chromiumPatience)
	defer cancel()
	seen, err := scraper.ExamineChromium(ctx, e.cfg.Scraper, zerolog.Nop())
	if err != nil {
		return []finding{broken(checkChromium, "", err, "see CHROME_PATH, CHROME_SANDBOX and CHROME_FLAGS"), sharedMemory(seen)}
	}
	sandbox := "with its sandbox"
	if !seen.Sandboxed {
		sandbox = "without its sandbox"
	}
	f := finding{checkChromium, statusOK, fmt.Sprintf("%s starts, %s: %s", seen.Path, sandbox, seen.Version), ""}
	if seen.Script {
		f.Status, f.Finding = statusWarn, f.Finding+"; it is a script, so that a kill reaches the script and not Chromium"
		f.Mend = "set CHROME_PATH to the program itself, such as /usr/lib/chromium/chromium-headless-shell"
	}
	return []finding{f, sharedMemory(seen)}
}

func sharedMemory(seen browser.Examination) finding {
	f := finding{checkShm, statusOK, fmt.Sprintf("/dev/shm has %s", size(int64(seen.ShmBytes))), ""} //nolint:gosec // no memory is that large
	const mend = "give the container shm_size: 256m (docker run --shm-size=256m), or mount /dev/shm larger"
	switch {
	case !seen.ShmKnown:
		return finding{checkShm, statusSkip, checkShm + ": this system has no /dev/shm", ""}
	case seen.ShmOff:
		f.Finding += ", which CHROME_FLAGS has Chromium do without"
	case seen.ShmBytes < dockerShm:
		f.Status, f.Mend = statusFail, mend+", or set CHROME_FLAGS=--disable-dev-shm-usage to do without it"
		f.Finding += ", too little for Chromium, which uses files instead"
	case seen.ShmBytes < browser.MinShmBytes:
		f.Status, f.Mend = statusWarn, mend
		f.Finding += ", little for Chromium, which uses files instead"
	}
	return f
}

// sunat gets the form, unless the fleet rests because SUNAT has refused it.
func (e *examination) sunat(ctx context.Context) []finding {
	<-e.pauseRead
	if e.rests > 0 {
		return skipAll([]string{checkSunat}, "the fleet rests, so SUNAT is left alone")
	}
	ctx, cancel := context.WithTimeout(ctx, sunatPatience)
	defer cancel()
	if err := scraper.ExamineSite(ctx, e.cfg.Scraper); err != nil {
		return []finding{broken(checkSunat, e.cfg.Scraper.URL+": ", err, "correct SUNAT_URL")}
	}
	return []finding{{checkSunat, statusOK, e.cfg.Scraper.URL + " is the search form", ""}}
}
