package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/rucflow/rucflow/shared/mend"
	"github.com/rucflow/rucflow/shared/service"
)

// RedisReport is how a Redis is set up, as far as its user may see.
type RedisReport struct {
	Source    string // whose data it holds; "" = nobody has said yet
	Hidden    error  // why the rest is not known; nil = it is
	Version   string
	Eviction  string // what it drops when it is full: the word of maxmemory-policy
	MaxBytes  int64  // 0 = no bound
	UsedBytes int64
}

// Where says where Redis is, without credentials; "" where the settings cannot be read.
func (c RedisConfig) Where() string {
	o, err := c.options()
	if err != nil {
		return ""
	}
	return strings.Join(o.Addrs, ",")
}

// ExamineRedis looks at the Redis that cfg names, as a service of source's data would use
// it, and changes nothing. The error says what mends it, and nothing of what was sent.
func ExamineRedis(ctx context.Context, cfg RedisConfig, source string) (RedisReport, error) {
	o, err := cfg.options()
	if err != nil {
		return RedisReport{}, fmt.Errorf("store.ExamineRedis: %w", err)
	}
	quiet()
	c := redis.NewUniversalClient(cfg.writeOptions(*o))
	defer func() { _ = c.Close() }() // nothing was written
	var r RedisReport
	// Every user of ours may read the marker, and only some may do anything else.
	if r.Source, err = c.Get(ctx, sourceKey).Result(); err != nil && !errors.Is(err, redis.Nil) {
		err = explain(err, o)
		var late net.Error
		if o.TLSConfig != nil && errors.As(err, &late) && late.Timeout() && speaksPlainly(ctx, o.Addrs[0]) {
			err = service.NoTLS("REDIS", err)
		}
		return RedisReport{}, fmt.Errorf("store.ExamineRedis: %w", service.ExplainNetwork("REDIS_URL, REDIS_HOST or REDIS_ADDRS", err))
	}
	if r.Source != "" && r.Source != source {
		return r, otherSource("Redis", r.Source, source)
	}
	info, err := c.Info(ctx).Result()
	if err != nil {
		r.Hidden = withoutArguments(err)
		return r, nil
	}
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "redis_version":
			r.Version = value
		case "maxmemory_policy":
			r.Eviction = value
		case "maxmemory":
			r.MaxBytes, err = strconv.ParseInt(value, 10, 64)
		case "used_memory":
			r.UsedBytes, err = strconv.ParseInt(value, 10, 64)
		}
		if err != nil {
			return r, fmt.Errorf("store.ExamineRedis: %s: %w", name, err)
		}
	}
	return r, nil
}

// speaksPlainly reports whether a Redis without TLS is at addr. To a greeting in TLS, which
// it takes for the begin of a long word, such a server says nothing at all.
func speaksPlainly(ctx context.Context, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	defer func() { _ = c.Close() }() // all that counts was read
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	if _, err := c.Write([]byte("PING\r\n")); err != nil {
		return false
	}
	reply := make([]byte, 1)
	_, err = c.Read(reply)
	return err == nil && (reply[0] == '+' || reply[0] == '-') // +PONG, -NOAUTH
}

// ExamineDir looks whether answers of source can be kept in a folder, and leaves it as it
// is. One that is missing could be made; existing is it, or the nearest folder above that
// is there. setting names the variable that holds it, for the error.
func ExamineDir(setting, dir, source string) (existing string, err error) {
	existing = dir
	for {
		_, err := os.Stat(existing)
		if err == nil {
			break
		}
		if parent := filepath.Dir(existing); errors.Is(err, fs.ErrNotExist) && parent != existing {
			existing = parent
			continue
		}
		return "", notWritable(setting, dir, err)
	}
	probe, err := os.CreateTemp(existing, ".rucflow-*")
	if err != nil {
		return "", notWritable(setting, dir, err)
	}
	_, err = probe.Write(make([]byte, MaxValueBytes))
	if err = errors.Join(err, probe.Close(), os.Remove(probe.Name())); err != nil {
		return "", notWritable(setting, dir, err)
	}
	b, err := os.ReadFile(filepath.Join(dir, sourceFile))
	if found := strings.TrimSpace(string(b)); err == nil && found != source {
		return "", otherSource(dir, found, source)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", notWritable(setting, dir, err)
	}
	return existing, nil
}

func notWritable(setting, dir string, err error) error {
	return &mend.Error{
		Finding: fmt.Sprintf("the folder %s cannot be used: %v", dir, err),
		Mend:    fmt.Sprintf("let this user write there, or set %s to another folder", setting),
	}
}
