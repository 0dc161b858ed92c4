package hbone

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"golang.org/x/net/http2"
)

const (
	// maxProvoked is how many bytes of control frames may wait that the peer made us say. A peer that goes on asking
	// while it does not read is flooding (CVE-2019-9512, -9515).
	maxProvoked = 64<<10 + maxLeftAll
	// maxControl bounds all control frames that wait, our own headers and resets included.
	maxControl = 4 << 20
	// maxLeft is the longest write of DATA that is left to somebody who is writing, and how much may wait for him. Bulk
	// waits for the socket, which holds its sender back.
	maxLeft, maxLeftAll = 4 << 10, 32 << 10
	// maxRounds is how often somebody writes for others before his own work goes on and the flusher takes over.
	maxRounds = 4
	// maxKept is the largest control buffer that a connection keeps which has little to put into it, bytes.
	maxKept = 8 << 10
)

// writeState is the write side of a connection.
type writeState struct {
	wmu   sync.Mutex // the socket's write side
	spare []byte     // the control buffer that was written last; guarded by wmu
	seq   atomic.Uint64

	ctlMu   sync.Mutex
	ctl     []byte // control frames that wait, and DATA that was left to the one who writes, in order
	headers *headerEncoder

	gathering gathering

	kick    chan struct{} // there is something in ctl
	peerMax atomic.Uint32 // the largest frame payload the peer takes
}

func (w *writeState) init() {
	w.kick = make(chan struct{}, 1)
	w.headers = newHeaderEncoder()
	w.peerMax.Store(minFrame)
}

func (w *writeState) setPeerMax(v uint32) { w.peerMax.Store(v) }

// units returns the payload of the frames that DATA is cut into, and of one batch of frames.
func (w *writeState) units() (unit, batch int) {
	if w.peerMax.Load() >= largeUnit {
		return largeUnit, largeUnit
	}
	return smallUnit, smallBatch
}

// flushLoop writes control frames that no DATA took along, until the connection ends; the last one is its GOAWAY.
func (c *conn) flushLoop() {
	for {
		select {
		case <-c.writer.kick:
			c.flush()
		case <-c.closing:
			c.flush()
			return
		}
	}
}

// flush writes what waits in the control buffer.
func (c *conn) flush() {
	c.writer.wmu.Lock()
	c.releaseSocket()
}

// releaseSocket ends a turn at the socket's write side, after it has written what waits in the control buffer: what others
// left meanwhile, who did not wait for it. The caller holds wmu.
func (c *conn) releaseSocket() {
	w := &c.writer
	for range maxRounds {
		c.writeSocket(c.takeControl())
		w.wmu.Unlock()
		// Who left something since has found wmu taken.
		if !w.waits() || !w.wmu.TryLock() {
			return
		}
	}
	w.wmu.Unlock()
	c.kickFlusher()
}

// waits tells whether something is in the control buffer.
func (w *writeState) waits() bool {
	w.ctlMu.Lock()
	defer w.ctlMu.Unlock()
	return len(w.ctl) > 0
}

// tryFlush writes what waits in the control buffer now, or leaves it to somebody who is writing. It is for goroutines that
// have just queued something a peer waits for, and saves them a hand-over. The reader must not call it.
func (c *conn) tryFlush() {
	w := &c.writer
	w.gather()
	if w.waits() && w.wmu.TryLock() { // who holds it looks once more after
		c.releaseSocket()
	}
}

func (c *conn) kickFlusher() {
	select {
	case c.writer.kick <- struct{}{}:
	default:
	}
}

// takeControl returns the waiting control frames, valid until wmu, which the caller holds, is released.
func (c *conn) takeControl() []byte {
	w := &c.writer
	w.ctlMu.Lock()
	defer w.ctlMu.Unlock()
	taken := w.ctl
	w.ctl, w.spare = w.spare[:0], taken
	if cap(w.ctl) > maxKept && len(taken) < maxKept/4 { // a burst is over
		w.ctl = nil
	}
	return taken
}

// writeSocket writes b. The caller holds wmu. An error ends the connection.
func (c *conn) writeSocket(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	c.writer.seq.Add(1) // odd: a write is under way, see monitor.checkWrite
	_, err := c.nc.Write(b)
	c.writer.seq.Add(1)
	if err != nil {
		c.fail(asLoss(err))
	}
	return err
}

// writeData writes payload, which lies in buf from start on behind room for a header, as DATA of unit-sized frames. Frames
// beyond the first need room behind the payload. Control frames go first, in the same Write if they are small. What is
// small itself goes the same way as they: one write for several streams costs this side, the kernel and the peer about as
// much as one for each.
func (c *conn) writeData(s *Stream, buf []byte, start, size, unit int) error {
	end := spreadFrames(buf, start, size, unit, s.id)
	first := start - headerSize
	if c.leaveData(s, buf[first:end]) {
		c.cfg.Stats.BytesSent.Add(int64(size))
		c.tryFlush()
		return nil
	}
	c.writer.wmu.Lock()
	defer c.releaseSocket()
	ctl := c.takeControl()
	// A reset is marked before its RST_STREAM is queued: if that is in ctl, no DATA may follow.
	if s.noSend.Load() {
		c.giveBack(size)
		_ = c.writeSocket(ctl) // the stream's own error is the one to return
		return c.streamError(s)
	}
	if len(ctl) > first {
		if err := c.writeSocket(ctl); err != nil {
			return c.streamError(s)
		}
		ctl = nil
	}
	first -= len(ctl)
	copy(buf[first:], ctl)
	if c.writeSocket(buf[first:end]) != nil {
		return c.streamError(s)
	}
	c.cfg.Stats.BytesSent.Add(int64(size))
	return nil
}

// leaveData puts DATA behind what waits in the control buffer; the caller is to call tryFlush. It returns false if it is too
// much, or if the stream may send no more.
func (c *conn) leaveData(s *Stream, frames []byte) bool {
	w := &c.writer
	w.ctlMu.Lock()
	ok := len(frames) <= maxLeft && len(w.ctl)+len(frames) <= maxLeftAll && !s.noSend.Load()
	if ok {
		w.ctl = append(w.ctl, frames...)
	}
	w.ctlMu.Unlock()
	return ok
}

// spreadFrames puts DATA headers before every unit of payload and returns the end of the last frame. The first header
// goes before start; payload behind the first frame is moved to make room, last frame first.
func spreadFrames(buf []byte, start, size, unit int, id uint32) (end int) {
	frames := max(1, (size+unit-1)/unit)
	for i := frames - 1; i >= 0; i-- {
		from := start + i*unit
		n := min(unit, size-i*unit)
		to := from + i*headerSize
		if i > 0 {
			copy(buf[to:to+n], buf[from:from+n])
		}
		putHeader(buf[to-headerSize:], n, http2.FrameData, 0, id)
	}
	return start + size + (frames-1)*headerSize
}

func putHeader(b []byte, length int, typ http2.FrameType, flags http2.Flags, id uint32) {
	b[0], b[1], b[2] = byte(length>>16), byte(length>>8), byte(length)
	b[3], b[4] = byte(typ), byte(flags)
	binary.BigEndian.PutUint32(b[5:], id)
}
