package audit

import (
	"errors"
	"time"

	"github.com/rucflow/rucflow/shared/service"
)

// Config is what an audit is told by its environment.
type Config struct {
	Dir       string        `env:"AUDIT_DIR" help:"folder of the log's files; empty = standard output"`
	FileBytes service.Bytes `env:"AUDIT_FILE_BYTES" envDefault:"100MiB" help:"size at which another file is begun"`
	Keep      time.Duration `env:"AUDIT_KEEP" envDefault:"0" help:"how long events stay in the files; 0 = for ever"`
	Position  string        `env:"AUDIT_POSITION" help:"path of a file that remembers how far standard output came; without it only what happens from the start on is written"`
}

// Check validates the settings; the error names the variable.
func (c Config) Check() error {
	switch {
	case c.FileBytes < 1:
		return errors.New("AUDIT_FILE_BYTES: more than 0")
	case c.Dir != "" && c.Position != "":
		return errors.New("AUDIT_POSITION: is for standard output; the files of AUDIT_DIR say themselves how far they are")
	}
	return nil
}
