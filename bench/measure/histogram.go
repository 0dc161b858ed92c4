// Package measure is what the benches make of what they measure: histograms of latencies, figures with their spread over
// interleaved rounds, ratios taken within a round, and how all that is shown.
//
// A figure that could not be measured is a reason in words, never a number: nothing here fills one in.
package measure

import (
	"math"
	"math/bits"
	"time"
)

// A bucket is at most 1/64 of its value wide.
const (
	subBits = 6
	buckets = (64 - subBits) << subBits
)

// Histogram counts durations to 1.6 percent, from a nanosecond to centuries, in constant space. The zero value is empty.
type Histogram struct {
	counts [buckets]int64
	n      int64
	max    time.Duration
}

// bucket is where a duration is counted: exactly below 128 ns, then 64 buckets for each doubling.
func bucket(d time.Duration) int {
	v := uint64(max(d, 0))
	shift := max(bits.Len64(v)-subBits-1, 0)
	return shift<<subBits + int(v>>shift)
}

// upper is the longest duration of a bucket.
func upper(bucket int) time.Duration {
	shift := max(bucket>>subBits-1, 0)
	return time.Duration((bucket-shift<<subBits+1)<<shift - 1)
}

// Add counts one duration. A negative one counts as 0.
func (h *Histogram) Add(d time.Duration) {
	h.counts[bucket(d)]++
	h.n++
	h.max = max(h.max, d)
}

// Merge adds what another one counted.
func (h *Histogram) Merge(other *Histogram) {
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.n += other.n
	h.max = max(h.max, other.max)
}

// Count is how many durations were added.
func (h *Histogram) Count() int64 { return h.n }

// Percentile is the duration that the given part of all, 0 to 1, did not exceed; 0 if there are none.
func (h *Histogram) Percentile(p float64) time.Duration {
	rank := max(int64(math.Ceil(p*float64(h.n))), 1)
	for i, n := range h.counts {
		if rank -= n; rank <= 0 {
			return min(upper(i), h.max)
		}
	}
	return h.max
}
