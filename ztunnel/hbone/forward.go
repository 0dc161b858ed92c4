package hbone

import (
	"io"
	"net"
	"os"
	"syscall"
)

// maxGather is how many chunks one write takes: a quarter of what a stream may hold.
const maxGather = 64

// WriteTo is Forward for who does not count and takes either error.
func (s *Stream) WriteTo(w io.Writer) (int64, error) {
	var total int64
	readErr, writeErr := s.Forward(w, func(n int) { total += int64(n) })
	if readErr != nil {
		return total, readErr
	}
	return total, writeErr
}

// Forward writes what the peer sends to w until its end, all chunks that are there by one writev if w is a *net.TCPConn, and
// tells count of what w took. Both errors are nil after END_STREAM; readErr is one that Read returns, writeErr is w's.
//
// While it waits, small messages for a *net.TCPConn are written by the goroutine that reads them from the tunnel, and count
// is called by that one.
func (s *Stream) Forward(w io.Writer, count func(int)) (readErr, writeErr error) {
	r := &s.recv
	socket := newSink(w, count)
	var taken []*chunk
	var vector net.Buffers
	for {
		r.mu.Lock()
		r.sink = socket
		err := r.wait()
		r.sink = nil
		if err != nil {
			r.mu.Unlock()
			if err == io.EOF {
				err = nil
			}
			return err, nil
		}
		if socket != nil && socket.err != nil {
			r.mu.Unlock()
			return nil, socket.err
		}
		taken = append(taken[:0], r.chunks[:min(len(r.chunks), maxGather)]...)
		r.chunks = r.chunks[:copy(r.chunks, r.chunks[len(taken):])]
		r.mu.Unlock()
		size := int64(0)
		for _, c := range taken {
			size += int64(c.w - c.r)
		}
		n, err := writeChunks(w, taken, &vector)
		count(int(n))
		for _, c := range taken {
			s.c.freeChunk(c)
		}
		s.consumed(size)
		if err != nil {
			return nil, err
		}
	}
}

// writeChunks writes all of them. The vector's memory is reused.
func writeChunks(w io.Writer, chunks []*chunk, vector *net.Buffers) (int64, error) {
	if len(chunks) == 1 {
		n, err := w.Write(chunks[0].data[chunks[0].r:chunks[0].w])
		return int64(n), err
	}
	v := (*vector)[:0]
	for _, c := range chunks {
		v = append(v, c.data[c.r:c.w])
	}
	*vector = v // WriteTo empties its receiver, so that it gets another one
	return v.WriteTo(w)
}

// maxHandOver is the longest message that the tunnel's reader writes itself: to wake another goroutine costs more than to
// write that much. Of what is longer, one goroutine writes a part while the other decrypts the next.
const maxHandOver = 8 << 10

// sink is a socket that takes small messages right from the tunnel's reader.
type sink struct {
	tcp   *net.TCPConn
	raw   syscall.RawConn
	count func(int)
	try   func(fd uintptr) bool
	buf   []byte // what try is to write
	n     int    // what of it was
	err   error  // the socket's; nothing is written after it. Guarded by recvState.mu
	fail  error  // of try
}

// newSink returns nil if w is no TCP connection.
func newSink(w io.Writer, count func(int)) *sink {
	tcp, ok := w.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil // a write will say why
	}
	k := &sink{tcp: tcp, raw: raw, count: count}
	k.try = k.tryWrite
	return k
}

// write writes what the socket takes of b without waiting. Without an error the rest has to wait for room.
func (k *sink) write(b []byte) (int, error) {
	k.buf, k.n, k.fail = b, 0, nil
	err := k.raw.Write(k.try) // fails if the connection is closed or its deadline is over, which a write will say
	k.buf = nil
	if err != nil {
		return 0, nil
	}
	return k.n, k.fail
}

func (k *sink) tryWrite(fd uintptr) bool {
	for {
		n, err := syscall.Write(int(fd), k.buf)
		switch {
		case err == syscall.EINTR:
			continue
		case err == nil:
			k.n = n
		case err != syscall.EAGAIN:
			k.fail = &net.OpError{Op: "write", Net: "tcp", Source: k.tcp.LocalAddr(), Addr: k.tcp.RemoteAddr(), Err: os.NewSyscallError("write", err)}
		}
		return true
	}
}

// handOver writes a small message to the socket that Forward waits to write to, and returns what of it is left. The caller
// holds recv.mu, which is released meanwhile: Forward waits on.
func (s *Stream) handOver(b []byte) (rest []byte) {
	r := &s.recv
	if len(b) > maxHandOver || len(r.chunks) > 0 || r.sinking || r.dropping || r.err != nil || r.limit.expired || r.sink.err != nil {
		return b
	}
	k := r.sink
	r.sinking = true
	r.mu.Unlock()
	n, err := k.write(b)
	k.count(n)
	r.mu.Lock()
	r.sinking = false
	k.err = err
	if err != nil || r.err != nil || r.dropping || r.limit.expired {
		r.wake() // it was told of that while it could not look
	}
	return b[n:]
}
