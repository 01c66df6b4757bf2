package gateway

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

func newKey(t *testing.T, name, quota string) (key, line string) {
	t.Helper()
	key, line, err := NewKey(name, quota)
	if err != nil {
		t.Fatal(err)
	}
	return key, line
}

func TestKeys_FaultsAreNamedAndNothingSecret(t *testing.T) {
	key, line := newKey(t, "uno", "-")
	other, second := newKey(t, "dos", "10/d")
	sum := strings.Fields(line)[1]
	for text, want := range map[string]string{
		"":                                   "it has no keys; rucflow key NAME makes one",
		"# nothing\n\n":                      "it has no keys; rucflow key NAME makes one",
		line + "\nuno " + sum + "\n":         "line 2: 2 fields instead of three: name, hash, quota (- for none)",
		key:                                  "line 1: 1 fields instead of three: name, hash, quota (- for none)",
		"# x\n" + key + " uno -":             "line 2: the second field is not the SHA-256 of a key in 64 hexadecimal digits; rucflow key NAME makes both",
		"uno " + key + " -":                  "line 1: the second field is not the SHA-256 of a key in 64 hexadecimal digits; rucflow key NAME makes both",
		"uno " + sum[:62] + " -":             "line 1: the second field is not the SHA-256 of a key in 64 hexadecimal digits; rucflow key NAME makes both",
		"uno " + sum + " " + key:             "line 1: the quota is not of the form 10/s (a whole number from 1 and one of s, m, h, d); - for none",
		"uno/dos " + sum + " -":              "line 1: the name has other than up to 64 letters, digits, dots, dashes and underscores",
		line + "\n" + second + "\n" + second: "line 3: the name is that of line 2",
		line + "\n" + "tres " + sum + " 10/h" + "": "line 2: the hash is that of line 1",
	} {
		_, err := parseKeys([]byte(text))
		if err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
		for _, secret := range []string{key, other, sum} {
			if err != nil && strings.Contains(err.Error(), secret[:20]) {
				t.Errorf("tells a secret: %v", err)
			}
		}
	}
	keys, err := parseKeys([]byte("\ufeff# made by hand\r\n\r\n" + line + "  # of billing\r\n\t" + second))
	if err != nil || len(keys) != 2 || keys[0].quota != nil || keys[1].quota.allowance != (allowance{10, day}) {
		t.Errorf("%v, %+v", err, keys)
	}
}

func TestKeys_ReadAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	var stamp time.Time
	write := func(lines ...string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
		stamp = stamp.Add(time.Second) // whatever the clock of the file system
		if err := os.Chtimes(path, stamp, stamp); err != nil {
			t.Fatal(err)
		}
	}
	stamp = time.Now()
	one, lineOne := newKey(t, "uno", "2/d")
	two, lineTwo := newKey(t, "dos", "-")
	write(lineOne)
	var log bytes.Buffer
	k, err := openKeys(path, zerolog.New(&log))
	if err != nil {
		t.Fatal(err)
	}
	known := func(want ...string) {
		t.Helper()
		for _, key := range []string{one, two} {
			found, ok := k.find([]byte(key))
			if ok != (strings.Contains(strings.Join(want, ","), key)) || ok && (found.name == "uno") != (key == one) {
				t.Errorf("%+v, %v", found, ok)
			}
		}
	}
	said := func(lines int) {
		t.Helper()
		if got := strings.Count(log.String(), "\n"); got != lines {
			t.Errorf("%d lines:\n%s", got, log.String())
		}
		for _, secret := range []string{one, two, strings.Fields(lineOne)[1], strings.Fields(lineTwo)[1]} {
			if strings.Contains(log.String(), secret) {
				t.Errorf("tells a secret:\n%s", log.String())
			}
		}
	}
	known(one)
	k.look()
	said(0)

	first, _ := k.find([]byte(one))
	if _, err := first.quota.spend(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	write(lineTwo, lineOne)
	k.look()
	known(one, two)
	said(1)
	if again, _ := k.find([]byte(one)); again.quota != first.quota {
		t.Error("the quota began anew")
	}

	write(lineTwo, "uno "+one+" -")
	k.look()
	k.look()
	known(one, two)
	said(2)
	if !strings.Contains(log.String(), `"level":"error"`) || !strings.Contains(log.String(), "line 2") {
		t.Error(log.String())
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	k.look()
	k.look()
	known(one, two)
	said(3)

	write(strings.ReplaceAll(lineOne, "2/d", "3/d"))
	k.look()
	known(one)
	said(4)
	if changed, _ := k.find([]byte(one)); changed.quota.allowance != (allowance{3, day}) {
		t.Errorf("%+v", changed.quota.allowance)
	}
	// A file that is renamed over the old one, as editors do, is another one.
	if err := os.WriteFile(path+".new", []byte(lineTwo+"   "), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path+".new", stamp, stamp); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	k.look()
	known(two)
	said(5)
}

func TestKeys_FileThatEverybodyMayWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	_, line := newKey(t, "uno", "-")
	if err := os.WriteFile(path, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	for mode, want := range map[os.FileMode]bool{0o400: true, 0o644: true, 0o660: true, 0o666: false, 0o602: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := openKeys(path, zerolog.Nop())
		if (err == nil) != want || err != nil && !strings.Contains(err.Error(), "chmod o-w") {
			t.Errorf("%o: %v", mode, err)
		}
	}
}
