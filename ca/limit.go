package ca

import (
	"sync"
	"time"
)

// limiter is a token bucket a key. It remembers at most maxKeys of them: when it is full it forgets those whose bucket
// has filled up again, and if there is none it refuses new keys.
type limiter struct {
	rate    float64 // tokens a second
	burst   float64
	maxKeys int
	clock   func() time.Time

	mu      sync.Mutex
	buckets map[string]*bucket
}

type bucket struct {
	tokens float64
	at     time.Time
}

func newLimiter(rate float64, burst, maxKeys int, clock func() time.Time) *limiter {
	return &limiter{rate: rate, burst: float64(burst), maxKeys: maxKeys, clock: clock, buckets: make(map[string]*bucket)}
}

func (l *limiter) allow(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock()
	b := l.buckets[key]
	if b == nil {
		if len(l.buckets) >= l.maxKeys {
			l.forgetIdle(now)
		}
		if len(l.buckets) >= l.maxKeys {
			return false
		}
		b = &bucket{tokens: l.burst, at: now}
		l.buckets[key] = b
	}
	b.tokens, b.at = l.refilled(b, now), now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

func (l *limiter) refilled(b *bucket, now time.Time) float64 {
	return min(l.burst, b.tokens+max(0, now.Sub(b.at).Seconds())*l.rate)
}

func (l *limiter) forgetIdle(now time.Time) {
	for key, b := range l.buckets {
		if l.refilled(b, now) >= l.burst {
			delete(l.buckets, key)
		}
	}
}
