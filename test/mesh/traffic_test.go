package mesh

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warren-mesh/warren/internal/labtest"
)

// canary is what apps say where nobody between the nodes may read it; plain is what they say where the mesh does not
// protect them, as to and from pods outside of it.
const (
	canary = "canary-7f3a9c-in-the-payload"
	plain  = "said-openly-e80b2d-in-the-payload"
)

// ping makes one connection to an echo server, sends the canary and reads it back.
func ping(t testing.TB, m *labtest.Mesh, pod string, to netip.AddrPort) error {
	t.Helper()
	return say(t, m, pod, to, canary)
}

// pingPlain is ping for a connection that may be read.
func pingPlain(t testing.TB, m *labtest.Mesh, pod string, to netip.AddrPort) error {
	t.Helper()
	return say(t, m, pod, to, plain)
}

func say(t testing.TB, m *labtest.Mesh, pod string, to netip.AddrPort, text string) error {
	t.Helper()
	c, err := dial(t, m, pod, to)
	if err != nil {
		return err
	}
	defer c.Close()
	return exchange(c, text)
}

func exchange(c net.Conn, text string) error {
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("echo of %q is %q", text, got)
	}
	return nil
}

// stream is a connection to an echo server on which bytes go on moving until somebody ends it.
type stream struct {
	net.Conn
	name   string
	text   string
	echoed atomic.Int64
	ended  chan struct{} // closed at its end; err and at are set then
	err    error
	at     time.Time
}

// open opens a stream of canaries and keeps it busy until the test ends.
func open(t testing.TB, m *labtest.Mesh, pod string, to netip.AddrPort) *stream {
	t.Helper()
	return openWith(t, m, pod, to, canary)
}

// openPlain is open for a connection that may be read.
func openPlain(t testing.TB, m *labtest.Mesh, pod string, to netip.AddrPort) *stream {
	t.Helper()
	return openWith(t, m, pod, to, plain)
}

func openWith(t testing.TB, m *labtest.Mesh, pod string, to netip.AddrPort, text string) *stream {
	t.Helper()
	c, err := dial(t, m, pod, to)
	if err != nil {
		t.Fatalf("%s to %s: %v", pod, to, err)
	}
	s := &stream{Conn: c, name: pod + " to " + to.String(), text: text, ended: make(chan struct{})}
	if err := exchange(c, text); err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
	stop := make(chan struct{})
	go s.run(stop)
	t.Cleanup(func() { close(stop); <-s.ended; c.Close() })
	return s
}

func (s *stream) run(stop <-chan struct{}) {
	defer close(s.ended)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if s.err = exchange(s.Conn, s.text); s.err != nil {
			s.at = time.Now()
			return
		}
		s.echoed.Add(int64(len(s.text)))
		select {
		case <-stop:
			return
		case <-tick.C:
		}
	}
}

// mustMove fails the test unless bytes go on moving.
func (s *stream) mustMove(t testing.TB) {
	t.Helper()
	before := s.echoed.Load()
	labtest.Await(t, s.name+" goes on", 5*time.Second, func() bool {
		select {
		case <-s.ended:
			t.Fatalf("%s was cut: %v", s.name, s.err)
		default:
		}
		return s.echoed.Load() > before+3*int64(len(s.text))
	})
}

// mustEnd waits for the stream's end and returns when and how it came.
func (s *stream) mustEnd(t testing.TB, within time.Duration) (time.Time, error) {
	t.Helper()
	select {
	case <-s.ended:
		return s.at, s.err
	case <-time.After(within):
		t.Fatalf("%s is still open after %s", s.name, within)
		return time.Time{}, nil
	}
}

// traffic makes new connections, one after the other, until stopped, and counts how they fared.
type traffic struct {
	ok, failed atomic.Int64
	lastErr    atomic.Value // string
	longest    atomic.Int64 // ns, the slowest good connection
	stop       func()
}

// load starts traffic of new connections from a pod; stop it to read its counts.
func load(t testing.TB, m *labtest.Mesh, pod string, to ...netip.AddrPort) *traffic {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	l := &traffic{stop: func() { cancel(); <-done }}
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			begin := time.Now()
			if err := ping(t, m, pod, to[i%len(to)]); err != nil {
				l.lastErr.Store(err.Error())
				l.failed.Add(1)
			} else {
				l.ok.Add(1)
				l.longest.Store(max(l.longest.Load(), int64(time.Since(begin))))
			}
			select {
			case <-ctx.Done():
			case <-time.After(2 * time.Millisecond): // the rate of the load, not a wait for anything
			}
		}
	}()
	t.Cleanup(l.stop)
	return l
}

// isReset tells that a connection ended by a RST.
func isReset(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "connection reset") || strings.Contains(err.Error(), "broken pipe"))
}
