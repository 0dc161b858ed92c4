package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warren-mesh/warren/route"
	"github.com/warren-mesh/warren/waypoint/exchange"
)

const (
	// dialTimeout bounds the making of a connection.
	dialTimeout = 5 * time.Second
	// idleTimeout is how long a connection stays without a request.
	idleTimeout = time.Minute
	// maxConnections and maxPending hold where no TrafficPolicy bounds an endpoint's connections, or what waits for
	// one.
	maxConnections = 16_384
	maxPending     = 4096
	// streamsPerDial is how many requests may wait for one HTTP/2 connection that is being made: RFC 9113 wants servers
	// to allow that many.
	streamsPerDial = 100
)

var errRetired = errors.New("the endpoint is no longer in the mesh")

// pool is the connections of one protocol to one endpoint. An HTTP/1.1 connection has one request at a time; an HTTP/2
// connection as many as the endpoint allows, and another is made when all are full.
type pool struct {
	dialer  dialer
	metrics *metrics
	wires   *wires
	open    atomic.Int64 // connections, those too that take no more requests
	waiting atomic.Int32
	retired atomic.Bool
	ctx     context.Context // of what it dials
	stop    context.CancelFunc

	mu      sync.Mutex
	conns   []*conn
	waiters []*waiter // the first comes first
	dialing int
}

// conn is one connection. Its ClientConn counts the requests on it.
type conn struct {
	*http.ClientConn
	wire *wire
	busy atomic.Bool  // an HTTP/1.1 connection with a request: no need to ask it
	last atomic.Bool  // no request follows: see switches, and wire.leaving
	used atomic.Int64 // when a request last began, in unix nanoseconds
	uses atomic.Int64
}

// waiter waits for a place on a connection.
type waiter struct {
	endpoint Endpoint
	client   *exchange.Conn
	most     int           // connections that there may be
	ready    chan struct{} // closed once conn or err is set
	conn     *conn
	err      error
}

func newPool(d dialer, m *metrics, w *wires) *pool {
	p := &pool{dialer: d, metrics: m, wires: w}
	p.ctx, p.stop = context.WithCancel(context.Background())
	return p
}

// acquire returns a connection with a place reserved for one request. Its errors say that nothing was sent.
func (p *pool) acquire(ctx context.Context, w *waiter, limits route.ConnectionLimits) (*conn, error) {
	w.most = cmp.Or(limits.MaxConnectionsPerEndpoint, maxConnections)
	pending := cmp.Or(limits.MaxPending, maxPending)
	p.mu.Lock()
	if p.retired.Load() {
		p.mu.Unlock()
		return nil, fmt.Errorf("%w: %w", errRetired, ErrNotSent)
	}
	if len(p.waiters) == 0 {
		if c := p.reserve(); c != nil {
			p.mu.Unlock()
			return c, nil
		}
	}
	if p.full(w) && len(p.waiters)-p.coming() >= pending {
		p.mu.Unlock()
		p.metrics.overloaded.WithLabelValues("pending").Inc()
		return nil, fmt.Errorf("all %d connections that the endpoint may have are busy, and %d requests wait for one, "+
			"which is all that may: %w: %w", w.most, pending, ErrOverloaded, ErrNotSent)
	}
	w.ready = make(chan struct{})
	p.waiters = append(p.waiters, w)
	p.waiting.Add(1)
	p.dialMore()
	p.mu.Unlock()
	return p.wait(ctx, w)
}

// coming is how many places there will be without anybody's doing. Caller holds mu.
func (p *pool) coming() int {
	n := p.dialing
	if p.dialer.http2 {
		for _, c := range p.conns {
			if !c.wire.settled.Load() && c.Err() == nil {
				n++
			}
		}
	}
	return n * p.perDial()
}

func (p *pool) perDial() int {
	if p.dialer.http2 {
		return streamsPerDial
	}
	return 1
}

// reserve returns a connection that has a place, and forgets those that will never have one. How many requests an
// HTTP/2 endpoint allows is not known until its settings came: the first goes out at once, others wait for them, so
// that they do not get stuck behind it on a connection that is full. Caller holds mu.
func (p *pool) reserve() *conn {
	for i := len(p.conns) - 1; i >= 0; i-- {
		c := p.conns[i]
		if c.busy.Load() || p.dialer.http2 && !c.wire.settled.Load() && c.InFlight() > 0 {
			continue
		}
		if c.wire.leaving() {
			c.last.Store(true)
		}
		if !c.last.Load() && c.Reserve() == nil {
			c.used.Store(time.Now().UnixNano())
			c.busy.Store(!p.dialer.http2)
			return c
		}
		if c.Err() != nil || c.InFlight() == 0 && (c.last.Load() || c.Available() == 0) { // ended, or told to go away
			p.conns = slices.Delete(p.conns, i, i+1)
			go closeIdle(c.ClientConn)
		}
	}
	return nil
}

// wait waits for a place, or the request's end.
func (p *pool) wait(ctx context.Context, w *waiter) (*conn, error) {
	p.metrics.pending.Inc()
	defer p.metrics.pending.Dec()
	select {
	case <-w.ready:
		return w.conn, w.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	if i := slices.Index(p.waiters, w); i >= 0 {
		p.waiters = slices.Delete(p.waiters, i, i+1)
		p.waiting.Add(-1)
	}
	p.mu.Unlock()
	if w.conn != nil { // it came at the same moment
		w.conn.Release()
		p.pump()
	}
	return nil, fmt.Errorf("while it waited for a connection: %w: %w", context.Cause(ctx), ErrNotSent)
}

// serve ends the wait of the first. Caller holds mu.
func (p *pool) serve(c *conn, err error) {
	w := p.waiters[0]
	p.waiters = slices.Delete(p.waiters, 0, 1)
	p.waiting.Add(-1)
	w.conn, w.err = c, err
	close(w.ready)
}

// pump gives places that are free to those who wait.
func (p *pool) pump() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.waiters) > 0 {
		c := p.reserve()
		if c == nil {
			break
		}
		p.serve(c, nil)
	}
	p.dialMore()
}

// full tells whether there are as many connections as may be. Caller holds mu.
func (p *pool) full(w *waiter) bool { return int(p.open.Load())+p.dialing >= w.most }

// dialMore makes connections for those who wait, as far as they are not being made and there may be as many. Caller
// holds mu.
func (p *pool) dialMore() {
	for len(p.waiters) > p.coming() {
		w := p.waiters[p.coming()]
		if p.retired.Load() || p.full(w) {
			return
		}
		p.dialing++
		to := &target{endpoint: w.endpoint, conn: w.client, pool: p}
		ctx, cancel := context.WithTimeout(context.WithValue(p.ctx, targetKey{}, to), dialTimeout)
		go func() {
			defer cancel()
			cc, err := p.dialer.transport.NewClientConn(ctx, "http", to.endpoint.Addr.String())
			p.dialled(cc, to, err)
		}()
	}
}

// dialled takes the connection in, or tells those who waited for it that there is none.
func (p *pool) dialled(cc *http.ClientConn, to *target, err error) {
	p.mu.Lock()
	p.dialing--
	switch {
	case err != nil:
		p.metrics.dials.WithLabelValues("failed").Inc()
		if to.made != nil {
			_ = to.made.Close()
		}
		err = fmt.Errorf("connecting to %s: %w: %w", to.endpoint.Addr, err, ErrNotSent)
		for range min(p.perDial(), len(p.waiters)) {
			p.serve(nil, err)
		}
	case p.retired.Load():
		defer func() { _ = cc.Close() }()
	default:
		p.metrics.dials.WithLabelValues("made").Inc()
		to.made.client.Store(cc)
		c := &conn{ClientConn: cc, wire: to.made}
		cc.SetStateHook(func(*http.ClientConn) { p.changed(c) })
		p.conns = append(p.conns, c)
	}
	p.mu.Unlock()
	p.pump()
}

// changed hears of a connection that has more room, or ended. It may be called with net/http's locks held, and in the
// middle of a reservation: what takes a lock is done elsewhere.
func (p *pool) changed(c *conn) {
	if c.Available() > 0 || c.Err() != nil {
		c.busy.Store(false)
	}
	p.kick()
	if p.retired.Load() || c.last.Load() {
		go closeIdle(c.ClientConn)
	}
}

// kick looks after those who wait, if there are any. It takes no lock.
func (p *pool) kick() {
	if p.waiting.Load() > 0 {
		go p.pump()
	}
}

func closeIdle(cc *http.ClientConn) {
	if cc.InFlight() == 0 && cc.Err() == nil {
		_ = cc.Close()
	}
}

// sweep closes connections that had no request for long, and those that take none and have none.
func (p *pool) sweep(now time.Time, idle time.Duration) {
	p.mu.Lock()
	var old []*conn
	p.conns = slices.DeleteFunc(p.conns, func(c *conn) bool {
		unused := now.UnixNano()-c.used.Load() > int64(idle) || c.Available() == 0 || c.last.Load()
		if c.Err() == nil && (c.InFlight() > 0 || !unused) {
			return false
		}
		old = append(old, c)
		return true
	})
	p.mu.Unlock()
	for _, c := range old {
		closeIdle(c.ClientConn)
	}
}

// retire ends the pool: what waits fails, what has no request is closed, and the rest once its requests have ended.
func (p *pool) retire() {
	p.retired.Store(true)
	p.mu.Lock()
	conns := p.conns
	p.conns = nil
	for len(p.waiters) > 0 {
		p.serve(nil, fmt.Errorf("%w: %w", errRetired, ErrNotSent))
	}
	p.mu.Unlock()
	p.stop()
	for _, c := range conns {
		closeIdle(c.ClientConn)
	}
}
