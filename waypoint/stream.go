package waypoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/waypoint/coalesce"
	"github.com/warren-mesh/warren/waypoint/exchange"
	"github.com/warren-mesh/warren/ztunnel/hbone"
)

// streams are the connections that clients have open through their tunnels.
type streams struct {
	w *Waypoint

	mu   sync.Mutex
	open map[*clientConn]struct{}
	over chan struct{} // closed and replaced whenever one has ended, if somebody waits
}

func newStreams(w *Waypoint) *streams {
	s := &streams{w: w, open: map[*clientConn]struct{}{}, over: make(chan struct{})}
	w.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "warren_waypoint_connections", Help: "Clients' connections that are open."}, func() float64 { return float64(s.count()) }))
	return s
}

// clientConn is one of them.
type clientConn struct {
	net.Conn
	stream *hbone.Stream
	info   *exchange.Conn
	since  time.Time
	// decide says whether the connection may go on, by the world as it is then; nil for what is decided by the request.
	decide func(*exchange.World) bool

	written bool                            // something was, by who serves the connection
	late    atomic.Pointer[coalesce.Writer] // what HTTP/2 is written through; net/http may close while it writes
	once    sync.Once
	done    chan struct{} // closed when nobody uses the stream any more
}

// Write writes an answer of HTTP/1, which is one write, at once, and HTTP/2's frames as they come together.
func (c *clientConn) Write(b []byte) (int, error) {
	if !c.written {
		c.written = true
		if !bytes.HasPrefix(b, []byte("HTTP/")) {
			c.late.Store(coalesce.NewWriter(c.Conn))
		}
	}
	if late := c.late.Load(); late != nil {
		return late.Write(b)
	}
	return c.Conn.Write(b)
}

// Close ends the connection as close(2) ends one of TCP: what was written is followed by an end. Whoever accepted the
// stream lingers, once that is sent.
func (c *clientConn) Close() error {
	c.once.Do(func() {
		_ = c.stream.SetReadDeadline(time.Unix(1, 0)) // who reads is to stop; it does not fail
		late := c.late.Load()
		if late == nil {
			c.end(nil)
			return
		}
		_ = c.stream.SetWriteDeadline(time.Now().Add(lingerTime))
		go func() { c.end(late.Flush()) }() // net/http closes one connection after the other
	})
	return nil
}

// end ends the stream: as a RST does, if not all that was written was sent.
func (c *clientConn) end(unsent error) {
	if unsent != nil {
		c.Abort()
	} else {
		_ = c.stream.CloseWrite() // one that has failed has ended
	}
	close(c.done)
}

// lingerTime is how long a client may take to end its side of a connection that was closed here.
const lingerTime = 2 * time.Second

// linger reads on after Close until the client has ended its side, so that it is not reset for what it had sent before it
// knew, and then lets go of the stream.
func (c *clientConn) linger() {
	_ = c.stream.SetReadDeadline(time.Now().Add(lingerTime))
	_, _ = io.Copy(io.Discard, io.LimitReader(c.stream, maxLinger)) // any end will do
	_ = c.stream.Close()
}

// maxLinger bounds what is read of a client that goes on sending, bytes.
const maxLinger = 256 << 10

// Abort ends the connection as a RST does: what was written before is not all there was to say.
func (c *clientConn) Abort() { c.stream.Reset(hbone.CodeConnect) }

// CloseWrite says that nothing more comes.
func (c *clientConn) CloseWrite() error { return c.stream.CloseWrite() }

var (
	errNotOurs  = errors.New("this waypoint is not for it")
	errTooMany  = errors.New("too many connections are open")
	errNobody   = errors.New("nobody is known at this address")
	errNoPort   = errors.New("the service has no such port")
	errExpired  = errors.New("the peer's certificate has expired")
	errPassport = errors.New("authority is not a destination")
)

// take serves one CONNECT of a peer's: what does it want, and may this waypoint give it.
func (s *streams) take(ctx context.Context, tn *tunnel, in *hbone.Inbound) {
	info, err := s.describe(tn, in.Request())
	if err != nil {
		s.w.cfg.Log.Info("connection refused", "src_id", tn.id.String(), "src", tn.from.String(), "authority", in.Request().Authority, "err", err)
		_ = in.Refuse(statusOf(err), reasonOf(err)) // the peer may be gone
		return
	}
	s.serve(ctx, in, info)
}

// describe says who the client is and what it dialled.
func (s *streams) describe(tn *tunnel, req hbone.Request) (*exchange.Conn, error) {
	if time.Now().After(tn.cert.NotAfter) {
		return nil, errExpired
	}
	m := s.w.world.Load().Mesh
	dst, err := s.destination(m, req.Authority)
	if err != nil {
		return nil, err
	}
	info := &exchange.Conn{
		Client: tn.id, ClientAddr: req.Client(netip.AddrPortFrom(tn.from, 0)), ClientCert: tn.cert.Raw, Dialled: dst, TraceID: req.TraceID(),
	}
	if w := m.WorkloadAt(tn.from); w != nil && w.Namespace == tn.id.Namespace() && w.ServiceAccount == tn.id.ServiceAccount() {
		info.Workload = w
	}
	front, ok := m.FrontendAt(dst)
	if !ok {
		return info, s.target(m, info)
	}
	if front.Service.Waypoint != s.w.cfg.Gateway {
		return nil, fmt.Errorf("service %s: %w", front.Service.FullName(), errNotOurs)
	}
	if info.Port, ok = front.Service.Port(front.Port); !ok {
		return nil, fmt.Errorf("service %s port %d: %w", front.Service.FullName(), front.Port, errNoPort)
	}
	info.Service = front.Service
	return info, nil
}

// destination reads an authority: an address, or a service's host name.
func (s *streams) destination(m *mesh.Snapshot, authority string) (netip.AddrPort, error) {
	dst, err := hbone.ParseAuthority(authority)
	if !errors.Is(err, hbone.ErrHostname) {
		return dst, err
	}
	host, port, _ := strings.Cut(authority, ":")
	svc := m.ServiceHost(strings.ToLower(host))
	if svc == nil || len(svc.VIPs) == 0 {
		return dst, fmt.Errorf("%s: %w", host, errNobody)
	}
	return netip.ParseAddrPort(net.JoinHostPort(svc.VIPs[0].String(), port))
}

// target fills in a workload that was dialled by its own address.
func (s *streams) target(m *mesh.Snapshot, info *exchange.Conn) error {
	w := m.WorkloadAt(info.Dialled.Addr())
	switch {
	case w == nil:
		return fmt.Errorf("%s: %w", info.Dialled, errNobody)
	case w.Waypoint != s.w.cfg.Gateway:
		return fmt.Errorf("workload %s: %w", w.FullName(), errNotOurs)
	}
	info.Target = w
	info.Port = mesh.Port{Number: info.Dialled.Port()}
	return nil
}

// add makes a connection known; false if there are too many.
func (s *streams) add(c *clientConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) >= s.w.cfg.MaxConns {
		return false
	}
	s.open[c] = struct{}{}
	return true
}

func (s *streams) remove(c *clientConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
	if len(s.open) == 0 {
		close(s.over)
		s.over = make(chan struct{})
	}
}

func (s *streams) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

func (s *streams) all() []*clientConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*clientConn, 0, len(s.open))
	for c := range s.open {
		out = append(out, c)
	}
	return out
}

// records returns what there is to say about every open connection.
func (s *streams) records() []*exchange.Record {
	var out []*exchange.Record
	for _, c := range s.all() {
		r := s.begin(c.info)
		r.Start = c.since
		out = append(out, r)
	}
	return out
}

// redecide ends the connections that were let pass unread and that the world in force forbids.
func (s *streams) redecide() {
	world := s.w.world.Load()
	for _, c := range s.all() {
		if c.decide != nil && !c.decide(world) {
			c.stream.Reset(hbone.CodeConnect)
		}
	}
}

// drained returns once no connection is open, or ctx has ended.
func (s *streams) drained(ctx context.Context) {
	for {
		s.mu.Lock()
		left, over := len(s.open), s.over
		s.mu.Unlock()
		if left == 0 {
			return
		}
		select {
		case <-over:
		case <-ctx.Done():
			s.w.cfg.Log.Warn("connections did not end in time", "open", left)
			return
		}
	}
}

// cut resets every connection.
func (s *streams) cut() {
	for _, c := range s.all() {
		c.stream.Reset(hbone.CodeConnect)
	}
}

// statusOf is the answer that ztunnels understand, Istio's included.
func statusOf(err error) int {
	switch {
	case errors.Is(err, errNotOurs), errors.Is(err, errExpired), errors.Is(err, errDenied):
		return 401
	case errors.Is(err, hbone.ErrAuthority), errors.Is(err, errPassport):
		return 400
	}
	return 503
}

// reasonOf is a word for the peer's record.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, errNotOurs):
		return "not_this_waypoint"
	case errors.Is(err, errDenied):
		return "policy_denied"
	case errors.Is(err, errExpired):
		return "peer_expired"
	case errors.Is(err, errTooMany):
		return "overload"
	case errors.Is(err, errNoPort):
		return "no_such_port"
	case errors.Is(err, errNobody), errors.Is(err, hbone.ErrAuthority):
		return "bad_target"
	}
	return "no_endpoint"
}
