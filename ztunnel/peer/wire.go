package peer

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// Conn is a TLS connection whose records pass the kernel in batches: what one Write seals leaves by one system call, and one
// takes in what several records hold. crypto/tls itself makes one for each record of 16 KiB, and at bulk transfers those cost
// more than the encryption.
type Conn struct {
	*tls.Conn
	wire *wire
}

// Client and Server return a TLS connection over raw, before its handshake.
func Client(raw *net.TCPConn, cfg *tls.Config) (*Conn, error) { return newConn(raw, cfg, tls.Client) }
func Server(raw *net.TCPConn, cfg *tls.Config) (*Conn, error) { return newConn(raw, cfg, tls.Server) }

func newConn(raw *net.TCPConn, cfg *tls.Config, over func(net.Conn, *tls.Config) *tls.Conn) (*Conn, error) {
	sys, err := raw.SyscallConn()
	if err != nil {
		return nil, err
	}
	w := &wire{TCPConn: raw, sys: sys}
	w.take = w.takeIn
	return &Conn{Conn: over(w, cfg), wire: w}, nil
}

// maxRecord is the most payload of one record (RFC 8446, 5.1).
const maxRecord = 16 << 10

// Write seals and sends b. It must not be called by two goroutines at a time.
func (c *Conn) Write(b []byte) (int, error) {
	if len(b) <= maxRecord {
		return c.Conn.Write(b)
	}
	c.wire.hold()
	n, err := c.Conn.Write(b)
	return n, errors.Join(err, c.wire.release())
}

// wireSize is what the kernel is given, and asked for, at once: four records and their overhead, as a frame of a tunnel has.
const wireSize = 64<<10 + 1<<10

var wireBuffers = sync.Pool{New: func() any { return new([wireSize]byte) }}

// wire is the TCP connection under TLS. A buffer is held only while there is something in it.
type wire struct {
	*net.TCPConn
	sys syscall.RawConn

	// In belongs to the one who reads.
	in   *[wireSize]byte
	r, w int
	err  error // of the last system call
	take func(fd uintptr) bool

	mu      sync.Mutex
	holding bool
	out     *[wireSize]byte
	size    int
}

// Read gives what was taken in, or waits for more and takes in as much as there is.
func (c *wire) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if c.in == nil {
		if err := c.sys.Read(c.take); err != nil {
			return 0, err
		}
		if c.in == nil {
			return 0, c.err
		}
	}
	n := copy(p, c.in[c.r:c.w])
	if c.r += n; c.r == c.w {
		wireBuffers.Put(c.in)
		c.in = nil
	}
	return n, nil
}

// takeIn reads from the socket, and tells whether it need not be waited for.
func (c *wire) takeIn(fd uintptr) bool {
	in := wireBuffers.Get().(*[wireSize]byte)
	var n int
	var err error
	for {
		n, err = syscall.Read(int(fd), in[:])
		if err != syscall.EINTR {
			break
		}
	}
	if n > 0 {
		c.in, c.r, c.w = in, 0, n
		return true
	}
	wireBuffers.Put(in)
	c.err = io.EOF
	if err != nil {
		c.err = &net.OpError{Op: "read", Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError("read", err)}
	}
	return err != syscall.EAGAIN
}

// Write sends b, or keeps it while writes are held. The order of writes stays.
func (c *wire) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.holding {
		return c.TCPConn.Write(b)
	}
	if c.size+len(b) > wireSize {
		if err := c.flush(); err != nil {
			return 0, err
		}
		if len(b) > wireSize {
			return c.TCPConn.Write(b)
		}
	}
	if c.out == nil {
		c.out = wireBuffers.Get().(*[wireSize]byte)
	}
	c.size += copy(c.out[c.size:], b)
	return len(b), nil
}

// hold keeps what is written until release.
func (c *wire) hold() {
	c.mu.Lock()
	c.holding = true
	c.mu.Unlock()
}

func (c *wire) release() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holding = false
	return c.flush()
}

// flush sends what is kept. The caller holds mu.
func (c *wire) flush() error {
	if c.out == nil {
		return nil
	}
	out, size := c.out, c.size
	c.out, c.size = nil, 0
	_, err := c.TCPConn.Write(out[:size])
	wireBuffers.Put(out)
	return err
}
