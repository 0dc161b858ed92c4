package podnet

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/warren-mesh/warren/internal/nettest"
	"golang.org/x/sys/unix"
)

// town is a node whose pod "a" dials the pod "c" of the same node, both captured; "b" is outside.
type town struct {
	*node
	c    *nettest.NS
	podC *Pod
}

const (
	tcpPort   = 8080 // c's app on plain TCP sockets
	mptcpPort = 8081 // c's app on MPTCP sockets, as Go's own listeners are
)

func newTown(t testing.TB) *town {
	t.Helper()
	n := &town{node: newNode(t)}
	n.c = n.b // the second of the bridge, now a pod
	var err error
	if n.podC, err = Open(context.Background(), n.thread, n.capture, Spec{Netns: n.c.Path}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.podC.Close(); n.podC.Withdraw() })
	n.serveTruth(t, tcpPort, false)
	n.serveTruth(t, mptcpPort, true)
	n.deliver(t)
	for _, p := range []*Pod{n.pod, n.podC} {
		if err := p.Enroll(); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// serveTruth makes c's app answer a line with what it sees of the connection.
func (n *town) serveTruth(t testing.TB, port int, mptcp bool) {
	n.serve(t, port, mptcp, func(c *net.TCPConn) { go tellTruth(c) })
}

// serve has c's app take connections on a port.
func (n *town) serve(t testing.TB, port int, mptcp bool, take func(*net.TCPConn)) {
	n.c.Do(t, func() error {
		var lc net.ListenConfig
		lc.SetMultipathTCP(mptcp)
		l, err := lc.Listen(context.Background(), "tcp", fmt.Sprintf(":%d", port))
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
				take(c.(*net.TCPConn))
			}
		}()
		return nil
	})
}

func tellTruth(c *net.TCPConn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
		return
	}
	var peer netip.AddrPort
	_ = control(c, func(fd int) error { peer = ofSockaddr(unix.Getpeername(fd)); return nil })
	fmt.Fprintf(c, "accept %s, getpeername %s, getsockname %s", c.RemoteAddr(), peer, c.LocalAddr())
}

// deliver serves a's outbound listeners as ztunnel does for pods of one node.
func (n *town) deliver(t testing.TB) {
	n.relays.serve(n.pod.Outbound, func(c *net.TCPConn) {
		from := c.RemoteAddr().(*net.TCPAddr).AddrPort()
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		dst, _, err := n.pod.OriginalDst(from)
		if err != nil {
			t.Errorf("original destination of %s: %v", from, err)
			return
		}
		app, release, err := n.podC.DialApp(context.Background(), n.pod.Source(from), dst)
		if err != nil {
			return
		}
		defer release()
		n.relays.join(c, app)
	})
}

// second are the addresses that a got besides its first.
func (n *town) second() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("10.99.0.201"), netip.MustParseAddr("fd99::201")}
}

// addSecond gives a its second addresses, which the agent takes up.
func (n *town) addSecond(t *testing.T) {
	t.Helper()
	n.a.Do(t, func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for _, a := range n.second() {
			if err := n.a.AddAddr(eth0, a); err != nil {
				return err
			}
		}
		return nil
	})
	if err := n.pod.Refresh(context.Background(), Choices{}); err != nil {
		t.Fatal(err)
	}
}

// kernelSource is the source that the kernel chooses for sockets that nobody captures: UDP ones.
func (n *town) kernelSource(t *testing.T, f family) (src netip.Addr) {
	t.Helper()
	n.a.Do(t, func() error {
		fd, err := unix.Socket(f.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, f.to(n.c, 9)); err != nil {
			return err
		}
		src = ofSockaddr(unix.Getsockname(fd)).Addr()
		return nil
	})
	return src
}

func (n *node) count(t testing.TB) map[string]uint64 {
	t.Helper()
	c, err := n.capture.Counters()
	if err != nil {
		t.Fatal(err)
	}
	return c
}
