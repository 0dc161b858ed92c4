package cluster

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// link is the name of the pod's interface on the node.
func (p *barePod) link() string { return "bare" + strings.ReplaceAll(p.UID, "-", "")[:11] }

// join connects the pod with the node by a link of its own, with the addresses and routes that the plug-in ptp gives: on
// the node the gateway's address and a route to the pod, in the pod everything by the gateway. It returns eth0's address.
func (p *barePod) join(gateways []netip.Addr) (mac string, err error) {
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: p.link(), MTU: 1500}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(p.ns))}
	if err := netlink.LinkAdd(veth); err != nil {
		return "", fmt.Errorf("add veth: %w", err)
	}
	err = inNetns(p.ns, func() (err error) {
		mac, err = configurePod(p.Addrs, gateways)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("in the pod: %w", err)
	}
	host, err := netlink.LinkByName(p.link())
	if err != nil {
		return "", err
	}
	if err := netlink.LinkSetUp(host); err != nil {
		return "", err
	}
	for _, a := range p.Addrs {
		own := &netlink.Addr{IPNet: alone(gatewayOf(a, gateways)), Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrAdd(host, own); err != nil {
			return "", fmt.Errorf("add address %s: %w", own, err)
		}
		to := &netlink.Route{LinkIndex: host.Attrs().Index, Dst: alone(a), Scope: netlink.SCOPE_LINK}
		if err := netlink.RouteAdd(to); err != nil {
			return "", fmt.Errorf("route to %s: %w", a, err)
		}
	}
	return mac, nil
}

// configurePod gives the links of this namespace what a pod's have.
func configurePod(addrs, gateways []netip.Addr) (mac string, err error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return "", err
	}
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return "", err
	}
	if err := errors.Join(os.WriteFile("/proc/sys/net/ipv6/conf/eth0/accept_dad", []byte("0"), 0),
		netlink.LinkSetUp(lo), netlink.LinkSetUp(eth0)); err != nil {
		return "", err
	}
	for _, a := range addrs {
		if err := netlink.AddrAdd(eth0, &netlink.Addr{IPNet: alone(a), Flags: unix.IFA_F_NODAD}); err != nil {
			return "", fmt.Errorf("add address %s: %w", a, err)
		}
		gateway := gatewayOf(a, gateways)
		for _, r := range []*netlink.Route{
			{LinkIndex: eth0.Attrs().Index, Dst: alone(gateway), Scope: netlink.SCOPE_LINK},
			{LinkIndex: eth0.Attrs().Index, Dst: everywhere(a.Is6()), Gw: gateway.AsSlice()},
		} {
			if err := netlink.RouteAdd(r); err != nil {
				return "", fmt.Errorf("route %s: %w", r, err)
			}
		}
	}
	return eth0.Attrs().HardwareAddr.String(), nil
}

// leave removes the pod's link at once: the kernel takes its time to end a namespace, and the pod's addresses may be
// another's by then.
func (p *barePod) leave() error {
	host, err := netlink.LinkByName(p.link())
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return err
	}
	return netlink.LinkDel(host)
}

func gatewayOf(a netip.Addr, gateways []netip.Addr) netip.Addr {
	for _, g := range gateways {
		if g.Is6() == a.Is6() {
			return g
		}
	}
	return netip.Addr{}
}

// alone is the range of one address.
func alone(a netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(a, a.BitLen())) }
