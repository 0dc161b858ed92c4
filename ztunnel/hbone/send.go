package hbone

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// sendError returns why the stream cannot send now. The caller holds c.mu.
func (s *Stream) sendError() error {
	switch {
	case s.sendErr != nil:
		return s.sendErr
	case s.localEnd:
		return fmt.Errorf("write after CloseWrite: %w", ErrClosed)
	case s.sendLimit.expired:
		return os.ErrDeadlineExceeded
	}
	return nil
}

// Write sends p, waiting for the peer's credit. After the peer's RST_STREAM it returns a *ResetError.
func (s *Stream) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	sent := 0
	for sent < len(p) {
		_, batch := s.c.writer.units()
		f := s.c.cfg.Budget.frameBuf(len(p) - sent)
		n := copy(f.payload(batch), p[sent:])
		m, err := s.sendFrames(f, n)
		s.c.cfg.Budget.freeFrame(f)
		sent += m
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// Waiter is a source that waits for bytes before it takes a place for them. ReadWhenReady reads once: into what borrow
// returns, which it gives back before it waits.
type Waiter interface {
	ReadWhenReady(borrow func() []byte, giveBack func()) (int, error)
}

// ReadFrom sends what src gives until its end. It reads right into frame buffers, whose size follows what src has: a
// connection that waits holds 4 KiB, or nothing if src is a Waiter. It does not send END_STREAM. Errors of src are returned as they are, those of the
// stream are the ones that Write returns.
func (s *Stream) ReadFrom(src io.Reader) (int64, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	var total int64
	var f *frameBuf
	var p []byte
	size := frameSizes[0]
	borrow := func() []byte {
		_, batch := s.c.writer.units()
		f = s.c.cfg.Budget.frameBuf(size)
		p = f.payload(batch)
		return p
	}
	giveBack := func() { s.c.cfg.Budget.freeFrame(f) }
	read := func() (int, error) { return src.Read(borrow()) }
	if w, ok := src.(Waiter); ok {
		read = func() (int, error) { return w.ReadWhenReady(borrow, giveBack) }
	}
	for {
		n, err := read()
		if n > 0 {
			m, serr := s.sendFrames(f, n)
			total += int64(m)
			if serr != nil {
				giveBack()
				return total, serr
			}
		}
		giveBack()
		switch {
		case errors.Is(err, io.EOF):
			return total, nil
		case err != nil:
			return total, err
		}
		size = nextSize(n, len(p))
	}
}

// nextSize chooses the next read's buffer: a larger one if the last was filled, else the smallest that would have done.
func nextSize(n, size int) int {
	switch {
	case n < size:
		return n
	case size < frameSizes[1]:
		return frameSizes[1]
	}
	return frameSizes[2]
}

// sendFrames sends the first n bytes of f's payload as credit allows, and returns how many were sent. What was sent makes
// room for the next header.
func (s *Stream) sendFrames(f *frameBuf, n int) (int, error) {
	start := controlRoom + headerSize
	for sent := 0; sent < n; {
		m, err := s.c.acquire(s, n-sent)
		if err != nil {
			return sent, err
		}
		unit, _ := s.c.writer.units() // the peer may have asked for smaller frames while it gave no credit
		if over := m - unit; over > 0 && sent+m < n {
			// Frames beyond the first would overwrite what follows.
			m = unit
			s.giveBack(over)
		}
		if err := s.c.writeData(s, f.data, start+sent, m, unit); err != nil {
			return sent, err
		}
		sent += m
	}
	return n, nil
}

// giveBack returns credit that was not used.
func (s *Stream) giveBack(n int) {
	s.c.mu.Lock()
	s.sendWindow += int64(n)
	s.c.send.window += int64(n)
	s.c.send.wake()
	s.c.mu.Unlock()
}

// CloseWrite sends END_STREAM, the FIN of a tunnelled connection; reading goes on. It waits for a Write or ReadFrom that
// is under way. Returns nil also if the stream is already closed or reset.
func (s *Stream) CloseWrite() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.sendEnd()
	return nil
}
