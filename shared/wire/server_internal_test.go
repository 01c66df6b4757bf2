package wire

import (
	"strings"
	"testing"
)

func TestCheckServer_RefusesWhatIsTooOld(t *testing.T) {
	for version, ok := range map[string]bool{
		"2.11.0": true, "2.11.10": true, "2.15.2": true, "3.0.0": true, "2.12.0-RC.1": true,
		"2.10.29": false, "2.9.10": false, "1.99.99": false,
	} {
		if err := checkServer(version); (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "needs 2.11.0 or newer") {
			t.Errorf("%s: %v", version, err)
		}
	}
	for _, version := range []string{"", "dev"} {
		if checkServer(version) == nil {
			t.Errorf("%q was taken", version)
		}
	}
}
