package hbone

import (
	"bufio"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	// lastWords is how long the final GOAWAY may take to be written.
	lastWords = time.Second
	// linger is how long the peer may take to close after it, while what it still sends is thrown away: closing with
	// unread input makes the kernel send RST, which can overtake the last frames.
	linger = 250 * time.Millisecond
	// lingerBytes bounds what is thrown away.
	lingerBytes = 4 << 20
)

// conn is what a client's and a server's connection have in common.
type conn struct {
	nc   net.Conn
	cfg  Config
	role role

	reader  readState
	writer  writeState
	bdp     bdp
	held    holding
	monitor monitor

	mu      sync.Mutex
	streams map[uint32]*Stream
	gone    closedStreams
	send    sendState
	away    awayState
	err     error // why the connection ends

	closing chan struct{} // closed once err is set
	done    chan struct{} // closed once the socket is closed and both goroutines have ended
}

// role is what client and server do differently. Its methods are called by the reader unless they say otherwise.
type role interface {
	// onHeaders takes HEADERS for a stream that is open, or that the role has to judge.
	onHeaders(f *http2.MetaHeadersFrame, s *Stream) error
	// lastTaken returns the highest of the peer's streams that was looked at. Called with conn.mu held.
	lastTaken() uint32
	// onBadHeaders takes HEADERS that are malformed.
	onBadHeaders(id uint32, reason string) error
	// isIdle tells whether the stream was never used. Called with conn.mu held.
	isIdle(id uint32) bool
	// onStreamEnd is called without locks, by any goroutine, after a stream has ended.
	onStreamEnd()
	// onTick is called on every period, by the timer.
	onTick(now time.Time)
	// onDrainPing is called when the peer has answered the PING behind a graceful GOAWAY.
	onDrainPing()
}

// awayState is how far a GOAWAY has got. Guarded by conn.mu.
type awayState struct {
	received atomic.Bool
	sent     bool   // no new stream of the peer is taken
	last     uint32 // the highest of the peer's streams that is, if sent
}

// readState belongs to the reader.
type readState struct {
	src    source
	br     *bufio.Reader
	fr     *http2.Framer
	resets rate
	junk   rate
	window atomic.Int64
	unpaid atomic.Int64 // received, not yet credited
	seen   atomic.Bool
}

// source is the socket, and remembers its error: the Framer gives the same io.ErrUnexpectedEOF for a lost connection and
// for a frame that is too short for its own fields.
type source struct {
	nc  net.Conn
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.nc.Read(p)
	if err != nil {
		s.err = err
	}
	return n, err
}

func newConn(nc net.Conn, cfg Config) *conn {
	now := time.Now()
	c := &conn{
		nc:      nc,
		cfg:     cfg,
		streams: make(map[uint32]*Stream),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
	}
	r := &c.reader
	r.src.nc = nc
	r.br = bufio.NewReaderSize(&r.src, 16<<10)
	r.fr = http2.NewFramer(nil, r.br)
	r.fr.SetReuseFrames()
	r.fr.SetMaxReadFrameSize(cfg.MaxFrame)
	r.fr.MaxHeaderListSize = cfg.HeaderList
	r.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	r.resets, r.junk = newRate(cfg.MaxResets, now), newRate(cfg.MaxJunk, now)
	r.window.Store(int64(cfg.ConnWindow))
	c.send = sendState{window: defaultSize, initial: defaultSize, maxStreams: maxWindow}
	c.bdp.init(cfg)
	c.writer.init()
	c.monitor.init(now)
	cfg.Stats.ConnsOpened.Add(1)
	return c
}

// run carries the connection until it has ended. prepare reads what comes before the first frame.
func (c *conn) run(prepare func() error) {
	flushed := make(chan struct{})
	go func() {
		defer close(flushed)
		c.flushLoop()
	}()
	c.startMonitor()
	err := prepare()
	if err == nil {
		err = c.readFrames()
	}
	c.failRead(err)
	<-flushed
	c.lingerOn()
	c.stopMonitor()
	_ = c.nc.Close() // nothing is left to be lost
	c.cfg.Stats.ConnsClosed.Add(1)
	close(c.done)
}

// failRead ends the connection for what the reader met.
func (c *conn) failRead(err error) {
	var ce *ConnError
	if errors.As(err, &ce) {
		c.fail(err)
		return
	}
	c.mu.Lock()
	clean := len(c.streams) == 0 && errors.Is(err, io.EOF)
	c.mu.Unlock()
	if clean {
		c.fail(io.EOF)
		return
	}
	c.fail(asLoss(err))
}

// fail ends the connection; the first call says why. It never waits: flusher and reader notice, and run cleans up.
// A *ConnError found here is told to the peer. It returns false if the connection was ending already.
func (c *conn) fail(err error) bool {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return false
	}
	c.err = err
	streams := c.streams
	c.streams = make(map[uint32]*Stream)
	c.mu.Unlock()

	var ce *ConnError
	switch {
	case errors.As(err, &ce) && ce.Local:
		c.cfg.Stats.Offences.Add(1)
		c.queueLastGoAway(ce.Code, ce.Reason)
	case errors.Is(err, ErrClosed) || errors.Is(err, ErrDraining):
		c.queueLastGoAway(http2.ErrCodeNo, "")
	}
	c.cfg.Log.Debug("hbone connection ends", "error", err, "peer", c.nc.RemoteAddr(), "streams", len(streams))
	now := time.Now()
	_ = c.nc.SetWriteDeadline(now.Add(lastWords)) // fails only on a closed socket
	_ = c.nc.SetReadDeadline(now)
	for _, s := range streams {
		s.terminate(c.streamLoss(err))
	}
	close(c.closing)
	return true
}

// streamLoss is what the end of the connection means for a stream that was open.
func (c *conn) streamLoss(err error) error {
	if errors.Is(err, ErrPeerGone) || errors.Is(err, ErrClosed) {
		return err
	}
	return errors.Join(ErrPeerGone, err)
}

// lingerOn waits shortly for the peer's end of the connection if it was told that it is over.
func (c *conn) lingerOn() {
	if err := c.errOf(); errors.Is(err, ErrPeerGone) || errors.Is(err, io.EOF) {
		return
	}
	if half, ok := c.nc.(interface{ CloseWrite() error }); ok {
		if half.CloseWrite() != nil {
			return
		}
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(linger))
	_, _ = io.CopyN(io.Discard, c.nc, lingerBytes) // whatever ends it, the connection is over
}

func (c *conn) errOf() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// resetStream ends a stream with RST_STREAM. It does nothing if the stream has already ended.
func (c *conn) resetStream(s *Stream, code Code) {
	c.mu.Lock()
	if s.dead {
		c.mu.Unlock()
		return
	}
	c.detach(s, true)
	c.mu.Unlock()
	c.cfg.Stats.ResetsSent.Add(1)
	c.queueReset(s.id, code)
	s.terminate(&ResetError{Code: code})
	c.role.onStreamEnd()
}

// detach takes a stream off the connection. The caller holds c.mu.
func (c *conn) detach(s *Stream, resetHere bool) {
	s.dead = true
	s.noSend.Store(true)
	delete(c.streams, s.id)
	c.gone.add(s.id, resetHere)
	c.send.leave(s)
}
