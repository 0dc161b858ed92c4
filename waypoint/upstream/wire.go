package upstream

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warren-mesh/warren/waypoint/coalesce"
	"github.com/warren-mesh/warren/waypoint/exchange"
)

const (
	// continueTimeout is how long a request that expects "100 Continue" waits for it before its body is sent all the
	// same.
	continueTimeout = time.Second
	// maxAnswerHeader bounds an answer's header, in bytes.
	maxAnswerHeader = 256 << 10
	// streamWindow bounds what one HTTP/2 answer may buffer here for a client that reads slowly.
	streamWindow = 128 << 10
)

// dialer makes connections of one protocol. Its transport is only a maker: it pools nothing.
type dialer struct {
	http2     bool
	transport *http.Transport
}

// target is where a connection is to lead. It comes to the transport's dial function by the context.
type target struct {
	endpoint Endpoint
	conn     *exchange.Conn
	pool     *pool
	made     *wire
}

type targetKey struct{}

func newDialer(dial func(context.Context, Endpoint, *exchange.Conn) (net.Conn, error), http2 bool) dialer {
	var protocols http.Protocols
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	return dialer{http2: http2, transport: &http.Transport{
		Protocols: &protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			t, ok := ctx.Value(targetKey{}).(*target)
			if !ok {
				return nil, errors.New("upstream: a connection was dialled for nobody")
			}
			nc, err := dial(ctx, t.endpoint, t.conn)
			if err != nil {
				return nil, err
			}
			t.made = t.pool.wires.wrap(nc, t.pool)
			return t.made, nil
		},
		DisableCompression:     true,
		ExpectContinueTimeout:  continueTimeout,
		MaxResponseHeaderBytes: maxAnswerHeader,
		HTTP2:                  &http.HTTP2Config{MaxReceiveBufferPerStream: streamWindow},
	}}
}

// wire is a connection's stream of bytes. It knows whether any were exchanged, which tells whether a request that
// failed can have been seen. Close is called with net/http's locks held: it takes no lock under which net/http is
// called.
type wire struct {
	net.Conn
	pool          *pool
	client        atomic.Pointer[http.ClientConn] // nil until it is one
	read, written atomic.Int64
	late          *coalesce.Writer // what HTTP/2 is written through, nil for HTTP/1
	settled       atomic.Bool
	once          sync.Once
	closed        chan struct{}
}

// Read counts. That net/http reads again says that it took in what came first: an HTTP/2 server's settings.
func (w *wire) Read(b []byte) (int, error) {
	if !w.settled.Load() && w.read.Load() > 0 {
		w.settled.Store(true)
		w.pool.kick()
	}
	n, err := w.Conn.Read(b)
	w.read.Add(int64(n))
	return n, err
}

// Write counts, before a byte is on its way.
func (w *wire) Write(b []byte) (int, error) {
	if w.late != nil {
		n, err := w.late.Write(b)
		w.written.Add(int64(n))
		return n, err
	}
	n, err := w.Conn.Write(b)
	w.written.Add(int64(n))
	return n, err
}

// leaving tells whether what carries the connection is about to end: a request more could be cut with it.
func (w *wire) leaving() bool {
	c, ok := w.Conn.(interface{ Leaving() bool })
	return ok && c.Leaving()
}

// CloseWrite ends one direction, if the stream can: an upgraded connection's end may say so.
func (w *wire) CloseWrite() error {
	if c, ok := w.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return http.ErrNotSupported
}

// Close makes room for another connection.
func (w *wire) Close() error {
	err := w.Conn.Close()
	w.once.Do(func() {
		close(w.closed)
		w.pool.wires.unwrap(w)
	})
	return err
}

// wires are all connections that are open.
type wires struct {
	mu   sync.Mutex // a leaf
	open map[*wire]struct{}
}

// wrap counts a connection as open.
func (ws *wires) wrap(nc net.Conn, p *pool) *wire {
	w := &wire{Conn: nc, pool: p, closed: make(chan struct{})}
	if p.dialer.http2 {
		w.late = coalesce.NewWriter(nc)
	}
	ws.mu.Lock()
	ws.open[w] = struct{}{}
	ws.mu.Unlock()
	p.open.Add(1)
	p.metrics.connections(p.dialer.http2).Inc()
	return w
}

// unwrap counts it as closed.
func (ws *wires) unwrap(w *wire) {
	ws.mu.Lock()
	delete(ws.open, w)
	ws.mu.Unlock()
	p := w.pool
	p.open.Add(-1)
	p.metrics.connections(p.dialer.http2).Dec()
	p.kick()
}

// close ends all connections with the requests on them.
func (ws *wires) close() {
	ws.mu.Lock()
	all := slices.Collect(maps.Keys(ws.open))
	ws.mu.Unlock()
	for _, w := range all {
		if cc := w.client.Load(); cc != nil {
			_ = cc.Close()
		}
		_ = w.Close()
	}
}
