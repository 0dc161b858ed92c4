package waypoint

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/warren-mesh/warren/waypoint/exchange"
	"github.com/warren-mesh/warren/ztunnel/hbone"
)

// protocol is what a port speaks, as far as a waypoint cares.
type protocol uint8

const (
	unknown protocol = iota // the first bytes tell
	isHTTP
	isOpaque
)

// protocolOf is what the port's service says. A port to which a route is attached speaks HTTP.
func (s *streams) protocolOf(c *exchange.Conn) protocol {
	switch p := strings.TrimPrefix(c.Port.AppProtocol, "kubernetes.io/"); p {
	case "http", "http1", "http2", "h2c", "grpc", "grpc-web", "ws":
		return isHTTP
	case "":
		if c.Service != nil && s.w.world.Load().Routes.Attached(c.Service.FullName(), c.Port.Number, c.Client.Namespace()) {
			return isHTTP
		}
		return unknown
	}
	return isOpaque // tcp, tls, https, wss, mysql, …: nothing that can be read
}

// firstWords is how long a client may keep silent on a port of which nobody says what it speaks, before it is taken for
// one whose server speaks first.
const firstWords = 250 * time.Millisecond

// serve finds out what is spoken, answers the CONNECT and serves the connection until it ends.
func (s *streams) serve(ctx context.Context, in *hbone.Inbound, info *exchange.Conn) {
	c := &clientConn{info: info, since: time.Now(), done: make(chan struct{})}
	if !s.add(c) {
		_ = in.Refuse(statusOf(errTooMany), reasonOf(errTooMany))
		return
	}
	defer s.remove(c)
	kind := s.protocolOf(info)
	if kind == isOpaque {
		s.passThrough(ctx, in, c)
		return
	}
	if err := c.accept(in); err != nil {
		return
	}
	var first []byte
	if kind == unknown {
		if first, kind = c.detect(); kind == isOpaque {
			s.passDetected(ctx, c, first)
			return
		}
	}
	c.Conn = s.w.proxy.Screen(&peeked{Stream: c.stream, first: first}, info)
	s.w.http.serve(c)
	<-c.done
	c.linger()
}

// accept answers 200. From here on the client's bytes come.
func (c *clientConn) accept(in *hbone.Inbound) error {
	stream, err := in.Accept(hbone.Answer{})
	if err != nil {
		return err // the client is gone
	}
	c.stream, c.Conn = stream, stream
	return nil
}

// detect reads as much as tells HTTP from other protocols.
func (c *clientConn) detect() (first []byte, kind protocol) {
	_ = c.stream.SetReadDeadline(time.Now().Add(firstWords))
	defer func() { _ = c.stream.SetReadDeadline(time.Time{}) }()
	buf := make([]byte, 0, maxMethod+len(h2Preface))
	for {
		n, err := c.stream.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch kind = guess(buf); {
		case kind != unknown:
			return buf, kind
		case errors.Is(err, os.ErrDeadlineExceeded) && len(buf) == 0:
			return buf, isOpaque
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded), len(buf) == cap(buf):
			return buf, isOpaque
		case err != nil: // some bytes that may be HTTP: the rest is waited for as HTTP's header is
			return buf, isHTTP
		}
	}
}

const (
	h2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	maxMethod = 24
)

// guess tells HTTP by its first bytes: HTTP/2's preface (RFC 9113, section 3.4), or a method and a target that begins as
// one does (RFC 9112, section 3).
func guess(b []byte) protocol {
	if len(b) == 0 {
		return unknown
	}
	if n := min(len(b), len(h2Preface)); string(b[:n]) == h2Preface[:n] {
		if n == len(h2Preface) {
			return isHTTP
		}
		return unknown
	}
	space := bytes.IndexByte(b, ' ')
	method := b
	if space >= 0 {
		method = b[:space]
	}
	for _, ch := range method {
		if ch < 'A' || ch > 'Z' {
			if ch != '-' && ch != '_' {
				return isOpaque
			}
		}
	}
	switch {
	case len(method) > maxMethod || space == 0:
		return isOpaque
	case space < 0 || space+1 == len(b):
		return unknown
	}
	if next := b[space+1]; next == '/' || next == '*' || next == 'h' || next == 'H' || string(method) == "CONNECT" {
		return isHTTP
	}
	return isOpaque
}

// peeked is a connection of which some bytes were read already.
type peeked struct {
	*hbone.Stream
	first []byte
}

// Read gives what was read before anything else.
func (p *peeked) Read(b []byte) (int, error) {
	if len(p.first) > 0 {
		n := copy(b, p.first)
		p.first = p.first[n:]
		return n, nil
	}
	return p.Stream.Read(b)
}
