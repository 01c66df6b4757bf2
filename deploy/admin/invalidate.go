// Package admin is what an operator does from the command line to a running rucflow.
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
	"time"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/service"
	"github.com/rucflow/rucflow/shared/wire"
)

const (
	// invalidateTimeout is longer than a gateway takes for the largest deletion.
	invalidateTimeout = 3 * time.Minute
	maxReplyBytes     = 64 << 10
)

// Invalidation says what a gateway should make everybody forget.
type Invalidation struct {
	Gateway string // base address, such as http://127.0.0.1:8000
	Token   string // ADMIN_TOKEN of that gateway
	Numbers []string
	Pattern string // instead of numbers
	DryRun  bool   // count what the pattern matches and delete nothing
	All     bool   // allow the pattern that matches everything
}

// Invalidate asks the gateway and prints what was done, a line for each number. All
// numbers are checked before the first is sent. An error of the gateway is its own
// Spanish sentence.
func Invalidate(ctx context.Context, in Invalidation, out io.Writer) error {
	base, err := in.check()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, invalidateTimeout)
	defer cancel()
	if in.Pattern != "" {
		return in.pattern(ctx, base, out)
	}
	numbers, err := parse(in.Numbers)
	if err != nil {
		return err
	}
	for _, n := range numbers {
		if err := in.one(ctx, base, n); err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
		fmt.Fprintf(out, "%s invalidated\n", n)
	}
	return nil
}

// check returns the gateway's address, or what is wrong with the command.
func (in Invalidation) check() (*url.URL, error) {
	base, err := url.Parse(in.Gateway)
	switch {
	case err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https":
		return nil, fmt.Errorf("-gateway: %q is not an http(s) address; %w", in.Gateway, service.ErrUsage)
	case in.Token == "":
		return nil, fmt.Errorf("ADMIN_TOKEN (or ADMIN_TOKEN_FILE): the token of the gateway is needed; %w", service.ErrUsage)
	case (len(in.Numbers) > 0) == (in.Pattern != ""):
		return nil, fmt.Errorf("give numbers or a -pattern; %w", service.ErrUsage)
	case in.Pattern == "" && (in.DryRun || in.All):
		return nil, fmt.Errorf("-dry-run and -all go with -pattern; %w", service.ErrUsage)
	}
	return base, nil
}

func (in Invalidation) one(ctx context.Context, base *url.URL, n ruc.Number) error {
	return in.ask(ctx, http.MethodDelete, base.JoinPath("v1", "ruc", n.String()), nil, nil)
}

func (in Invalidation) pattern(ctx context.Context, base *url.URL, out io.Writer) error {
	body, err := json.Marshal(map[string]any{"patron": in.Pattern, "simular": in.DryRun, "todo": in.All})
	if err != nil {
		return err
	}
	var done struct {
		Claves int `json:"claves"`
	}
	if err := in.ask(ctx, http.MethodPost, base.JoinPath("v1", "cache", "invalidar"), body, &done); err != nil {
		return err
	}
	verb := "invalidated"
	if in.DryRun {
		verb = "would be invalidated"
	}
	fmt.Fprintf(out, "%d answers %s\n", done.Claves, verb)
	return nil
}

// ask makes one request and decodes a 200 into reply.
func (in Invalidation) ask(ctx context.Context, method string, to *url.URL, body []byte, reply any) error {
	req, err := http.NewRequestWithContext(ctx, method, to.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+in.Token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	// The token goes to the address that was given and nowhere else.
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true}, // and no proxy that the environment names
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end, or not worth it
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxReplyBytes))
	if err != nil {
		return err
	}
	switch {
	case resp.StatusCode == http.StatusNoContent && reply == nil:
		return nil
	case resp.StatusCode == http.StatusOK && reply != nil:
		return json.Unmarshal(b, reply)
	}
	var p wire.Problem
	if json.Unmarshal(b, &p) != nil || p.Detail == "" {
		return fmt.Errorf("%s does not answer as a gateway does: status %d", to.Host, resp.StatusCode)
	}
	return errors.New(p.Detail)
}
