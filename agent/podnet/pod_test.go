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
)

// node is a captured pod "a", and a namespace "b" outside, on one bridge.
type node struct {
	a, b    *nettest.NS
	capture *bpf.Capture
	thread  *Thread
	pod     *Pod
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{a: nettest.New(t), b: nettest.New(t), thread: NewThread()}
	nettest.Join(t, n.a, n.b)
	root, err := bpf.CgroupRoot()
	if err != nil {
		t.Fatal(err)
	}
	pins := filepath.Join("/sys/fs/bpf", fmt.Sprintf("warren-test-%d-%d", os.Getpid(), time.Now().UnixNano()))
	n.capture, err = bpf.Open(bpf.Config{PinDir: pins, CgroupRoot: root, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() {
		n.capture.Close()
		if err := bpf.Remove(pins); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.thread.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	n.pod, err = Open(ctx, n.thread, n.capture, Spec{Netns: n.a.Path})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { n.pod.Close(); n.pod.Withdraw() })
	return n
}

// relay serves the pod's outbound listeners as ztunnel would, without a tunnel.
func (n *node) relay(t *testing.T) {
	for _, l := range n.pod.Outbound {
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					client := c.RemoteAddr().(*net.TCPAddr).AddrPort()
					client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
					dst, _, err := n.pod.OriginalDst(client)
					if err != nil {
						t.Errorf("original destination of %s: %v", client, err)
						return
					}
					u, err := n.pod.Dial(context.Background(), client.Addr(), dst)
					if err != nil {
						return
					}
					defer u.Close()
					go func() { io.Copy(u, c); u.CloseWrite() }()
					io.Copy(c, u)
				}()
			}
		}()
	}
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
	for _, l := range n.pod.Plaintext {
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				client := c.RemoteAddr().(*net.TCPAddr).AddrPort()
				app := c.LocalAddr().(*net.TCPAddr).AddrPort()
				u, release, err := n.pod.DialApp(context.Background(), client, app)
				if err != nil {
					t.Error(err)
					c.Close()
					continue
				}
				io.Copy(c, u)
				c.Close()
				u.Close()
				release()
			}
		}()
	}
	for i, name := range []string{"v4", "v6"} {
		t.Run(name, func(t *testing.T) {
			n.b.Do(t, func() error {
				c, err := net.DialTimeout("tcp", netip.AddrPortFrom(n.a.Addrs[i], 8080).String(), time.Second)
				if err != nil {
					return err
				}
				defer c.Close()
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
