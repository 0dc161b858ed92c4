package hbone

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// Stream is one tunnelled connection: a pair of byte streams that end, or are reset, like TCP's. Reading and writing may
// go on at the same time, by one goroutine each. Whoever got a Stream must Close it.
type Stream struct {
	c       *conn
	id      uint32
	inbound bool // the peer opened it

	// Guarded by c.mu.
	sendWindow int64
	sendReady  sync.Cond
	sendErr    error // why nothing can be sent any more
	sendLimit  deadline
	queued     bool // in c.send.queue
	localEnd   bool // END_STREAM was sent
	remoteEnd  bool // END_STREAM was received
	dead       bool // not on the connection any more
	ended      bool // terminated: sendErr is set

	noSend   atomic.Bool // no frame may follow, see conn.writeData
	answered atomic.Bool // HEADERS of the answer were sent or received
	writing  sync.Mutex  // one Write, ReadFrom or CloseWrite at a time

	recv recvState

	answer chan StatusError // client: the final answer; Status 0 for a malformed one
	ctx    context.Context  // ends with the stream
	cancel context.CancelCauseFunc
}

// newStream makes a stream. ctx only passes values: its end is not the stream's end.
func newStream(ctx context.Context, c *conn, id uint32, inbound bool) *Stream {
	s := &Stream{c: c, id: id, inbound: inbound}
	s.sendReady.L = &c.mu
	s.recv.init(int64(c.cfg.StreamWindow))
	s.ctx, s.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	c.cfg.Stats.StreamsOpened.Add(1)
	return s
}

// ID returns the stream's number on its connection, for logs.
func (s *Stream) ID() uint32 { return s.id }

// Done is closed when the stream has ended in both directions, or was reset, or its connection is gone.
func (s *Stream) Done() <-chan struct{} { return s.ctx.Done() }

// Leaving tells whether the peer has said that the stream's connection takes no new ones: it may cut it before long.
func (s *Stream) Leaving() bool { return s.c.away.received.Load() }

// LocalAddr and RemoteAddr are those of the connection that carries the stream.
func (s *Stream) LocalAddr() net.Addr  { return s.c.nc.LocalAddr() }
func (s *Stream) RemoteAddr() net.Addr { return s.c.nc.RemoteAddr() }

// Reset ends both directions with RST_STREAM. CodeConnect relays the reset of an app's connection.
func (s *Stream) Reset(code Code) { s.c.resetStream(s, code) }

// Close releases the stream. If both directions have ended it sends nothing, otherwise it resets the stream with CANCEL
// so that the peer does not take it for an orderly end. It never waits.
func (s *Stream) Close() error {
	s.c.resetStream(s, CodeCancel)
	s.CloseRead()
	return nil
}

// SetDeadline sets both deadlines. Calls that meet them return os.ErrDeadlineExceeded; the stream stays usable.
func (s *Stream) SetDeadline(t time.Time) error {
	_ = s.SetReadDeadline(t)
	return s.SetWriteDeadline(t)
}

// SetReadDeadline limits Read and WriteTo. The zero time means no limit.
func (s *Stream) SetReadDeadline(t time.Time) error {
	s.recv.mu.Lock()
	defer s.recv.mu.Unlock()
	s.recv.limit.set(t, &s.recv.mu, &s.recv.ready)
	return nil
}

// SetWriteDeadline limits Write and ReadFrom as far as they wait for credit, not for the app.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.sendLimit.set(t, &s.c.mu, &s.sendReady)
	return nil
}

// terminate makes the end of the stream known to everybody who waits on it. err is nil for an orderly end. The stream is
// already off the connection.
func (s *Stream) terminate(err error) {
	s.c.mu.Lock()
	if s.ended {
		s.c.mu.Unlock()
		return
	}
	s.dead, s.ended = true, true
	s.noSend.Store(true)
	s.sendErr = err
	if err == nil {
		s.sendErr = fmt.Errorf("stream %d: %w", s.id, ErrClosed)
	}
	s.sendLimit.stop()
	s.sendReady.Broadcast()
	s.c.mu.Unlock()
	s.endReceive(err)
	s.cancel(err)
	s.c.cfg.Stats.StreamsClosed.Add(1)
}

// streamError returns why a stream that was taken off its connection ended. It waits for terminate, which follows at
// once and waits for nothing.
func (c *conn) streamError(s *Stream) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !s.ended {
		s.sendReady.Wait()
	}
	return s.sendErr
}

// sendHeaders sends HEADERS on the stream, if it is still there.
func (s *Stream) sendHeaders(fields []field, endStream bool) error {
	s.c.mu.Lock()
	if s.dead {
		s.c.mu.Unlock()
		return s.c.streamError(s)
	}
	// Under c.mu, so that no reset gets into the control buffer before.
	s.answered.Store(true)
	s.c.queueHeaders(s.id, fields, endStream)
	finished := endStream && s.markLocalEnd()
	s.c.mu.Unlock()
	s.c.tryFlush()
	s.finish(finished)
	return nil
}

// sendEnd sends END_STREAM in an empty DATA frame, and ends the stream if the other direction has ended too.
func (s *Stream) sendEnd() {
	s.c.mu.Lock()
	if s.dead || s.localEnd {
		s.c.mu.Unlock()
		return
	}
	s.c.queueEnd(s.id)
	finished := s.markLocalEnd()
	s.c.mu.Unlock()
	s.c.tryFlush()
	s.finish(finished)
}

// markLocalEnd notes END_STREAM and tells whether the stream has now ended both ways. The caller holds c.mu.
func (s *Stream) markLocalEnd() (finished bool) {
	s.localEnd = true
	if s.remoteEnd {
		s.c.detach(s, false)
	}
	return s.remoteEnd
}

func (s *Stream) finish(finished bool) {
	if finished {
		s.terminate(nil)
		s.c.role.onStreamEnd()
	}
}

// queueEnd queues END_STREAM, behind the DATA before it that has not been written yet: it is queued by the one who writes.
func (c *conn) queueEnd(id uint32) {
	w := &c.writer
	w.ctlMu.Lock()
	w.ctl = appendFrame(w.ctl, http2.FrameData, http2.FlagDataEndStream, id, nil)
	w.ctlMu.Unlock()
}
