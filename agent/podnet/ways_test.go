package podnet

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// way is one of the ways in which apps connect.
type way struct {
	name    string
	socket  func(t *testing.T, f family) *sock
	prepare func(n *town, f family, s *sock) error
	connect func(s *sock, to unix.Sockaddr) error
	asked   bool           // connect sent the line too
	source  netip.AddrPort // what the app bound for IPv4, if not the pod's address and any port
	source6 netip.AddrPort
}

func tcpSock(t *testing.T, f family) *sock   { return newSock(t, f.domain, unix.IPPROTO_TCP) }
func mptcpSock(t *testing.T, f family) *sock { return newSock(t, f.domain, unix.IPPROTO_MPTCP) }
func untouched(*town, family, *sock) error   { return nil }

func blocking(s *sock, to unix.Sockaddr) error { return unix.Connect(s.fd, to) }

func nonBlocking(s *sock, to unix.Sockaddr) error {
	if err := unix.SetNonblock(s.fd, true); err != nil {
		return err
	}
	if err := unix.Connect(s.fd, to); err != unix.EINPROGRESS {
		return fmt.Errorf("connect answered %v, want EINPROGRESS", err)
	}
	fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}
	if n, err := unix.Poll(fds, 3000); n != 1 {
		return fmt.Errorf("poll answered %d, %v", n, err)
	}
	if errno, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR); errno != 0 || err != nil {
		return fmt.Errorf("SO_ERROR is %v, %v", unix.Errno(errno), err)
	}
	return unix.SetNonblock(s.fd, false)
}

// withoutCookie makes the namespace send Fast Open data in the SYN without having asked for a cookie first.
func withoutCookie(n *town, _ family, _ *sock) error {
	return os.WriteFile("/proc/sys/net/ipv4/tcp_fastopen", []byte("5"), 0)
}

func fastOpenSend(s *sock, to unix.Sockaddr) error {
	return unix.Sendto(s.fd, []byte("hello\n"), unix.MSG_FASTOPEN, to)
}

func fastOpenConnect(n *town, f family, s *sock) error {
	if err := withoutCookie(n, f, s); err != nil {
		return err
	}
	return unix.SetsockoptInt(s.fd, unix.SOL_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
}

func fastOpenWrite(s *sock, to unix.Sockaddr) error {
	if err := unix.Connect(s.fd, to); err != nil {
		return err
	}
	_, err := unix.Write(s.fd, []byte("hello\n"))
	return err
}

func bindTo(addr func(n *town, f family) unix.Sockaddr) func(*town, family, *sock) error {
	return func(n *town, f family, s *sock) error { return unix.Bind(s.fd, addr(n, f)) }
}

func lateBind(n *town, f family, s *sock) error {
	if err := unix.SetsockoptInt(s.fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return err
	}
	return unix.Bind(s.fd, f.sockaddr(netip.AddrPortFrom(n.second()[f.index], 0)))
}

func afterAnother(s *sock, to unix.Sockaddr) error {
	for range 2 {
		if err := unix.Connect(s.fd, to); err != nil {
			return err
		}
		if err := s.disconnect(); err != nil {
			return fmt.Errorf("disconnect: %w", err)
		}
	}
	return unix.Connect(s.fd, to)
}

func both(v4, v6 string) (netip.AddrPort, netip.AddrPort) {
	return netip.MustParseAddrPort(v4), netip.MustParseAddrPort(v6)
}

// ways are all of them. The second addresses are there.
func ways() []way {
	first4, first6 := both("10.99.0.1:7001", "[fd99::1]:7001")
	port4, port6 := both("0.0.0.0:7002", "[::]:7002")
	second4, second6 := both("10.99.0.201:7003", "[fd99::201]:7003")
	addr4, addr6 := both("10.99.0.201:0", "[fd99::201]:0")
	at := func(a4, a6 netip.AddrPort) func(*town, family) unix.Sockaddr {
		return func(_ *town, f family) unix.Sockaddr {
			if f.v6() {
				return f.sockaddr(a6)
			}
			return f.sockaddr(a4)
		}
	}
	return []way{
		{name: "blocking", socket: tcpSock, prepare: untouched, connect: blocking},
		{name: "non-blocking", socket: tcpSock, prepare: untouched, connect: nonBlocking},
		{name: "MSG_FASTOPEN", socket: tcpSock, prepare: withoutCookie, connect: fastOpenSend, asked: true},
		{name: "TCP_FASTOPEN_CONNECT", socket: tcpSock, prepare: fastOpenConnect, connect: fastOpenWrite, asked: true},
		{name: "MPTCP", socket: mptcpSock, prepare: untouched, connect: blocking},
		{name: "MPTCP, non-blocking", socket: mptcpSock, prepare: untouched, connect: nonBlocking},
		{name: "MPTCP, bound to a port", socket: mptcpSock, prepare: bindTo(func(_ *town, f family) unix.Sockaddr { return f.any(7004) }), connect: blocking,
			source: netip.MustParseAddrPort("0.0.0.0:7004"), source6: netip.MustParseAddrPort("[::]:7004")},
		{name: "io_uring", socket: tcpSock, prepare: untouched, connect: uringConnect},
		{name: "bound to address and port", socket: tcpSock, prepare: bindTo(at(first4, first6)), connect: blocking, source: first4, source6: first6},
		{name: "bound to a port", socket: tcpSock, prepare: bindTo(func(_ *town, f family) unix.Sockaddr { return f.any(7002) }), connect: blocking, source: port4, source6: port6},
		{name: "bound to the second address and a port", socket: tcpSock, prepare: bindTo(at(second4, second6)), connect: blocking, source: second4, source6: second6},
		{name: "bound to the second address", socket: tcpSock, prepare: bindTo(at(addr4, addr6)), connect: blocking, source: addr4, source6: addr6},
		{name: "bound to the second address, port at connect", socket: tcpSock, prepare: lateBind, connect: blocking, source: addr4, source6: addr6},
		{name: "bound to a device", socket: tcpSock, prepare: func(_ *town, _ family, s *sock) error {
			return unix.BindToDevice(s.fd, "eth0")
		}, connect: blocking},
		{name: "marked as other meshes' proxies are", socket: tcpSock, prepare: func(_ *town, _ family, s *sock) error {
			return unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_MARK, 0x539)
		}, connect: blocking},
		{name: "connected before", socket: tcpSock, prepare: untouched, connect: afterAnother},
		{name: "connected before, bound late to the second address", socket: tcpSock, prepare: lateBind, connect: afterAnother, source: addr4, source6: addr6},
	}
}

// TestEveryWayToConnectIsCapturedAndBothEndsSeeTheTruth goes every way in every family to apps on TCP and MPTCP sockets.
func TestEveryWayToConnectIsCapturedAndBothEndsSeeTheTruth(t *testing.T) {
	n := newTown(t)
	n.addSecond(t)
	for _, w := range ways() {
		for _, f := range families {
			for _, port := range []uint16{tcpPort, mptcpPort} {
				t.Run(fmt.Sprintf("%s/%s/%d", w.name, f.name, port), func(t *testing.T) { n.try(t, w, f, port, "out_captured") })
			}
		}
	}
}

// try goes one way, which moves a counter.
func (n *town) try(t *testing.T, w way, f family, port uint16, counter string) {
	var before map[string]uint64
	var s *sock
	dial := func() error {
		before = n.count(t)
		s = w.socket(t, f)
		// So that the next row may use the same port at once.
		if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
		if err := w.prepare(n, f, s); err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
		if err := w.connect(s, f.to(n.c, port)); err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		return nil
	}
	err := n.a.Run(dial)
	// A port that a connection to the same listener had is free again only once that one has gone, MPTCP's a little later.
	for range 50 {
		if !errors.Is(err, unix.EADDRNOTAVAIL) {
			break
		}
		s.close()
		time.Sleep(20 * time.Millisecond)
		err = n.a.Run(dial)
	}
	if err != nil {
		t.Fatal(err)
	}
	dst := netip.AddrPortFrom(n.c.Addrs[f.index], port)
	if got := s.peer(); got != dst {
		t.Errorf("getpeername says %s, dialled %s", got, dst)
	}
	own := s.own()
	n.checkSource(t, w, f, own)
	ask := s.ask
	if w.asked {
		ask = s.answer
	}
	got, err := ask()
	if err != nil {
		t.Error(err)
	}
	if want := fmt.Sprintf("accept %s, getpeername %s, getsockname %s", own, own, dst); got != want {
		t.Errorf("server saw %q, want %q", got, want)
	}
	after := n.count(t)
	if after[counter] == before[counter] {
		t.Errorf("the counter %s did not move", counter)
	}
	for _, reason := range []string{"out_local", "out_pending", "out_no_source", "out_error", "out_other", "in_error"} {
		if after[reason] != before[reason] {
			t.Errorf("counter %s moved", reason)
		}
	}
}

// checkSource checks getsockname on the client's side.
func (n *town) checkSource(t *testing.T, w way, f family, own netip.AddrPort) {
	t.Helper()
	want := w.source
	if f.v6() {
		want = w.source6
	}
	if !want.Addr().IsValid() || want.Addr().IsUnspecified() {
		want = netip.AddrPortFrom(n.kernelSource(t, f), want.Port())
	}
	if own.Addr() != want.Addr() || own.Port() == 0 || want.Port() != 0 && own.Port() != want.Port() {
		t.Errorf("getsockname says %s, want %s", own, want)
	}
}
