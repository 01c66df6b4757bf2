package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/rucflow/rucflow/scraper/replica"
)

// everyRun are the faults of the short form. Kills are TestSeries_Killed's.
var everyRun = []string{"redis-server frozen", "all cut off from NATS", "SUNAT: " + replica.FaultOtherRUC}

// siteFaults are what can go wrong with an answer of SUNAT.
var siteFaults = []string{
	replica.FaultHang, replica.FaultSlow, replica.FaultHalf, replica.FaultHalfOpen, replica.FaultOtherRUC, replica.FaultNotFoundOther,
	replica.FaultRename, replica.FaultError, replica.FaultWAF, replica.FaultEmpty, replica.FaultBounce, replica.FaultReset,
	replica.FaultAlert, replica.FaultAlertLoad, replica.FaultPopup, replica.FaultLoop, "401", "403", "429", "500", "502", "503", "504",
}

// chaosFaults are the rows of the table.
func chaosFaults() []fault {
	const (
		span  = 3 * time.Second
		tries = 3 // SUNAT_ATTEMPTS: of one visit, whose tabs die under it
	)
	siteSpan := long(time.Second, span)
	second := 1
	attempts := map[column]string{colVisits: "attempts"}
	faults := []fault{
		{name: "gateway killed", away: &second, inject: func(c *chaos) { c.replace(c.gateways, 1) }},
		{name: "busy scraper killed", visits: 2, inject: func(c *chaos) { c.replace(c.scrapers, c.busy()) }},
		{name: "cachewriter killed", inject: func(c *chaos) { c.replace(c.writers, 0) }},
		{name: "both cachewriters killed", lasts: span,
			inject: func(c *chaos) { c.writers[0].stop(syscall.SIGKILL); c.writers[1].stop(syscall.SIGKILL) },
			heal:   func(c *chaos) { c.writers[0], c.writers[1] = c.writers[0].again(), c.writers[1].again() }},
		{name: "Chromium killed", chromium: true, visits: tries, inject: func(c *chaos) { kill(c.t, c.chromium(c.scrapers[c.busy()])) }},
		{name: "renderers killed", chromium: true, visits: tries, inject: func(c *chaos) {
			for _, pid := range c.browserProcesses("--type=renderer") {
				kill(c.t, pid)
			}
		}},
		{name: "nats-server killed", visits: 2, inject: func(c *chaos) { c.nats.stop(syscall.SIGKILL); c.startNATS() }},
		{name: "nats-server killed, back later", visits: 2, lasts: span,
			inject: func(c *chaos) { c.nats.stop(syscall.SIGKILL) }, heal: func(c *chaos) { c.startNATS() }},
		{name: "redis-server killed", inject: func(c *chaos) { c.redis.Kill(); c.redis.Restart() }},

		frozen("gateway frozen", span, &second, 1, func(c *chaos) *process { return c.gateways[1] }),
		frozen("busy scraper frozen", span, nil, 2, func(c *chaos) *process { return c.scrapers[c.busy()] }),
		frozen("busy scraper frozen beyond AckWait", 12*time.Second, nil, 2, func(c *chaos) *process { return c.scrapers[c.busy()] }),
		frozen("cachewriter frozen", span, nil, 1, func(c *chaos) *process { return c.writers[0] }),
		frozen("nats-server frozen", span, nil, 2, func(c *chaos) *process { return c.nats }),
		{name: "Chromium frozen", chromium: true, lasts: span, visits: tries, inject: func(c *chaos) { c.signalBrowsers(syscall.SIGSTOP) }, heal: func(c *chaos) { c.signalBrowsers(syscall.SIGCONT) }},
		{name: "redis-server frozen", lasts: span, inject: func(c *chaos) { c.redis.Freeze() }, heal: func(c *chaos) { c.redis.Thaw() }},

		{name: "Redis refuses", lasts: span, inject: func(c *chaos) { c.redis.Kill() }, heal: func(c *chaos) { c.redis.Restart() }},
		{name: "Redis mute", lasts: span, inject: func(c *chaos) { c.redisLine.set(lineMute) }, heal: func(c *chaos) { c.redisLine.set(lineGood) }},
		{name: "Redis slow", lasts: span, inject: func(c *chaos) { c.redisLine.set(lineSlow) }, heal: func(c *chaos) { c.redisLine.set(lineGood) }},
		{name: "Redis read-only", lasts: span,
			inject: func(c *chaos) { c.redisDo("REPLICAOF", "127.0.0.1", "1") }, heal: func(c *chaos) { c.redisDo("REPLICAOF", "NO", "ONE") }},
		{name: "Redis full", lasts: span,
			inject: func(c *chaos) { c.redisDo("CONFIG", "SET", "maxmemory", "1") }, heal: func(c *chaos) { c.redisDo("CONFIG", "SET", "maxmemory", "0") }},

		{name: "nats-server restarted", visits: 2, inject: func(c *chaos) { c.nats.stop(syscall.SIGTERM); c.startNATS() }},
		cut("a gateway cut off from NATS", span, "gateway1"),
		cut("scrapers cut off from NATS", span, "scraper"),
		cut("cachewriters cut off from NATS", span, "cachewriter"),
		cut("all cut off from NATS", span, "gateway0", "gateway1", "scraper", "cachewriter"),
		{name: "NATS mute for all", lasts: span, visits: 2,
			inject: func(c *chaos) { c.allLines(lineMute) }, heal: func(c *chaos) { c.allLines(lineGood) }},
		{name: "NATS slow for all", lasts: span, visits: 1,
			inject: func(c *chaos) { c.allLines(lineSlow) }, heal: func(c *chaos) { c.allLines(lineGood) }},
		{name: "NATS storage lost", visits: 2, without: map[column]string{colEvents: "those in Redis are right"}, inject: func(c *chaos) {
			c.nats.stop(syscall.SIGKILL)
			if err := os.RemoveAll(c.natsDir()); err != nil {
				c.t.Fatal(err)
			}
			c.startNATS()
			c.provision() // no service may make streams here
		}},

		ahead("gateway's clock an hour ahead", &second, func(c *chaos) []*process { return c.gateways }),
		ahead("scraper's clock an hour ahead", nil, func(c *chaos) []*process { return c.scrapers }),
		ahead("cachewriter's clock an hour ahead", nil, func(c *chaos) []*process { return c.writers }),
	}
	for _, kind := range siteFaults {
		faults = append(faults, fault{name: "SUNAT: " + kind, own: true, lasts: siteSpan, without: attempts,
			inject: func(c *chaos) { c.fault(replica.Fault{Kind: kind}) }})
	}
	for _, kind := range []string{replica.FaultHang, replica.FaultReset, replica.FaultWAF, "500"} {
		faults = append(faults, fault{name: "SUNAT's form: " + kind, own: true, lasts: siteSpan, without: attempts,
			inject: func(c *chaos) { c.fault(replica.Fault{Kind: kind, On: replica.OnForm}) }})
	}
	return faults
}

// frozen is a process that stands still for a while, its connections open.
func frozen(name string, lasts time.Duration, away *int, visits int, who func(c *chaos) *process) fault {
	var p *process
	return fault{
		name: name, lasts: lasts, away: away, visits: visits,
		inject: func(c *chaos) { p = who(c); p.signal(syscall.SIGSTOP) },
		heal:   func(*chaos) { p.signal(syscall.SIGCONT) },
	}
}

// cut is a line to NATS that is gone for a while.
func cut(name string, lasts time.Duration, lines ...string) fault {
	set := func(c *chaos, to line) {
		for _, whose := range lines {
			c.natsLines[whose].set(to)
		}
	}
	return fault{name: name, lasts: lasts, inject: func(c *chaos) { set(c, lineCut) }, heal: func(c *chaos) { set(c, lineGood) }}
}

func (c *chaos) allLines(to line) {
	for _, p := range c.natsLines {
		p.set(to)
	}
}

// ahead replaces the second process of a kind by one whose clock is an hour ahead.
func ahead(name string, away *int, kind func(c *chaos) []*process) fault {
	var before *process
	return fault{
		name: name, lasts: 3 * time.Second, away: away,
		inject: func(c *chaos) {
			all := kind(c)
			before = all[1]
			before.stop(syscall.SIGTERM)
			all[1] = launchCommand(before.t, before.name, []string{c.aheadOf(before.name)}, before.env...)
			c.whole()
		},
		heal: func(c *chaos) {
			all := kind(c)
			all[1].stop(syscall.SIGTERM)
			all[1] = before.again()
			c.whole()
		},
	}
}

// aheadOf builds a service whose clock is an hour ahead, and returns its name.
func (c *chaos) aheadOf(service string) string {
	dir, err := binaries()
	if err != nil {
		c.t.Fatal(err)
	}
	name := filepath.Join("ahead", service)
	cmd := exec.Command("go", "build", "-ldflags", "-X github.com/rucflow/rucflow/shared/service.clockOffset=1h",
		"-o", filepath.Join(dir, name), "./cmd/"+service)
	cmd.Dir = filepath.Join("..", "..", service)
	cmd.Env = append(os.Environ(), "TMPDIR="+systemTemp)
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("%v\n%s", err, out)
	}
	return name
}

func (c *chaos) signalBrowsers(sig syscall.Signal) {
	for _, pid := range c.browserProcesses("") {
		if err := syscall.Kill(pid, sig); err != nil && err != syscall.ESRCH {
			c.t.Error(err)
		}
	}
}

func (c *chaos) redisDo(args ...any) {
	if err := c.redisCLI.Do(c.t.Context(), args...).Err(); err != nil {
		c.t.Fatal(err)
	}
}
