package podnet

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/internal/nettest"
	"golang.org/x/sys/unix"
)

// sock is a socket as an app in C has it: Go's own would hide how it connects and which family it has.
type sock struct{ fd int }

// newSock makes a socket of the thread's namespace, none of whose calls blocks for more than 3 s.
func newSock(t *testing.T, domain, protocol int) *sock {
	t.Helper()
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		t.Fatalf("make socket: %v", err)
	}
	s := &sock{fd}
	t.Cleanup(s.close)
	limit := unix.Timeval{Sec: 3}
	for _, o := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, o, &limit); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *sock) close() {
	if s.fd >= 0 {
		unix.Close(s.fd)
		s.fd = -1
	}
}

func (s *sock) peer() netip.AddrPort { return ofSockaddr(unix.Getpeername(s.fd)) }
func (s *sock) own() netip.AddrPort  { return ofSockaddr(unix.Getsockname(s.fd)) }

func ofSockaddr(sa unix.Sockaddr, err error) netip.AddrPort {
	if err != nil {
		return netip.AddrPort{}
	}
	return addrPort(sa)
}

// ask sends one line and returns the answer up to the end of the connection.
func (s *sock) ask() (string, error) {
	if _, err := unix.Write(s.fd, []byte("hello\n")); err != nil {
		return "", fmt.Errorf("write: %w", err)
	}
	return s.answer()
}

func (s *sock) answer() (string, error) {
	var out strings.Builder
	b := make([]byte, 1024)
	for {
		n, err := unix.Read(s.fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return out.String(), fmt.Errorf("read: %w", err)
		case n == 0:
			return out.String(), nil
		}
		out.Write(b[:n])
	}
}

// disconnect dissolves the association, as connect(2) with AF_UNSPEC does.
func (s *sock) disconnect() error {
	var raw unix.RawSockaddrAny
	raw.Addr.Family = unix.AF_UNSPEC
	return connectRaw(s.fd, &raw, 16)
}

// family is how an app addresses its peer: the socket's domain and the address that it dials.
type family struct {
	name   string
	domain int
	index  int // of the address in nettest.NS.Addrs
}

var families = []family{{"v4", unix.AF_INET, 0}, {"v6", unix.AF_INET6, 1}, {"v4-mapped", unix.AF_INET6, 0}}

// to is where the family dials a namespace's port.
func (f family) to(ns *nettest.NS, port uint16) unix.Sockaddr {
	return f.sockaddr(netip.AddrPortFrom(ns.Addrs[f.index], port))
}

func (f family) sockaddr(ap netip.AddrPort) unix.Sockaddr {
	if f.domain == unix.AF_INET {
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
}

// any is the unspecified address, which an app binds to name a port only.
func (f family) any(port uint16) unix.Sockaddr {
	if f.domain == unix.AF_INET {
		return &unix.SockaddrInet4{Port: int(port)}
	}
	return &unix.SockaddrInet6{Port: int(port)}
}

// v6 tells that it travels by IPv6.
func (f family) v6() bool { return f.index == 1 }

// eventually waits until ok, at most 5 s.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 5 s: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
