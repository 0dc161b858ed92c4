package hbone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/net/http2"
)

// ClientConn is the side of a connection that opens streams. It is safe for concurrent use.
type ClientConn struct {
	c *conn

	// Guarded by c.mu.
	nextID   uint32
	reserved int  // streams that Pool is about to open
	leaving  bool // Shutdown was called

	onEnd func() // tells the pool that a stream, or the connection, has ended
}

// lastID is where a connection stops being usable, long before its numbers run out.
const lastID = 1 << 30

// NewClientConn starts HTTP/2 on nc, which it owns from now on. It does not wait for the peer: a server that is none shows
// at the first Connect. The caller must Close or Shutdown it.
func NewClientConn(nc net.Conn, cfg Config) (*ClientConn, error) {
	return newClientConn(nc, cfg, func() {}), nil
}

func newClientConn(nc net.Conn, cfg Config, onEnd func()) *ClientConn {
	cc := &ClientConn{c: newConn(nc, cfg.withDefaults()), nextID: 1, onEnd: onEnd}
	cc.c.role = cc
	cc.c.queueHello(http2.ClientPreface)
	go func() {
		cc.c.run(func() error { return nil })
		onEnd()
	}()
	return cc
}

// Connect opens a stream. It returns one only after the peer answered 200, and sends nothing but the request before
// (CVE-2025-64763). Returns a *StatusError if the peer answered otherwise; ErrRefused if it did not look at the request, so
// that it may be sent again elsewhere; ErrDraining or ErrTooManyStreams if the connection takes no more; an error that
// wraps ErrPeerGone if the connection was lost; and ctx's error. ctx does not bound the stream's life.
func (cc *ClientConn) Connect(ctx context.Context, req Request) (*Stream, error) {
	s, err := cc.connect(ctx, req, false)
	if err != nil {
		return nil, fmt.Errorf("CONNECT %.64s: %w", req.Authority, err)
	}
	return s, nil
}

func (cc *ClientConn) connect(ctx context.Context, req Request, reserved bool) (*Stream, error) {
	s, err := cc.open(ctx, req, reserved)
	if err != nil {
		return nil, err
	}
	answer, err := s.waitAnswer(ctx)
	if err == nil && answer.Status != 200 {
		cc.c.cfg.Stats.StreamsRefused.Add(1)
		err = &answer
	}
	if err != nil {
		_ = s.Close() // does not fail
		return nil, err
	}
	return s, nil
}

// open sends the request.
func (cc *ClientConn) open(ctx context.Context, req Request, reserved bool) (*Stream, error) {
	c := cc.c
	c.mu.Lock()
	if reserved {
		cc.reserved--
	}
	err := cc.room()
	if err == nil {
		err = req.check()
	}
	if err != nil {
		c.mu.Unlock()
		return nil, err
	}
	s := newStream(ctx, c, cc.nextID, false)
	cc.nextID += 2
	s.answer = make(chan StatusError, 1)
	s.sendWindow = c.send.initial
	c.streams[s.id] = s
	c.queueHeaders(s.id, req.fields(), false) // under c.mu: streams open in the order of their numbers
	c.mu.Unlock()
	c.tryFlush()
	return s, nil
}

// room returns why no stream can be opened. The caller holds c.mu.
func (cc *ClientConn) room() error {
	c := cc.c
	switch {
	case c.err != nil:
		return errors.Join(ErrDraining, c.err)
	case c.away.received.Load() || cc.leaving || cc.nextID > lastID:
		return ErrDraining
	case uint32(len(c.streams)+cc.reserved) >= c.send.maxStreams:
		return ErrTooManyStreams
	}
	return nil
}

// reserve keeps place for one stream if there are fewer than limit, for connect(reserved).
func (cc *ClientConn) reserve(limit int) bool {
	cc.c.mu.Lock()
	defer cc.c.mu.Unlock()
	if cc.room() != nil || len(cc.c.streams)+cc.reserved >= limit {
		return false
	}
	cc.reserved++
	return true
}

// waitAnswer waits for the final status.
func (s *Stream) waitAnswer(ctx context.Context) (StatusError, error) {
	select {
	case a := <-s.answer:
		return a, nil
	case <-s.Done():
	case <-ctx.Done():
		return StatusError{}, context.Cause(ctx)
	}
	select {
	case a := <-s.answer: // both came at once
		return a, nil
	default:
		return StatusError{}, s.c.streamError(s)
	}
}

// Open returns the number of streams.
func (cc *ClientConn) Open() int {
	cc.c.mu.Lock()
	defer cc.c.mu.Unlock()
	return len(cc.c.streams) + cc.reserved
}

// Usable tells whether a Connect might succeed now.
func (cc *ClientConn) Usable() bool {
	cc.c.mu.Lock()
	defer cc.c.mu.Unlock()
	return cc.room() == nil
}

// Done is closed when the connection is closed and nothing of it runs any more.
func (cc *ClientConn) Done() <-chan struct{} { return cc.c.done }

// Err returns why the connection ended, nil while it lives or if it ended in order.
func (cc *ClientConn) Err() error { return orderly(cc.c.errOf()) }

// orderly turns the ends that are none of an error into nil.
func orderly(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, ErrDraining) || errors.Is(err, ErrClosed) {
		return nil
	}
	return err
}

// Shutdown takes no new stream, waits for the open ones until ctx ends, and closes the connection. Returns ctx's error if
// streams had to be cut.
func (cc *ClientConn) Shutdown(ctx context.Context) error {
	cc.c.mu.Lock()
	cc.leaving = true
	cc.c.mu.Unlock()
	cc.onStreamEnd()
	select {
	case <-cc.c.done:
		return nil
	case <-ctx.Done():
		_ = cc.Close() // does not fail
		return context.Cause(ctx)
	}
}

// Close ends the connection and its streams, which get ErrClosed. It waits until nothing runs any more, at most about a second.
func (cc *ClientConn) Close() error {
	cc.c.fail(ErrClosed)
	<-cc.c.done
	return nil
}

// onHeaders takes an answer.
func (cc *ClientConn) onHeaders(f *http2.MetaHeadersFrame, s *Stream) error {
	if s == nil {
		return cc.strayHeaders(f.StreamID)
	}
	if s.answered.Load() {
		// RFC 9113 section 8.5: after the answer only DATA and stream management.
		return &streamViolation{s.id, http2.ErrCodeProtocol, "HEADERS on a connected stream"}
	}
	a := parseResponse(f)
	switch {
	case a.Status == 0 || a.Status < 200 && f.StreamEnded():
		return &streamViolation{s.id, http2.ErrCodeProtocol, "malformed answer"}
	case a.Status < 200:
		return cc.c.countJunk()
	}
	s.answered.Store(true)
	s.answer <- a
	if f.StreamEnded() {
		return cc.c.onRemoteEnd(s)
	}
	return nil
}

func (cc *ClientConn) strayHeaders(id uint32) error {
	cc.c.mu.Lock()
	idle := cc.isIdle(id)
	cc.c.mu.Unlock()
	if idle {
		return violation(http2.ErrCodeProtocol, "HEADERS for stream %d, which was not opened", id)
	}
	return cc.c.countJunk()
}

func (cc *ClientConn) onBadHeaders(id uint32, reason string) error {
	cc.c.mu.Lock()
	idle := cc.isIdle(id)
	cc.c.mu.Unlock()
	if idle {
		return violation(http2.ErrCodeProtocol, "HEADERS for stream %d, which was not opened", id)
	}
	return &streamViolation{id, http2.ErrCodeProtocol, reason}
}

// lastTaken is 0: a server opens no stream, since push is off.
func (cc *ClientConn) lastTaken() uint32 { return 0 }

func (cc *ClientConn) isIdle(id uint32) bool { return id%2 == 0 || id >= cc.nextID }

// onStreamEnd closes a connection that takes no new stream after its last one, and tells the pool.
func (cc *ClientConn) onStreamEnd() {
	c := cc.c
	c.mu.Lock()
	over := (c.away.received.Load() || cc.leaving) && len(c.streams)+cc.reserved == 0
	c.mu.Unlock()
	if over {
		c.fail(ErrDraining)
	}
	cc.onEnd()
}

func (cc *ClientConn) onTick(time.Time) {}
func (cc *ClientConn) onDrainPing()     {}

// ended tells whether the connection has ended, or is just about to.
func (cc *ClientConn) ended() bool {
	cc.c.mu.Lock()
	defer cc.c.mu.Unlock()
	return cc.c.err != nil
}

// draining tells whether the connection takes no stream ever again.
func (cc *ClientConn) draining() bool {
	cc.c.mu.Lock()
	defer cc.c.mu.Unlock()
	return cc.c.err != nil || cc.c.away.received.Load() || cc.leaving || cc.nextID > lastID
}
