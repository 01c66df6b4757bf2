package wire_test

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/rucflow/rucflow/shared/wire"
)

func TestTrace_KeepsWhatIsSane(t *testing.T) {
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	h := nats.Header{}
	sent := wire.NewTrace("abc-1", parent)
	sent.Set(h)
	if got := wire.ReadTrace(h); got != sent || got.Request != "abc-1" || got.Parent != parent {
		t.Errorf("read %+v, sent %+v", got, sent)
	}
	for _, bad := range []string{"", "a b", "a\nb", "ñ", strings.Repeat("x", 129)} {
		if got := wire.NewTrace(bad, "").Request; got == bad || got == "" {
			t.Errorf("the id %q became %q", bad, got)
		}
	}
	for _, bad := range []string{"00", parent + "0", strings.ToUpper(parent), strings.Replace(parent, "-", " ", 1)} {
		if got := wire.NewTrace("x", bad).Parent; got != "" {
			t.Errorf("the traceparent %q was kept", bad)
		}
	}
	if a, b := wire.ReadTrace(nil), wire.ReadTrace(nil); a.Request == b.Request {
		t.Error("two lookups, one id")
	}
}
