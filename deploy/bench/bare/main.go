// Command bare is the least that a gateway could be: Fiber that sends one body with one
// set of headers, or gets the body from Redis first, or sends on what is heard of events.
// The gateway is compared with it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/gofiber/fiber/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bare:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("bare", flag.ContinueOnError)
	addr := flags.String("addr", "", "`address` to listen on")
	copied := flags.String("copy", "", "`URL` whose response is sent, its headers and its body")
	server := flags.String("redis", "", "`address` of a Redis to get each body from; none by default")
	client := flags.String("client", "", "`name` of the client for it: go-redis or rueidis")
	bus := flags.String("nats", "", "`URL` of a NATS whose events are sent on instead")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *bus != "" {
		return sendOn(*bus, *addr)
	}
	get, err := reader(*client, *server)
	if err != nil {
		return err
	}
	headers, body, err := response(*copied)
	if err != nil {
		return err
	}
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	app.Get("/obtener-ruc/:ruc", func(c *fiber.Ctx) error {
		sent := body
		if get != nil {
			var err error
			if sent, err = get(c.Context(), "sunat:ruc:"+c.Params("ruc")); err != nil {
				return err
			}
		}
		for _, h := range headers {
			c.Response().Header.SetCanonical(h[0], h[1])
		}
		c.Response().SetBodyRaw(sent)
		return nil
	})
	return app.Listen(*addr)
}

// response is what the URL answers, without the headers that every server makes anew.
func response(url string) (headers [][2][]byte, body []byte, err error) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
	if err != nil {
		return nil, nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it is read to its end
	if body, err = io.ReadAll(resp.Body); err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("%s: status %d", url, resp.StatusCode)
	}
	resp.Header.Del(fiber.HeaderDate)
	resp.Header.Del(fiber.HeaderContentLength)
	for name, values := range resp.Header {
		for _, v := range values {
			headers = append(headers, [2][]byte{[]byte(name), []byte(v)})
		}
	}
	return headers, body, nil
}

// reader gets a value from Redis with a client as it is by default; nil without one.
func reader(client, addr string) (func(ctx context.Context, key string) ([]byte, error), error) {
	switch client {
	case "":
		return nil, nil
	case "go-redis":
		c := redis.NewClient(&redis.Options{Addr: addr})
		return func(ctx context.Context, key string) ([]byte, error) { return c.Get(ctx, key).Bytes() }, nil
	case "rueidis":
		// Without its own memory of values: each hit is to be Redis's.
		c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}, DisableCache: true})
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, key string) ([]byte, error) {
			return c.Do(ctx, c.B().Get().Key(key).Build()).AsBytes()
		}, nil
	}
	return nil, errors.New("-client: go-redis or rueidis")
}
