package hbone

import (
	"sync"
	"time"
)

// deadline wakes the waiters of a condition at a time. Its fields are guarded by the condition's lock.
//
// net/http sets several for each request, nearly all of which are replaced long before their time. So there is one timer,
// which a later deadline leaves as it is: when it fires too early it is set again, for what is left.
type deadline struct {
	timer   *time.Timer
	fires   time.Time // of the timer; zero: it does not
	at      time.Time // zero: no deadline
	expired bool
}

// set replaces the deadline. The caller holds mu.
func (d *deadline) set(t time.Time, mu *sync.Mutex, ready *sync.Cond) {
	d.at, d.expired = t, false
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		d.expired = true
		ready.Broadcast()
		return
	}
	switch {
	case d.timer == nil:
		d.timer = time.AfterFunc(left, func() { d.fire(mu, ready) })
	case d.fires.IsZero() || t.Before(d.fires):
		d.timer.Reset(left)
	default:
		return
	}
	d.fires = t
}

// fire is called by the timer.
func (d *deadline) fire(mu *sync.Mutex, ready *sync.Cond) {
	mu.Lock()
	defer mu.Unlock()
	d.fires = time.Time{}
	if d.at.IsZero() || d.expired {
		return
	}
	if left := time.Until(d.at); left > 0 {
		d.fires = d.at
		d.timer.Reset(left)
		return
	}
	d.expired = true
	ready.Broadcast()
}

// stop forgets the deadline for good. The caller holds the lock.
func (d *deadline) stop() {
	d.at = time.Time{}
	if d.timer != nil {
		d.timer.Stop()
		d.fires = time.Time{}
	}
}
