package upstream

import (
	"math"
	"sync"
	"time"
)

const (
	// decay is the time in which a measurement loses 63% of its weight. An endpoint that was slow is asked again after
	// some of it, whether or not it is asked in between.
	decay = 10 * time.Second
	// failed is what a request counts as that got no answer, however soon it failed: who refuses quickly is not fast.
	failed = time.Second
	// unmeasured is the cost of an endpoint that has a first request open and was never measured: enough that others
	// come first. Without an open request its cost is 0, so that it is measured soon.
	unmeasured = float64(time.Minute)
)

// latency is a moving average of how long an endpoint took to answer, weighted by time, that jumps to every peak: an
// endpoint that turns slow is avoided at once, and trusted again step by step.
type latency struct {
	mu   sync.Mutex
	mean float64 // nanoseconds, at the time of the stamp; 0 is unmeasured
	at   time.Time
}

// observe takes a measurement in.
func (l *latency) observe(took time.Duration, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := float64(took)
	if mean, w := l.decayed(now); x > mean {
		l.mean = x
	} else {
		l.mean = l.mean*w + x*(1-w)
	}
	l.at = now
}

// decayed returns the mean as it is worth now, and the weight that is left of it. Caller holds mu.
func (l *latency) decayed(now time.Time) (mean, weight float64) {
	if l.mean == 0 {
		return 0, 0
	}
	weight = math.Exp(-float64(max(now.Sub(l.at), 0)) / float64(decay))
	return l.mean * weight, weight
}

// cost is what one more request is likely to wait, if `open` are there already.
func (l *latency) cost(open int64, now time.Time) float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	mean, _ := l.decayed(now)
	if mean == 0 && open > 0 {
		return unmeasured + float64(open)
	}
	return mean * float64(open+1)
}
