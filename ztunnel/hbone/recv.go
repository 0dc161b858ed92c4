package hbone

import (
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/net/http2"
)

// recvState is a stream's receive buffer. The connection's reader fills it, the stream's reader empties it.
type recvState struct {
	mu       sync.Mutex
	ready    sync.Cond
	chunks   []*chunk
	buffered int64 // delivered, not yet consumed: what chunks hold and what WriteTo is writing
	window   int64 // what the peer may still send
	target   int64 // what window and buffered should add up to
	grown    int64 // what of them is reserved in the Budget: all beyond the first window
	err      error // what to return once chunks are empty; io.EOF after END_STREAM
	dropping bool  // nobody reads: throw away what comes
	waiting  bool
	sink     *sink // where Forward writes, which deliver may do instead while Forward waits
	sinking  bool  // deliver is at it
	limit    deadline
}

func (r *recvState) init(window int64) {
	r.ready.L = &r.mu
	r.window, r.target = window, window
}

// takeWindow counts n bytes, and returns false if the peer may not send them.
func (s *Stream) takeWindow(n int64) bool {
	s.recv.mu.Lock()
	defer s.recv.mu.Unlock()
	s.recv.window -= n
	return s.recv.window >= 0
}

// deliver hands b to the socket that the stream's reader waits to write to, or appends a copy of it. It never waits. If the
// budget is used up it resets the stream.
func (s *Stream) deliver(b []byte) {
	r := &s.recv
	dropped, full := false, false
	r.mu.Lock()
	if r.waiting && r.sink != nil {
		if b = s.handOver(b); len(b) == 0 {
			r.mu.Unlock()
			s.pay()
			return
		}
	}
	for len(b) > 0 {
		last := s.tail()
		if last == nil {
			dropped, full = true, !r.dropping
			break
		}
		n := copy(last.data[last.w:], b)
		last.w += n
		r.buffered += int64(n)
		b = b[n:]
	}
	r.wake()
	r.mu.Unlock()
	if dropped {
		s.dropped(full)
	}
}

// wantsChunk tells that what comes next belongs into a new chunk: the last has little room left, or there is none. A peer
// that sends crumbs must not have each kept in a chunk of its own.
func (s *Stream) wantsChunk() bool {
	r := &s.recv
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.chunks)
	return n == 0 || r.chunks[n-1].w > chunkSize/2
}

// receive reads at most limit bytes from src right into a new chunk.
func (s *Stream) receive(src io.Reader, limit int) (int, error) {
	r := &s.recv
	r.mu.Lock()
	dropping := r.dropping
	r.mu.Unlock()
	var c *chunk
	if !dropping {
		c = s.c.chunk()
	}
	if c == nil {
		var waste [4 << 10]byte
		n, err := src.Read(waste[:min(limit, len(waste))])
		s.dropped(!dropping)
		return n, err
	}
	n, err := src.Read(c.data[:min(limit, chunkSize)])
	c.w = n
	r.mu.Lock()
	if n == 0 || r.dropping {
		r.mu.Unlock()
		s.c.freeChunk(c)
		s.dropped(false)
		return n, err
	}
	r.chunks = append(r.chunks, c)
	r.buffered += int64(n)
	r.wake()
	r.mu.Unlock()
	return n, err
}

// dropped credits the peer for bytes that nobody will read. If that is because the budget is full, the stream goes.
func (s *Stream) dropped(budgetFull bool) {
	s.pay()
	if budgetFull {
		s.c.cfg.Stats.BudgetResets.Add(1)
		s.c.resetStream(s, http2.ErrCodeEnhanceYourCalm)
		_ = s.CloseRead() // does not fail
	}
}

// tail returns a chunk with room, or nil if there is none to have. The caller holds recv.mu.
func (s *Stream) tail() *chunk {
	r := &s.recv
	if r.dropping {
		return nil
	}
	if n := len(r.chunks); n > 0 && r.chunks[n-1].w < chunkSize {
		return r.chunks[n-1]
	}
	c := s.c.chunk()
	if c != nil {
		r.chunks = append(r.chunks, c)
	}
	return c
}

func (r *recvState) wake() {
	if r.waiting {
		r.ready.Signal()
	}
}

// endReceive ends reading: after what is buffered, Read returns err, or io.EOF if it is nil. The first call counts.
func (s *Stream) endReceive(err error) {
	r := &s.recv
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
		if err == nil {
			r.err = io.EOF
		}
		s.c.cfg.Budget.grow(-r.grown) // nothing more comes
		r.grown = 0
	}
	r.limit.stop()
	r.ready.Broadcast()
}

// wait waits until there is something to read. The caller holds mu.
func (r *recvState) wait() error {
	for len(r.chunks) == 0 || r.sinking {
		switch {
		case r.sinking:
		case r.sink != nil && r.sink.err != nil:
			return nil // Forward's to tell
		case r.dropping:
			return fmt.Errorf("read after CloseRead: %w", ErrClosed)
		case r.err != nil:
			return r.err
		case r.limit.expired:
			return os.ErrDeadlineExceeded
		}
		r.waiting = true
		r.ready.Wait()
		r.waiting = false
	}
	return nil
}

// Read returns what the peer sent: io.EOF after its END_STREAM, a *ResetError after its RST_STREAM, an error that wraps
// ErrPeerGone if the connection was lost.
func (s *Stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	r := &s.recv
	r.mu.Lock()
	if err := r.wait(); err != nil {
		r.mu.Unlock()
		return 0, err
	}
	n := 0
	for n < len(p) && len(r.chunks) > 0 {
		c := r.chunks[0]
		m := copy(p[n:], c.data[c.r:c.w])
		n += m
		c.r += m
		if c.r < c.w {
			break
		}
		r.chunks = r.chunks[:copy(r.chunks, r.chunks[1:])]
		s.c.freeChunk(c)
	}
	r.mu.Unlock()
	s.consumed(int64(n))
	return n, nil
}

// consumed takes n bytes off the buffer's account and credits the peer for them.
func (s *Stream) consumed(n int64) {
	s.recv.mu.Lock()
	s.recv.buffered -= n
	s.recv.mu.Unlock()
	s.pay()
}

// pay credits the peer for what is neither in its window nor buffered, once that is worth a frame.
func (s *Stream) pay() {
	r := &s.recv
	r.mu.Lock()
	if r.err != nil {
		r.mu.Unlock()
		return
	}
	s.aim()
	credit := r.target - r.window - r.buffered
	if credit < r.target/4 {
		r.mu.Unlock()
		return
	}
	r.window += credit
	r.mu.Unlock()
	s.c.queueWindowUpdate(s.id, credit)
	s.c.payConn()
}

// aim sets the size of the window: it grows with the measured bandwidth-delay product while the stream's reader keeps up
// and there is memory for it, and shrinks again if not. What was promised to the peer stays reserved until it is used
// up. The caller holds recv.mu.
func (s *Stream) aim() {
	r, budget, first := &s.recv, s.c.cfg.Budget, int64(s.c.cfg.StreamWindow)
	switch want := min(2*r.target, s.c.bdp.target.Load()); {
	case budget.tight():
		r.target = first
	case r.buffered < r.target/4 && want > r.target && budget.grow(max(0, want-first-r.grown)):
		r.target, r.grown = want, max(r.grown, want-first)
	}
	if unused := r.grown - (max(r.target, r.window+r.buffered) - first); unused > 0 {
		budget.grow(-unused)
		r.grown -= unused
	}
}

// CloseRead throws away what is buffered and what still comes, as shutdown(SHUT_RD) does. The peer is not told: its
// writes go on until it ends. Read returns ErrClosed.
func (s *Stream) CloseRead() error {
	r := &s.recv
	r.mu.Lock()
	r.dropping = true
	for _, c := range r.chunks {
		r.buffered -= int64(c.w - c.r)
		s.c.freeChunk(c)
	}
	r.chunks = nil
	r.ready.Broadcast()
	r.mu.Unlock()
	s.pay()
	return nil
}
