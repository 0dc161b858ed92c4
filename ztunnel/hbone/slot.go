package hbone

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// slot is what a pool holds for one key. Guarded by Pool.mu.
type slot[K comparable] struct {
	key     K
	conns   []*warm[K]
	dials   int           // under way
	waiters int           // callers that wait for a dial, or for a connection to become idle
	changed chan struct{} // closed and replaced when something may have become possible
	dropped bool          // not in the pool any more
	failed  uint64        // dials that failed
	failAt  time.Time
	failErr error
}

// warm is one connection of a slot.
type warm[K comparable] struct {
	slot    *slot[K]
	cc      *ClientConn
	idle    time.Time // since when it has no stream, to the accuracy of the pool's looking
	shunned bool      // it refused a stream: takes no new one, and goes when it is idle
}

func (s *slot[K]) wake() {
	if s.waiters == 0 {
		return
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// acquire returns a connection with a stream's place reserved, and notes in info how it was found.
func (p *Pool[K]) acquire(ctx context.Context, key K, info *Info) (*warm[K], error) {
	begin := time.Now()
	waited := false
	var watched *slot[K]
	var failed uint64
	for {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return nil, ErrPoolClosed
		}
		s := p.slot(key)
		if s != watched {
			watched, failed = s, s.failed
		}
		w, err := p.pick(s, waited && s.failed > failed)
		if w != nil {
			info.Reused, info.DialTime = !waited, 0
			if waited {
				info.DialTime = time.Since(begin)
			} else {
				p.stats.Reused++
			}
		}
		if w != nil || err != nil {
			p.mu.Unlock()
			return w, err
		}
		waited = true
		if err := p.wait(ctx, s); err != nil {
			return nil, err
		}
	}
}

// wait waits for a change of the slot. It is entered with p.mu held and left without.
func (p *Pool[K]) wait(ctx context.Context, s *slot[K]) error {
	s.waiters++
	changed := s.changed
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		s.waiters--
		p.mu.Unlock()
	}()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (p *Pool[K]) slot(key K) *slot[K] {
	s := p.slots[key]
	if s == nil {
		s = &slot[K]{key: key, changed: make(chan struct{})}
		p.slots[key] = s
	}
	return s
}

// pick returns a connection, or nothing if there is a dial to wait for, or says why neither is possible. There is at most
// one dial for each caller that waits. mustShare is set for those whose dial has failed. The caller holds p.mu.
func (p *Pool[K]) pick(s *slot[K], mustShare bool) (*warm[K], error) {
	if w := s.reserve(1); w != nil {
		return w, nil
	}
	failing := mustShare || s.failErr != nil && time.Since(s.failAt) < p.cfg.FailureBackoff
	if !failing && s.dials <= s.waiters && s.open()+s.dials < p.cfg.MaxConnsPerKey && p.makeRoom(s) {
		p.startDial(s)
	}
	if !failing && s.dials > s.waiters {
		return nil, nil // enough dials for everybody who waits, and this one
	}
	if w := s.reserve(p.cfg.MaxStreamsPerConn); w != nil {
		return w, nil
	}
	// Each that is dialled is to take many of those who wait.
	if !failing && s.dials*p.cfg.MaxStreamsPerConn <= s.waiters && s.open()+s.dials < p.cfg.MaxConnsFull && p.makeRoom(s) {
		p.startDial(s)
	}
	switch {
	case s.dials > 0:
		return nil, nil
	case failing:
		return nil, s.failErr
	case len(s.conns) == 0:
		return nil, fmt.Errorf("%w: %d connections", ErrPoolFull, p.total)
	}
	return nil, fmt.Errorf("%w: all %d connections carry as many streams as they may", ErrTooManyStreams, len(s.conns))
}

// open returns the number of connections that still take streams.
func (s *slot[K]) open() int {
	n := 0
	for _, w := range s.conns {
		if !w.shunned && !w.cc.draining() {
			n++
		}
	}
	return n
}

// reserve takes a place on the connection with the fewest streams, if that has fewer than limit.
func (s *slot[K]) reserve(limit int) *warm[K] {
	var best *warm[K]
	least := limit
	for _, w := range s.conns {
		if n := w.cc.Open(); n < least && !w.shunned && w.cc.Usable() {
			best, least = w, n
		}
	}
	if best == nil || !best.cc.reserve(limit) {
		return nil
	}
	best.idle = time.Time{}
	return best
}

// makeRoom tells whether one more connection may be opened, after closing the longest idle one if it must. The caller
// holds p.mu.
func (p *Pool[K]) makeRoom(forSlot *slot[K]) bool {
	if p.total < p.cfg.MaxConns {
		return true
	}
	var oldest *warm[K]
	for _, s := range p.slots {
		for _, w := range s.conns {
			if s != forSlot && w.cc.Open() == 0 && (oldest == nil || w.idle.Before(oldest.idle)) {
				oldest = w
			}
		}
	}
	if oldest == nil {
		return false
	}
	p.retire(oldest)
	return true
}

// retire takes a connection out of the pool and lets it end in order. The caller holds p.mu.
func (p *Pool[K]) retire(w *warm[K]) {
	p.remove(w)
	p.wg.Go(func() {
		ctx, cancel := context.WithTimeout(p.ctx, lastWords)
		defer cancel()
		_ = w.cc.Shutdown(ctx) // it has no streams, or is closed by force
	})
}

// remove takes a connection off its slot. The caller holds p.mu.
func (p *Pool[K]) remove(w *warm[K]) {
	i := slices.Index(w.slot.conns, w)
	if i < 0 {
		return
	}
	w.slot.conns = slices.Delete(w.slot.conns, i, i+1)
	p.total--
	p.forget(w.slot)
}

// forget drops a slot that holds nothing. The caller holds p.mu.
func (p *Pool[K]) forget(s *slot[K]) {
	if len(s.conns) == 0 && s.dials == 0 && !s.dropped && time.Since(s.failAt) >= p.cfg.FailureBackoff {
		delete(p.slots, s.key)
		s.dropped = true
		s.wake()
	}
}

// startDial dials in a goroutine of its own, so that nobody's context but the pool's ends it: others may wait for it
// too. The caller holds p.mu.
func (p *Pool[K]) startDial(s *slot[K]) {
	s.dials++
	p.total++
	p.stats.Dials++
	p.wg.Go(func() {
		ctx, cancel := context.WithTimeout(p.ctx, p.cfg.DialTimeout)
		defer cancel()
		nc, err := p.dial(ctx, s.key)
		if err != nil {
			p.dialFailed(s, err)
			return
		}
		w := &warm[K]{slot: s}
		p.mu.Lock()
		w.cc = newClientConn(nc, p.cfg.Conn, func() { p.changed(s) })
		s.dials--
		dropped := s.dropped || p.closed
		if dropped {
			p.total--
		} else {
			s.failErr = nil
			w.idle = time.Now()
			s.conns = append(s.conns, w)
			s.wake()
		}
		p.mu.Unlock()
		if dropped {
			_ = w.cc.Close() // does not fail
		}
	})
}

func (p *Pool[K]) dialFailed(s *slot[K], err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.dials--
	p.total--
	p.stats.DialFails++
	s.failed++
	s.failAt, s.failErr = time.Now(), err
	s.wake()
}

// changed is called when a stream of one of the slot's connections, or a connection, has ended.
func (p *Pool[K]) changed(s *slot[K]) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweep(s, time.Now())
	s.wake()
}

// sweep takes out connections that have ended, are draining, or have been idle too long. The caller holds p.mu.
func (p *Pool[K]) sweep(s *slot[K], now time.Time) {
	for _, w := range slices.Clone(s.conns) {
		open := w.cc.Open()
		switch {
		case w.cc.ended():
			p.remove(w)
		case open > 0:
			w.idle = time.Time{}
		case w.shunned:
			p.retire(w)
		case w.idle.IsZero():
			w.idle = now
		case now.Sub(w.idle) >= p.cfg.IdleTimeout:
			p.retire(w)
		}
	}
	p.forget(s)
}

// janitor looks for connections to release.
func (p *Pool[K]) janitor() {
	t := time.NewTicker(max(p.cfg.IdleTimeout/8, time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case now := <-t.C:
			p.mu.Lock()
			for _, s := range p.slots {
				p.sweep(s, now)
			}
			p.mu.Unlock()
		}
	}
}
