package ztunnel_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/warren-mesh/warren/internal/meshtest"
	"github.com/warren-mesh/warren/internal/nettest"
	"github.com/warren-mesh/warren/ztunnel"
)

// TestNoLoopThroughThePodsOwnListeners: a pod's process finds the mesh's listeners and dials them.
func TestNoLoopThroughThePodsOwnListeners(t *testing.T) {
	m := meshtest.New(t, shop)
	pod := m.Pod("shop/web")
	listeners := meshListeners(t, pod.NS)
	if len(listeners) != 6 {
		t.Fatalf("the pod has listeners %v, want one of each role and family", listeners)
	}
	for _, l := range listeners {
		own := netip.AddrPortFrom(pod.Addrs[0], l.Port())
		if l.Addr().Is6() {
			own = netip.AddrPortFrom(pod.Addrs[1], l.Port())
		}
		for _, dst := range []netip.AddrPort{l, own} {
			t.Run(dst.String(), func(t *testing.T) {
				var c net.Conn
				err := pod.NS.Run(func() (err error) {
					c, err = net.DialTimeout("tcp", dst.String(), time.Second)
					return err
				})
				if err != nil {
					return // refused by the kernel
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(3 * time.Second))
				c.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
				if b, err := io.ReadAll(c); len(b) != 0 || errors.Is(err, timeoutError(err)) {
					t.Errorf("the connection was served: %q, %v", b, err)
				}
				meshtest.Eventually(t, "nothing is left open", func() bool { return m.Nodes["n1"].Proxy.OpenConnections() == 0 })
				if n := len(m.Records(func(r ztunnel.Record) bool { return r.Verdict == ztunnel.Forwarded })); n != 0 {
					t.Errorf("%d connections were forwarded", n)
				}
			})
		}
	}
	if records := m.Records(everything); len(records) > 2*len(listeners) {
		t.Errorf("%d connections were recorded, %d were made", len(records), 2*len(listeners))
		for _, r := range records {
			t.Log(describe(r))
		}
	}
	for _, r := range m.Records(func(r ztunnel.Record) bool { return r.Reason != ztunnel.ReasonNotCaptured }) {
		t.Errorf("recorded %s (%s), want %s", r.Reason, r.Detail, ztunnel.ReasonNotCaptured)
	}
}

func timeoutError(err error) error {
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return err
	}
	return errors.New("no timeout")
}

// meshListeners returns what listens inside a namespace without apps, by its address on loopback.
func meshListeners(t *testing.T, ns *nettest.NS) (out []netip.AddrPort) {
	t.Helper()
	ns.Do(t, func() error {
		for _, f := range []struct {
			file, local string
			addr        netip.Addr
		}{
			{"/proc/thread-self/net/tcp", "0100007F", netip.MustParseAddr("127.0.0.1")},
			{"/proc/thread-self/net/tcp6", "00000000000000000000000001000000", netip.MustParseAddr("::1")},
			{"/proc/thread-self/net/tcp6", "00000000000000000000000000000000", netip.MustParseAddr("::1")},
		} {
			ports, err := listening(f.file, f.local)
			if err != nil {
				return err
			}
			for _, p := range ports {
				out = append(out, netip.AddrPortFrom(f.addr, p))
			}
		}
		return nil
	})
	return out
}
