// Package coalesce makes one write of those that come in a row. net/http's HTTP/2 writes every frame by itself, a small
// answer three of them, and each would be a record of TLS, a write of its own and a wake-up at every hop of the mesh.
package coalesce

import (
	"io"
	"runtime"
	"sync"
)

const (
	// maxWaiting is how much may wait until whoever writes has to, bytes.
	maxWaiting = 64 << 10
	// maxKept bounds the buffers that an idle connection keeps, bytes each.
	maxKept = 8 << 10
)

// Writer takes what is written to it and writes it from a goroutine of its own, as soon as that runs: what was written
// until then goes along. An error comes with the next Write or Flush. Any number of goroutines may use it.
type Writer struct {
	to io.Writer

	mu             sync.Mutex
	room           sync.Cond // there is, or nobody writes any more
	waiting, spare []byte
	writing        bool // a goroutine does
	err            error
}

// NewWriter returns one that writes to w.
func NewWriter(w io.Writer) *Writer {
	c := &Writer{to: w}
	c.room.L = &c.mu
	return c
}

// Write takes b, and waits only if too much waits already.
func (c *Writer) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.waiting) > 0 && len(c.waiting)+len(b) > maxWaiting && c.err == nil {
		c.room.Wait()
	}
	if c.err != nil {
		return 0, c.err
	}
	c.waiting = append(c.waiting, b...)
	if !c.writing {
		c.writing = true
		go c.run()
	}
	return len(b), nil
}

// Flush returns once nothing waits any more, or it can't be written.
func (c *Writer) Flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.writing {
		c.room.Wait()
	}
	return c.err
}

// run writes until nothing waits.
func (c *Writer) run() {
	runtime.Gosched() // whoever is about to write more shall do it first
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.waiting) > 0 && c.err == nil {
		b := c.waiting
		c.waiting, c.spare = c.spare[:0], nil
		c.room.Broadcast()
		c.mu.Unlock()
		_, err := c.to.Write(b)
		c.mu.Lock()
		c.err = err
		c.spare = b // large ones too, while there is more to write
	}
	if cap(c.waiting) > maxKept {
		c.waiting = nil
	}
	if cap(c.spare) > maxKept {
		c.spare = nil
	}
	c.writing = false
	c.room.Broadcast()
}
