package podnet

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// CheckAbort tries to end a connection of its own over loopback as Abort does, and returns why that is not possible: the
// kernel was built without CONFIG_INET_DIAG_DESTROY, or this process lacks CAP_NET_ADMIN.
func CheckAbort() error {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("try to end a connection: %w", err)
	}
	defer l.Close()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		return fmt.Errorf("try to end a connection: %w", err)
	}
	defer c.Close()
	d, err := openDiag()
	if err != nil {
		return err
	}
	defer d.close()
	err = d.destroy(c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort())
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("this process lacks CAP_NET_ADMIN: %w", err)
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("the kernel has no CONFIG_INET_DIAG_DESTROY: %w", err)
	}
	return err
}
