package hbone

import (
	"slices"

	"golang.org/x/net/http2"
)

// sendState is the credit the peer gave. Guarded by conn.mu.
type sendState struct {
	window     int64 // of the connection
	initial    int64 // of a new stream, from the peer's SETTINGS
	maxStreams uint32
	queue      []*Stream // wait for the connection's credit, first come first served
}

// wake tells the first waiter that there may be credit.
func (f *sendState) wake() {
	if f.window > 0 && len(f.queue) > 0 {
		f.queue[0].sendReady.Signal()
	}
}

func (f *sendState) join(s *Stream) {
	if !s.queued {
		s.queued = true
		f.queue = append(f.queue, s)
	}
}

// leave takes s out of the queue and lets the next one look.
func (f *sendState) leave(s *Stream) {
	if !s.queued {
		return
	}
	s.queued = false
	i := slices.Index(f.queue, s)
	f.queue = slices.Delete(f.queue, i, i+1)
	f.wake()
}

// acquire waits for credit of the stream and of the connection and takes at most want bytes of both. A stream that
// waits for the connection takes one batch at its turn, so that a bulk stream does not starve the others.
func (c *conn) acquire(s *Stream, want int) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if err := s.sendError(); err != nil {
			c.send.leave(s)
			return 0, err
		}
		turn := len(c.send.queue) == 0 || c.send.queue[0] == s
		if s.sendWindow > 0 && c.send.window > 0 && turn {
			n := int(min(int64(want), s.sendWindow, c.send.window))
			s.sendWindow -= int64(n)
			c.send.window -= int64(n)
			c.send.leave(s)
			return n, nil
		}
		if s.sendWindow > 0 {
			c.send.join(s)
		} else {
			c.send.leave(s)
		}
		s.sendReady.Wait()
	}
}

// giveBack returns the connection's credit of bytes that were not sent.
func (c *conn) giveBack(n int) {
	c.mu.Lock()
	c.send.window += int64(n)
	c.send.wake()
	c.mu.Unlock()
}

// onWindowUpdate takes credit from the peer.
func (c *conn) onWindowUpdate(f *http2.WindowUpdateFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	inc := int64(f.Increment)
	if f.StreamID == 0 {
		c.send.window += inc
		if c.send.window > maxWindow {
			return violation(http2.ErrCodeFlowControl, "connection window above 2^31-1")
		}
		c.send.wake()
		return nil
	}
	s := c.streams[f.StreamID]
	if s == nil {
		if c.role.isIdle(f.StreamID) {
			return violation(http2.ErrCodeProtocol, "WINDOW_UPDATE for idle stream %d", f.StreamID)
		}
		return nil
	}
	s.sendWindow += inc
	if s.sendWindow > maxWindow {
		return &streamViolation{f.StreamID, http2.ErrCodeFlowControl, "window above 2^31-1"}
	}
	s.sendReady.Signal()
	return nil
}

// maxSettings is how many settings a frame may carry; there are about ten.
const maxSettings = 64

// onSettings takes the peer's parameters and acknowledges them.
func (c *conn) onSettings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	if f.NumSettings() > maxSettings {
		return violation(http2.ErrCodeEnhanceYourCalm, "%d settings in a frame", f.NumSettings())
	}
	if err := f.ForeachSetting(c.onSetting); err != nil {
		return err
	}
	return c.queueSettingsAck()
}

func (c *conn) onSetting(s http2.Setting) error {
	if err := s.Valid(); err != nil {
		code := http2.ErrCodeProtocol
		if s.ID == http2.SettingInitialWindowSize {
			code = http2.ErrCodeFlowControl
		}
		return violation(code, "bad setting %v", s)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch s.ID {
	case http2.SettingEnablePush:
		if _, client := c.role.(*ClientConn); client && s.Val != 0 {
			return violation(http2.ErrCodeProtocol, "server says that it may be pushed to") // RFC 9113 section 6.5.2
		}
	case http2.SettingInitialWindowSize:
		return c.resizeWindows(int64(s.Val))
	case http2.SettingMaxConcurrentStreams:
		c.send.maxStreams = s.Val
	case http2.SettingMaxFrameSize:
		c.writer.setPeerMax(s.Val)
	}
	return nil
}

// resizeWindows applies a new initial window to all streams, RFC 9113 section 6.9.2. The caller holds c.mu.
func (c *conn) resizeWindows(initial int64) error {
	delta := initial - c.send.initial
	c.send.initial = initial
	for _, s := range c.streams {
		s.sendWindow += delta
		if s.sendWindow > maxWindow {
			return violation(http2.ErrCodeFlowControl, "window of stream %d above 2^31-1", s.id)
		}
		s.sendReady.Signal()
	}
	return nil
}
