package podnet

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/bpf"
	"github.com/warren-mesh/warren/internal/nettest"
)

// permit lets the kernel connect a to c's apps.
func (n *town) permit(t testing.TB, generation uint64) {
	t.Helper()
	for _, a := range n.c.Addrs {
		for _, port := range []uint16{tcpPort, mptcpPort} {
			at := netip.AddrPortFrom(a, port)
			if err := n.pod.Permit(at, bpf.Neighbour{Addr: at, Netns: n.podC.Cookie()}, generation); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestEveryWayToConnectMayBeDirect, and both ends see the truth; but MPTCP's and sources that are not the usual one, which
// ztunnel carries.
func TestEveryWayToConnectMayBeDirect(t *testing.T) {
	n := newTown(t)
	n.addSecond(t)
	n.permit(t, n.capture.Generation())
	for _, w := range ways() {
		for _, f := range families {
			counter := "out_direct"
			if strings.Contains(w.name, "MPTCP") || !n.usual(w, f) {
				counter = "out_captured"
			}
			for _, port := range []uint16{tcpPort, mptcpPort} {
				t.Run(fmt.Sprintf("%s/%s/%d", w.name, f.name, port), func(t *testing.T) { n.try(t, w, f, port, counter) })
			}
		}
	}
}

// usual tells whether a way's source is the address that the kernel shows as the pod's own, or left to the kernel.
func (n *town) usual(w way, f family) bool {
	src, loopback := w.source, netip.MustParseAddrPort("127.0.0.1:0")
	if f.v6() {
		src, loopback = w.source6, netip.MustParseAddrPort("[::1]:0")
	}
	return !src.IsValid() || src.Addr().IsUnspecified() || src.Addr() == n.pod.Source(loopback).Addr()
}

// checkCarried connects from a to c and wants that to be carried by ztunnel's stand-in.
func (n *town) checkCarried(t *testing.T, what string) {
	t.Helper()
	for _, f := range families {
		t.Run(what+"/"+f.name, func(t *testing.T) { n.try(t, ways()[0], f, tcpPort, "out_captured") })
	}
}

// TestAPermitEndsWithItsGeneration, whatever began the next one: the agent, a pod of the node that comes or goes, or a new
// agent, which trusts nothing of what the one before permitted.
func TestAPermitEndsWithItsGeneration(t *testing.T) {
	n := newTown(t)
	n.permit(t, n.capture.Generation())
	n.try(t, ways()[0], families[0], tcpPort, "out_direct")
	if err := n.capture.Advance(n.capture.Generation() + 1); err != nil {
		t.Fatal(err)
	}
	n.checkCarried(t, "another generation")

	n.permit(t, n.capture.Generation())
	n.try(t, ways()[0], families[0], tcpPort, "out_direct")
	other := nettest.New(t)
	pod, err := Open(context.Background(), n.thread, n.capture, Spec{Netns: other.Path})
	if err != nil {
		t.Fatal(err)
	}
	pod.Close()
	if err := pod.Withdraw(); err != nil {
		t.Fatal(err)
	}
	n.checkCarried(t, "a pod went")

	n.permit(t, n.capture.Generation()-1)
	n.checkCarried(t, "a permit that comes late")

	n.permit(t, n.capture.Generation())
	if err := n.pod.Forbid(netip.AddrPortFrom(n.c.Addrs[0], tcpPort)); err != nil {
		t.Fatal(err)
	}
	t.Run("taken back", func(t *testing.T) { n.try(t, ways()[0], families[0], tcpPort, "out_captured") })
	if err := n.pod.Permit(netip.MustParseAddrPort("10.96.0.1:80"), bpf.Neighbour{Netns: 1}, n.capture.Generation()); err == nil {
		t.Error("a pod may be permitted that is not captured")
	}
}

// TestWithoutAnAgentNothingIsDirect: the connections of a pod whose listeners are gone are refused, permits or not.
func TestWithoutAnAgentNothingIsDirect(t *testing.T) {
	n := newTown(t)
	n.permit(t, n.capture.Generation())
	n.try(t, ways()[0], families[0], tcpPort, "out_direct")
	n.closePod()
	for _, f := range families {
		before := n.count(t)
		s, took, err := f.connect(t, n.a, n.c, tcpPort)
		if s != nil {
			defer s.close()
		}
		checkRefused(t, f.name, err, unix.ECONNREFUSED, took)
		if n.count(t)["out_direct"] != before["out_direct"] {
			t.Errorf("%s: it was let through", f.name)
		}
	}
}

// TestDirectConnectionsAreToldOf, in order, with both ends' namespaces, and those that are open outlast the agent: a new one
// finds them, and can end them.
func TestDirectConnectionsAreToldOf(t *testing.T) {
	n := newTown(t)
	n.permit(t, n.capture.Generation())
	follow := func() (events *bpf.Events, told func() ([]bpf.Direct, []bpf.Direct), stop func()) {
		events, err := n.capture.DirectEvents()
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var opened, ended []bpf.Direct
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			done <- events.Run(ctx, bpf.Followed{
				Opens: func(d bpf.Direct) { mu.Lock(); opened = append(opened, d); mu.Unlock() },
				Ended: func(d bpf.Direct, _ bpf.DirectEnd) { mu.Lock(); ended = append(ended, d); mu.Unlock() },
			})
		}()
		return events, func() ([]bpf.Direct, []bpf.Direct) { mu.Lock(); defer mu.Unlock(); return opened, ended }, func() { cancel(); <-done }
	}
	events, told, stop := follow()
	s, _, err := families[0].connect(t, n.a, n.c, tcpPort)
	if err != nil {
		t.Fatal(err)
	}
	own := s.own()
	events.Drain()
	opened, _ := told()
	if len(opened) != 1 || opened[0].Client != own || opened[0].Server != netip.AddrPortFrom(n.c.Addrs[0], tcpPort) ||
		opened[0].ClientNetns != n.pod.Cookie() || opened[0].ServerNetns != n.podC.Cookie() || time.Since(opened[0].At) > time.Minute {
		t.Fatalf("after Drain %+v are told of, want one from %s", opened, own)
	}
	stop()
	events, told, stop = follow()
	defer stop()
	open, err := n.capture.Directs()
	if err != nil || len(open) != 1 || open[0].Client != own || open[0].Connect <= 0 {
		t.Fatalf("open are %+v, %v", open, err)
	}
	if sent, received, err := n.pod.Traffic(own, open[0].Server); err != nil || sent != 0 || received != 0 {
		t.Errorf("traffic %d, %d, %v", sent, received, err)
	}
	if err := n.pod.Abort(own, open[0].Server); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ask(); err == nil {
		t.Error("the connection goes on")
	}
	eventually(t, "its end is told", func() bool { events.Drain(); _, ended := told(); return len(ended) == 1 && ended[0].Client == own })
	known, _ := n.capture.IsDirect(bpf.Ends{Client: own, Server: netip.AddrPortFrom(n.c.Addrs[0], tcpPort)})
	if open, err := n.capture.Directs(); err != nil || len(open) > 0 || known {
		t.Errorf("open still: %+v, %v", open, err)
	}
}

// TestThisMachineCanAbort: without that nothing is direct, and the tests of that would prove nothing.
func TestThisMachineCanAbort(t *testing.T) {
	if err := CheckAbort(); err != nil {
		t.Error(err)
	}
}
