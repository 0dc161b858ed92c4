package ztunnel

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// lastWords is how long what one end had sent may take to reach the other, after the first is known to be gone. Over
// plain TCP those bytes would be in the receiver's socket already; a receiver that does not read is not waited for.
const lastWords = time.Second

// flow is one direction of a forwarded connection.
type flow struct {
	dst, src duplex
	count    func(int)
	back     *flow // the other direction

	mu       sync.Mutex
	watching bool          // src has ended, and only its reset is waited for
	lost     error         // the error of the write that found dst gone; set before ended is closed
	ended    chan struct{} // nothing more will be written to dst but its end
}

// newFlows returns both directions of a connection. count is told of bytes, `in` for what came from the client.
func newFlows(client, server duplex, count func(n int, in bool)) (up, down *flow) {
	up = &flow{dst: server, src: client, count: func(n int) { count(n, true) }, ended: make(chan struct{})}
	down = &flow{dst: client, src: server, count: func(n int) { count(n, false) }, ended: make(chan struct{})}
	up.back, down.back = down, up
	return up, down
}

// run copies until src ends and passes the end on. Whoever finds an end of the connection gone calls kill, which
// resets both, and returns why.
func (f *flow) run(kill func()) error {
	readErr, writeErr := f.copy()
	switch {
	case readErr != nil:
		f.end(nil)
		flush(f.dst)
		kill()
		return readErr
	case writeErr != nil:
		f.end(writeErr)
		_ = f.src.SetWriteDeadline(time.Now().Add(lastWords))
		<-f.back.ended // src was given what dst said before it went
		flush(f.src)
		kill()
		return writeErr
	}
	gone := f.srcGone()
	if errors.Is(gone, syscall.ECONNRESET) { // what read as an end was a RST, which the other direction's write was told of
		f.end(nil)
		flush(f.dst)
		kill()
		return gone
	}
	f.end(nil)
	if err := f.dst.CloseWrite(); err != nil && !errors.Is(err, net.ErrClosed) && !isNotConnected(err) {
		kill()
		return err
	}
	if gone == nil {
		gone = f.watch()
	}
	if gone != nil {
		flush(f.dst)
		kill()
	}
	return gone
}

// end says that nothing more will be written to dst, and lets the other direction stop watching it.
func (f *flow) end(lost error) {
	f.mu.Lock()
	f.lost = lost
	close(f.ended)
	f.mu.Unlock()
	f.back.mu.Lock()
	defer f.back.mu.Unlock()
	if tcp, ok := f.back.src.(*net.TCPConn); ok && f.back.watching {
		_ = tcp.SetReadDeadline(time.Unix(1, 0))
	}
}

func (f *flow) hasEnded() bool {
	select {
	case <-f.ended:
		return true
	default:
		return false
	}
}

// srcGone tells, after src read as ended, whether it is gone for writing too. A RST is told to one call only, which
// may have been the other direction's write.
func (f *flow) srcGone() error {
	tcp, ok := f.src.(*net.TCPConn)
	if !ok || f.back.hasEnded() {
		return f.lostIfEnded()
	}
	if !isGone(tcp) {
		return nil
	}
	if err := pendingError(tcp); err != nil {
		return err
	}
	<-f.back.ended // its write has failed, or it sent its own end just now
	return f.lostIfEnded()
}

func (f *flow) lostIfEnded() error {
	if !f.back.hasEnded() {
		return nil
	}
	f.back.mu.Lock()
	defer f.back.mu.Unlock()
	return f.back.lost
}

// watch waits, after src has ended, for its reset, or for the end of the other direction, which returns nil.
func (f *flow) watch() error {
	f.mu.Lock()
	f.watching = !f.back.hasEnded()
	watching := f.watching
	f.mu.Unlock()
	if !watching {
		return nil
	}
	switch src := f.src.(type) {
	case *net.TCPConn:
		if err := awaitGone(src, f.back.hasEnded); err != nil && !f.back.hasEnded() {
			return err
		}
	case tunnelled:
		select {
		case <-f.back.ended:
		case <-src.Done():
			if !f.back.hasEnded() {
				return errStreamGone
			}
		}
	}
	return nil
}

// flush waits until what was written to an end has reached its kernel, before a RST throws away what has not. An end that
// takes nothing for 50 ms does not read, and is not waited for.
func flush(d duplex) {
	c, ok := d.(*net.TCPConn)
	if !ok {
		return // a reset is queued behind what was given to a stream
	}
	const tick, patience = time.Millisecond, 50
	left := unsent(c)
	for still, ticks := 0, 0; left > 0 && still < patience && ticks < int(lastWords/tick); ticks++ {
		time.Sleep(tick) // the kernel has no event for an emptied queue
		now := unsent(c)
		still++
		if now < left {
			still = 0
		}
		left = now
	}
}

// copy copies src to dst until src ends. The errors say which of them failed.
func (f *flow) copy() (readErr, writeErr error) {
	if to, ok := f.dst.(tunnelled); ok {
		in := countingReader{f.src, f.count, nil}
		var src io.Reader = &in
		if tcp, ok := f.src.(*net.TCPConn); ok {
			var waits *waitingReader
			if waits, readErr = newWaitingReader(&in, tcp); readErr != nil {
				return readErr, nil
			}
			src = waits
		}
		_, err := to.ReadFrom(src)
		if in.err == nil {
			return nil, err
		}
		return err, nil
	}
	if from, ok := f.src.(tunnelled); ok {
		return from.Forward(f.dst, f.count)
	}
	return copyTCP(f.dst, f.src.(*net.TCPConn), f.count)
}

type countingReader struct {
	io.Reader
	count func(int)
	err   error // what Read returned, but io.EOF
}

func (r *countingReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.count(n)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}
