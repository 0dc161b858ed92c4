// Package sample is the app that demos and tests run in pods: an HTTP server, a TCP server, a client and a load
// generator. What matters about it is that it says whom it sees: every server reports the peer's address as accept(2)
// returned it and as getpeername(2) does.
//
// It is an ordinary app on purpose: it knows nothing of the mesh.
package sample

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// drainPatience is how long connections may take to end once the process was told to.
const drainPatience = 2 * time.Second

// Command is the command `sample` with its output at out.
func Command(out io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:           "sample",
		Short:         "A small app that says whom it sees: servers, a client, a load generator",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetOut(out)
	root.AddCommand(httpCommand(out), tcpCommand(out), clientCommand(out), loadCommand(out))
	return root
}

// listenAll listens on every port, on IPv4 and, where the machine has it, IPv6.
func listenAll(ctx context.Context, ports []uint16) ([]net.Listener, error) {
	var listeners []net.Listener
	for _, port := range ports {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return nil, errors.Join(err, closeAll(listeners))
		}
		listeners = append(listeners, l)
	}
	if len(listeners) == 0 {
		return nil, errors.New("no port to listen on")
	}
	return listeners, nil
}

func closeAll(listeners []net.Listener) error {
	var err error
	for _, l := range listeners {
		err = errors.Join(err, l.Close())
	}
	return err
}

// serveAll runs serve for every listener until ctx ends, then stop, and waits for all of them.
func serveAll(ctx context.Context, listeners []net.Listener, serve func(net.Listener) error, stop func(context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		g.Go(func() error { return serve(l) })
	}
	g.Go(func() error {
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainPatience)
		defer cancel()
		return stop(drain)
	})
	return g.Wait()
}

// peerName asks the kernel for the peer of a connection: getpeername(2). It may differ from what accept(2) said only
// if something below lies to one of them.
func peerName(conn net.Conn) string {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return ""
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return ""
	}
	var sa unix.Sockaddr
	if ctlErr := raw.Control(func(fd uintptr) { sa, err = unix.Getpeername(int(fd)) }); ctlErr != nil || err != nil {
		return ""
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port)).String()
	}
	return ""
}

// address writes an address of the net package the way peerName does.
func address(a net.Addr) string {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.String()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()).String()
}
