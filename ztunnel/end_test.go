package ztunnel_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/internal/meshtest"
)

// end is one end of a scripted connection. It writes down what its app would notice, and nothing about when.
type end struct {
	*net.TCPConn
	seen           []string
	sent, received int
	events         *events
}

// events order what both ends do where the connection itself does not.
type events struct {
	mu sync.Mutex
	on map[string]chan struct{}
}

func (e *events) of(name string) chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.on[name] == nil {
		e.on[name] = make(chan struct{})
	}
	return e.on[name]
}

// step is what an app does with its end.
type step func(*end)

const patience = 2 * time.Second

func (e *end) note(format string, args ...any) { e.seen = append(e.seen, fmt.Sprintf(format, args...)) }

// named gives errors the names that apps know them by.
func named(err error) string {
	for errno, name := range map[syscall.Errno]string{syscall.ECONNRESET: "RESET", syscall.EPIPE: "PIPE", syscall.ENOTCONN: "NOTCONN"} {
		if errors.Is(err, errno) {
			return name
		}
	}
	if errors.Is(err, io.EOF) {
		return "EOF"
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return "nothing in time"
	}
	return fmt.Sprint(err)
}

// pattern is byte i of every stream, which begins with the canary.
func pattern(i int) byte {
	if i < len(meshtest.Canary) {
		return meshtest.Canary[i]
	}
	return byte(i*7 + i>>8)
}

func signal(event string) step { return func(e *end) { close(e.events.of(event)) } }

func await(event string) step {
	return func(e *end) {
		select {
		case <-e.events.of(event):
		case <-time.After(patience):
			e.note("%s never came", event)
		}
	}
}

func send(n int) step {
	return func(e *end) {
		if err := e.write(n); err != nil {
			e.note("send %d: %s", n, named(err))
		}
	}
}

// write writes the next n bytes of the end's stream.
func (e *end) write(n int) error {
	b := make([]byte, n)
	for i := range b {
		b[i] = pattern(e.sent + i)
	}
	e.sent += n
	_ = e.SetWriteDeadline(time.Now().Add(patience))
	_, err := e.Write(b)
	return err
}

// sendUntilBroken writes until it cannot.
func sendUntilBroken(e *end) {
	for {
		if err := e.write(4096); err != nil {
			e.note("send: %s", named(err))
			return
		}
	}
}

// read reads n bytes, or to the end if n < 0. It notes how many there were, unless `some`.
func read(e *end, n int, some bool) {
	_ = e.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 64<<10)
	got, before := 0, e.received
	defer func() { e.received += got }()
	for n < 0 || got < n {
		want := len(b)
		if n >= 0 {
			want = min(want, n-got)
		}
		m, err := e.Read(b[:want])
		for i := range m {
			if b[i] != pattern(before+got+i) {
				e.note("byte %d is wrong", before+got+i)
				return
			}
		}
		got += m
		if err != nil {
			if some {
				e.note("then %s", named(err))
			} else {
				e.note("%d bytes, then %s", got, named(err))
			}
			return
		}
	}
	e.note("%d bytes", got)
}

func recv(n int) step  { return func(e *end) { read(e, n, false) } }
func recvToEnd(e *end) { read(e, -1, false) }
func recvSome(e *end)  { read(e, -1, true) } // for how much of a stream arrives before its RST is anybody's guess
func fin(e *end)       { _ = e.CloseWrite() }
func closeAll(e *end)  { e.Close() }
func rst(e *end)       { _ = e.SetLinger(0); e.Close() }
func hangUp(e *end) {
	e.note("hung up: %v", poll(e.TCPConn, 0, patience)&(unix.POLLHUP|unix.POLLERR) != 0)
}
func waitForData(e *end) {
	if poll(e.TCPConn, unix.POLLIN, patience)&unix.POLLIN == 0 {
		e.note("no data")
	}
}

// acked waits until the peer's kernel has all that was sent. Who closes with unread data before that loses, over plain
// TCP too, what had not left yet; after it, nothing may be lost.
func acked(e *end) {
	for deadline := time.Now().Add(patience); unacked(e.TCPConn) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			e.note("%d bytes never acknowledged", unacked(e.TCPConn))
			return
		}
	}
}

// unacked is how many bytes of what was sent the peer's kernel has not acknowledged.
func unacked(c *net.TCPConn) (n int) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1
	}
	_ = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
	return n
}

func idle(d time.Duration) step { return func(*end) { time.Sleep(d) } }

func poll(c *net.TCPConn, events int16, d time.Duration) int16 {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	fds := []unix.PollFd{{Events: events}}
	_ = raw.Control(func(fd uintptr) {
		fds[0].Fd = int32(fd)
		for {
			if _, err := unix.Poll(fds, int(d.Milliseconds())); err != unix.EINTR {
				return
			}
		}
	})
	return fds[0].Revents
}
