// Package embedded runs a NATS server with JetStream inside this process.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Config says where the server keeps its streams and whether it listens.
type Config struct {
	StoreDir string // owned by one server at a time
	Addr     string // host:port for the nats command; "" = in-process connections only; port 0 picks one
	Token    string // what clients must present; required when Addr is set
}

const (
	readyTimeout = 10 * time.Second
	maxMemory    = 64 << 20
	maxStore     = 16 << 30
	maxPayload   = 1 << 20
)

// Server is a running server.
type Server struct{ s *server.Server }

// Start starts the server and returns when it takes connections; Stop ends it, ctx
// does not.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	opts := &server.Options{
		ServerName:         "rucflow",
		DontListen:         cfg.Addr == "",
		NoSigs:             true,
		NoLog:              true,
		JetStream:          true,
		StoreDir:           cfg.StoreDir,
		JetStreamMaxMemory: maxMemory,
		JetStreamMaxStore:  maxStore,
		MaxPayload:         maxPayload,
		Authorization:      cfg.Token,
	}
	if cfg.Addr != "" {
		if cfg.Token == "" {
			return nil, errors.New("embedded.Start: a listening server needs a token")
		}
		host, port, err := net.SplitHostPort(cfg.Addr)
		if err != nil {
			return nil, fmt.Errorf("embedded.Start: %w", err)
		}
		opts.Host = host
		if opts.Port, err = strconv.Atoi(port); err != nil {
			return nil, fmt.Errorf("embedded.Start: port of %q: %w", cfg.Addr, err)
		}
		if opts.Port == 0 {
			opts.Port = server.RANDOM_PORT
		}
		// The server reports a taken port only by exiting, so it is tried first.
		if probe, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.Addr); err != nil {
			return nil, fmt.Errorf("embedded.Start: %w", err)
		} else if err := probe.Close(); err != nil {
			return nil, fmt.Errorf("embedded.Start: %w", err)
		}
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("embedded.Start: %w", err)
	}
	s.Start()
	if !s.ReadyForConnections(readyTimeout) {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, fmt.Errorf("embedded.Start: not ready within %v: is another process using %s?", readyTimeout, cfg.StoreDir)
	}
	return &Server{s}, nil
}

// InProcess is the option that connects to this server without a socket.
func (s *Server) InProcess() nats.Option { return nats.InProcessServer(s.s) }

// URL is where the server listens; "" where it does not.
func (s *Server) URL() string { return s.s.ClientURL() }

// Stop shuts the server down and waits until its files are closed. Connections
// must have been drained before.
func (s *Server) Stop() {
	s.s.Shutdown()
	s.s.WaitForShutdown()
}
