package lab

import (
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// podLink names the node's end of a pod's link.
func podLink(pod *Pod) string { return fmt.Sprintf("pod%d", pod.Number) }

// makePodNetwork creates a pod's namespace and its link to the node: a routed pair without a bridge, the pod's
// addresses on one end, its gateway on the other.
func makePodNetwork(p paths, pl *plan, pod *Pod) error {
	if pod.HostNetwork {
		return nil
	}
	sysctls := commonSysctls()
	if pod.NoIPv6 {
		sysctls = append(sysctls, "ipv6/conf/all/disable_ipv6=1", "ipv6/conf/default/disable_ipv6=1")
	}
	if err := createNetNS(p.netns(pod.netns()), sysctls...); err != nil {
		return err
	}
	node := pl.node(pod.Node)
	steps := []func() error{
		func() error { return plugPod(p, pod) },
		func() error {
			return inNetNS(p.netns(nodeNS(node.Name)), func() error { return routeToPod(node, pod) })
		},
		func() error { return inNetNS(p.netns(pod.netns()), func() error { return configurePod(node, pod) }) },
		func() error { return announceExtra(p, pl, pod) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("connect pod %s: %w", pod.FullName(), err)
		}
	}
	return nil
}

func plugPod(p paths, pod *Pod) error {
	ns, err := os.Open(p.netns(pod.netns()))
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	return inNetNS(p.netns(nodeNS(pod.Node)), func() error {
		if err := dropPodLink(pod); err != nil {
			return err
		}
		link := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: podLink(pod)},
			PeerName:  uplink, PeerNamespace: netlink.NsFd(int(ns.Fd())),
		}
		if err := netlink.LinkAdd(link); err != nil {
			return fmt.Errorf("add link: %w", err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("set link up: %w", err)
		}
		return inNetNS(p.netns(pod.netns()), func() error { return setUp(uplink) })
	})
}

// dropPodLink removes the node's end, and so both, now. Without it the link lives on until the kernel has cleaned up
// the pod's namespace, which somebody may still hold.
func dropPodLink(pod *Pod) error {
	link, err := netlink.LinkByName(podLink(pod))
	if err != nil {
		return nil //nolint:nilerr // not there: nothing to drop
	}
	if err := netlink.LinkDel(link); err != nil {
		return fmt.Errorf("delete link %s: %w", podLink(pod), err)
	}
	return nil
}

// routeToPod runs in the node's namespace. The node speaks to its pods from its own address, as a kubelet does.
func routeToPod(node *Node, pod *Pod) error {
	link, err := netlink.LinkByName(podLink(pod))
	if err != nil {
		return fmt.Errorf("find link %s: %w", podLink(pod), err)
	}
	for _, gw := range gateways(node) {
		if gw.Is6() {
			if err := addAddr(link, netip.PrefixFrom(gw, 64)); err != nil {
				return err
			}
		}
	}
	var routes []route
	for _, addr := range pod.Addrs {
		r := route{dst: hostPrefix(addr)}
		if i := slices.IndexFunc(node.Addrs, func(a netip.Addr) bool { return a.Is4() == addr.Is4() }); i >= 0 {
			r.src = node.Addrs[i]
		}
		routes = append(routes, r)
	}
	return addRoutes(podLink(pod), routes...)
}

// configurePod runs in the pod's namespace.
func configurePod(node *Node, pod *Pod) error {
	link, err := netlink.LinkByName(uplink)
	if err != nil {
		return fmt.Errorf("find link %s: %w", uplink, err)
	}
	for _, addr := range pod.Addrs {
		if err := addAddr(link, hostPrefix(addr)); err != nil {
			return err
		}
	}
	for _, gw := range gateways(node) {
		if gw.Is4() {
			err = addRoutes(uplink, route{dst: hostPrefix(gw)}, route{dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), via: gw})
		} else if !pod.NoIPv6 {
			err = addRoutes(uplink, route{dst: netip.PrefixFrom(netip.IPv6Unspecified(), 0), via: gw})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// announceExtra tells everybody else on the fabric about addresses outside the node's own pod networks.
func announceExtra(p paths, pl *plan, pod *Pod) error {
	routes := nodeRoutes(pl.node(pod.Node), extraPrefixes(pl, pod))
	if len(routes) == 0 {
		return nil
	}
	for _, ns := range fabricMembers(pl) {
		if ns == nodeNS(pod.Node) {
			continue
		}
		if err := inNetNS(p.netns(ns), func() error { return addRoutes(uplink, routes...) }); err != nil {
			return err
		}
	}
	return nil
}

// withdrawExtra undoes announceExtra; a route that is gone already is fine.
func withdrawExtra(p paths, pl *plan, pod *Pod) error {
	extra := extraPrefixes(pl, pod)
	if len(extra) == 0 {
		return nil
	}
	for _, ns := range fabricMembers(pl) {
		if ns == nodeNS(pod.Node) {
			continue
		}
		err := inNetNS(p.netns(ns), func() error {
			for _, prefix := range extra {
				if err := netlink.RouteDel(&netlink.Route{Dst: ipNet(prefix)}); err != nil && err != unix.ESRCH {
					return fmt.Errorf("delete route %s: %w", prefix, err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func extraPrefixes(pl *plan, pod *Pod) []netip.Prefix {
	var extra []netip.Prefix
	for _, addr := range pod.Addrs {
		contains := func(cidr netip.Prefix) bool { return cidr.Contains(addr) }
		if !pod.HostNetwork && !slices.ContainsFunc(pl.node(pod.Node).PodCIDRs, contains) {
			extra = append(extra, hostPrefix(addr))
		}
	}
	return extra
}

// fabricMembers are the namespaces on the fabric that route to pods.
func fabricMembers(pl *plan) []string {
	members := []string{dnsNS, controllerNS}
	for _, n := range pl.Nodes {
		members = append(members, nodeNS(n.Name))
	}
	return members
}

// removePodNetwork undoes makePodNetwork, however far that came.
func removePodNetwork(p paths, pl *plan, pod *Pod) error {
	if pod.HostNetwork {
		return nil
	}
	err := inNetNS(p.netns(nodeNS(pod.Node)), func() error { return dropPodLink(pod) })
	if err == nil {
		err = withdrawExtra(p, pl, pod)
	}
	if err != nil {
		return fmt.Errorf("disconnect pod %s: %w", pod.FullName(), err)
	}
	return deleteNetNS(p.netns(pod.netns()))
}

func hostPrefix(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }
