package podnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Dial connects from the pod to dst. The source is `src` if it is valid and of dst's family, else what the pod's
// routes say. The socket is ztunnel's own: it is not captured.
func (p *Pod) Dial(ctx context.Context, src netip.Addr, dst netip.AddrPort) (*net.TCPConn, error) {
	conn, err := p.stockFor(dst.Addr()).take(ctx)
	if err != nil {
		return nil, err
	}
	if src.IsValid() && src.Is4() == dst.Addr().Is4() && !src.IsLoopback() {
		if err := control(conn, func(fd int) error {
			// The port is chosen at connect, when the whole 4-tuple tells whether it is free.
			if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
				return err
			}
			return unix.Bind(fd, sockaddr(netip.AddrPortFrom(src, 0)))
		}); err != nil {
			conn.Close()
			return nil, fmt.Errorf("bind to %s: %w", src, err)
		}
	}
	return conn, connect(ctx, conn, dst)
}

// DialApp connects to the pod's own app, whose end shows `client` as its peer. The source is the app's address:
// such a connection passes the capture. Call release when the connection has ended.
func (p *Pod) DialApp(ctx context.Context, client, app netip.AddrPort) (conn *net.TCPConn, release func(), err error) {
	if p.turnsTo(app) {
		return nil, nil, fmt.Errorf("connect to %s: %w", app, unix.ECONNREFUSED)
	}
	conn, err = p.stockFor(app.Addr()).take(ctx)
	if err != nil {
		return nil, nil, err
	}
	var local netip.AddrPort
	err = control(conn, func(fd int) error {
		if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(app.Addr(), 0))); err != nil {
			return err
		}
		sa, err := unix.Getsockname(fd)
		local = addrPort(sa)
		return err
	})
	if err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("bind to %s: %w", app.Addr(), err)
	}
	if err := p.slot.ShowPeer(app, local, client); err != nil {
		conn.Close()
		return nil, nil, err
	}
	release = func() { p.slot.HidePeer(app, local) }
	if err := connect(ctx, conn, app); err != nil {
		release()
		return nil, nil, err
	}
	return conn, release, nil
}

// turnsTo tells whether an own address of the pod is where its captured connections are turned to. No app listens there; who
// came to the listener from outside could be taken for the pod.
func (p *Pod) turnsTo(own netip.AddrPort) bool {
	for _, l := range p.Outbound {
		at := l.Addr().(*net.TCPAddr)
		if at.IP.IsUnspecified() && at.Port == int(own.Port()) && own.Addr().Unmap().Is6() {
			return true
		}
	}
	return false
}

func (p *Pod) stockFor(a netip.Addr) *stock {
	if a.Is4() {
		return p.stocks[0]
	}
	return p.stocks[1]
}

// control runs f on the fd of a connection or a listener.
func control(conn syscall.Conn, f func(fd int) error) error {
	rc, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := rc.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}

// connect connects conn, closing it on error. connect(2) is called again once the socket is writable: then it
// answers how the first call ended.
func connect(ctx context.Context, conn *net.TCPConn, dst netip.AddrPort) error {
	err := connectUntil(ctx, conn, dst)
	if err != nil {
		conn.Close()
		return fmt.Errorf("connect to %s: %w", dst, err)
	}
	return nil
}

func connectUntil(ctx context.Context, conn *net.TCPConn, dst netip.AddrPort) error {
	rc, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetWriteDeadline(deadline); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetWriteDeadline(time.Unix(1, 0)) })
	sa := sockaddr(dst)
	var cerr error
	werr := rc.Write(func(fd uintptr) bool {
		cerr = connectOnce(int(fd), sa)
		if cerr == unix.EINPROGRESS { // within one namespace the answer is there before connect(2) returns
			cerr = connectOnce(int(fd), sa)
		}
		return cerr != unix.EINPROGRESS && cerr != unix.EALREADY
	})
	if !stop() {
		return context.Cause(ctx)
	}
	if werr != nil {
		if errors.Is(werr, os.ErrDeadlineExceeded) {
			return context.DeadlineExceeded
		}
		return werr
	}
	if cerr != nil && cerr != unix.EISCONN {
		return cerr
	}
	return conn.SetWriteDeadline(time.Time{})
}

func connectOnce(fd int, sa unix.Sockaddr) error {
	for {
		if err := unix.Connect(fd, sa); err != unix.EINTR {
			return err
		}
	}
}

func sockaddr(ap netip.AddrPort) unix.Sockaddr {
	if a := ap.Addr().Unmap(); a.Is4() {
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16(), ZoneId: scope(ap.Addr().Zone())}
}

// scope turns a zone back into the interface's index. Package net made it of the pod's index by the names that the
// agent's own namespace has, so only those names turn it back.
func scope(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if i, err := net.InterfaceByName(zone); err == nil {
		return uint32(i.Index)
	}
	n, _ := strconv.ParseUint(zone, 10, 32)
	return uint32(n)
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
