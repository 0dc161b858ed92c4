package waypoint

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/warren-mesh/warren/internal/labtest"
)

// asker asks once and says how that failed. One that keeps a connection dials anew after a failure.
type asker interface {
	ask(context.Context) error
	close()
}

// load is clients that ask all the time and never try again. net/http's own client is none of them: it repeats, unasked,
// what failed on a connection that it had used before.
type load struct {
	done    atomic.Int64
	clients []*loadClient
	stop    context.CancelFunc
	task    sync.WaitGroup
}

type loadClient struct {
	name string
	mu   sync.Mutex
	lost []error
}

// newLoad begins the load: clients that keep their HTTP/1.1 connections, such that make one for each request, and gRPC.
func newLoad(t *testing.T, m *labtest.Mesh) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{stop: cancel}
	pay, grpcAddress := m.VIP("shop/pay", 80), m.VIP(farService, farGRPC)
	dial := func(ctx context.Context, address string) (net.Conn, error) { return m.Dial(ctx, "shop/web", address) }
	start := func(name string, a asker) {
		c := &loadClient{name: name}
		l.clients = append(l.clients, c)
		l.task.Go(func() { l.run(ctx, c, a) })
	}
	for i := range 8 {
		start(fmt.Sprintf("keeps %d", i), &rawClient{dial: dial, address: pay, keep: true})
	}
	for i := range 4 {
		start(fmt.Sprintf("renews %d", i), &rawClient{dial: dial, address: pay})
	}
	for i := range 4 {
		start(fmt.Sprintf("gRPC %d", i), newGRPCClient(t, dial, grpcAddress))
	}
	t.Cleanup(func() {
		cancel()
		l.task.Wait()
	})
	return l
}

func (l *load) run(ctx context.Context, c *loadClient, a asker) {
	defer a.close()
	for ctx.Err() == nil {
		// A request that was begun is ended, whatever else ends.
		one, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		if err := a.ask(one); err != nil {
			c.mu.Lock()
			c.lost = append(c.lost, fmt.Errorf("%s: %w", time.Now().Format("05.000"), err))
			c.mu.Unlock()
		}
		cancel()
		l.done.Add(1)
		time.Sleep(2 * time.Millisecond) // the pace, no effect that is waited for
	}
}

// more waits until n more requests were answered, or lost.
func (l *load) more(t *testing.T, n int64) {
	t.Helper()
	want := l.done.Load() + n
	labtest.Await(t, "more requests", time.Minute, func() bool { return l.done.Load() >= want })
}

// lost returns what was lost since the last call, by client.
func (l *load) lost() map[string][]error {
	out := map[string][]error{}
	for _, c := range l.clients {
		c.mu.Lock()
		if len(c.lost) > 0 {
			out[c.name] = c.lost
		}
		c.lost = nil
		c.mu.Unlock()
	}
	return out
}

// rawClient speaks HTTP/1.1 itself.
type rawClient struct {
	dial    func(context.Context, string) (net.Conn, error)
	address string
	keep    bool
	conn    net.Conn
	reader  *bufio.Reader
	asked   int // on this connection
}

func (c *rawClient) ask(ctx context.Context) error {
	if c.conn == nil {
		conn, err := c.dial(ctx, c.address)
		if err != nil {
			return fmt.Errorf("dial: %w", err)
		}
		c.conn, c.reader, c.asked = conn, bufio.NewReader(conn), 0
	}
	until, _ := ctx.Deadline()
	_ = c.conn.SetDeadline(until)
	ends, err := c.once()
	if err != nil {
		err = fmt.Errorf("request %d from %s: %w", c.asked, c.conn.LocalAddr(), err)
	}
	if err != nil || ends || !c.keep {
		c.close()
	}
	return err
}

// once asks, and returns whether the server ends the connection.
func (c *rawClient) once() (ends bool, err error) {
	c.asked++
	if _, err := io.WriteString(c.conn, "POST / HTTP/1.1\r\nHost: pay.shop\r\nContent-Length: 4\r\n\r\nbody"); err != nil {
		return false, fmt.Errorf("write: %w", err)
	}
	res, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return false, err
	}
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return false, fmt.Errorf("body: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return false, errors.New(res.Status)
	}
	return res.Close, nil
}

func (c *rawClient) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// grpcClient asks for a server's health.
type grpcClient struct{ conn *grpc.ClientConn }

func newGRPCClient(t *testing.T, dial func(context.Context, string) (net.Conn, error), address string) *grpcClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(dial), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	return &grpcClient{conn}
}

func (c *grpcClient) ask(ctx context.Context) error {
	_, err := grpc_health_v1.NewHealthClient(c.conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	return err
}

func (c *grpcClient) close() { _ = c.conn.Close() }
