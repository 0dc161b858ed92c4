package hbone

import (
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/net/http2"
)

// readFrames is the reader: it takes frames until the connection ends. The Framer reads every header and so checks that
// header blocks are contiguous, also when the payload behind is DATA, which is read here.
func (c *conn) readFrames() error {
	if err := c.readHello(); err != nil {
		return err
	}
	for {
		fh, err := c.reader.fr.ReadFrameHeader()
		if err != nil {
			return c.frameError(fh, err)
		}
		c.reader.seen.Store(true)
		if fh.Type == http2.FrameData {
			err = c.onData(fh)
		} else {
			err = c.onOther(fh)
		}
		var sv *streamViolation
		if errors.As(err, &sv) {
			err = c.onOffence(sv)
		}
		if err != nil {
			return err
		}
	}
}

// readHello reads the SETTINGS that every peer starts with, RFC 9113 section 3.4.
func (c *conn) readHello() error {
	fh, err := c.reader.fr.ReadFrameHeader()
	if err != nil {
		return c.frameError(fh, err)
	}
	if fh.Type != http2.FrameSettings || fh.Flags.Has(http2.FlagSettingsAck) {
		return violation(http2.ErrCodeProtocol, "first frame is %v, not SETTINGS", fh.Type)
	}
	return c.onOther(fh)
}

// onOther takes any frame but DATA.
func (c *conn) onOther(fh http2.FrameHeader) error {
	f, err := c.reader.fr.ReadFrameForHeader(fh)
	if err != nil {
		return c.frameError(fh, err)
	}
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		return c.onHeaders(f)
	case *http2.WindowUpdateFrame:
		return c.onWindowUpdate(f)
	case *http2.RSTStreamFrame:
		return c.onReset(f)
	case *http2.SettingsFrame:
		if err := c.countJunk(); err != nil {
			return err
		}
		return c.onSettings(f)
	case *http2.PingFrame:
		return c.onPing(f)
	case *http2.GoAwayFrame:
		return c.onGoAway(f)
	case *http2.PushPromiseFrame:
		return violation(http2.ErrCodeProtocol, "PUSH_PROMISE")
	case *http2.PriorityFrame:
		if f.StreamDep == f.StreamID {
			return &streamViolation{f.StreamID, http2.ErrCodeProtocol, "depends on itself"}
		}
	}
	return c.countJunk() // PRIORITY and unknown types are ignored, RFC 9113 sections 5.3.2 and 5.5
}

// frameError turns the Framer's errors into ours: a lost connection, a violation, or an offence of one stream.
func (c *conn) frameError(fh http2.FrameHeader, err error) error {
	var se http2.StreamError
	var ce http2.ConnectionError
	switch {
	case c.reader.src.err != nil:
		return c.reader.src.err
	case errors.As(err, &se):
		if fh.Type == http2.FrameHeaders {
			return c.role.onBadHeaders(fh.StreamID, fmt.Sprint(c.reader.fr.ErrorDetail()))
		}
		return &streamViolation{se.StreamID, se.Code, fmt.Sprint(c.reader.fr.ErrorDetail())}
	case errors.As(err, &ce):
		return violation(Code(ce), "%v frame: %v", fh.Type, c.reader.fr.ErrorDetail())
	case errors.Is(err, http2.ErrFrameTooLarge):
		return violation(http2.ErrCodeFrameSize, "%v frame of %d bytes", fh.Type, fh.Length)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return violation(http2.ErrCodeFrameSize, "%v frame is cut short", fh.Type)
	}
	return err
}

// onOffence resets one stream, within the limit on resets that the peer provokes.
func (c *conn) onOffence(sv *streamViolation) error {
	if err := c.countReset(); err != nil {
		return err
	}
	c.cfg.Log.Debug("hbone stream offends", "error", sv, "peer", c.nc.RemoteAddr())
	c.mu.Lock()
	s := c.streams[sv.id]
	if s == nil {
		c.gone.add(sv.id, true)
	}
	c.mu.Unlock()
	if s != nil {
		c.resetStream(s, sv.code)
		return nil
	}
	c.cfg.Stats.ResetsSent.Add(1)
	return c.provoked(http2.FrameRSTStream, 0, sv.id, be32(uint32(sv.code))...)
}

func (c *conn) countReset() error {
	if c.reader.resets.take(time.Now()) {
		return nil
	}
	return violation(http2.ErrCodeEnhanceYourCalm, "more than %d resets a second", c.cfg.MaxResets)
}

func (c *conn) countJunk() error {
	if c.reader.junk.take(time.Now()) {
		return nil
	}
	return violation(http2.ErrCodeEnhanceYourCalm, "more than %d frames a second that carry nothing", c.cfg.MaxJunk)
}

// onHeaders finds the stream that HEADERS belong to. The Framer has decoded the block in any case, so that the HPACK
// state stays in step.
func (c *conn) onHeaders(f *http2.MetaHeadersFrame) error {
	if f.HasPriority() && f.Priority.StreamDep == f.StreamID {
		return c.role.onBadHeaders(f.StreamID, "depends on itself")
	}
	c.mu.Lock()
	s := c.streams[f.StreamID]
	known, resetHere := c.gone.find(f.StreamID)
	ended := s != nil && s.remoteEnd
	c.mu.Unlock()
	switch {
	case s == nil && resetHere:
		return c.countJunk() // it was under way when the stream was reset
	case s == nil && known:
		return violation(http2.ErrCodeStreamClosed, "HEADERS for closed stream %d", f.StreamID)
	case ended:
		return &streamViolation{f.StreamID, http2.ErrCodeStreamClosed, "HEADERS after END_STREAM"}
	}
	return c.role.onHeaders(f, s)
}

// onReset ends a stream that the peer has reset.
func (c *conn) onReset(f *http2.RSTStreamFrame) error {
	c.mu.Lock()
	s := c.streams[f.StreamID]
	idle := s == nil && c.role.isIdle(f.StreamID)
	crossed := s == nil && c.gone.forget(f.StreamID)
	if s != nil {
		c.detach(s, false)
	}
	c.mu.Unlock()
	switch {
	case idle:
		return violation(http2.ErrCodeProtocol, "RST_STREAM for idle stream %d", f.StreamID)
	case crossed:
		return nil // it ended on both sides at once
	case s == nil:
		return c.countJunk()
	}
	c.cfg.Stats.ResetsReceived.Add(1)
	early := s.inbound && !s.answered.Load()
	s.terminate(&ResetError{Code: f.ErrCode, Remote: true})
	c.role.onStreamEnd()
	if early {
		return c.countReset()
	}
	return nil
}

// onPing answers a PING, or takes the answer to one of ours.
func (c *conn) onPing(f *http2.PingFrame) error {
	if !f.IsAck() {
		if err := c.countJunk(); err != nil {
			return err
		}
		return c.queuePingAck(f.Data)
	}
	switch f.Data[0] {
	case pingBandwidth:
		c.bdp.answered()
	case pingDrain:
		c.role.onDrainPing()
	case pingAlive:
	default:
		return c.countJunk()
	}
	return nil
}

// onGoAway notes that the peer takes no new stream, and refuses those it has not looked at.
func (c *conn) onGoAway(f *http2.GoAwayFrame) error {
	if err := c.countJunk(); err != nil {
		return err
	}
	var refused []*Stream
	c.mu.Lock()
	c.away.received.Store(true)
	for id, s := range c.streams {
		if !s.inbound && id > f.LastStreamID {
			c.detach(s, false)
			refused = append(refused, s)
		}
	}
	c.mu.Unlock()
	for _, s := range refused {
		s.terminate(fmt.Errorf("%w: stream %d is above GOAWAY's last, %v", ErrRefused, s.id, f.ErrCode))
	}
	if f.ErrCode != http2.ErrCodeNo {
		c.cfg.Log.Debug("hbone peer goes away", "code", f.ErrCode, "reason", fmt.Sprintf("%.128q", f.DebugData()), "peer", c.nc.RemoteAddr())
	}
	c.role.onStreamEnd()
	return nil
}
