package store_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/store"
)

func load(t *testing.T, environ ...string) store.RedisConfig {
	t.Helper()
	var cfg store.RedisConfig
	if err := service.Load(&cfg, environ); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestRedisConfig_SaysWhetherItIsConfigured(t *testing.T) {
	for name, c := range map[string]struct {
		environ    []string
		configured bool
	}{
		"nothing":   {nil, false},
		"port only": {[]string{"REDIS_PORT=6380"}, false},
		"url":       {[]string{"REDIS_URL=redis://redis:6379/0"}, true},
		"tls url":   {[]string{"REDIS_URL=rediss://default:" + secret + "@eu1.example.com:6379"}, true},
		"user only": {[]string{"REDIS_URL=redis://redis", "REDIS_USERNAME=a", "REDIS_PASSWORD=" + secret}, true},
		"unix":      {[]string{"REDIS_URL=unix:///run/redis.sock?db=2"}, true},
		"host":      {[]string{"REDIS_HOST=redis"}, true},
		"IPv6":      {[]string{"REDIS_HOST=::1", "REDIS_TLS=true"}, true},
		"sentinel":  {[]string{"REDIS_ADDRS=a:26379, b:26379", "REDIS_SENTINEL_MASTER=main", "REDIS_DB=1"}, true},
		"cluster":   {[]string{"REDIS_ADDRS=a:6379,b:6379", "REDIS_CLUSTER=true"}, true},
		"a cluster's one endpoint": {[]string{
			"REDIS_URL=rediss://:" + secret + "@cluster.example.com:6379", "REDIS_CLUSTER=true",
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := load(t, c.environ...)
			if got := cfg.Configured(); got != c.configured {
				t.Errorf("Configured = %v", got)
			}
			if err := cfg.Check(); err != nil {
				t.Errorf("Check = %v", err)
			}
			r, err := store.NewRedis(cfg, ruc.FuenteReplica, time.Now, zerolog.Nop())
			if (err == nil) != c.configured {
				t.Errorf("NewRedis = %v", err)
			}
			if r != nil {
				if err := r.Close(); err != nil {
					t.Errorf("Close without use = %v", err)
				}
			}
		})
	}
}

func TestRedisConfig_ErrorsNameTheVariableAndNoSecret(t *testing.T) {
	noCertificate := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(noCertificate, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	url := func(u string) []string { return []string{"REDIS_URL=" + u} }
	for name, c := range map[string]struct {
		environ []string
		want    string
	}{
		"rest address":        {url("https://default:" + secret + "@eu1.upstash.io"), "rediss://default:TOKEN@HOST:6379"},
		"plain rest address":  {url("HTTP://" + secret + "@h"), "REDIS_URL"},
		"no scheme":           {url("default:" + secret + "@h:6379"), "REDIS_URL"},
		"unknown scheme":      {url(secret + "://h"), "REDIS_URL"},
		"slash in password":   {url("redis://u:a/" + secret + "@h:6379"), "REDIS_URL"},
		"reads as a port":     {url("redis://:12/" + secret + "@h:6379"), "REDIS_URL"},
		"percent in password": {url("redis://u:%zz" + secret + "@h:6379"), "REDIS_URL"},
		"bad database":        {url("redis://u:" + secret + "@h/" + secret), "REDIS_URL"},
		"parameter":           {url("redis://u:" + secret + "@h?" + secret + "=1"), "REDIS_TIMEOUT"},
		"no path of a socket": {url("unix://" + secret), "REDIS_URL"},
		"TLS by a socket":     {append(url("unix:///s"), "REDIS_TLS=true"), "unix"},
		"url and host":        {append(url("redis://h"), "REDIS_HOST=h"), "REDIS_HOST"},
		"url and addresses":   {append(url("redis://h"), "REDIS_ADDRS=h:1"), "REDIS_ADDRS"},
		"two databases":       {append(url("redis://h/1"), "REDIS_DB=2"), "REDIS_DB"},
		"two users":           {append(url("redis://a:"+secret+"@h"), "REDIS_USERNAME=b"), "REDIS_USERNAME"},
		"two passwords":       {append(url("redis://a:"+secret+"@h"), "REDIS_PASSWORD=b"+secret), "REDIS_PASSWORD"},
		"url as host":         {[]string{"REDIS_HOST=redis://u:" + secret + "@h"}, "REDIS_HOST"},
		"port":                {[]string{"REDIS_HOST=h", "REDIS_PORT=70000"}, "REDIS_PORT"},
		"database":            {[]string{"REDIS_HOST=h", "REDIS_DB=-1"}, "REDIS_DB"},
		"milliseconds":        {[]string{"REDIS_HOST=h", "REDIS_TIMEOUT=30"}, "REDIS_TIMEOUT"},
		"no time":             {[]string{"REDIS_HOST=h", "REDIS_TIMEOUT=0"}, "REDIS_TIMEOUT"},
		"addresses alone":     {[]string{"REDIS_ADDRS=h:1"}, "REDIS_ADDRS"},
		"url as address":      {[]string{"REDIS_ADDRS=redis://" + secret + "@h:1", "REDIS_CLUSTER=true"}, "REDIS_ADDRS"},
		"address, no port":    {[]string{"REDIS_ADDRS=h", "REDIS_CLUSTER=true"}, "REDIS_ADDRS"},
		"cluster of nothing":  {[]string{"REDIS_CLUSTER=true"}, "REDIS_CLUSTER"},
		"master of nothing":   {[]string{"REDIS_SENTINEL_MASTER=m"}, "REDIS_SENTINEL_MASTER"},
		"master by url":       {append(url("redis://h"), "REDIS_SENTINEL_MASTER=m"), "REDIS_SENTINEL_MASTER"},
		"both kinds":          {[]string{"REDIS_ADDRS=h:1", "REDIS_SENTINEL_MASTER=m", "REDIS_CLUSTER=true"}, "REDIS_CLUSTER"},
		"cluster's database":  {[]string{"REDIS_ADDRS=h:1", "REDIS_CLUSTER=true", "REDIS_DB=1"}, "REDIS_DB"},
		"authority, no TLS":   {[]string{"REDIS_HOST=h", "REDIS_CA=" + noCertificate}, "REDIS_CA"},
		"certificate, no TLS": {[]string{"REDIS_HOST=h", "REDIS_CERT=" + noCertificate}, "REDIS_CERT"},
		"key, no TLS":         {append(url("redis://h"), "REDIS_KEY="+noCertificate), "REDIS_KEY"},
		"certificate alone":   {append(url("rediss://h"), "REDIS_CERT="+noCertificate), "REDIS_KEY"},
		"key alone":           {append(url("rediss://h"), "REDIS_KEY="+noCertificate), "REDIS_CERT"},
		"no certificate":      {append(url("rediss://h"), "REDIS_CERT="+noCertificate, "REDIS_KEY="+noCertificate), "REDIS_CERT"},
		"missing authority":   {[]string{"REDIS_HOST=h", "REDIS_TLS=true", "REDIS_CA=" + noCertificate + "x"}, "REDIS_CA"},
		"empty authority":     {[]string{"REDIS_HOST=h", "REDIS_TLS=true", "REDIS_CA=" + noCertificate}, "REDIS_CA"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := load(t, c.environ...)
			_, newErr := store.NewRedis(cfg, ruc.FuenteReplica, time.Now, zerolog.Nop())
			for _, err := range []error{cfg.Check(), newErr} {
				if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), secret) {
					t.Errorf("error = %v; want one that names %s and no secret", err, c.want)
				}
			}
		})
	}
}
