package hbone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// drainGrace is how long a peer may take to answer the PING behind a graceful GOAWAY, which tells how far its requests
// that crossed the GOAWAY have come.
const drainGrace = time.Second

// serverConn is the side of a connection that takes streams.
type serverConn struct {
	c      *conn
	ctx    context.Context
	handle func(context.Context, *Inbound)
	wg     sync.WaitGroup
	start  time.Time

	// Guarded by c.mu.
	maxID    uint32 // the highest stream the peer opened
	handlers uint32
	drained  time.Time // when draining began, zero before
	idle     time.Time // since when no handler runs, zero before the first
}

// ServeConn serves nc, which it owns from now on, until the connection ends and every handler has returned. handle runs
// for every CONNECT in a goroutine of its own; its context ends with the stream, not with ctx. The end of ctx drains: GOAWAY,
// then the streams go on until they end or cfg.DrainTimeout is over. Closing nc ends everything at once.
//
// ServeConn returns nil if the peer closed the connection without open streams, or it was drained; a *ConnError after a
// violation of the protocol or of a limit; and an error that wraps ErrPeerGone if the connection was lost.
func ServeConn(ctx context.Context, nc net.Conn, cfg Config, handle func(context.Context, *Inbound)) error {
	sc := &serverConn{c: newConn(nc, cfg.withDefaults()), ctx: ctx, handle: handle, start: time.Now()}
	sc.c.role = sc
	sc.c.queueHello("")
	stop := context.AfterFunc(ctx, sc.drain)
	sc.c.run(sc.readPreface)
	stop()
	sc.wg.Wait()
	return orderly(sc.c.errOf())
}

func (sc *serverConn) readPreface() error {
	br := sc.c.reader.br
	for i := range len(http2.ClientPreface) {
		b, err := br.ReadByte()
		if err != nil {
			return err
		}
		if b != http2.ClientPreface[i] {
			return violation(http2.ErrCodeProtocol, "peer does not speak HTTP/2")
		}
	}
	return nil
}

// onHeaders takes a request.
func (sc *serverConn) onHeaders(f *http2.MetaHeadersFrame, s *Stream) error {
	if s != nil {
		return &streamViolation{s.id, http2.ErrCodeProtocol, "HEADERS on a connected stream"}
	}
	ours, err := sc.takeID(f.StreamID)
	if err != nil || !ours {
		return err
	}
	req, err := parseRequest(f)
	var other notConnect
	switch {
	case errors.As(err, &other):
		if err := sc.c.countJunk(); err != nil {
			return err
		}
		if other.status == 400 { // a CONNECT: its content may never end
			return sc.accept(f, Request{}, func(_ context.Context, in *Inbound) { _ = in.Refuse(other.status, "") })
		}
		return sc.accept(f, Request{}, refuseOther(other.status, contentLength(f)))
	case err != nil:
		return &streamViolation{f.StreamID, http2.ErrCodeProtocol, err.Error()}
	}
	return sc.accept(f, req, sc.handle)
}

// takeID notes a new stream. ours is false if it came after the final GOAWAY and is to be ignored.
func (sc *serverConn) takeID(id uint32) (ours bool, err error) {
	sc.c.mu.Lock()
	defer sc.c.mu.Unlock()
	if id%2 == 0 || id <= sc.maxID {
		return false, violation(http2.ErrCodeProtocol, "request on stream %d after %d", id, sc.maxID)
	}
	sc.maxID = id
	if sc.c.away.sent {
		sc.c.gone.add(id, true)
		return false, sc.c.countJunk()
	}
	if sc.idle.IsZero() {
		sc.idle = time.Now()
	}
	return true, nil
}

// onBadHeaders resets the stream, which may be a new one.
func (sc *serverConn) onBadHeaders(id uint32, reason string) error {
	sc.c.mu.Lock()
	known := sc.c.streams[id] != nil
	sc.c.mu.Unlock()
	if !known {
		if ours, err := sc.takeID(id); err != nil || !ours {
			return err
		}
	}
	return &streamViolation{id, http2.ErrCodeProtocol, reason}
}

// refuseOther is the handler of a request that is no CONNECT we take: it is answered after its content, which has to be
// as long as declared (RFC 9113 section 8.1.1). declared is -1 if it is not.
func refuseOther(status int, declared int64) func(context.Context, *Inbound) {
	return func(_ context.Context, in *Inbound) {
		n, err := io.Copy(io.Discard, in.s)
		switch {
		case err == nil && declared >= 0 && n != declared:
			in.s.Reset(http2.ErrCodeProtocol)
		case err == nil:
			_ = in.Refuse(status, "") // the peer may be gone, then nobody needs it
		}
	}
}

// accept starts the handler of a stream.
func (sc *serverConn) accept(f *http2.MetaHeadersFrame, req Request, handle func(context.Context, *Inbound)) error {
	c := sc.c
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return nil
	}
	if sc.handlers >= c.cfg.MaxStreams {
		c.gone.add(f.StreamID, true)
		lingering := uint32(len(c.streams)) < c.cfg.MaxStreams
		c.mu.Unlock()
		return sc.refuseStream(f.StreamID, lingering)
	}
	sc.handlers++
	s := newStream(sc.ctx, c, f.StreamID, true)
	s.sendWindow = c.send.initial
	c.streams[s.id] = s
	c.mu.Unlock()
	sc.wg.Go(func() { sc.run(&Inbound{s: s, req: req}, handle) })
	if f.StreamEnded() {
		return c.onRemoteEnd(s)
	}
	return nil
}

// refuseStream resets a stream that there is no place for. lingering means that the peer has reset streams whose handlers
// have not ended yet: going on opening others is what rapid reset is (CVE-2023-44487).
func (sc *serverConn) refuseStream(id uint32, lingering bool) error {
	c := sc.c
	c.cfg.Stats.StreamsRefused.Add(1)
	count := c.countJunk
	if lingering {
		count = c.countReset
	}
	if err := count(); err != nil {
		return err
	}
	return c.provoked(http2.FrameRSTStream, 0, id, be32(uint32(http2.ErrCodeRefusedStream))...)
}

// run runs one handler and leaves nothing of its stream behind.
func (sc *serverConn) run(in *Inbound, handle func(context.Context, *Inbound)) {
	s := in.s
	defer sc.handlerDone()
	defer func() {
		if p := recover(); p != nil {
			sc.c.cfg.Stats.HandlerPanics.Add(1)
			sc.c.cfg.Log.Error("hbone handler panics", "panic", p, "stack", string(debug.Stack()))
			s.Reset(CodeInternal)
		}
		if !in.answered.Load() {
			_ = in.Refuse(503, "no_answer") // the peer may be gone, then nobody needs it
		}
		_ = s.Close() // does not fail
	}()
	handle(s.ctx, in)
}

func (sc *serverConn) handlerDone() {
	sc.c.mu.Lock()
	sc.handlers--
	sc.idle = time.Now()
	sc.c.mu.Unlock()
	sc.finishIfDrained()
}

// drain says GOAWAY without a limit, and asks by PING when the peer has seen it, RFC 9113 section 6.8.
func (sc *serverConn) drain() {
	sc.c.mu.Lock()
	began := sc.drained.IsZero()
	if began {
		sc.drained = time.Now()
	}
	sc.c.mu.Unlock()
	if began {
		sc.c.queueGoAway(maxWindow, http2.ErrCodeNo, "")
		sc.c.queuePing(pingDrain)
	}
}

// onDrainPing says the final GOAWAY: what the peer had sent before it knew has been taken.
func (sc *serverConn) onDrainPing() {
	c := sc.c
	c.mu.Lock()
	if sc.drained.IsZero() || c.away.sent {
		c.mu.Unlock()
		return
	}
	c.away.sent, c.away.last = true, sc.maxID
	c.mu.Unlock()
	c.queueGoAway(c.away.last, http2.ErrCodeNo, "")
	sc.finishIfDrained()
}

func (sc *serverConn) finishIfDrained() {
	sc.c.mu.Lock()
	over := sc.c.away.sent && sc.handlers == 0
	sc.c.mu.Unlock()
	if over {
		sc.c.fail(ErrDraining)
	}
}

// onTick checks the timeouts that only servers have.
func (sc *serverConn) onTick(now time.Time) {
	c := sc.c
	c.mu.Lock()
	unused := sc.idle.IsZero()
	idle := !unused && sc.handlers == 0 && now.Sub(sc.idle) >= c.cfg.IdleTimeout
	drained := sc.drained
	final := c.away.sent
	c.mu.Unlock()
	switch {
	case !drained.IsZero() && now.Sub(drained) >= c.cfg.DrainTimeout:
		c.fail(fmt.Errorf("%w for %v", ErrDraining, c.cfg.DrainTimeout))
	case !drained.IsZero() && !final && now.Sub(drained) >= drainGrace:
		sc.onDrainPing()
	case unused && now.Sub(sc.start) >= c.cfg.FirstRequest:
		c.fail(violation(http2.ErrCodeEnhanceYourCalm, "no request within %v", c.cfg.FirstRequest))
	case idle:
		sc.drain()
	}
}

func (sc *serverConn) lastTaken() uint32 { return sc.maxID }

func (sc *serverConn) isIdle(id uint32) bool { return id%2 == 0 || id > sc.maxID }

func (sc *serverConn) onStreamEnd() {}
