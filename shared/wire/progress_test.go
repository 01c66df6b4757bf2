package wire_test

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/wire"
)

func TestProgress_ReadsWhatItWrites(t *testing.T) {
	n := ruc.MustParse("20131312955")
	for text, p := range map[string]wire.Progress{
		`{"ruc":"20131312955","job":7,"stage":"queued","position":3}`:               {RUC: n, Job: 7, Stage: wire.StageQueued, Position: 3},
		`{"ruc":"20131312955","job":7,"stage":"visiting","attempt":2,"attempts":3}`: {RUC: n, Job: 7, Stage: wire.StageVisiting, Attempt: 2, Attempts: 3},
	} {
		m := p.Message()
		if string(m.Data) != text || m.Subject != "ruc.progress.20131312955" {
			t.Errorf("%s: %s", m.Subject, m.Data)
		}
		if got, err := wire.ParseProgress(m); err != nil || got != p {
			t.Errorf("%s reads as %v, %v", text, got, err)
		}
	}
}

func TestParseProgress_RefusesEverythingElse(t *testing.T) {
	for _, text := range []string{
		"", "null", "{}",
		`{"ruc":"20131312955","stage":"queued","position":3}`,
		`{"ruc":"20100055237","job":7,"stage":"queued","position":3}`, // another's
		`{"ruc":"20131312955","job":7,"stage":"queued"}`,
		`{"ruc":"20131312955","job":7,"stage":"queued","position":-1}`,
		`{"ruc":"20131312955","job":7,"stage":"queued","position":1,"attempt":1,"attempts":1}`,
		`{"ruc":"20131312955","job":7,"stage":"visiting"}`,
		`{"ruc":"20131312955","job":7,"stage":"visiting","attempt":4,"attempts":3}`,
		`{"ruc":"20131312955","job":7,"stage":"done","position":1}`,
		`{"ruc":"20131312955","job":7,"stage":"queued","position":1,"more":true}`,
		`{"ruc":"20131312955","job":7,"stage":"queued","position":1,` + strings.Repeat(" ", 1<<10) + `"attempt":0}`,
	} {
		m := &nats.Msg{Subject: "ruc.progress.20131312955", Data: []byte(text)}
		if got, err := wire.ParseProgress(m); err == nil || got != (wire.Progress{}) {
			t.Errorf("%.60s: %v, %v", text, got, err)
		}
	}
	m := &nats.Msg{Subject: "ruc.progress.x", Data: []byte(`{"ruc":"20131312955","job":7,"stage":"queued","position":3}`)}
	if _, err := wire.ParseProgress(m); err == nil {
		t.Error("a subject without a number")
	}
}

func TestProgress_After(t *testing.T) {
	queued, visiting := wire.Progress{Job: 7, Stage: wire.StageQueued, Position: 2}, wire.Progress{Job: 7, Stage: wire.StageVisiting, Attempt: 1, Attempts: 3}
	again := wire.Progress{Job: 8, Stage: wire.StageQueued, Position: 1}
	for _, tc := range []struct {
		what    string
		p, last wire.Progress
		want    bool
	}{
		{"the first", queued, wire.Progress{}, true},
		{"nearer", queued, queued, true},
		{"taken", visiting, queued, true},
		{"another attempt", visiting, visiting, true},
		{"a front that has not seen it taken", queued, visiting, false},
		{"another job", again, visiting, true},
		{"the job before", visiting, again, false},
	} {
		if got := tc.p.After(tc.last); got != tc.want {
			t.Errorf("%s: %v", tc.what, got)
		}
	}
}
