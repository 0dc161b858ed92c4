package hbone

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// clocked is a deadline with what it is under.
type clocked struct {
	deadline
	mu    sync.Mutex
	ready *sync.Cond
}

func newClocked() *clocked {
	c := &clocked{}
	c.ready = sync.NewCond(&c.mu)
	return c
}

func (c *clocked) to(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set(at, &c.mu, c.ready)
}

// met returns when the deadline passed, if it does within a day.
func (c *clocked) met(began time.Time) (after time.Duration, ok bool) {
	end := time.AfterFunc(24*time.Hour, func() { c.ready.Broadcast() })
	defer end.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.expired && time.Since(began) < 24*time.Hour {
		c.ready.Wait()
	}
	return time.Since(began), c.expired
}

func TestTheLatestDeadlineCounts(t *testing.T) {
	for _, c := range []struct {
		name string
		set  []time.Duration // 0 is none
		want time.Duration   // 0: never
	}{
		{"one", []time.Duration{time.Second}, time.Second},
		{"a later one", []time.Duration{time.Second, time.Hour}, time.Hour},
		{"an earlier one", []time.Duration{time.Hour, time.Second}, time.Second},
		{"none after one", []time.Duration{time.Second, 0}, 0},
		{"one after none", []time.Duration{time.Second, 0, time.Minute}, time.Minute},
		{"an earlier one after none", []time.Duration{time.Hour, 0, time.Second}, time.Second},
		{"one after what has passed", []time.Duration{time.Hour, -time.Second, time.Minute}, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, began := newClocked(), time.Now()
				for _, in := range c.set {
					at := began.Add(in)
					if in == 0 {
						at = time.Time{}
					}
					d.to(at)
				}
				if after, ok := d.met(began); ok != (c.want > 0) || ok && after != c.want {
					t.Errorf("passed after %s (%t), want %s", after, ok, c.want)
				}
				d.to(time.Now().Add(time.Second)) // what has passed can be replaced
				if after, ok := d.met(time.Now()); !ok || after != time.Second {
					t.Errorf("the next passed after %s (%t)", after, ok)
				}
			})
		})
	}
}

func TestADeadlineThatHasPassedWakesAtOnce(t *testing.T) {
	d := newClocked()
	d.to(time.Unix(1, 0))
	if !d.expired {
		t.Error("it is not met")
	}
	d.to(time.Time{})
	if d.expired {
		t.Error("it is met without one")
	}
	d.to(time.Now().Add(time.Hour))
	if n := testing.AllocsPerRun(100, func() {
		d.to(time.Unix(1, 0))
		d.to(time.Now().Add(time.Hour))
		d.to(time.Time{})
		d.to(time.Now().Add(2 * time.Hour))
	}); n != 0 {
		t.Errorf("%v allocations for the deadlines of a request", n)
	}
	d.stop()
}

func BenchmarkDeadlinesOfARequest(b *testing.B) {
	d := newClocked()
	b.ReportAllocs()
	for b.Loop() {
		d.to(time.Now().Add(30 * time.Second))
		d.to(time.Time{})
		d.to(time.Unix(1, 0))
		d.to(time.Time{})
		d.to(time.Now().Add(time.Hour))
	}
	d.stop()
}
