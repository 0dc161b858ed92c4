package hbone

import (
	"sync"
	"sync/atomic"
)

// Budget bounds the memory of the receive buffers of all connections that share it, and keeps their free buffers.
//
// Above half of the limit windows stop growing and connections are credited only again when there is room, so that
// senders wait. At the limit a stream that still receives is reset: some stream has to give way, and that one is active.
type Budget struct {
	limit  int64
	used   atomic.Int64
	chunks sync.Pool
	frames [len(frameSizes)]sync.Pool
}

// NewBudget returns a budget of limit bytes.
func NewBudget(limit int64) *Budget { return &Budget{limit: max(limit, 2*chunkSize)} }

// Used returns the bytes of receive buffers in use.
func (b *Budget) Used() int64 { return b.used.Load() }

// Limit returns what Used may not exceed.
func (b *Budget) Limit() int64 { return b.limit }

// tight tells that windows may not grow.
func (b *Budget) tight() bool { return b.used.Load() > b.limit/2 }

// chunkSize is about one TLS record's payload, and makes a chunk 16 KiB.
const chunkSize = 16<<10 - 16

// chunk is a piece of a stream's receive buffer: data[r:w] is unread.
type chunk struct {
	r, w int
	data [chunkSize]byte
}

// chunk returns an empty chunk, or nil if the budget is used up.
func (b *Budget) chunk() *chunk {
	if b.used.Add(chunkSize) > b.limit {
		b.used.Add(-chunkSize)
		return nil
	}
	if c, ok := b.chunks.Get().(*chunk); ok {
		c.r, c.w = 0, 0
		return c
	}
	return new(chunk)
}

func (b *Budget) freeChunk(c *chunk) {
	b.used.Add(-chunkSize)
	b.chunks.Put(c)
}

// A frame buffer is room for pending control frames, one frame header, the payload, and the headers of the frames that a
// payload may have to be split into. Header and payload fill whole TLS records of 16 KiB.
const (
	controlRoom = 64
	headerSize  = 9
	// smallUnit is the payload of a frame that any peer takes, and with its header a whole TLS record.
	smallUnit = 16<<10 - headerSize
	// largeUnit is the payload of a frame for peers that take 64 KiB.
	largeUnit = 64<<10 - headerSize
	// tailRoom is for the headers of the four frames behind the first that the largest payload makes of small units.
	tailRoom = 4 * headerSize
)

// frameSizes are the payload sizes of frame buffers. An idle stream that waits for its app holds the first.
var frameSizes = [...]int{4<<10 - headerSize, smallUnit, largeUnit}

type frameBuf struct {
	class int
	data  []byte
}

// payload returns the place to put at most limit bytes.
func (f *frameBuf) payload(limit int) []byte {
	start := controlRoom + headerSize
	return f.data[start : start+min(limit, frameSizes[f.class])]
}

// frameBuf returns a buffer for at least size bytes of payload, or the largest.
func (b *Budget) frameBuf(size int) *frameBuf {
	class := 0
	for class < len(frameSizes)-1 && size > frameSizes[class] {
		class++
	}
	if f, ok := b.frames[class].Get().(*frameBuf); ok {
		return f
	}
	return &frameBuf{class: class, data: make([]byte, controlRoom+headerSize+frameSizes[class]+tailRoom)}
}

func (b *Budget) freeFrame(f *frameBuf) { b.frames[f.class].Put(f) }
