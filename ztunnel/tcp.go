package ztunnel

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
)

// buffers are borrowed only while bytes are at hand: an idle connection holds none.
var buffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// copyTCP copies from one TCP connection to another until EOF.
func copyTCP(dst, src duplex, count func(int)) error {
	raw, err := src.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	for {
		buf, n, err := readReady(raw)
		if n > 0 {
			count(n)
			_, werr := dst.Write((*buf)[:n])
			buffers.Put(buf)
			if werr != nil {
				return werr
			}
			continue
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
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

// isNotConnected tells that the other end was gone before its write side could be ended.
func isNotConnected(err error) bool { return errors.Is(err, syscall.ENOTCONN) }
