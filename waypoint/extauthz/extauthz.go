// Package extauthz asks external authorizers about requests: the service envoy.service.auth.v3.Authorization over gRPC,
// as Envoy asks it, so that what is written for Envoy answers here unchanged.
//
// Whatever is not a clear yes is a refusal: no answer in time, an error, an answer that cannot be followed. An authorizer
// is a service of the mesh; how it is reached, and that nobody else can answer in its place, is the dial function's.
//
// What is sent: the client's SPIFFE id and address, what it dialled, and the request: method, path with query, host,
// headers in lower case with repeated ones joined by commas, and the beginning of the body if the policy says so. It is
// told by the header x-envoy-auth-partial-body whether that is not all of it. What does not fit UTF-8 has '!' instead.
package extauthz

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/warren-mesh/warren/waypoint/proxy"
)

// ErrUnanswered is wrapped by every error of Check: the request must be refused.
var ErrUnanswered = errors.New("the authorizer gave no answer that counts")

const (
	defaultTimeout = time.Second
	maxAnswer      = 1 << 20
	// maxClients bounds the connections to authorizers; the one used least lately gives way.
	maxClients   = 64
	maxReconnect = 5 * time.Second
)

// Config says how authorizers are reached.
type Config struct {
	// Dial connects to a port of a service, "<namespace>/<name>". What it returns must be private to the authorizer.
	Dial func(ctx context.Context, service string, port uint16) (net.Conn, error)
	Log  *slog.Logger
	Now  func() time.Time // nil: time.Now
}

// Client asks authorizers. Close it when done.
type Client struct {
	cfg Config

	mu     sync.Mutex
	conns  map[endpoint]*client
	closed bool
}

// endpoint is one authorizer's.
type endpoint struct {
	service string
	port    uint16
}

type client struct {
	conn *grpc.ClientConn
	used time.Time
}

// New makes a Client.
func New(cfg Config) *Client {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Client{cfg: cfg, conns: make(map[endpoint]*client)}
}

// Close closes every connection. Questions that wait for an answer get none.
func (x *Client) Close() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.closed = true
	for at, c := range x.conns {
		_ = c.conn.Close() // closed is closed
		delete(x.conns, at)
	}
}

// Check implements proxy.External. Errors wrap ErrUnanswered.
func (x *Client) Check(ctx context.Context, q proxy.Question) (proxy.Answer, error) {
	a, err := x.check(ctx, q)
	if err != nil {
		err = fmt.Errorf("%w: %s:%d: %w", ErrUnanswered, q.By.Service, q.By.Port, err)
		x.cfg.Log.Debug("external authorizer", "err", err)
		return proxy.Answer{}, err
	}
	return a, nil
}

func (x *Client) check(ctx context.Context, q proxy.Question) (proxy.Answer, error) {
	if q.By.Broken != "" {
		return proxy.Answer{}, errors.New(q.By.Broken)
	}
	timeout := q.By.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	request, err := describe(q, x.cfg.Now())
	if err != nil {
		return proxy.Answer{}, err
	}
	conn, err := x.client(endpoint{q.By.Service, q.By.Port})
	if err != nil {
		return proxy.Answer{}, err
	}
	answer, err := authv3.NewAuthorizationClient(conn).Check(ctx, request)
	if err != nil {
		return proxy.Answer{}, err
	}
	return read(answer, q.Request)
}

// client returns the connection to an authorizer, which gRPC makes when it is needed.
func (x *Client) client(at endpoint) (*grpc.ClientConn, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return nil, errors.New("shutting down")
	}
	if c := x.conns[at]; c != nil {
		c.used = x.cfg.Now()
		return c.conn, nil
	}
	x.makeRoom()
	dial := func(ctx context.Context, _ string) (net.Conn, error) { return x.cfg.Dial(ctx, at.service, at.port) }
	retry := backoff.DefaultConfig
	retry.MaxDelay = maxReconnect
	// The tunnel that Dial makes is what encrypts and authenticates.
	conn, err := grpc.NewClient("passthrough:///"+net.JoinHostPort(at.service, strconv.Itoa(int(at.port))),
		grpc.WithContextDialer(dial), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)), grpc.WithAuthority(authority(at)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: maxReconnect}))
	if err != nil {
		return nil, err
	}
	x.conns[at] = &client{conn, x.cfg.Now()}
	return conn, nil
}

// makeRoom closes what was used least lately if there is no room. Questions that wait there are refused.
func (x *Client) makeRoom() {
	if len(x.conns) < maxClients {
		return
	}
	var oldest endpoint
	for at, c := range x.conns {
		if o := x.conns[oldest]; o == nil || c.used.Before(o.used) {
			oldest = at
		}
	}
	_ = x.conns[oldest].conn.Close()
	delete(x.conns, oldest)
}
