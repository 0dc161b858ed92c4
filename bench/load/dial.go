// Package load makes load: connections out of a pod's network namespace, requests on them in a closed loop or by the
// clock, and the latencies that they met.
package load

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Patience bounds one request. A measurement with one that takes longer has failed.
const Patience = 5 * time.Second

// Target is where requests go, and from where.
type Target struct {
	NetNS   string // path of the client's network namespace; empty is the process's own
	Address string
}

// Dial connects as an app in the pod would.
func (t Target) Dial(ctx context.Context) (net.Conn, error) {
	if t.NetNS == "" {
		return t.dial(ctx)
	}
	var conn net.Conn
	err := In(t.NetNS, func() (err error) {
		conn, err = t.dial(ctx)
		return err
	})
	return conn, err
}

func (t Target) dial(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{Timeout: Patience}
	d.SetMultipathTCP(false)
	return d.DialContext(ctx, "tcp4", t.Address)
}

// In runs f on a thread that is thrown away with the network namespace that it entered. Sockets that f makes, and
// processes that it starts, stay there.
func In(netns string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		ns, err := os.Open(netns)
		if err != nil {
			done <- err
			return
		}
		defer func() { _ = ns.Close() }()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter %s: %w", netns, err)
			return
		}
		done <- f()
	}()
	return <-done
}
