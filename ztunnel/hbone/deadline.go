package hbone

import (
	"sync"
	"time"
)

// deadline wakes the waiters of a condition at a time. Its fields are guarded by the condition's lock.
type deadline struct {
	timer   *time.Timer
	expired bool
	epoch   int // of the latest set: an older timer means nothing
}

// set replaces the deadline. The caller holds mu.
func (d *deadline) set(t time.Time, mu *sync.Mutex, ready *sync.Cond) {
	d.stop()
	d.expired = false
	if t.IsZero() {
		return
	}
	epoch := d.epoch
	d.timer = time.AfterFunc(time.Until(t), func() {
		mu.Lock()
		defer mu.Unlock()
		if d.epoch == epoch {
			d.expired = true
			ready.Broadcast()
		}
	})
	if time.Until(t) <= 0 {
		d.expired = true
		ready.Broadcast()
	}
}

// stop forgets the timer. The caller holds the lock.
func (d *deadline) stop() {
	d.epoch++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
