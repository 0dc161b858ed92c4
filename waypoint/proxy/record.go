package proxy

import (
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/warren-mesh/warren/waypoint/exchange"
)

func randomUint32() uint32 { return rand.Uint32() }

// begin opens a request's record.
func (p *Proxy) begin(w http.ResponseWriter, r *http.Request) *passage {
	x := &passage{p: p, w: w, in: r, conn: exchange.ConnOf(r.Context()), world: p.cfg.World.Load(), ctx: r.Context()}
	x.rec = &exchange.Record{
		Conn: x.conn, Protocol: protocolOf(r), Method: r.Method, Host: r.Host, UserAgent: r.UserAgent(),
		GRPCStatus: -1, Start: p.now(),
	}
	if r.URL != nil {
		x.rec.Path = r.URL.EscapedPath()
	}
	if x.conn != nil {
		x.rec.ID = x.conn.TraceID
	}
	if p.cfg.Tracer != nil {
		x.trace = p.cfg.Tracer(r, x.conn)
		x.trace.Describe(x.rec)
	}
	return x
}

func protocolOf(r *http.Request) string {
	switch {
	case isGRPC(r):
		return "gRPC"
	case r.ProtoMajor == 2:
		return "HTTP/2"
	case strings.EqualFold(r.Header.Get("Upgrade"), "websocket"):
		return "websocket"
	}
	return r.Proto
}

// end gives back what the request held, and closes its record. It runs however the request ended, a panic included.
func (x *passage) end() {
	if x.body != nil {
		x.body.close(x)
		x.rec.BytesIn += x.body.taken.Load()
	}
	x.limits.end()
	if x.rec.Outcome == "" {
		x.rec.Outcome, x.rec.Detail = exchange.BackendGone, "the waypoint failed" // a panic
	}
	x.rec.Took = x.p.now().Sub(x.rec.Start)
	x.p.cfg.Sink(x.rec)
}

// Screen reads along what an HTTP/1 client sends, so that what is no request of one reading only never becomes one; see
// [screen]. The connection must be handed to net/http.
func (p *Proxy) Screen(c net.Conn, info *exchange.Conn) net.Conn {
	return &screen{Conn: c, refused: func(h *head, err error) { p.refusedHead(info, h, err) }}
}

// refusedHead records what the screen of an HTTP/1 connection did not take for a request.
func (p *Proxy) refusedHead(c *exchange.Conn, h *head, err error) {
	r := &http.Request{Method: h.method, Header: http.Header{}, Host: h.host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: int(h.minor)}
	rec := &exchange.Record{
		Conn: c, Protocol: r.Proto, Method: h.method, Host: h.host, GRPCStatus: -1, Start: p.now(),
		Outcome: exchange.Malformed, Status: http.StatusBadRequest, Detail: err.Error(),
	}
	rec.Path, _, _ = strings.Cut(h.target, "?")
	if c != nil {
		rec.ID = c.TraceID
	}
	if p.cfg.Tracer != nil {
		p.cfg.Tracer(r, c).Describe(rec)
	}
	p.cfg.Sink(rec)
}

// seconds rounds up to whole ones, at least 1.
func seconds(d time.Duration) int {
	return max(1, int((d+time.Second-1)/time.Second))
}
