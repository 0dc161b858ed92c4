package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/warren-mesh/warren/bench/echo"
	"github.com/warren-mesh/warren/bench/load"
)

const (
	// warmUp comes before every measurement, on the same connections.
	warmUp = 200 * time.Millisecond
	// everyNth request names the second version by header.
	everyNth = 10
	// callsPerConnection is how many gRPC calls share an HTTP/2 connection.
	callsPerConnection = 4

	header      = "X-Version"
	messageSize = 1024
)

// protocol is what requests are made of.
type protocol string

const (
	overHTTP protocol = "http" // HTTP/1.1, one request at a time on a connection
	overGRPC protocol = "grpc" // unary calls, four at a time on an HTTP/2 connection
)

func protocols() []protocol { return []protocol{overHTTP, overGRPC} }

// client is one connection's, or call's, loop.
type client struct {
	// who asks for nothing but who answers; send is the request of which load is made. Both name a version if that is not
	// empty.
	who  func(version string) (string, error)
	send func(version string) error
	sent int
}

// next sends every tenth request to the second version by header.
func (c *client) next() error {
	c.sent++
	version := ""
	if c.sent%everyNth == 0 {
		version = "two"
	}
	return c.send(version)
}

// connect makes n clients. The caller closes what comes with them, even with an error.
func (p protocol) connect(ctx context.Context, t load.Target, n int) (clients []*client, closers []io.Closer, err error) {
	var calls echo.Client
	for i := range n {
		switch {
		case p == overHTTP:
			conn, err := t.Dial(ctx)
			if err != nil {
				return clients, closers, fmt.Errorf("connection %d: %w", i+1, err)
			}
			closers = append(closers, conn)
			clients = append(clients, httpClient(load.NewHTTP(conn, "shop.mesh")))
			continue
		case i%callsPerConnection == 0:
			if calls, err = echo.NewClient(t.Dial); err != nil {
				return clients, closers, err
			}
			closers = append(closers, calls)
		}
		clients = append(clients, grpcClient(calls))
	}
	return clients, closers, nil
}

func httpClient(c *load.HTTP) *client {
	headers := func(version string) string {
		if version == "" {
			return ""
		}
		return header + ": " + version + "\r\n"
	}
	path := fmt.Sprintf("/bytes?n=%d", messageSize)
	return &client{
		who: func(version string) (string, error) {
			var body bounded
			err := c.Get("/", headers(version), &body)
			return string(body), err
		},
		send: func(version string) error { return c.Get(path, headers(version), io.Discard) },
	}
}

// bounded is the name of a server, which is short.
type bounded []byte

func (b *bounded) Write(p []byte) (int, error) {
	if len(*b)+len(p) > messageSize {
		return 0, errors.New("that is no server's name")
	}
	*b = append(*b, p...)
	return len(p), nil
}

func grpcClient(c echo.Client) *client {
	pairs := func(version string) []string {
		if version == "" {
			return nil
		}
		return []string{header, version}
	}
	return &client{
		who: func(version string) (string, error) { return c.Ask(1, pairs(version)...) },
		send: func(version string) error {
			_, err := c.Ask(messageSize, pairs(version)...)
			return err
		},
	}
}

// drive connects, warms up, calls begin, makes the load for d, calls end and hangs up.
func drive(ctx context.Context, p protocol, l load.Load, t load.Target, d time.Duration, begin, end func()) (*load.Outcome, error) {
	clients, closers, err := p.connect(ctx, t, l.Connections)
	defer func() {
		for _, c := range closers {
			_ = c.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	askers := make([]load.Asker, len(clients))
	for i, c := range clients {
		askers[i] = c.next
	}
	if warm := l.Run(askers, warmUp); warm.Err != nil {
		return nil, fmt.Errorf("warming up: %w", warm.Err)
	}
	begin()
	out := l.Run(askers, d)
	end()
	return out, nil
}
