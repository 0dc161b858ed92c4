package controller

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// listenAdmin listens on a unix socket that only its owner can open, and lets only root and the controller's own user
// pass, as the kernel says who connects.
func listenAdmin(path string, log *slog.Logger) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if conn, err := net.Dial("unix", path); err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("%s: another controller listens there", path)
	}
	// The socket gets its mode before it gets its name, so that there is no moment at which others can open it.
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(tmp, 0o600)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(tmp))
	}
	return &ownerListener{UnixListener: l, log: log}, nil
}

// listenLoopback listens for agentctl on TCP. Whoever reaches the address may ask everything, so it must be one that only
// this machine reaches; in a pod that is its own network namespace, which a port-forward enters.
func listenLoopback(address string) (net.Listener, error) {
	addr, err := netip.ParseAddrPort(address)
	if err != nil || !addr.Addr().IsLoopback() {
		return nil, fmt.Errorf("%q is not a loopback address with a port, such as 127.0.0.1:15013", address)
	}
	return net.Listen("tcp", address)
}

// ownerListener accepts connections of root and of its own user.
type ownerListener struct {
	*net.UnixListener
	log *slog.Logger
}

// Accept implements net.Listener. Others' connections are closed.
func (l *ownerListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(conn)
		if err == nil && mayAdminister(uid, os.Geteuid()) {
			return conn, nil
		}
		l.log.Warn("refused a connection to the admin socket", "uid", uid, "err", err)
		_ = conn.Close()
	}
}

func mayAdminister(uid uint32, own int) bool { return uid == 0 || int(uid) == own }

func peerUID(conn syscall.Conn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return cred.Uid, nil
}
