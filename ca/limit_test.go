package ca

import (
	"fmt"
	"testing"
	"time"
)

func TestBucketFillsAtItsRateUpToItsBurst(t *testing.T) {
	now := time.Unix(0, 0)
	l := newLimiter(2, 3, 10, func() time.Time { return now })
	take := func() (n int) {
		for l.allow("a") {
			n++
		}
		return n
	}
	for _, step := range []struct {
		wait time.Duration
		want int
	}{{0, 3}, {0, 0}, {400 * time.Millisecond, 0}, {100 * time.Millisecond, 1}, {time.Second, 2}, {time.Hour, 3}, {-time.Hour, 0}} {
		now = now.Add(step.wait)
		if got := take(); got != step.want {
			t.Errorf("after %s: %d tokens, want %d", step.wait, got, step.want)
		}
	}
}

func TestLimiterForgetsIdleKeysAndRefusesNewOnesWhenFull(t *testing.T) {
	now := time.Unix(0, 0)
	l := newLimiter(1, 1, 4, func() time.Time { return now })
	for i := range 4 {
		if !l.allow(fmt.Sprint(i)) {
			t.Fatalf("key %d is refused", i)
		}
	}
	if l.allow("new") || len(l.buckets) != 4 {
		t.Errorf("a new key passes a full limiter, %d are kept", len(l.buckets))
	}
	now = now.Add(time.Second)
	if !l.allow("new") || len(l.buckets) != 1 {
		t.Errorf("a new key is refused though the others are idle, %d are kept", len(l.buckets))
	}
}
