package main

import (
	"bufio"
	"fmt"
	"sync"

	"github.com/gofiber/fiber/v2"
	"github.com/nats-io/nats.go"

	"github.com/rucflow/rucflow/shared/wire"
)

// buffered is what a listener may leave unread before all others wait for it.
const buffered = 128

// listener is one open stream of events.
type listener struct {
	frames chan []byte
	gone   chan struct{}
}

// sendOn writes every answer that is heard to whoever asks for events, in the form of
// Server-Sent Events.
func sendOn(bus, addr string) error {
	nc, err := nats.Connect(bus)
	if err != nil {
		return err
	}
	defer nc.Close()
	var mu sync.Mutex
	listeners := map[*listener]struct{}{}
	_, err = nc.Subscribe(wire.SubjectResolved, func(m *nats.Msg) {
		b := fmt.Appendf(nil, "event: resolved\nid: %d\ndata: %s\n\n", wire.PlaceOf(m).Seq, m.Data)
		mu.Lock()
		defer mu.Unlock()
		for l := range listeners {
			select {
			case l.frames <- b:
			case <-l.gone:
				delete(listeners, l)
			}
		}
	})
	if err != nil {
		return err
	}
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	app.Get("/v1/eventos", func(c *fiber.Ctx) error {
		c.Set(fiber.HeaderContentType, "text/event-stream")
		c.Context().SetBodyStreamWriter(func(w *bufio.Writer) {
			l := &listener{frames: make(chan []byte, buffered), gone: make(chan struct{})}
			defer close(l.gone)
			mu.Lock()
			listeners[l] = struct{}{}
			mu.Unlock()
			l.write(w)
		})
		return nil
	})
	return app.Listen(addr)
}

// write sends what comes until the other side has gone.
func (l *listener) write(w *bufio.Writer) {
	_, err := w.WriteString("retry: 2000\n\n")
	for err == nil {
		if len(l.frames) == 0 {
			if err = w.Flush(); err != nil {
				return
			}
		}
		_, err = w.Write(<-l.frames)
	}
}
