package labtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Wiretap listens on everything that crosses the fabric between nodes.
type Wiretap struct {
	Packets atomic.Uint64 // seen, TCP or not
	Canary  atomic.Uint64 // that had the canary in them
}

// Tap looks for a canary in all packets between nodes until the test ends, and fails the test if one carried it, or
// if it saw no packet at all.
func (m *Mesh) Tap(canary string) *Wiretap {
	m.tb.Helper()
	t := m.Listen(canary)
	m.tb.Cleanup(func() {
		if t.Packets.Load() == 0 {
			m.tb.Error("the wiretap saw no packet: it proves nothing")
		}
		if n := t.Canary.Load(); n > 0 {
			m.tb.Errorf("%d packets between nodes carried the payload readably", n)
		}
	})
	return t
}

// Listen is Tap without a verdict.
func (m *Mesh) Listen(canary string) *Wiretap {
	m.tb.Helper()
	info, err := m.Info()
	if err != nil {
		m.tb.Fatal(err)
	}
	fd, err := packetSocket(filepath.Join(info.Dir, "netns", "_fabric"))
	if err != nil {
		m.tb.Fatalf("open wiretap: %v", err)
	}
	t := &Wiretap{}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		t.listen(fd, []byte(canary), stop)
	}()
	m.tb.Cleanup(func() {
		close(stop)
		<-done
		unix.Close(fd)
	})
	return t
}

func (t *Wiretap) listen(fd int, canary []byte, stop chan struct{}) {
	buf := make([]byte, 128<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if n > 0 {
			t.Packets.Add(1)
			if bytes.Contains(buf[:n], canary) {
				t.Canary.Add(1)
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

// packetSocket hears every packet in a network namespace.
func packetSocket(netns string) (fd int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and let the thread die with its namespace
		f, ferr := os.Open(netns)
		if ferr != nil {
			err = ferr
			return
		}
		defer f.Close()
		if err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			return
		}
		var proto [2]byte
		binary.NativeEndian.PutUint16(proto[:], unix.ETH_P_ALL)
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(binary.BigEndian.Uint16(proto[:]))); err != nil {
			return
		}
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
		tv := unix.NsecToTimeval(int64(50 * time.Millisecond))
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	}()
	<-done
	return fd, err
}
