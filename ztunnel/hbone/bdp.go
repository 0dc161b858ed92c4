package hbone

import (
	"sync/atomic"
	"time"
)

// bdp estimates the bandwidth-delay product of what arrives: the bytes between a PING and its answer, as gRPC does it. A
// stream's window needs about twice that for its sender never to stop. Only the reader calls its methods.
type bdp struct {
	target   atomic.Int64 // bytes a stream's window may grow to
	max      int64
	bytes    int64 // received since the sample began
	since    int64 // received since the last sample ended
	interval int64 // bytes between samples
	start    time.Time
	best     float64 // highest bandwidth seen, bytes a second
	sampling bool
}

// bdpPause is the least time between samples, so that their PINGs cost nothing on fast links.
const bdpPause = 10 * time.Millisecond

func (b *bdp) init(cfg Config) {
	b.target.Store(int64(cfg.StreamWindow))
	b.max = int64(cfg.MaxStreamWindow)
	b.interval = int64(cfg.StreamWindow)
}

// received counts n bytes and tells whether a sample should begin, by a PING.
func (b *bdp) received(n int) bool {
	if b.sampling {
		b.bytes += int64(n)
		return false
	}
	b.since += int64(n)
	if b.since < b.interval || b.target.Load() >= b.max {
		return false
	}
	now := time.Now()
	if now.Sub(b.start) < bdpPause {
		return false
	}
	b.sampling, b.bytes, b.start = true, int64(n), now // this one too: a window may be one frame
	return true
}

// answered ends a sample. The target doubles only if more bandwidth came of it, so that a queue is not taken for a long link.
func (b *bdp) answered() {
	if !b.sampling {
		return
	}
	b.sampling, b.since = false, 0
	now := time.Now()
	rtt := max(now.Sub(b.start), time.Microsecond)
	b.start = now
	bandwidth := float64(b.bytes) / rtt.Seconds()
	target := b.target.Load()
	if b.bytes*3 < target*2 || bandwidth <= b.best {
		return
	}
	b.best = bandwidth
	b.target.Store(min(2*b.bytes, b.max))
}
