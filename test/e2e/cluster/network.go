package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	cniPluginDir = "/usr/lib/cni"
	lanBridge    = "lan0"

	// The same addresses serve every cluster: no two share a network.
	podCIDR     = "10.244.0.0/14,fd44::/48" // a /24 for each of a thousand nodes
	serviceCIDR = "10.96.0.0/16,fd96::/112"
	apiService4 = "10.96.0.1"
	apiService6 = "fd96::1"
	dnsService4 = "10.96.0.10"
	dnsService6 = "fd96::a"
	apiPort     = 6443
)

// lanAddrs are a machine's addresses on the network between nodes; the control plane is 1, nodes are 11, 12, …
func lanAddrs(host int) []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix(fmt.Sprintf("10.89.0.%d/24", host)),
		netip.MustParsePrefix(fmt.Sprintf("fd89::%d/64", host)),
	}
}

// podRanges are what a node's pods get their addresses from.
func podRanges(node int) []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", node+1)),
		netip.MustParsePrefix(fmt.Sprintf("fd44:0:0:%d::/64", node+1)),
	}
}

// makeNetwork makes the machines' namespaces, and joins them by a bridge in the control plane's: what passes between
// nodes can be heard there.
func (c *Cluster) makeNetwork() error {
	cp, err := makeNetns(c.cp.Netns())
	if err != nil {
		return err
	}
	defer cp.Close()
	if err := inNetns(cp, c.configureLAN); err != nil {
		return err
	}
	for _, n := range c.nodes {
		ns, err := makeNetns(n.Netns())
		if err != nil {
			return err
		}
		err = errors.Join(inNetns(cp, func() error { return plug(n.Name, ns) }), inNetns(ns, n.configureNetwork))
		ns.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
	}
	return nil
}

func (c *Cluster) configureLAN() error {
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: lanBridge}}
	if err := netlink.LinkAdd(br); err != nil {
		return fmt.Errorf("add bridge: %w", err)
	}
	if err := configure(lanBridge, lanAddrs(1)); err != nil {
		return err
	}
	// The API server picks its identity from the default route's interface.
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: br.Attrs().Index, Dst: everywhere(false)}); err != nil {
		return fmt.Errorf("default route: %w", err)
	}
	return c.routeToPodsOf(c.nodes)
}

// plug gives the namespace ns its eth0, whose other end is on the bridge in this namespace.
func plug(name string, ns netns.NsHandle) error {
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(ns))}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth: %w", err)
	}
	port, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	br, err := netlink.LinkByName(lanBridge)
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetMaster(port, br), netlink.LinkSetUp(port))
}

func (n *Node) configureNetwork() error {
	if err := configure("eth0", n.lan); err != nil {
		return err
	}
	for _, gateway := range lanAddrs(1) {
		to := &netlink.Route{Dst: everywhere(gateway.Addr().Is6()), Gw: gateway.Addr().AsSlice()}
		if err := netlink.RouteAdd(to); err != nil {
			return fmt.Errorf("default route via %s: %w", gateway.Addr(), err)
		}
	}
	others := slices.DeleteFunc(slices.Clone(n.c.nodes), func(o *Node) bool { return o == n })
	return n.c.routeToPodsOf(others)
}

// configure gives a link of this namespace its addresses, ready at once, and makes the namespace forward.
func configure(link string, addrs []netip.Prefix) error {
	for file, value := range map[string]string{
		"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv6/conf/default/forwarding": "1",
		"ipv6/conf/default/accept_dad": "0",
	} {
		if err := os.WriteFile("/proc/sys/net/"+file, []byte(value), 0); err != nil {
			return err
		}
	}
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := errors.Join(netlink.LinkSetUp(lo), netlink.LinkSetUp(l)); err != nil {
		return err
	}
	for _, a := range addrs {
		if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(a), Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("add address %s to %s: %w", a, link, err)
		}
	}
	return nil
}

// routeToPodsOf is what a cloud's network does for nodes whose CNI plug-in does not tunnel.
func (c *Cluster) routeToPodsOf(nodes []*Node) error {
	for _, n := range nodes {
		for i, pods := range n.pods {
			if err := netlink.RouteAdd(&netlink.Route{Dst: ipNet(pods), Gw: n.lan[i].Addr().AsSlice()}); err != nil {
				return fmt.Errorf("route %s via %s: %w", pods, n.Name, err)
			}
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func everywhere(v6 bool) *net.IPNet {
	if v6 {
		return ipNet(netip.MustParsePrefix("::/0"))
	}
	return ipNet(netip.MustParsePrefix("0.0.0.0/0"))
}

// makeNetns makes a namespace that lives as long as something is mounted at path. It is not in /run/netns: there, the
// first "ip netns add" on a machine mounts everything twice.
func makeNetns(path string) (ns netns.NsHandle, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return netns.None(), err
	}
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		return netns.None(), err
	}
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		if err := unix.Mount(self, path, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		ns, err = netns.GetFromPath(path)
		return err
	})
	if err != nil {
		return netns.None(), fmt.Errorf("make network namespace %s: %w", path, err)
	}
	return ns, nil
}

// removeNetwork removes every network namespace of the cluster, and with them their links.
func (c *Cluster) removeNetwork() (err error) {
	entries, err := os.ReadDir(c.path("netns"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		path := c.netns(e.Name())
		if e := unix.Unmount(path, unix.MNT_DETACH); e != nil && !errors.Is(e, unix.EINVAL) {
			err = errors.Join(err, fmt.Errorf("unmount %s: %w", path, e))
		}
		if e := os.Remove(path); e != nil {
			err = errors.Join(err, e)
		}
	}
	return err
}

// inNetns runs f in a namespace. Sockets and processes that f makes stay there.
func inNetns(ns netns.NsHandle, f func() error) error {
	return onThread(func() error {
		if err := netns.Set(ns); err != nil {
			return err
		}
		return f()
	})
}

// onThread runs f on a thread of its own, which is thrown away with whatever namespace f left it in.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// dialIn dials from the namespace at a path. The address must be numeric: names would be looked up on other threads.
func dialIn(ctx context.Context, path, network, address string) (conn net.Conn, err error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	err = inNetns(ns, func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}
