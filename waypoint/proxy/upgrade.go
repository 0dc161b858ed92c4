package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/warren-mesh/warren/waypoint/exchange"
)

// switchProtocols answers 101 and then carries bytes both ways, for as long as both sides like.
func (x *passage) switchProtocols(t *try) *refusal {
	backend, ok := t.answer.Body.(io.ReadWriteCloser)
	if !ok || x.asked.upgrade == "" {
		_ = t.answer.Body.Close()
		return refusalOf(http.StatusBadGateway, exchange.Unreachable, "the backend switched protocols without being asked to")
	}
	defer backend.Close()
	x.liftLimits(t)
	protocol := t.answer.Header["Upgrade"]
	x.copyHeader(t)
	h := x.w.Header()
	h["Connection"], h["Upgrade"] = []string{"Upgrade"}, protocol
	return x.carry(http.StatusSwitchingProtocols, backend)
}

// tunnel answers an HTTP/1 client's CONNECT. HTTP/2's streams need no taking over.
func (x *passage) tunnel(t *try) *refusal {
	backend := connected{t.answer.Body, x.uplink}
	defer backend.Close()
	x.liftLimits(t)
	x.copyHeader(t)
	h := x.w.Header()
	for _, name := range [...]string{"Content-Length", "Transfer-Encoding", "Connection"} {
		delete(h, name)
	}
	return x.carry(t.answer.StatusCode, backend)
}

// halfOpenTime is how long the backend of a CONNECT may go on after an HTTP/1 client has ended.
const halfOpenTime = 5 * time.Second

// connected is a CONNECT's stream to the backend: the request's body one way, the answer's the other.
type connected struct {
	io.ReadCloser
	up *io.PipeWriter
}

func (c connected) Write(b []byte) (int, error) { return c.up.Write(b) }

// CloseWrite ends the request's body. net/http does not tell the backend, which is given a while to end by itself.
func (c connected) CloseWrite() error {
	time.AfterFunc(halfOpenTime, func() { _ = c.Close() })
	return c.up.Close()
}

func (c connected) Close() error {
	_ = c.up.CloseWithError(net.ErrClosed)
	return c.ReadCloser.Close()
}

func (x *passage) liftLimits(t *try) {
	t.limits.lift()
	x.limits.lift()
}

// carry takes the HTTP/1 connection over after an answer's header, and copies until both directions have ended or one
// has failed.
func (x *passage) carry(status int, backend io.ReadWriteCloser) *refusal {
	x.rec.Outcome = exchange.Answered
	x.writeHeader(status)
	control := http.NewResponseController(x.w)
	client, buffered, err := control.Hijack()
	if err != nil {
		x.abort(exchange.Unreachable, "the client's connection cannot be taken over: "+err.Error())
	}
	defer client.Close()
	if err = buffered.Flush(); err != nil {
		x.rec.Outcome = exchange.Gone
		return x.finished()
	}
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	x.both(client, backend, early)
	if cause := context.Cause(x.ctx); errors.Is(cause, errPolicyChanged) {
		x.rec.Outcome, x.rec.Detail = exchange.Denied, cause.Error()
	}
	return x.finished()
}

// both copies both ways. early is what the client sent before the connection was taken over.
func (x *passage) both(client net.Conn, backend io.ReadWriteCloser, early []byte) {
	up := make(chan error, 1)
	stop := context.AfterFunc(x.ctx, func() { // the waypoint stops
		_ = client.Close()
		_ = backend.Close()
	})
	defer stop()
	go func() {
		n, err := backend.Write(early)
		if err == nil {
			var more int64
			more, err = x.p.buffers.pump(backend, client)
			n += int(more)
		}
		x.rec.BytesIn += uint64(n)
		if err != nil || !closeWrite(backend) {
			_ = backend.Close()
		}
		up <- err
	}()
	n, err := x.p.buffers.pump(client, backend)
	x.rec.BytesOut += uint64(n)
	if err != nil || !closeWrite(client) {
		_ = client.Close()
	}
	<-up
}

// closeWrite ends one direction, if the connection can.
func closeWrite(c any) bool {
	half, ok := c.(interface{ CloseWrite() error })
	return ok && half.CloseWrite() == nil
}

// reset ends the client's connection in a way that it cannot take for the answer's end. Where the answer's own framing
// says that more was to come, net/http's way does; an HTTP/1.0 client knows an answer's end by the connection's.
func (x *passage) reset() {
	if !x.wrote || x.in.ProtoAtLeast(1, 1) {
		return
	}
	c, _, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		return
	}
	for inner := c; inner != nil; inner = beneath(inner) {
		switch c := inner.(type) {
		case interface{ Abort() }:
			c.Abort()
		case interface{ SetLinger(int) error }:
			_ = c.SetLinger(0)
		}
	}
	_ = c.Close()
}

// beneath returns the connection under one that says what it wraps.
func beneath(c net.Conn) net.Conn {
	if w, ok := c.(interface{ NetConn() net.Conn }); ok {
		return w.NetConn()
	}
	return nil
}
