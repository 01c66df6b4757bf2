package admin

import (
	"fmt"
	"io"

	"github.com/rucflow/rucflow/gateway"
	"github.com/rucflow/rucflow/shared/service"
)

// Key makes an API key and prints it with its line for API_KEYS_FILE. args are its name
// and, where visits are to be bounded, its quota.
func Key(args []string, out io.Writer) error {
	if len(args) < 1 || len(args) > 2 {
		return fmt.Errorf("give a name and, if you like, a quota such as 1000/d; %w", service.ErrUsage)
	}
	quota := ""
	if len(args) > 1 {
		quota = args[1]
	}
	key, line, err := gateway.NewKey(args[0], quota)
	if err != nil {
		return fmt.Errorf("%w; %w", err, service.ErrUsage)
	}
	fmt.Fprintf(out, "The key, shown this once:\n\n%s\n\nIts line for API_KEYS_FILE:\n\n%s\n", key, line)
	return nil
}
