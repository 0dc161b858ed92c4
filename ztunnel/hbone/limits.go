package hbone

import "time"

// rate is a token bucket that refills perSecond and holds twice that. It belongs to the reader.
type rate struct {
	perSecond int
	tokens    float64
	last      time.Time
}

func newRate(perSecond int, now time.Time) rate {
	return rate{perSecond: perSecond, tokens: 2 * float64(perSecond), last: now}
}

// take tells whether one more event fits.
func (r *rate) take(now time.Time) bool {
	r.tokens = min(2*float64(r.perSecond), r.tokens+now.Sub(r.last).Seconds()*float64(r.perSecond))
	r.last = now
	if r.tokens < 1 {
		return false
	}
	r.tokens--
	return true
}

// closedStreams remembers how the latest streams ended, so that what a peer had already sent is not held against it.
type closedStreams struct {
	ids  [256]uint32 // id<<1, lowest bit set if this side reset the stream
	next int
}

func (c *closedStreams) add(id uint32, resetHere bool) {
	v := id << 1
	if resetHere {
		v |= 1
	}
	c.ids[c.next%len(c.ids)] = v
	c.next++
}

// find tells whether the stream is remembered, and whether this side reset it.
func (c *closedStreams) find(id uint32) (known, resetHere bool) {
	for _, v := range c.ids {
		if v>>1 == id && v != 0 {
			return true, v&1 == 1
		}
	}
	return false, false
}

// forget tells whether the stream was remembered, and forgets it: a peer that has reset it has nothing more to say.
func (c *closedStreams) forget(id uint32) bool {
	for i, v := range c.ids {
		if v>>1 == id && v != 0 {
			c.ids[i] = 0
			return true
		}
	}
	return false
}
