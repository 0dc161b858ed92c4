package main

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	checkMessages = 20
	checkBytes    = 4 << 20
)

// check sends messages and bytes, and then looks into the kernel whether they went through the tunnel.
func (j *job) check(ctx context.Context) (outcome, error) {
	conn, err := j.target().Dial(ctx)
	if err != nil {
		return outcome{}, err
	}
	defer func() { _ = conn.Close() }()
	ask, err := messages(conn, j.Size)
	if err != nil {
		return outcome{}, err
	}
	for range checkMessages {
		if err := ask(); err != nil {
			return outcome{}, err
		}
	}
	before, err := j.tunnelled()
	if err != nil {
		return outcome{}, err
	}
	if err := fetch(ctx, j.target(), checkBytes); err != nil {
		return outcome{}, err
	}
	after, err := j.tunnelled()
	if err == nil && j.Tunnel != 0 && after-before < checkBytes {
		err = fmt.Errorf("of %d bytes only %d came through a connection to port %d", checkBytes, after-before, j.Tunnel)
	}
	return outcome{Count: checkMessages}, err
}

// tunnelled is how many bytes have come through the tunnels that are open.
func (j *job) tunnelled() (sum int64, err error) {
	if j.Tunnel == 0 {
		return 0, nil
	}
	all, err := netlink.SocketDiagTCPInfo(unix.AF_INET)
	if err != nil {
		return 0, fmt.Errorf("list the connections of the client's namespace: %w", err)
	}
	for _, s := range all {
		if s.InetDiagMsg.ID.DestinationPort == j.Tunnel && s.TCPInfo != nil {
			sum += int64(s.TCPInfo.Bytes_received)
		}
	}
	return sum, nil
}

// cutTunnels resets every connection out of this namespace to a port, as a fault of the network would.
func cutTunnels(port uint16) error {
	all, err := netlink.SocketDiagTCP(unix.AF_INET)
	if err != nil {
		return fmt.Errorf("list the connections of the client's namespace: %w", err)
	}
	cut := 0
	for _, s := range all {
		if s.ID.DestinationPort != port || s.State != netlink.TCP_ESTABLISHED {
			continue
		}
		local := &net.TCPAddr{IP: s.ID.Source, Port: int(s.ID.SourcePort)}
		remote := &net.TCPAddr{IP: s.ID.Destination, Port: int(s.ID.DestinationPort)}
		if err := netlink.SocketDestroy(local, remote); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("cut the tunnel to %s (a kernel with INET_DIAG_DESTROY can): %w", remote, err)
		}
		cut++
	}
	if cut == 0 {
		return fmt.Errorf("no tunnel to port %d is there to cut", port)
	}
	return nil
}
