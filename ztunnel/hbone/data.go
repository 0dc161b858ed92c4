package hbone

import (
	"golang.org/x/net/http2"
)

// onData takes a DATA frame whose header was read. The payload goes straight from the read buffer, or from the socket,
// into the stream's buffer.
func (c *conn) onData(fh http2.FrameHeader) error {
	if fh.StreamID == 0 {
		return violation(http2.ErrCodeProtocol, "DATA for stream 0")
	}
	if err := c.takeConnWindow(int64(fh.Length)); err != nil {
		return err
	}
	size, padding, err := c.readPadding(fh)
	if err != nil {
		return err
	}
	s, err := c.dataStream(fh)
	if s == nil {
		if e := c.skip(size + padding); e != nil {
			return e
		}
		return err
	}
	c.cfg.Stats.BytesReceived.Add(int64(size))
	if size == 0 && !fh.Flags.Has(http2.FlagDataEndStream) {
		if err := c.countJunk(); err != nil {
			return err
		}
	}
	if err := c.copyPayload(s, size); err != nil {
		return err
	}
	if err := c.skip(padding); err != nil {
		return err
	}
	if int(fh.Length) > size {
		s.pay() // padding is consumed at once
	}
	if fh.Flags.Has(http2.FlagDataEndStream) {
		return c.onRemoteEnd(s)
	}
	return nil
}

// takeConnWindow counts n bytes, which are credited on receipt: a slow stream may not hold back the others.
func (c *conn) takeConnWindow(n int64) error {
	if c.reader.window.Add(-n) < 0 {
		return violation(http2.ErrCodeFlowControl, "DATA beyond the connection window")
	}
	c.reader.unpaid.Add(n)
	c.payConn()
	if c.bdp.received(int(n)) {
		c.queuePing(pingBandwidth)
	}
	return nil
}

// payConn credits the connection for what was received, once it is worth a frame. It waits while memory is scarce and this
// connection holds much of it; whoever frees memory, and the monitor, call again.
func (c *conn) payConn() {
	n := c.reader.unpaid.Load()
	if n < int64(c.cfg.ConnWindow)/4 || c.held.greedy(c.cfg.Budget) || !c.reader.unpaid.CompareAndSwap(n, 0) {
		return
	}
	c.reader.window.Add(n)
	c.queueWindowUpdate(0, n)
}

func (c *conn) chunk() *chunk      { return c.cfg.Budget.chunk(&c.held) }
func (c *conn) freeChunk(k *chunk) { c.cfg.Budget.freeChunk(&c.held, k) }

// readPadding returns the lengths of a frame's data and of the padding behind it.
func (c *conn) readPadding(fh http2.FrameHeader) (size, padding int, err error) {
	if !fh.Flags.Has(http2.FlagDataPadded) {
		return int(fh.Length), 0, nil
	}
	if fh.Length == 0 {
		return 0, 0, violation(http2.ErrCodeFrameSize, "padded DATA without padding")
	}
	b, err := c.reader.br.ReadByte()
	if err != nil {
		return 0, 0, err
	}
	padding = int(b)
	size = int(fh.Length) - 1 - padding
	if size < 0 {
		return 0, 0, violation(http2.ErrCodeProtocol, "padding longer than its frame")
	}
	return size, padding, nil
}

// dataStream returns the stream that a DATA frame is for, after taking its window. Without one, the payload is to be
// skipped, and the error says whether that is an offence.
func (c *conn) dataStream(fh http2.FrameHeader) (*Stream, error) {
	id := fh.StreamID
	c.mu.Lock()
	s := c.streams[id]
	if s == nil {
		defer c.mu.Unlock()
		return nil, c.lateData(id)
	}
	ended := s.remoteEnd
	c.mu.Unlock()
	switch {
	case ended:
		return nil, &streamViolation{id, http2.ErrCodeStreamClosed, "DATA after END_STREAM"}
	case !s.inbound && !s.answered.Load():
		return nil, &streamViolation{id, http2.ErrCodeProtocol, "DATA before the answer"}
	case !s.takeWindow(int64(fh.Length)):
		return nil, &streamViolation{id, http2.ErrCodeFlowControl, "DATA beyond the stream window"}
	}
	return s, nil
}

// lateData judges DATA for a stream that is not open. The caller holds c.mu.
func (c *conn) lateData(id uint32) error {
	if c.role.isIdle(id) {
		return violation(http2.ErrCodeProtocol, "DATA for idle stream %d", id)
	}
	if _, resetHere := c.gone.find(id); resetHere {
		return nil // it was under way when the stream was reset, and the window bounds it
	}
	return &streamViolation{id, http2.ErrCodeStreamClosed, "DATA for a closed stream"}
}

// copyPayload moves size bytes into the stream's buffer as they come, so that the stream's reader need not wait for a
// long frame's end.
func (c *conn) copyPayload(s *Stream, size int) error {
	br := c.reader.br
	for size > 0 {
		if br.Buffered() == 0 && size >= chunkSize && s.wantsChunk() {
			n, err := s.receive(&c.reader.src, size)
			size -= n
			if err != nil {
				return err
			}
			continue
		}
		if _, err := br.Peek(1); err != nil {
			return err
		}
		b, err := br.Peek(min(size, br.Buffered()))
		if err != nil {
			return err
		}
		s.deliver(b)
		size -= len(b)
		if err := c.skip(len(b)); err != nil {
			return err
		}
	}
	return nil
}

func (c *conn) skip(n int) error {
	_, err := c.reader.br.Discard(n)
	return err
}

// onRemoteEnd takes END_STREAM.
func (c *conn) onRemoteEnd(s *Stream) error {
	c.mu.Lock()
	s.remoteEnd = true
	finished := s.localEnd && !s.dead
	if finished {
		c.detach(s, false)
	}
	c.mu.Unlock()
	s.endReceive(nil)
	if finished {
		s.terminate(nil)
		c.role.onStreamEnd()
	}
	return nil
}
