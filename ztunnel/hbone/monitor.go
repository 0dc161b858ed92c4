package hbone

import (
	"fmt"
	"sync"
	"time"
)

// monitor looks after a connection's timeouts, on a timer of its own.
type monitor struct {
	mu       sync.Mutex
	timer    *time.Timer
	stopped  bool
	lastSeen time.Time // of any frame, to the accuracy of a period
	pinged   time.Time // when the PING that is out was sent; zero if none is
	writeSeq uint64    // the write that was under way at the last tick
	writeAt  time.Time
}

func (m *monitor) init(now time.Time) { m.lastSeen = now }

func (c *conn) startMonitor() {
	c.monitor.mu.Lock()
	defer c.monitor.mu.Unlock()
	c.monitor.timer = time.AfterFunc(c.cfg.period(), c.tick)
}

func (c *conn) stopMonitor() {
	c.monitor.mu.Lock()
	defer c.monitor.mu.Unlock()
	c.monitor.stopped = true
	c.monitor.timer.Stop()
}

// tick checks all timeouts. Nothing in it waits.
func (c *conn) tick() {
	m := &c.monitor
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped {
		return
	}
	now := time.Now()
	c.checkPeer(now)
	c.checkWrite(now)
	c.payConn()
	c.role.onTick(now)
	m.timer.Reset(c.cfg.period())
}

// checkPeer asks a silent peer whether it lives, and ends the connection if it does not answer.
func (c *conn) checkPeer(now time.Time) {
	m := &c.monitor
	if c.reader.seen.Swap(false) {
		m.lastSeen, m.pinged = now, time.Time{}
	}
	switch {
	case m.pinged.IsZero() && now.Sub(m.lastSeen) >= c.cfg.PingInterval:
		m.pinged = now
		c.queuePing(pingAlive)
	case !m.pinged.IsZero() && now.Sub(m.pinged) >= c.cfg.PingTimeout:
		c.giveUp(fmt.Errorf("%w: no answer to PING for %v", ErrPeerGone, c.cfg.PingTimeout))
	}
}

// checkWrite ends the connection if one write of the socket takes too long: its peer lives but does not read.
func (c *conn) checkWrite(now time.Time) {
	m := &c.monitor
	seq := c.writer.seq.Load()
	if seq%2 == 0 || seq != m.writeSeq {
		m.writeSeq, m.writeAt = seq, now
		return
	}
	if now.Sub(m.writeAt) >= c.cfg.WriteTimeout {
		c.giveUp(fmt.Errorf("%w: it did not read for %v", ErrPeerGone, c.cfg.WriteTimeout))
	}
}

func (c *conn) giveUp(err error) {
	if c.fail(err) {
		c.cfg.Stats.PeersGone.Add(1)
	}
}
