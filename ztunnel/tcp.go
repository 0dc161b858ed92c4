package ztunnel

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// errStreamGone is the end of a tunnel's stream that both sides had not agreed on.
var errStreamGone = errors.New("the peer reset the stream, or its tunnel broke")

// buffers are borrowed only while bytes are at hand: an idle connection holds none.
var buffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// copyTCP copies from one TCP connection to another until EOF. The errors say which of them failed.
func copyTCP(dst io.Writer, src *net.TCPConn, count func(int)) (readErr, writeErr error) {
	raw, err := src.SyscallConn()
	if err != nil {
		return err, nil
	}
	for {
		buf, n, err := readReady(raw)
		if n > 0 {
			count(n)
			_, werr := dst.Write((*buf)[:n])
			buffers.Put(buf)
			if werr != nil {
				return nil, werr
			}
			continue
		}
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		return err, nil
	}
}

// readReady waits until the socket has bytes, and only then takes a buffer for them.
func readReady(raw syscall.RawConn) (buf *[]byte, n int, err error) {
	rerr := raw.Read(func(fd uintptr) bool {
		buf = buffers.Get().(*[]byte)
		for {
			n, err = syscall.Read(int(fd), *buf)
			if err != syscall.EINTR {
				break
			}
		}
		if n > 0 {
			return true
		}
		buffers.Put(buf)
		buf = nil
		return err != syscall.EAGAIN
	})
	switch {
	case rerr != nil:
		return nil, 0, rerr
	case n > 0:
		return buf, n, nil
	case err != nil:
		return nil, 0, err
	}
	return nil, 0, io.EOF
}

// waitingReader reads a TCP connection for a tunnel's stream: it holds a buffer only while there are bytes for it.
type waitingReader struct {
	*countingReader
	raw      syscall.RawConn
	borrow   func() []byte
	giveBack func()
	try      func(fd uintptr) bool
	n        int
	lastErr  error
}

func newWaitingReader(in *countingReader, src *net.TCPConn) (*waitingReader, error) {
	raw, err := src.SyscallConn()
	if err != nil {
		return nil, err
	}
	r := &waitingReader{countingReader: in, raw: raw}
	r.try = r.tryRead
	return r, nil
}

// ReadWhenReady is hbone.Waiter's. After an error a borrowed buffer is the caller's still, as after bytes.
func (r *waitingReader) ReadWhenReady(borrow func() []byte, giveBack func()) (int, error) {
	r.borrow, r.giveBack = borrow, giveBack
	err := r.raw.Read(r.try)
	switch {
	case err != nil: // of the wait: the last buffer was given back
		borrow()
	case r.n > 0:
		r.count(r.n)
		return r.n, nil
	case r.lastErr != nil:
		err = r.lastErr
	default:
		return 0, io.EOF
	}
	r.countingReader.err = err
	return 0, err
}

func (r *waitingReader) tryRead(fd uintptr) bool {
	buf := r.borrow()
	for {
		r.n, r.lastErr = syscall.Read(int(fd), buf)
		if r.lastErr != syscall.EINTR {
			break
		}
	}
	r.n = max(r.n, 0)
	if r.lastErr != syscall.EAGAIN {
		return true
	}
	r.giveBack()
	return false
}

// isNotConnected tells that the other end was gone before its write side could be ended.
func isNotConnected(err error) bool { return errors.Is(err, syscall.ENOTCONN) }

// tcpClose is the state of a socket whose connection is over (TCP_CLOSE, include/net/tcp_states.h).
const tcpClose = 7

func isGoneFd(fd uintptr) bool {
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO)
	return err != nil || info.State == tcpClose
}

// isGone tells that the connection is over in both directions.
func isGone(c *net.TCPConn) (gone bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	if err := raw.Control(func(fd uintptr) { gone = isGoneFd(fd) }); err != nil {
		return true
	}
	return gone
}

// pendingError takes the error that the socket would tell its next caller.
func pendingError(c *net.TCPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	errno := 0
	if err := raw.Control(func(fd uintptr) { errno, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR) }); err != nil || errno == 0 {
		return nil
	}
	return syscall.Errno(errno)
}

// unsent returns how many bytes written to the socket its peer's kernel has not acknowledged; 0 if it is gone.
func unsent(c *net.TCPConn) (n int) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	if err := raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); err != nil {
		return 0
	}
	return n
}

// awaitGone waits until the connection is over, and returns why, or until `stop` says that nobody cares, which is asked
// when the read deadline passes.
func awaitGone(c *net.TCPConn, stop func() bool) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	if err := raw.Read(func(fd uintptr) bool { return stop() || isGoneFd(fd) }); err != nil || stop() {
		return nil
	}
	if err := pendingError(c); err != nil {
		return err
	}
	return syscall.ECONNRESET
}
