package podnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ownApp serves in a itself, on every address and family.
func (n *town) ownApp(t *testing.T) uint16 {
	own := &town{node: n.node, c: n.a}
	own.serveTruth(t, 8090, false)
	return 8090
}

// TestWhatStaysInThePodIsNotTouched: loopback, its own addresses, and the unspecified one which means loopback.
func TestWhatStaysInThePodIsNotTouched(t *testing.T) {
	n := newTown(t)
	n.addSecond(t)
	port := n.ownApp(t)
	v4, v6 := families[0], families[1]
	cases := []struct {
		name     string
		f        family
		dst, src string
	}{
		{"loopback", v4, "127.0.0.1", ""}, {"all of 127/8", v4, "127.1.2.3", ""}, {"loopback", v6, "::1", ""},
		{"mapped loopback", families[2], "127.0.0.1", ""},
		{"unspecified", v4, "0.0.0.0", ""}, {"unspecified", v6, "::", ""},
		{"own address", v4, "10.99.0.1", ""}, {"own address", v6, "fd99::1", ""},
		{"second own address", v4, "10.99.0.201", ""}, {"second own address", v6, "fd99::201", ""},
		{"own address from loopback", v4, "10.99.0.1", "127.0.0.1"}, {"own address from loopback", v6, "fd99::1", "::1"},
		{"own address from the second", v4, "10.99.0.1", "10.99.0.201"}, {"own address from the second", v6, "fd99::1", "fd99::201"},
	}
	for _, c := range cases {
		t.Run(c.name+"/"+c.f.name, func(t *testing.T) {
			before := n.count(t)
			var s *sock
			n.a.Do(t, func() error {
				s = tcpSock(t, c.f)
				if c.src != "" {
					if err := unix.Bind(s.fd, c.f.sockaddr(netip.AddrPortFrom(netip.MustParseAddr(c.src), 0))); err != nil {
						return err
					}
				}
				return unix.Connect(s.fd, c.f.sockaddr(netip.AddrPortFrom(netip.MustParseAddr(c.dst), port)))
			})
			got, err := s.ask()
			if want := fmt.Sprintf("accept %s, getpeername %s, getsockname %s", s.own(), s.own(), s.peer()); got != want || err != nil {
				t.Errorf("server saw %q, %v; want %q", got, err, want)
			}
			after := n.count(t)
			if after["out_local"] != before["out_local"]+1 || after["out_captured"] != before["out_captured"] || after["in_plaintext"] != before["in_plaintext"] {
				t.Errorf("counters moved from %v to %v", before, after)
			}
		})
	}
}

// TestASocketUsedOnLoopbackAfterACapturedConnectKeepsNothingOfIt: source and peer are loopback's again.
func TestASocketUsedOnLoopbackAfterACapturedConnectKeepsNothingOfIt(t *testing.T) {
	n := newTown(t)
	port := n.ownApp(t)
	for _, f := range families {
		loopback := netip.MustParseAddrPort("127.0.0.1:8090")
		if f.v6() {
			loopback = netip.MustParseAddrPort("[::1]:8090")
		}
		t.Run(f.name, func(t *testing.T) {
			var s *sock
			n.a.Do(t, func() error {
				s = tcpSock(t, f)
				return errors.Join(unix.Connect(s.fd, f.to(n.c, tcpPort)), s.disconnect(), unix.Connect(s.fd, f.sockaddr(loopback)))
			})
			if s.own().Addr() != loopback.Addr() || s.peer() != netip.AddrPortFrom(loopback.Addr(), port) {
				t.Errorf("socket is %s to %s, want loopback", s.own(), s.peer())
			}
			own := s.own()
			if got, err := s.ask(); got != fmt.Sprintf("accept %s, getpeername %s, getsockname %s", own, own, loopback) {
				t.Errorf("server saw %q, %v", got, err)
			}
		})
	}
}

// TestASocketBoundToLoopbackCannotLeaveThePod: it could not without a mesh, and a server that trusts loopback shall not
// be shown it as a peer.
func TestASocketBoundToLoopbackCannotLeaveThePod(t *testing.T) {
	n := newTown(t)
	for _, f := range families {
		src := netip.MustParseAddr("127.0.0.1")
		if f.v6() {
			src = netip.MustParseAddr("::1")
		}
		before := n.count(t)
		n.a.Do(t, func() error {
			s := tcpSock(t, f)
			if err := unix.Bind(s.fd, f.sockaddr(netip.AddrPortFrom(src, 0))); err != nil {
				return err
			}
			if err := unix.Connect(s.fd, f.to(n.c, tcpPort)); err != unix.EPERM {
				t.Errorf("%s: connect answered %v, want EPERM", f.name, err)
			}
			return nil
		})
		if after := n.count(t); after["out_no_source"] != before["out_no_source"]+1 {
			t.Errorf("%s: the refusal was not counted", f.name)
		}
	}
}

// TestDatagramsPassAndAreCounted: connected sockets once, others each datagram.
func TestDatagramsPassAndAreCounted(t *testing.T) {
	n := newNode(t)
	if err := n.pod.Enroll(); err != nil {
		t.Fatal(err)
	}
	n.b.Do(t, func() error {
		echo, err := net.ListenPacket("udp", ":8053")
		if err != nil {
			return err
		}
		t.Cleanup(func() { echo.Close() })
		go func() {
			b := make([]byte, 64)
			for {
				m, from, err := echo.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = echo.WriteTo(b[:m], from)
			}
		}()
		return nil
	})
	for _, f := range families {
		for _, connected := range []bool{true, false} {
			before := n.count(t)
			n.a.Do(t, func() error {
				fd, err := unix.Socket(f.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				s := &sock{fd}
				defer s.close()
				_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 3})
				to := f.to(n.b, 8053)
				if connected {
					err = errors.Join(unix.Connect(fd, to), unix.Send(fd, []byte("marco"), 0))
				} else {
					err = unix.Sendto(fd, []byte("marco"), 0, to)
				}
				if err != nil {
					return err
				}
				b := make([]byte, 64)
				m, from, err := unix.Recvfrom(fd, b, 0)
				if err != nil || string(b[:m]) != "marco" {
					return fmt.Errorf("echo answered %q, %w", b[:max(m, 0)], err)
				}
				want := netip.AddrPortFrom(n.b.Addrs[f.index], 8053)
				if ofSockaddr(from, nil) != want || connected && s.peer() != want {
					t.Errorf("%s: answer from %v, peer %s, want %s", f.name, ofSockaddr(from, nil), s.peer(), want)
				}
				return nil
			})
			after := n.count(t)
			counter := map[bool]string{true: "out_udp", false: "udp_sent"}[connected]
			if after[counter] != before[counter]+1 || after["out_captured"] != before["out_captured"] {
				t.Errorf("%s, connected=%v: counters moved from %v to %v", f.name, connected, before, after)
			}
		}
	}
}

// TestPingsPass on raw sockets, connected and not.
func TestPingsPass(t *testing.T) {
	n := newTown(t)
	request := []byte{8, 0, 0, 0, 0x13, 0x37, 0, 1}
	sum := uint32(8)<<8 + 0x1337 + 1
	request[2], request[3] = byte(^sum>>8), byte(^sum)
	for _, connected := range []bool{true, false} {
		n.a.Do(t, func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 3})
			to := &unix.SockaddrInet4{Addr: n.c.Addrs[0].As4()}
			if connected {
				err = errors.Join(unix.Connect(fd, to), unix.Send(fd, request, 0))
			} else {
				err = unix.Sendto(fd, request, 0, to)
			}
			if err != nil {
				return err
			}
			b := make([]byte, 128)
			for {
				m, _, err := unix.Recvfrom(fd, b, 0)
				if err != nil {
					return fmt.Errorf("connected=%v: no echo: %w", connected, err)
				}
				if m >= 28 && b[20] == 0 && b[24] == 0x13 && b[25] == 0x37 {
					return nil
				}
			}
		})
	}
}

// TestLinkLocalPassesOutAndIsServedIn: it cannot be tunnelled. Into a pod it is a connection without identity.
func TestLinkLocalPassesOutAndIsServedIn(t *testing.T) {
	n := newNode(t)
	if err := n.pod.Enroll(); err != nil {
		t.Fatal(err)
	}
	n.plaintextRelay(t)
	outside := &town{node: n, c: n.b}
	outside.serveTruth(t, tcpPort, false)
	inside := &town{node: n, c: n.a}
	inside.serveTruth(t, tcpPort, false)
	linkLocal := func(index int) (a netip.Addr, scope int) {
		ns := n.a
		if index == 1 {
			ns = n.b
		}
		ns.Do(t, func() error {
			eth0, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			eventually(t, "a link-local address", func() bool {
				list, _ := netlink.AddrList(eth0, netlink.FAMILY_V6)
				for _, l := range list {
					ip, _ := netip.AddrFromSlice(l.IP)
					if ip.IsLinkLocalUnicast() && l.Flags&unix.IFA_F_TENTATIVE == 0 {
						a = ip
					}
				}
				return a.IsValid()
			})
			scope = eth0.Attrs().Index
			return nil
		})
		return a, scope
	}
	aAddr, aScope := linkLocal(0)
	bAddr, bScope := linkLocal(1)
	if err := n.pod.Refresh(context.Background(), Choices{}); err != nil {
		t.Fatal(err)
	}
	ask := func(name string, s *sock, dst netip.Addr) {
		t.Helper()
		own := netip.AddrPortFrom(s.own().Addr(), s.own().Port())
		got, err := s.ask()
		if err != nil {
			t.Errorf("%s: %v (answer %q)", name, err, got)
		}
		want := fmt.Sprintf("accept %s, getpeername %s, getsockname %s", own.Addr(), own.Addr(), dst)
		if strip := linkLocalShape(got); strip != want {
			t.Errorf("%s: server saw %q, want %q", name, strip, want)
		}
	}
	before := n.count(t)
	n.a.Do(t, func() error {
		s := newSock(t, unix.AF_INET6, 0)
		err := unix.Connect(s.fd, &unix.SockaddrInet6{Port: tcpPort, Addr: bAddr.As16(), ZoneId: uint32(aScope)})
		if err == nil {
			ask("out", s, bAddr)
		}
		return err
	})
	if after := n.count(t); after["out_link_local"] != before["out_link_local"]+1 || after["out_captured"] != before["out_captured"] {
		t.Errorf("counters moved from %v to %v", before, after)
	}
	n.b.Do(t, func() error {
		s := newSock(t, unix.AF_INET6, 0)
		err := unix.Connect(s.fd, &unix.SockaddrInet6{Port: tcpPort, Addr: aAddr.As16(), ZoneId: uint32(bScope)})
		if err == nil {
			ask("in", s, aAddr)
		}
		return err
	})
	if after := n.count(t); after["in_plaintext"] != before["in_plaintext"]+1 {
		t.Errorf("counters moved from %v to %v", before, after)
	}
}

// linkLocalShape drops zones and ports from what the server said.
func linkLocalShape(answer string) string {
	var accept, peer, local string
	if _, err := fmt.Sscanf(answer, "accept %s getpeername %s getsockname %s", &accept, &peer, &local); err != nil {
		return answer
	}
	bare := func(s string) string {
		for len(s) > 0 && s[len(s)-1] == ',' {
			s = s[:len(s)-1]
		}
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			return s
		}
		return ap.Addr().WithZone("").String()
	}
	return fmt.Sprintf("accept %s, getpeername %s, getsockname %s", bare(accept), bare(peer), bare(local))
}
