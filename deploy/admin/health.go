package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/rucflow/rucflow/shared/service"
)

const healthTimeout = 5 * time.Second

// errUnhealthy says that a gateway can do less than it should.
var errUnhealthy = errors.New("not healthy")

// Health asks a gateway how it is and prints that, a word and its value on each line. It is
// an error where the gateway is not healthy.
func Health(ctx context.Context, gateway string, out io.Writer) error {
	base, err := url.Parse(gateway)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return fmt.Errorf("-gateway: %q is not an http(s) address; %w", gateway, service.ErrUsage)
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath("health").String(), nil)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end, or not worth it
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxReplyBytes))
	if err != nil {
		return err
	}
	var health struct {
		Status string `json:"status"`
	}
	if resp.StatusCode != http.StatusOK || json.Unmarshal(b, &health) != nil || health.Status == "" {
		return fmt.Errorf("%s does not answer as a gateway does: status %d", base.Host, resp.StatusCode)
	}
	if err := aligned(b, out); err != nil {
		return fmt.Errorf("%s does not answer as a gateway does: %w", base.Host, err)
	}
	if health.Status != "healthy" {
		return fmt.Errorf("%s is %w", base.Host, errUnhealthy)
	}
	return nil
}

// aligned prints the members of a flat object in their order.
func aligned(object []byte, out io.Writer) error {
	d := json.NewDecoder(bytes.NewReader(object))
	d.UseNumber()
	if _, err := d.Token(); err != nil { // the brace
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		var value any
		if err := d.Decode(&value); err != nil {
			return err
		}
		if value == nil {
			value = "unknown"
		}
		fmt.Fprintf(w, "%s\t%s\n", plain(fmt.Sprint(name)), plain(fmt.Sprint(value)))
	}
	return w.Flush()
}
