package nettest

import (
	"encoding/binary"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Wiretap listens on everything that comes into the interfaces of a network namespace.
type Wiretap struct {
	Packets  atomic.Uint64 // seen, TCP or not
	Readable atomic.Uint64 // in which something was readable
}

// Listen taps the namespace at a path until the test ends; readable judges each frame, all on one goroutine. A cleanup
// that the test registers before it calls Listen finds every packet judged.
func Listen(tb testing.TB, path string, readable func(frame []byte) bool) *Wiretap {
	tb.Helper()
	fd, err := packetSocket(path)
	if err != nil {
		tb.Fatalf("open wiretap in %s: %v", path, err)
	}
	t := &Wiretap{}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		t.listen(fd, readable, stop)
	}()
	tb.Cleanup(func() {
		close(stop)
		<-done
		unix.Close(fd)
	})
	return t
}

func (t *Wiretap) listen(fd int, readable func([]byte) bool, stop <-chan struct{}) {
	buf := make([]byte, 128<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if n > 0 {
			t.Packets.Add(1)
			if readable(buf[:n]) {
				t.Readable.Add(1)
			}
		}
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return
		}
		select {
		case <-stop:
			if n <= 0 {
				return // what was sent before has been read
			}
		default:
		}
	}
}

// packetSocket hears every packet that an interface of a network namespace receives; what a bridge forwards, it has
// received once.
func packetSocket(path string) (fd int, err error) {
	err = onThread(func() error {
		ns, err := netns.GetFromPath(path)
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			return err
		}
		var proto [2]byte
		binary.NativeEndian.PutUint16(proto[:], unix.ETH_P_ALL)
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(binary.BigEndian.Uint16(proto[:]))); err != nil {
			return err
		}
		_ = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
		tv := unix.NsecToTimeval(int64(50 * time.Millisecond))
		return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	})
	return fd, err
}
