package gateway

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

const (
	// keyPrefix lets people and scanners of leaked secrets see what a key is of.
	keyPrefix = "rucflow_"
	// keyBytes is the size of the random part of a key. Nobody guesses 256 bits, so a plain
	// hash protects them; one made for passwords would only make every request slow.
	keyBytes = 32
	// keysPoll is how often the file of keys is looked at.
	keysPoll = 2 * time.Second
	// maxKeysBytes bounds the file: some ten thousand keys.
	maxKeysBytes = 1 << 20
	noQuota      = "-"
)

var keyName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// NewKey makes an API key, and its line for API_KEYS_FILE. quota is of the form 1000/d, or
// empty or - for none. The key is written down nowhere.
func NewKey(name, quota string) (key, line string, err error) {
	if !keyName.MatchString(name) {
		return "", "", errors.New("the name of a key has up to 64 letters, digits, dots, dashes and underscores")
	}
	switch quota {
	case "", noQuota:
		quota = noQuota
	default:
		if _, err := parseAllowance(quota); err != nil {
			return "", "", fmt.Errorf("the quota is %w", err)
		}
	}
	random := make([]byte, keyBytes)
	_, _ = rand.Read(random) // it ends the program rather than fail
	key = keyPrefix + base64.RawURLEncoding.EncodeToString(random)
	sum := sha256.Sum256([]byte(key))
	return key, fmt.Sprintf("%s  %s  %s", name, hex.EncodeToString(sum[:]), quota), nil
}

// apiKey is a line of the file.
type apiKey struct {
	name  string
	sum   [sha256.Size]byte
	quota *quota // nil = no bound
}

// keyring holds the keys of API_KEYS_FILE and follows its changes. Safe for concurrent use.
type keyring struct {
	path string
	log  zerolog.Logger
	keys atomic.Pointer[[]apiKey]

	seen   os.FileInfo // of the version last looked at; nil while there is no file
	faulty bool        // that version was
}

// openKeys reads the file. The error names the line, and never what could be a key.
func openKeys(path string, log zerolog.Logger) (*keyring, error) {
	k := &keyring{path: path, log: log}
	k.seen, _ = os.Stat(path) // before it is read: a change in between is seen at the next look
	keys, err := readKeys(path, nil)
	if err != nil {
		return nil, fmt.Errorf("API_KEYS_FILE: %w", err)
	}
	k.keys.Store(&keys)
	return k, nil
}

// find returns the key that was given, if there is such a one. It looks at every key, and
// the time it takes says nothing about any.
func (k *keyring) find(given []byte) (apiKey, bool) {
	if len(given) == 0 {
		return apiKey{}, false // whatever the file says of the hash of nothing
	}
	sum, at := sha256.Sum256(given), -1
	keys := *k.keys.Load()
	for i := range keys {
		at = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(sum[:], keys[i].sum[:]), i, at)
	}
	if at < 0 {
		return apiKey{}, false
	}
	return keys[at], true
}

// follow looks at the file until ctx ends.
func (k *keyring) follow(ctx context.Context) {
	tick := time.NewTicker(keysPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			k.look()
		}
	}
}

// look reads the file anew if it is another than before, or could not be used then: who
// may read it shows in no stamp. What is faulty is logged once and changes nothing.
func (k *keyring) look() {
	info, err := os.Stat(k.path)
	if err != nil {
		info = nil
	}
	known := same(info, k.seen)
	if known && !k.faulty {
		return
	}
	k.seen = info
	keys, err := readKeys(k.path, *k.keys.Load())
	k.faulty = err != nil
	if err != nil && known {
		return
	}
	if err != nil {
		k.log.Error().Err(err).Msg("the new API_KEYS_FILE cannot be used; the keys from before stay in force")
		return
	}
	k.keys.Store(&keys)
	k.log.Info().Int("count", len(keys)).Msg("the API keys were read anew")
}

func same(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) && a.Mode() == b.Mode() && os.SameFile(a, b)
}

// readKeys reads a file of keys. Quotas that old has too go on counting.
func readKeys(path string, old []apiKey) ([]apiKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	const othersMayWrite = 0o002
	if info.Mode().IsRegular() && info.Mode().Perm()&othersMayWrite != 0 {
		return nil, fmt.Errorf("%s can be written by everybody on this machine, who could so make keys; run chmod o-w on it", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKeysBytes+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxKeysBytes {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxKeysBytes)
	}
	keys, err := parseKeys(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for i := range keys {
		for _, was := range old {
			if q := keys[i].quota; q != nil && was.quota != nil && was.name == keys[i].name && was.quota.allowance == q.allowance {
				keys[i].quota = was.quota
			}
		}
	}
	return keys, nil
}

// parseKeys reads lines of name, hash and quota. The error says nothing of what stands in
// the line: a key could stand in any place.
func parseKeys(b []byte) ([]apiKey, error) {
	var keys []apiKey
	names, sums := map[string]int{}, map[[sha256.Size]byte]int{}
	number := 0
	for line := range bytes.Lines(bytes.TrimPrefix(b, []byte("\ufeff"))) { // which some editors put first
		number++
		text, _, _ := strings.Cut(string(line), "#")
		fields := strings.Fields(text)
		if len(fields) == 0 {
			continue
		}
		key, err := parseKey(fields)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if before, ok := names[key.name]; ok {
			return nil, fmt.Errorf("line %d: the name is that of line %d", number, before)
		}
		if before, ok := sums[key.sum]; ok {
			return nil, fmt.Errorf("line %d: the hash is that of line %d", number, before)
		}
		names[key.name], sums[key.sum] = number, number
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("it has no keys; rucflow key NAME makes one")
	}
	return keys, nil
}

func parseKey(fields []string) (apiKey, error) {
	if len(fields) != 3 {
		return apiKey{}, fmt.Errorf("%d fields instead of three: name, hash, quota (- for none)", len(fields))
	}
	key := apiKey{name: fields[0]}
	if !keyName.MatchString(key.name) {
		return apiKey{}, errors.New("the name has other than up to 64 letters, digits, dots, dashes and underscores")
	}
	sum, err := hex.DecodeString(fields[1])
	if err != nil || len(sum) != sha256.Size {
		return apiKey{}, errors.New("the second field is not the SHA-256 of a key in 64 hexadecimal digits; rucflow key NAME makes both")
	}
	key.sum = [sha256.Size]byte(sum)
	if fields[2] == noQuota {
		return key, nil
	}
	a, err := parseAllowance(fields[2])
	if err != nil {
		return apiKey{}, fmt.Errorf("the quota is %w; - for none", err)
	}
	key.quota = newQuota(a)
	return key, nil
}
