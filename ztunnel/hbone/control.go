package hbone

import (
	"encoding/binary"

	"golang.org/x/net/http2"
)

// This file queues every frame but DATA. Queueing never waits for the socket.

// The first byte of a PING's data says what its answer is for.
const (
	pingAlive byte = 1 + iota
	pingBandwidth
	pingDrain
)

// queue appends one frame to the control buffer. It returns false if the buffer is over limit.
func (c *conn) queue(limit int, typ http2.FrameType, flags http2.Flags, id uint32, payload ...byte) bool {
	w := &c.writer
	w.ctlMu.Lock()
	ok := len(w.ctl) <= limit
	if ok {
		w.ctl = appendFrame(w.ctl, typ, flags, id, payload)
	}
	w.ctlMu.Unlock()
	c.kickFlusher()
	return ok
}

func appendFrame(b []byte, typ http2.FrameType, flags http2.Flags, id uint32, payload []byte) []byte {
	var h [headerSize]byte
	putHeader(h[:], len(payload), typ, flags, id)
	return append(append(b, h[:]...), payload...)
}

// provoked queues a frame that the peer asked for, or returns that it asks too often.
func (c *conn) provoked(typ http2.FrameType, flags http2.Flags, id uint32, payload ...byte) error {
	if !c.queue(maxProvoked, typ, flags, id, payload...) {
		return violation(http2.ErrCodeEnhanceYourCalm, "peer does not read the answers it asks for")
	}
	return nil
}

// own queues a frame of our own will. Their number is bounded by streams and timers, so that the limit is only a backstop.
func (c *conn) own(typ http2.FrameType, flags http2.Flags, id uint32, payload ...byte) {
	if !c.queue(maxControl, typ, flags, id, payload...) {
		c.fail(violation(http2.ErrCodeEnhanceYourCalm, "peer does not read"))
	}
}

func (c *conn) queueSettingsAck() error {
	return c.provoked(http2.FrameSettings, http2.FlagSettingsAck, 0)
}

func (c *conn) queuePingAck(data [8]byte) error {
	return c.provoked(http2.FramePing, http2.FlagPingAck, 0, data[:]...)
}

func (c *conn) queuePing(kind byte) {
	c.own(http2.FramePing, 0, 0, kind, 'w', 'a', 'r', 'r', 'e', 'n', 0)
}

func (c *conn) queueReset(id uint32, code Code) {
	c.own(http2.FrameRSTStream, 0, id, be32(uint32(code))...)
}

func (c *conn) queueWindowUpdate(id uint32, n int64) {
	c.own(http2.FrameWindowUpdate, 0, id, be32(uint32(n))...)
}

func (c *conn) queueGoAway(last uint32, code Code, reason string) {
	c.own(http2.FrameGoAway, 0, 0, append(append(be32(last), be32(uint32(code))...), reason...)...)
}

// queueLastGoAway says that the connection ends now. It is not subject to a limit.
func (c *conn) queueLastGoAway(code Code, reason string) {
	c.mu.Lock()
	last := c.role.lastTaken()
	c.mu.Unlock()
	payload := append(append(be32(last), be32(uint32(code))...), reason...)
	c.queue(1<<30, http2.FrameGoAway, 0, 0, payload...)
}

// queueHeaders queues one HEADERS frame. Header blocks of this package are always shorter than a frame may be: Request
// bounds its fields.
func (c *conn) queueHeaders(id uint32, fields []field, endStream bool) {
	flags := http2.FlagHeadersEndHeaders
	if endStream {
		flags |= http2.FlagHeadersEndStream
	}
	w := &c.writer
	w.ctlMu.Lock()
	w.ctl = appendFrame(w.ctl, http2.FrameHeaders, flags, id, w.headers.block(fields))
	w.ctlMu.Unlock()
}

// queueHello queues what each side starts with: a client's preface, SETTINGS and the connection's window.
func (c *conn) queueHello(preface string) {
	settings := []http2.Setting{
		{ID: http2.SettingInitialWindowSize, Val: c.cfg.StreamWindow},
		{ID: http2.SettingMaxFrameSize, Val: c.cfg.MaxFrame},
		{ID: http2.SettingMaxHeaderListSize, Val: c.cfg.HeaderList},
	}
	if preface != "" {
		settings = append(settings, http2.Setting{ID: http2.SettingEnablePush, Val: 0})
	} else {
		settings = append(settings, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: c.cfg.MaxStreams})
	}
	payload := make([]byte, 0, 6*len(settings))
	for _, s := range settings {
		payload = binary.BigEndian.AppendUint16(payload, uint16(s.ID))
		payload = binary.BigEndian.AppendUint32(payload, s.Val)
	}
	w := &c.writer
	w.ctlMu.Lock()
	w.ctl = append(w.ctl, preface...)
	w.ctl = appendFrame(w.ctl, http2.FrameSettings, 0, 0, payload)
	if more := c.cfg.ConnWindow - defaultSize; more > 0 {
		w.ctl = appendFrame(w.ctl, http2.FrameWindowUpdate, 0, 0, be32(more))
	}
	w.ctlMu.Unlock()
	c.kickFlusher()
}

func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
