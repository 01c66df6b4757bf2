package gateway

import (
	"testing"

	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/ruc"
)

func TestHistories_AtMostSoMany(t *testing.T) {
	h := newHistories(nil, zerolog.Nop())
	for range maxHistories {
		h.slots <- struct{}{}
	}
	if _, err := h.read(t.Context(), ruc.MustParse("20131312955")); ruc.CodeOf(err) != ruc.Overloaded {
		t.Errorf("%v", err)
	}
}
