package hbone

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Pool keeps connections warm, by key. A key is all that must be equal for two streams to share a connection: who asks,
// who answers, and where. Nothing waits for a lock while something is dialled, so a key that is slow to reach holds up
// nobody else.
type Pool[K comparable] struct {
	cfg  PoolConfig
	dial func(context.Context, K) (net.Conn, error)

	ctx    context.Context // of dials and of the janitor
	cancel context.CancelFunc
	wg     sync.WaitGroup // dials, the janitor, and connections on their way out

	mu     sync.Mutex
	slots  map[K]*slot[K]
	total  int // connections and dials of all keys
	closed bool
	stats  PoolStats
}

// PoolConfig limits a Pool. The zero value of a field means its default.
type PoolConfig struct {
	// MaxConnsPerKey is how many connections may be open before streams share them. Default 4.
	MaxConnsPerKey int
	// MaxConnsFull is how many may be open once those are full. Default MaxConnsPerKey: none more.
	MaxConnsFull int
	// MaxStreamsPerConn is how many streams share one. Default 100; the peer may allow fewer.
	MaxStreamsPerConn int
	// MaxConns bounds all connections. Default 4096. At the limit the longest idle one of another key goes.
	MaxConns int
	// IdleTimeout is how long a connection without streams stays warm. Default 300 s.
	IdleTimeout time.Duration
	// DialTimeout bounds a dial, handshake included. Default 10 s.
	DialTimeout time.Duration
	// FailureBackoff is how long after a failed dial others to its key fail at once with the same error. Default 100 ms.
	FailureBackoff time.Duration
	// Conn configures the connections.
	Conn Config
}

func (c PoolConfig) withDefaults() PoolConfig {
	c.MaxConnsPerKey = or(c.MaxConnsPerKey, 4)
	c.MaxConnsFull = or(c.MaxConnsFull, c.MaxConnsPerKey)
	c.MaxStreamsPerConn = or(c.MaxStreamsPerConn, 100)
	c.MaxConns = or(c.MaxConns, 4096)
	c.IdleTimeout = or(c.IdleTimeout, 300*time.Second)
	c.DialTimeout = or(c.DialTimeout, 10*time.Second)
	c.FailureBackoff = or(c.FailureBackoff, 100*time.Millisecond)
	c.Conn = c.Conn.withDefaults() // so that all connections share one Budget and one Stats
	return c
}

// PoolStats is what a pool holds and did.
type PoolStats struct {
	Conns     int // open or being dialled
	Idle      int // without a stream
	Keys      int
	Dials     int64
	DialFails int64
	Reused    int64 // streams on a connection that was there
	Retried   int64 // streams that a first connection did not take
}

// Info says how a stream came about.
type Info struct {
	Reused   bool          // no dial was waited for
	DialTime time.Duration // waited for a connection, 0 if Reused
	Retried  bool
}

// Errors of a Pool.
var (
	// ErrPoolClosed means that Close or Drain was called, or CloseIf while a dial for the key was under way.
	ErrPoolClosed = fmt.Errorf("pool is closed: %w", ErrClosed)
	// ErrPoolFull means that MaxConns connections are all in use.
	ErrPoolFull = errors.New("pool is full")
)

// NewPool returns a pool whose connections dial makes. dial returns a connection that is ready for HTTP/2, its peer
// verified, and obeys its context. The caller must Close or Drain the pool.
func NewPool[K comparable](cfg PoolConfig, dial func(context.Context, K) (net.Conn, error)) *Pool[K] {
	p := &Pool[K]{cfg: cfg.withDefaults(), dial: dial, slots: make(map[K]*slot[K])}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.wg.Go(p.janitor)
	return p
}

// Connect opens a stream to key. It prefers a connection without streams, else opens one more up to the limit, else shares
// the least busy one. What a connection refused unprocessed, or lost before an answer came though it had worked before, is
// tried once more on another. Returns the errors of ClientConn.Connect, of dial, ErrPoolClosed and ErrPoolFull.
func (p *Pool[K]) Connect(ctx context.Context, key K, req Request) (*Stream, Info, error) {
	var info Info
	for {
		w, err := p.acquire(ctx, key, &info)
		if err != nil {
			return nil, info, fmt.Errorf("CONNECT %.64s: %w", req.Authority, err)
		}
		s, err := w.cc.connect(ctx, req, true)
		if err == nil {
			return s, info, nil
		}
		p.changed(w.slot) // the reservation is free again
		if info.Retried || !mayRetry(err, info.Reused) {
			return nil, info, fmt.Errorf("CONNECT %.64s: %w", req.Authority, err)
		}
		info.Retried = true
		p.mu.Lock()
		p.stats.Retried++
		w.shunned = true
		p.mu.Unlock()
	}
}

// mayRetry tells whether a failed Connect has had no effect: it was refused unprocessed, or its connection took no more,
// or a warm connection turned out to be dead. No byte of the app was sent in any case.
func mayRetry(err error, reused bool) bool {
	return errors.Is(err, ErrRefused) || errors.Is(err, ErrDraining) || errors.Is(err, ErrTooManyStreams) ||
		reused && errors.Is(err, ErrPeerGone)
}

// CloseKey is CloseIf for one key.
func (p *Pool[K]) CloseKey(key K) { p.CloseIf(func(k K) bool { return k == key }) }

// CloseIf cuts all connections of the keys for which match returns true, with their streams, and discards dials that are
// under way. A Connect that comes later dials anew.
func (p *Pool[K]) CloseIf(match func(K) bool) {
	p.mu.Lock()
	var cut []*warm[K]
	for k, s := range p.slots {
		if match(k) {
			cut = append(cut, p.drop(s)...)
		}
	}
	p.mu.Unlock()
	for _, w := range cut {
		w.cc.c.fail(ErrClosed)
	}
}

// Retire takes the connections of the keys for which match returns true out of the pool: those without streams close now,
// the others after their last stream, or when the pool closes. A Connect that comes later dials anew.
func (p *Pool[K]) Retire(match func(K) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, s := range p.slots {
		if !match(k) {
			continue
		}
		for _, w := range p.drop(s) {
			p.wg.Go(func() { _ = w.cc.Shutdown(p.ctx) }) // its error says that the pool closed meanwhile
		}
	}
}

// drop forgets a slot and wakes who waits for it. The caller holds p.mu and ends the connections.
func (p *Pool[K]) drop(s *slot[K]) []*warm[K] {
	delete(p.slots, s.key)
	s.dropped = true
	p.total -= len(s.conns)
	conns := s.conns
	s.conns = nil
	for _, w := range conns {
		p.wg.Go(func() { <-w.cc.Done() })
	}
	s.wake()
	return conns
}

// Stats returns what the pool holds now and what it did so far.
func (p *Pool[K]) Stats() PoolStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.stats
	st.Conns, st.Keys = p.total, len(p.slots)
	for _, s := range p.slots {
		for _, w := range s.conns {
			if w.cc.Open() == 0 {
				st.Idle++
			}
		}
	}
	return st
}

// Close cuts everything and waits until nothing of the pool runs any more.
func (p *Pool[K]) Close() error {
	p.shut()
	p.CloseIf(func(K) bool { return true })
	p.wg.Wait()
	return nil
}

// Drain takes no new stream, waits for the open ones until ctx ends, and closes. Returns ctx's error if streams were cut.
func (p *Pool[K]) Drain(ctx context.Context) error {
	p.shut()
	p.mu.Lock()
	var conns []*warm[K]
	for _, s := range p.slots {
		conns = append(conns, p.drop(s)...)
	}
	p.mu.Unlock()
	errs := make(chan error, len(conns))
	for _, w := range conns {
		p.wg.Go(func() { errs <- w.cc.Shutdown(ctx) })
	}
	p.wg.Wait()
	close(errs)
	var all []error
	for err := range errs {
		all = append(all, err)
	}
	return errors.Join(all...)
}

func (p *Pool[K]) shut() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
}
