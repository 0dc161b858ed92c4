// Package nettest gives tests real network namespaces, joined by a bridge, without touching the host's own.
//
// Tests need root; without it they fail, so that a green run has run.
package nettest

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// NS is a network namespace that lives as long as the test.
type NS struct {
	// File is the namespace; Path is where another process of the test finds it.
	File *os.File
	Path string
	// Addrs are its addresses on the fabric, IPv4 first.
	Addrs []netip.Addr
}

// New makes an empty namespace with loopback up.
func New(tb testing.TB) *NS {
	tb.Helper()
	ns := &NS{}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare (are you root?): %w", err)
		}
		f, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		if err != nil {
			return err
		}
		ns.File = f
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0)
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		tb.Fatal(err)
	}
	ns.Path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.File.Fd())
	tb.Cleanup(func() { ns.File.Close() })
	return ns
}

// onThread runs f on a thread of its own, which is thrown away with whatever namespace f left it in. Go's runtime signals
// threads to preempt them; this one takes no such signal, as an app in C gets none: it would interrupt system calls on
// sockets with a time limit, which the kernel does not restart (signal(7)).
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		var preempt unix.Sigset_t
		preempt.Val[0] = 1 << (unix.SIGURG - 1)
		if err := unix.PthreadSigmask(unix.SIG_BLOCK, &preempt, nil); err != nil {
			done <- fmt.Errorf("block the runtime's signals: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// Do runs f inside the namespace. Sockets that f makes stay there.
func (ns *NS) Do(tb testing.TB, f func() error) {
	tb.Helper()
	if err := ns.Run(f); err != nil {
		tb.Fatal(err)
	}
}

// Run is Do for errors that the test expects.
func (ns *NS) Run(f func() error) error {
	return onThread(func() error {
		if err := netns.Set(netns.NsHandle(ns.File.Fd())); err != nil {
			return err
		}
		return f()
	})
}

// Join connects the namespaces by a bridge: 10.99.0.1 and fd99::1 for the first, and so on. It returns the namespace of
// the bridge, through which all that passes between them goes.
func Join(tb testing.TB, nss ...*NS) (hub *NS) {
	tb.Helper()
	hub = New(tb)
	hub.Do(tb, func() error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
		if err := netlink.LinkAdd(br); err != nil {
			return fmt.Errorf("add bridge: %w", err)
		}
		if err := netlink.LinkSetUp(br); err != nil {
			return err
		}
		for i, ns := range nss {
			if err := plug(br, i, ns); err != nil {
				return err
			}
		}
		return nil
	})
	for i, ns := range nss {
		ns.Addrs = []netip.Addr{netip.AddrFrom4([4]byte{10, 99, 0, byte(i + 1)}), netip.MustParseAddr(fmt.Sprintf("fd99::%d", i+1))}
		ns.Do(tb, func() error { return ns.configure() })
	}
	return hub
}

func plug(br *netlink.Bridge, i int, ns *NS) error {
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("p%d", i)}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.File.Fd())}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth: %w", err)
	}
	l, err := netlink.LinkByName(veth.Name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetMaster(l, br); err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

func (ns *NS) configure() error {
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/eth0/accept_dad", []byte("0"), 0)
	for _, a := range ns.Addrs {
		if err := ns.AddAddr(l, a); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(l)
}

// AddAddr adds one more address of the fabric's subnets. Call it inside Do.
func (ns *NS) AddAddr(l netlink.Link, a netip.Addr) error {
	bits := 24
	if a.Is6() {
		bits = 64
	}
	ipnet := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}
	err := netlink.AddrAdd(l, &netlink.Addr{IPNet: ipnet, Flags: unix.IFA_F_NODAD})
	if err != nil {
		return fmt.Errorf("add address %s: %w", a, err)
	}
	return nil
}
