package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	fabricBridge = "br0"
	uplink       = "eth0" // the name of the one link towards the outside, in nodes and pods
)

// Every namespace uses an address as soon as it has it (no duplicate address detection), and filters by reverse path
// loosely, which is what systemd sets on the common distributions.
func commonSysctls() []string {
	return []string{
		"ipv6/conf/all/accept_dad=0", "ipv6/conf/default/accept_dad=0", "ipv6/conf/default/dad_transmits=0",
		"ipv6/conf/all/accept_ra=0", "ipv6/conf/default/accept_ra=0",
		"ipv4/conf/all/rp_filter=2", "ipv4/conf/default/rp_filter=2",
	}
}

func routerSysctls() []string {
	return append(commonSysctls(), "ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1", "ipv6/conf/default/forwarding=1")
}

// makeFabric creates the namespace with the bridge that stands for the network between nodes.
func makeFabric(p paths) error {
	if err := createNetNS(p.netns(fabricNS), commonSysctls()...); err != nil {
		return err
	}
	err := inNetNS(p.netns(fabricNS), func() error {
		snooping := false // without a multicast querier, snooping only delays neighbour discovery
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: fabricBridge}, MulticastSnooping: &snooping}
		if err := netlink.LinkAdd(br); err != nil {
			return fmt.Errorf("add bridge: %w", err)
		}
		return netlink.LinkSetUp(br)
	})
	if err != nil {
		return fmt.Errorf("make the fabric: %w", err)
	}
	return nil
}

// attachment is one namespace's link to the fabric.
type attachment struct {
	ns    string // name of the namespace
	port  string // name of the link's other end, on the bridge
	addrs []netip.Prefix
}

// attach creates a namespace and connects it to the fabric.
func attach(p paths, a attachment, sysctls []string) error {
	if err := createNetNS(p.netns(a.ns), sysctls...); err != nil {
		return err
	}
	if err := plug(p, a); err != nil {
		return fmt.Errorf("attach %s to the fabric: %w", a.ns, err)
	}
	return inNetNS(p.netns(a.ns), func() error {
		link, err := netlink.LinkByName(uplink)
		if err != nil {
			return fmt.Errorf("attach %s to the fabric: %w", a.ns, err)
		}
		for _, prefix := range a.addrs {
			if err := addAddr(link, prefix); err != nil {
				return fmt.Errorf("attach %s to the fabric: %w", a.ns, err)
			}
		}
		return nil
	})
}

// plug makes the link. The order matters: once both ends are up, the bridge forwards at once; the other way round it
// waits until the kernel reports the carrier, which can take a second.
func plug(p paths, a attachment) error {
	ns, err := os.Open(p.netns(a.ns))
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	return inNetNS(p.netns(fabricNS), func() error {
		port := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: a.port},
			PeerName:  uplink, PeerNamespace: netlink.NsFd(int(ns.Fd())),
		}
		if err := netlink.LinkAdd(port); err != nil {
			return fmt.Errorf("add link: %w", err)
		}
		if err := netlink.LinkSetUp(port); err != nil {
			return fmt.Errorf("set link up: %w", err)
		}
		if err := inNetNS(p.netns(a.ns), func() error { return setUp(uplink) }); err != nil {
			return err
		}
		br, err := netlink.LinkByName(fabricBridge)
		if err != nil {
			return fmt.Errorf("find the bridge: %w", err)
		}
		return netlink.LinkSetMaster(port, br)
	})
}

// setUp brings up a link of the calling thread's namespace.
func setUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set link %s up: %w", name, err)
	}
	return nil
}

func addAddr(link netlink.Link, prefix netip.Prefix) error {
	addr := &netlink.Addr{IPNet: ipNet(prefix)}
	if prefix.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := netlink.AddrAdd(link, addr); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add address %s: %w", prefix, err)
	}
	return nil
}

// makeNode creates a node and what it needs to route for its pods. Routes to other nodes come later, with [connect].
func makeNode(p paths, n *Node) error {
	port := fmt.Sprintf("node%d", n.Index)
	if err := attach(p, attachment{ns: nodeNS(n.Name), port: port, addrs: fabricAddrs(n.Index)}, routerSysctls()); err != nil {
		return err
	}
	err := inNetNS(p.netns(nodeNS(n.Name)), func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, gw := range gateways(n) {
			if gw.Is4() {
				if err := addAddr(lo, netip.PrefixFrom(gw, 32)); err != nil {
					return err
				}
			}
		}
		// Services' addresses get a route so that the node's own processes may dial them; vip.go answers for them.
		return addRoutes(uplink, route{dst: serviceCIDR4}, route{dst: serviceCIDR6})
	})
	if err != nil {
		return fmt.Errorf("make node %s: %w", n.Name, err)
	}
	return nil
}

// gateways are where a node's pods send everything: its first IPv4 pod address, and for IPv6 one link-local address,
// since a neighbour solicitation is answered only by the link that has the address (RFC 4861, section 7.2.3).
func gateways(n *Node) []netip.Addr {
	var gws []netip.Addr
	for _, cidr := range n.PodCIDRs {
		if cidr.Addr().Is6() {
			gws = append(gws, netip.MustParseAddr("fe80::1"))
			continue
		}
		gw, _ := nthAddr(cidr, 1)
		gws = append(gws, gw)
	}
	return gws
}

// route is one route of the calling thread's namespace; src and via may be invalid.
type route struct {
	dst netip.Prefix
	via netip.Addr
	src netip.Addr
}

func addRoutes(link string, routes ...route) error {
	dev, err := netlink.LinkByName(link)
	if err != nil {
		return fmt.Errorf("find link %s: %w", link, err)
	}
	for _, r := range routes {
		nr := &netlink.Route{LinkIndex: dev.Attrs().Index, Dst: ipNet(r.dst)}
		if r.via.IsValid() {
			nr.Gw = r.via.AsSlice()
		} else {
			nr.Scope = netlink.SCOPE_LINK
		}
		if r.src.IsValid() {
			nr.Src = r.src.AsSlice()
		}
		if err := netlink.RouteReplace(nr); err != nil {
			return fmt.Errorf("route %s via %s: %w", r.dst, link, err)
		}
	}
	return nil
}

// connect teaches a namespace on the fabric the way to the pods of every node but except.
func connect(p paths, ns string, nodes []*Node, except string) error {
	var routes []route
	for _, n := range nodes {
		if n.Name != except {
			routes = append(routes, nodeRoutes(n, n.PodCIDRs)...)
		}
	}
	err := inNetNS(p.netns(ns), func() error { return addRoutes(uplink, routes...) })
	if err != nil {
		return fmt.Errorf("connect %s: %w", ns, err)
	}
	return nil
}

// nodeRoutes lead to networks behind a node. Families that the node has no address of are left out.
func nodeRoutes(n *Node, networks []netip.Prefix) []route {
	var routes []route
	for _, network := range networks {
		for _, via := range n.Addrs {
			if via.Is4() == network.Addr().Is4() {
				routes = append(routes, route{dst: network, via: via})
			}
		}
	}
	return routes
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
