package service

import (
	"context"
	"fmt"
	"net"
)

// Listen listens on addr, which setting named; nil where it is empty. The error
// names the setting.
func Listen(ctx context.Context, setting, addr string) (net.Listener, error) {
	if addr == "" {
		return nil, nil
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("service.Listen: %s: %w", setting, err)
	}
	return ln, nil
}

// Addr is the address of a listener; "" where there is none.
func Addr(ln net.Listener) string {
	if ln == nil {
		return ""
	}
	return ln.Addr().String()
}
