package admin_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/rucflow/rucflow/deploy/admin"
	"github.com/rucflow/rucflow/shared/service"
)

func TestKey_PrintsTheKeyAndTheLineOfItsHash(t *testing.T) {
	for _, tc := range []struct {
		args  []string
		quota string
	}{{[]string{"facturacion"}, "-"}, {[]string{"facturacion", "1000/d"}, "1000/d"}} {
		var out strings.Builder
		if err := admin.Key(tc.args, &out); err != nil {
			t.Fatal(err)
		}
		key := regexp.MustCompile(`(?m)^rucflow_\S{43}$`).FindString(out.String())
		sum := sha256.Sum256([]byte(key))
		if line := "\nfacturacion  " + hex.EncodeToString(sum[:]) + "  " + tc.quota + "\n"; key == "" || !strings.Contains(out.String(), line) {
			t.Errorf("%q has no line %q", out.String(), line)
		}
	}
}

func TestKey_SaysWhatIsWrong(t *testing.T) {
	for want, args := range map[string][]string{
		"give a name":            nil,
		"if you like, a quota":   {"a", "1/d", "c"},
		"the name of a key":      {"a b"},
		"the quota is not of":    {"a", "many"},
		"a whole number from 1 ": {"a", "0/d"},
	} {
		if err := admin.Key(args, io.Discard); err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, service.ErrUsage) {
			t.Errorf("%q: %v", args, err)
		}
	}
}
