package podnet

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/warren-mesh/warren/bpf"
	"github.com/warren-mesh/warren/internal/nettest"
	"golang.org/x/sys/unix"
)

// node is a captured pod "a", and a namespace "b" outside, on one bridge.
type node struct {
	a, b    *nettest.NS
	capture *bpf.Capture
	pins    string
	thread  *Thread
	pod     *Pod
	relays  relays
}

// newNode makes a node; `more` namespaces are on its bridge too.
func newNode(t testing.TB, more ...*nettest.NS) *node {
	t.Helper()
	n := &node{a: nettest.New(t), b: nettest.New(t), thread: NewThread()}
	nettest.Join(t, append([]*nettest.NS{n.a, n.b}, more...)...)
	n.pins = filepath.Join("/sys/fs/bpf", fmt.Sprintf("warren-test-%d-%d", os.Getpid(), time.Now().UnixNano()))
	n.capture = n.openCapture(t)
	t.Cleanup(func() {
		n.capture.Close()
		if err := bpf.Remove(n.pins); err != nil {
			t.Error(err)
		}
	})
	var err error
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.thread.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	n.pod, err = Open(ctx, n.thread, n.capture, Spec{Netns: n.a.Path})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { n.closePod(); n.pod.Withdraw() })
	return n
}

// closePod ends the agent's part of the pod, as the agent's end does.
func (n *node) closePod() {
	n.pod.Close()
	n.relays.stop()
}

// openCapture opens the node's programs, or takes over what was there.
func (n *node) openCapture(t testing.TB) *bpf.Capture {
	t.Helper()
	root, err := bpf.CgroupRoot("")
	if err != nil {
		t.Fatal(err)
	}
	c, err := bpf.Open(bpf.Config{PinDir: n.pins, CgroupRoot: root, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	return c
}

// relay serves the pod's outbound listeners as ztunnel would, without a tunnel.
func (n *node) relay(t *testing.T) {
	pod := n.pod
	n.relays.serve(pod.Outbound, func(c *net.TCPConn) {
		client := c.RemoteAddr().(*net.TCPAddr).AddrPort()
		client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
		dst, _, err := pod.OriginalDst(client)
		if err != nil {
			t.Errorf("original destination of %s: %v", client, err)
			return
		}
		if u, err := pod.Dial(context.Background(), client.Addr(), dst); err == nil {
			n.relays.join(c, u)
		}
	})
}

// plaintextRelay serves the pod's plaintext listeners as ztunnel would without policy.
func (n *node) plaintextRelay(t *testing.T) {
	pod := n.pod
	n.relays.serve(pod.Plaintext, func(c *net.TCPConn) {
		client := c.RemoteAddr().(*net.TCPAddr).AddrPort()
		app := c.LocalAddr().(*net.TCPAddr).AddrPort()
		u, release, err := pod.DialApp(context.Background(), client, app)
		if err != nil {
			t.Error(err)
			return
		}
		defer release()
		n.relays.join(c, u)
	})
}

// fromOutside dials the app of "a" from "b", by the family of that index, and has f use the connection.
func (n *node) fromOutside(t *testing.T, family int, f func(net.Conn) error) {
	n.b.Do(t, func() error {
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(n.a.Addrs[family], 8080).String(), time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		return f(c)
	})
}

func whoami(ns *nettest.NS, t *testing.T) {
	ns.Do(t, func() error {
		l, err := net.Listen("tcp", ":8080")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(c, "%s %s", c.RemoteAddr(), c.LocalAddr())
				c.Close()
			}
		}()
		return nil
	})
}

func TestOutboundIsTurnedAndBothEndsSeeTheTruth(t *testing.T) {
	n := newNode(t)
	whoami(n.b, t)
	n.relay(t)
	dsts := map[string]netip.Addr{"v4": n.b.Addrs[0], "v6": n.b.Addrs[1], "v4-mapped": netip.AddrFrom16(n.b.Addrs[0].As16())}
	for name, dst := range dsts {
		t.Run(name, func(t *testing.T) {
			n.a.Do(t, func() error {
				if _, err := net.DialTimeout("tcp", netip.AddrPortFrom(dst, 8080).String(), time.Second); err == nil {
					return fmt.Errorf("a pending pod's connection passed")
				}
				return nil
			})
			if err := n.pod.Enroll(); err != nil {
				t.Fatal(err)
			}
			defer n.pod.Suspend()
			n.a.Do(t, func() error {
				c, err := net.DialTimeout("tcp", netip.AddrPortFrom(dst, 8080).String(), time.Second)
				if err != nil {
					return err
				}
				defer c.Close()
				got, err := io.ReadAll(c)
				t.Logf("client %s -> %s; server says %s", c.LocalAddr(), c.RemoteAddr(), got)
				if want := netip.AddrPortFrom(dst.Unmap(), 8080).String(); c.RemoteAddr().String() != want {
					t.Errorf("client's peer is %s, want %s", c.RemoteAddr(), want)
				}
				return err
			})
		})
	}
}

func TestInboundIsSteeredAndTheAppSeesTheClient(t *testing.T) {
	n := newNode(t)
	whoami(n.a, t)
	if err := n.pod.Enroll(); err != nil {
		t.Fatal(err)
	}
	n.plaintextRelay(t)
	for i, name := range []string{"v4", "v6"} {
		t.Run(name, func(t *testing.T) {
			n.fromOutside(t, i, func(c net.Conn) error {
				got, err := io.ReadAll(c)
				want := fmt.Sprintf("%s %s", c.LocalAddr(), c.RemoteAddr())
				if string(got) != want {
					t.Errorf("app saw %q, want %q", got, want)
				}
				return err
			})
		})
	}
}

// TestAcceptedConnectionsAreKeptAlive: a peer whose machine is gone is noticed after six minutes.
func TestAcceptedConnectionsAreKeptAlive(t *testing.T) {
	n := newNode(t)
	whoami(n.a, t)
	if err := n.pod.Enroll(); err != nil {
		t.Fatal(err)
	}
	options := make(chan [4]int, 1)
	n.relays.serve(n.pod.Plaintext, func(c *net.TCPConn) {
		defer c.Close()
		var got [4]int
		if err := control(c, func(fd int) (err error) {
			for i, o := range [][2]int{{unix.SOL_SOCKET, unix.SO_KEEPALIVE}, {unix.SOL_TCP, unix.TCP_KEEPIDLE}, {unix.SOL_TCP, unix.TCP_KEEPINTVL}, {unix.SOL_TCP, unix.TCP_KEEPCNT}} {
				if got[i], err = unix.GetsockoptInt(fd, o[0], o[1]); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		options <- got
	})
	for i, name := range []string{"v4", "v6"} {
		t.Run(name, func(t *testing.T) {
			n.fromOutside(t, i, func(c net.Conn) error {
				_, _ = io.ReadAll(c)
				return nil
			})
			select {
			case got := <-options:
				if want := [4]int{1, 180, 30, 6}; got != want {
					t.Errorf("keep-alive is %v, want %v", got, want)
				}
			case <-time.After(3 * time.Second):
				t.Error("nothing was accepted")
			}
		})
	}
}
