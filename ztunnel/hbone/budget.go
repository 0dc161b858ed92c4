package hbone

import (
	"sync"
	"sync/atomic"
)

// Budget bounds the memory of the receive buffers of all connections that share it, and keeps their free buffers.
//
// Windows start small, and what they grow by is reserved here first: a quarter of the limit for all of them. So readers
// that stall take little from those that read. Above half of the limit windows shrink to what they started with. Above
// three quarters a connection that holds more than its share is credited only again when there is room, so that its peer
// waits; the others go on. At the limit a stream of such a connection is reset if it still receives: some stream has to
// give way, and that one is active.
type Budget struct {
	limit   int64
	used    atomic.Int64
	holders atomic.Int64 // connections that hold something
	grown   atomic.Int64 // bytes of windows beyond their first size
	chunks  sync.Pool
	frames  [len(frameSizes)]sync.Pool
}

// NewBudget returns a budget of limit bytes.
func NewBudget(limit int64) *Budget { return &Budget{limit: max(limit, 2*chunkSize)} }

// Used returns the bytes of receive buffers in use.
func (b *Budget) Used() int64 { return b.used.Load() }

// Limit returns what Used may exceed only by an eighth, for connections below their share.
func (b *Budget) Limit() int64 { return b.limit }

// tight tells that windows may not grow.
func (b *Budget) tight() bool { return b.used.Load() > b.limit/2 }

// grow reserves n bytes for a window, or gives back -n.
func (b *Budget) grow(n int64) bool {
	if b.grown.Add(n) <= b.limit/4 || n <= 0 {
		return true
	}
	b.grown.Add(-n)
	return false
}

// holding is what one connection's streams hold of a Budget, in bytes.
type holding struct{ n atomic.Int64 }

// add counts n bytes more, or less.
func (h *holding) add(b *Budget, n int64) {
	switch now := h.n.Add(n); now {
	case n: // it held nothing
		b.holders.Add(1)
	case 0:
		b.holders.Add(-1)
	}
}

// greedy tells that memory is scarce and that this connection holds more than its share of it.
func (h *holding) greedy(b *Budget) bool {
	scarce := b.limit - b.limit/4
	return b.used.Load() > scarce && h.n.Load() > scarce/max(1, b.holders.Load())
}

// chunkSize is the payload of a full TLS record, which one read of the socket gives.
const chunkSize = 16 << 10

// chunk is a piece of a stream's receive buffer: data[r:w] is unread. data is apart, so that it fills a size class.
type chunk struct {
	r, w int
	data []byte
}

// chunk returns an empty chunk for a connection, or nil if the budget is used up.
func (b *Budget) chunk(h *holding) *chunk {
	if used := b.used.Add(chunkSize); used > b.limit && (used > b.limit+b.limit/8 || h.greedy(b)) {
		b.used.Add(-chunkSize)
		return nil
	}
	h.add(b, chunkSize)
	if c, ok := b.chunks.Get().(*chunk); ok {
		c.r, c.w = 0, 0
		return c
	}
	return &chunk{data: make([]byte, chunkSize)}
}

func (b *Budget) freeChunk(h *holding, c *chunk) {
	b.used.Add(-chunkSize)
	h.add(b, -chunkSize)
	b.chunks.Put(c)
}

// A frame buffer is room for pending control frames, one frame header, the payload, and the headers of the frames that a
// payload may have to be split into. Header and payload fill whole TLS records of 16 KiB.
const (
	controlRoom = 64
	headerSize  = 9
	// smallUnit is the payload of a frame that any peer takes, and with its header a whole TLS record.
	smallUnit = 16<<10 - headerSize
	// oneSend is what is sent at once, but for what waits in the control buffer: with its records' overhead it leaves as one
	// segment, that the network's offloading cuts up, if it is not above 65,160 bytes with an MTU of 1500, or 62,636 with one
	// of 9000. What were above would leave as another segment of its own, which costs the stack about as much as a full one.
	oneSend = 60 << 10
	// smallBatch is what of it is payload, in frames of smallUnit.
	smallBatch = oneSend - 4*headerSize
	// largeUnit is the payload of a frame for peers that take as much.
	largeUnit = oneSend - headerSize
	// tailRoom is for the headers of the three frames behind the first that the largest payload makes of small units.
	tailRoom = 3 * headerSize
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
