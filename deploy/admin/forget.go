package admin

import (
	"context"
	"fmt"
	"io"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/wire"
)

// ForgetConfig is how the command reaches the streams and a gateway.
type ForgetConfig struct {
	NATS  service.NATSConfig
	Token string `env:"ADMIN_TOKEN" secret:"true" help:"token of the gateway's admin routes"`
}

// Forget removes all that is known of the numbers: from the streams, by the rights of
// its own NATS user, then through the gateway from every cache. It prints a line for
// each number. All numbers are checked before the first is forgotten.
func Forget(ctx context.Context, cfg ForgetConfig, gateway string, numbers []string, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, invalidateTimeout)
	defer cancel()
	in := Invalidation{Gateway: gateway, Token: cfg.Token, Numbers: numbers}
	base, err := in.check()
	if err != nil {
		return err
	}
	parsed, err := parse(numbers)
	if err != nil {
		return err
	}
	nc, err := cfg.NATS.Connect("admin", zerolog.Nop(), nats.RetryOnFailedConnect(false))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	for _, n := range parsed {
		if err := wire.Forget(ctx, js, n); err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
		if err := in.one(ctx, base, n); err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
		fmt.Fprintf(out, "%s forgotten\n", n)
	}
	return nil
}

// parse reads numbers that a person typed.
func parse(texts []string) ([]ruc.Number, error) {
	numbers := make([]ruc.Number, len(texts))
	for i, text := range texts {
		var err error
		if numbers[i], err = ruc.Parse(text); err != nil {
			return nil, fmt.Errorf("%q: %s", text, wire.NewProblem(ruc.Number{}, err).Detail)
		}
	}
	return numbers, nil
}
