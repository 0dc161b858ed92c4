package waypoint

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/waypoint/exchange"
	"github.com/warren-mesh/warren/waypoint/upstream"
	"github.com/warren-mesh/warren/ztunnel/hbone"
)

var errDenied = errors.New("denied by policy")

// passAttempts is how many endpoints are tried before a connection is refused.
const passAttempts = 3

// passThrough carries a connection that is no HTTP. The CONNECT is answered once its endpoint has: a client learns of a
// refusal as it would without a waypoint.
func (s *streams) passThrough(ctx context.Context, in *hbone.Inbound, c *clientConn) {
	rec := s.begin(c.info)
	defer s.end(rec)
	server, release, err := s.reach(ctx, c, rec)
	if err != nil {
		s.refused(rec, err)
		_ = in.Refuse(statusOf(err), reasonOf(err)) // the client may be gone
		return
	}
	defer release()
	if err := c.accept(in); err != nil {
		abort(server)
		rec.Outcome, rec.Detail = exchange.Gone, err.Error()
		return
	}
	s.carry(c, server, nil, rec)
}

// passDetected carries a connection of which the first bytes told that it is no HTTP.
func (s *streams) passDetected(ctx context.Context, c *clientConn, first []byte) {
	rec := s.begin(c.info)
	defer s.end(rec)
	server, release, err := s.reach(ctx, c, rec)
	if err != nil {
		s.refused(rec, err)
		c.stream.Reset(hbone.CodeConnect)
		return
	}
	defer release()
	s.carry(c, server, first, rec)
}

// reach decides and connects to an endpoint, another one if the first does not answer. Until release is called the
// connection counts as one of the endpoint's requests.
func (s *streams) reach(ctx context.Context, c *clientConn, rec *exchange.Record) (server net.Conn, release func(), err error) {
	var tried []netip.AddrPort
	var failed error
	for attempt := range passAttempts {
		dial := s.w.dialer.dial
		if attempt == passAttempts-1 {
			dial = s.w.dialer.dialPatiently
		}
		pick, err := s.w.upstreams.Pick(s.ask(c.info, tried))
		if err != nil {
			return nil, nil, errors.Join(failed, err)
		}
		to := pick.Endpoint
		start := time.Now()
		if err := s.allowed(c, to, rec); err != nil {
			pick.Release()
			return nil, nil, err
		}
		server, err := dial(ctx, to, c.info)
		try := exchange.Try{Endpoint: to.Workload, Addr: to.Addr, Start: start, Took: time.Since(start)}
		if err != nil {
			try.Err = err.Error()
		}
		rec.Tries = append(rec.Tries, try)
		if err == nil {
			return server, pick.Release, nil
		}
		pick.Release()
		failed, tried = errors.Join(failed, err), append(tried, to.Addr)
	}
	return nil, nil, failed
}

func (s *streams) ask(info *exchange.Conn, tried []netip.AddrPort) upstream.Ask {
	a := upstream.Ask{
		Service: info.Service, Port: info.Port.Number, Target: info.Target, TargetPort: info.Dialled.Port(),
		V4: info.Dialled.Addr().Is4(), Request: new(http.Request), Conn: info, Tried: tried,
	}
	if info.Service != nil {
		a.Traffic = s.w.world.Load().Traffic.For(info.Service.FullName(), nil)
	}
	return a
}

// allowed decides a connection that nobody reads, now and whenever the world changes.
func (s *streams) allowed(c *clientConn, to upstream.Endpoint, rec *exchange.Record) error {
	decide := func(w *exchange.World) policy.Decision {
		t := policy.Target{Targets: w.Targets(s.w.cfg.Gateway, c.info)}
		if to.Workload != nil {
			self := w.Mesh.Workload(to.Workload.UID)
			if self == nil {
				return policy.Decision{Reason: policy.ReasonUnknownLocal}
			}
			t.Policies, t.Strict, t.StrictSource = self.Policies, self.MTLS.ModeOf(to.Addr.Port()) == mesh.Strict, self.MTLS.Source
		}
		return w.Policies.Decide(t, policy.Conn{Src: c.info.Client, SrcAddr: c.info.ClientAddr.Addr(), Dst: to.Addr})
	}
	s.mu.Lock()
	c.decide = func(w *exchange.World) bool { return decide(w).Permit().Valid() }
	s.mu.Unlock()
	d := decide(s.w.world.Load()) // after redecide can see it, so that no change falls between
	rec.Policy, rec.Audit = d.Rule, d.Audit
	if !d.Permit().Valid() {
		return errors.Join(errDenied, errors.New(string(d.Reason)+": "+d.Rule))
	}
	return nil
}

// begin and end write the one record of a connection that was carried unread.
func (s *streams) begin(info *exchange.Conn) *exchange.Record {
	r := &exchange.Record{ID: info.TraceID, TraceID: info.TraceID, Conn: info, Protocol: "tcp", Start: time.Now(), GRPCStatus: -1}
	if info.Service != nil {
		r.Backend = info.Service.FullName()
	}
	return r
}

func (s *streams) end(r *exchange.Record) {
	r.Took = time.Since(r.Start)
	s.w.telemetry.Sink(r)
}

func (s *streams) refused(r *exchange.Record, err error) {
	r.Detail = err.Error()
	switch {
	case errors.Is(err, errDenied):
		r.Outcome = exchange.Denied
	case errors.Is(err, upstream.ErrNoEndpoint):
		r.Outcome = exchange.NoEndpoint
	case errors.Is(err, upstream.ErrOverloaded):
		r.Outcome = exchange.Overloaded
	default:
		r.Outcome = exchange.Unreachable
	}
}

// carry copies both ways until both directions have ended: an end passes as an end, each way by itself, and a reset of
// either resets the other.
func (s *streams) carry(c *clientConn, server net.Conn, first []byte, rec *exchange.Record) {
	defer server.Close()
	defer c.stream.Close()
	var task sync.WaitGroup
	var upErr error
	task.Go(func() {
		if len(first) > 0 {
			if _, upErr = server.Write(first); upErr != nil {
				c.stream.Reset(hbone.CodeConnect)
				return
			}
			rec.BytesIn = uint64(len(first))
		}
		var n int64
		n, upErr = copyEnd(server, c.stream)
		rec.BytesIn += uint64(n)
		if upErr != nil {
			abort(server)
			c.stream.Reset(hbone.CodeConnect)
		}
	})
	n, downErr := copyEnd(c.stream, server)
	if downErr != nil {
		abort(server)
		c.stream.Reset(hbone.CodeConnect)
	}
	task.Wait()
	rec.BytesOut = uint64(n)
	rec.Outcome = exchange.Answered
	if err := errors.Join(upErr, downErr); err != nil {
		rec.Outcome, rec.Detail = exchange.BackendGone, err.Error()
	}
}

// copyEnd copies until src ends, and passes the end on.
func copyEnd(dst io.Writer, src io.Reader) (int64, error) {
	n, err := io.Copy(dst, src)
	if err != nil {
		return n, err
	}
	return n, dst.(interface{ CloseWrite() error }).CloseWrite()
}

// abort resets a connection to an endpoint.
func abort(c net.Conn) {
	switch c := c.(type) {
	case *hbone.Stream:
		c.Reset(hbone.CodeConnect)
	case *net.TCPConn:
		_ = c.SetLinger(0)
	}
	_ = c.Close() // it is of no use any more
}
