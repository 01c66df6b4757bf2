package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/wire"
)

// versionWait bounds the wait for NATS, and then for the services, of which nobody knows
// how many there are.
const versionWait = time.Second

// Version prints what this program was made of and, where NATS can be asked, the gateways
// and scrapers that answer. That none can be asked is said and is no error.
func Version(ctx context.Context, cfg service.NATSConfig, out, errs io.Writer) error {
	own := service.Build()
	rows := []string{versionRow("rucflow", "(this program)", service.Version, own)}
	services, err := services(ctx, cfg)
	for _, s := range services {
		rows = append(rows, versionRow(s.Name, s.ID, s.Version, s.Metadata))
	}
	switch {
	case err != nil:
		fmt.Fprintf(errs, "the services were not asked: %s\n", plain(err.Error()))
	case len(services) == 0:
		fmt.Fprintln(errs, "no service answers")
	}
	return table(out, "NAME\tID\tVERSION\tCOMMIT\tGO", rows)
}

func versionRow(name, id, version string, build map[string]string) string {
	return strings.Join([]string{cell(name), cell(id), cell(version), cell(build[service.BuildRevision]), cell(build[service.BuildGo])}, "\t")
}

// services returns our services that answer within versionWait, by name.
func services(ctx context.Context, cfg service.NATSConfig) ([]micro.Info, error) {
	ctx, nc, err := connect(ctx, cfg, operatorRole, nats.Timeout(versionWait))
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	all, err := askServices(ctx, nc)
	return all, because(ctx, err)
}

// askServices is services on a connection that is there.
func askServices(ctx context.Context, nc *nats.Conn) ([]micro.Info, error) {
	inbox := nc.NewInbox()
	replies, err := nc.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	subject, err := micro.ControlSubject(micro.InfoVerb, "", "")
	if err != nil {
		return nil, err
	}
	if err := nc.PublishRequest(subject, inbox, nil); err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, versionWait)
	defer cancel()
	var all []micro.Info
	for {
		m, err := replies.NextMsgWithContext(wait)
		if err != nil {
			if errors.Is(err, context.DeadlineExceeded) || ctx.Err() == nil {
				err = nil // whoever is there has answered
			}
			slices.SortFunc(all, func(a, b micro.Info) int {
				return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
			})
			return all, err
		}
		var info micro.Info
		if json.Unmarshal(m.Data, &info) == nil && slices.Contains([]string{wire.GatewayService, wire.ScraperService}, info.Name) {
			all = append(all, info)
		}
	}
}
