package proxy

import (
	"io"
	"sync"
)

const (
	// copySize is how much is copied at once while there is much, idleSize while there is little: a stream that waits holds
	// no more than that.
	copySize = 32 << 10
	idleSize = 4 << 10
)

// buffers are shared by all copies.
type buffers struct{ small, large sync.Pool }

func newBuffers() *buffers {
	return &buffers{
		small: sync.Pool{New: func() any { return new([idleSize]byte) }},
		large: sync.Pool{New: func() any { return new([copySize]byte) }},
	}
}

// buffer is one copy's. It grows when it has been filled, and shrinks when it was not nearly.
type buffer struct {
	of    *buffers
	small *[idleSize]byte
	large *[copySize]byte
}

func (b *buffers) get() buffer { return buffer{of: b, small: b.small.Get().(*[idleSize]byte)} }

func (b *buffer) bytes() []byte {
	if b.large != nil {
		return b.large[:]
	}
	return b.small[:]
}

// used tells how much was read last.
func (b *buffer) used(n int) {
	switch {
	case b.large == nil && n == idleSize:
		b.large = b.of.large.Get().(*[copySize]byte)
	case b.large != nil && n < idleSize:
		b.of.large.Put(b.large)
		b.large = nil
	}
}

func (b *buffer) free() {
	b.of.small.Put(b.small)
	if b.large != nil {
		b.of.large.Put(b.large)
	}
}

// pump copies until from ends.
func (b *buffers) pump(to io.Writer, from io.Reader) (total int64, err error) {
	buf := b.get()
	defer buf.free()
	for {
		n, err := from.Read(buf.bytes())
		if n > 0 {
			written, writeErr := to.Write(buf.bytes()[:n])
			total += int64(written)
			if writeErr != nil {
				return total, writeErr
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		buf.used(n)
	}
}
