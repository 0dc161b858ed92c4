package proxy

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/route"
	"github.com/warren-mesh/warren/waypoint/upstream"
)

// choose finds out what the request is forwarded to: one of the rule's backends by weight, unless its session has one
// already; without a route what was dialled.
func (x *passage) choose() *refusal {
	rule := x.hit.Rule
	if rule == nil {
		x.to = backend{service: x.conn.Service, port: x.conn.Port}
		if x.to.service != nil {
			x.rec.Backend = x.to.service.FullName()
		}
		return nil
	}
	var b *route.Backend
	if rule.Session != nil {
		b = upstream.SessionBackend(rule.Session, x.in, rule.Backends, x.rec.Start)
	}
	if b == nil {
		b = rule.Choose(x.p.random())
	}
	if b == nil {
		return broken("no backend of the rule has weight")
	}
	x.rec.Backend = b.Service
	service, port, why := find(x.world.Mesh, b.Service, b.Port)
	if b.Broken != "" {
		why = b.Broken
	}
	if why != "" {
		return broken(why)
	}
	x.to = backend{service: service, port: port, filters: &b.Filters}
	return x.authorizeBackend()
}

func find(m *mesh.Snapshot, name string, number uint16) (s *mesh.Service, p mesh.Port, why string) {
	if s = m.ServiceNamed(name); s == nil {
		return nil, p, "there is no service " + name
	}
	p, ok := s.Port(number)
	if !ok {
		return nil, p, "service " + name + " has no such port"
	}
	return s, p, ""
}

// speaksHTTP2 tells what a backend is spoken to in: what its port says, or else what the client spoke.
func speaksHTTP2(port mesh.Port, r *http.Request) bool {
	switch port.AppProtocol {
	case "kubernetes.io/h2c", "h2c", "http2", "grpc", "grpc-web":
		return true
	case "http", "http/1.1", "kubernetes.io/ws", "ws", "websocket":
		return false
	}
	return r.ProtoMajor == 2
}

// outgoing is the request as it will be sent, but for its body.
func (x *passage) outgoing() (*http.Request, error) {
	made := &struct { // one allocation
		req http.Request
		url url.URL
	}{
		http.Request{
			Method: x.in.Method, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: x.in.Header, Host: x.asked.host, ContentLength: x.in.ContentLength,
		},
		url.URL{Scheme: "http", Host: x.asked.host, RawQuery: x.asked.query, Path: x.asked.path},
	}
	out := &made.req
	out.URL = &made.url
	if x.shared = !x.changesHeader(); !x.shared {
		out.Header = out.Header.Clone()
	}
	if x.asked.upgrade != "" && !x.http2() {
		out.Header["Connection"] = []string{"Upgrade"}
		out.Header["Upgrade"] = []string{x.asked.upgrade}
	}
	if out.Header["User-Agent"] == nil {
		out.Header["User-Agent"] = []string{""} // or the transport would name itself
	}
	if strings.IndexByte(x.asked.path, '%') >= 0 {
		decoded, err := url.PathUnescape(x.asked.path)
		if err != nil {
			return nil, err
		}
		out.URL.Path, out.URL.RawPath = decoded, x.asked.path
	}
	return out, x.rewrite(out)
}

// changesHeader tells whether the request that is sent gets another header than the one that policy sees, which most do
// not. Who changes one of them later, see change, parts them first.
func (x *passage) changesHeader() bool {
	if x.asked.upgrade != "" || x.in.Header["User-Agent"] == nil || x.trace != nil && !x.trace.Silent() {
		return true
	}
	for _, f := range x.filters() {
		if !f.Request.Empty() {
			return true
		}
	}
	return false
}

func (x *passage) http2() bool { return speaksHTTP2(x.to.port, x.in) }

// ask is what upstream is asked for.
func (x *passage) ask() upstream.Ask {
	a := upstream.Ask{
		Service: x.to.service, Port: x.to.port.Number, V4: x.conn.Dialled.Addr().Unmap().Is4(),
		Request: x.in, Conn: x.conn, HTTP2: x.http2(), Session: x.session(), Tried: x.tried, Traffic: x.traffic,
		Patient: x.free == maxFree,
	}
	if x.to.service == nil {
		a.Target, a.TargetPort = x.conn.Target, x.conn.Dialled.Port()
	}
	return a
}

func (x *passage) session() *route.Session {
	if x.hit.Rule == nil {
		return nil
	}
	return x.hit.Rule.Session
}
