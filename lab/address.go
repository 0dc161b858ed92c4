package lab

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"
)

// Addresses of the fabric. The last part is written in decimal in both families: node 12 is 10.78.0.12 and fd78::12.
const (
	maxNodes       = 250
	dnsHost        = 253
	controllerHost = 254
)

// fabricPrefixes are the networks that nodes, the controller and DNS share.
func fabricAddrs(host int) []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix(fmt.Sprintf("10.78.0.%d/24", host)),
		netip.MustParsePrefix(fmt.Sprintf("fd78::%d/64", host)),
	}
}

func addrsOf(prefixes []netip.Prefix) []netip.Addr {
	addrs := make([]netip.Addr, len(prefixes))
	for i, p := range prefixes {
		addrs[i] = p.Addr()
	}
	return addrs
}

// planNodes numbers the nodes in the order of the manifests. Without any Node there is one, named n1.
func (p *plan) planNodes(objects []*object) error {
	if len(objects) == 0 {
		objects = []*object{{Kind: "Node", Metadata: objectMeta{Name: "n1"}}}
	}
	if len(objects) > maxNodes {
		return objects[maxNodes].bad("kind", "a lab has at most %d nodes", maxNodes)
	}
	for i, o := range objects {
		n := &Node{Name: o.Metadata.Name, Zone: o.Metadata.Labels[zoneLabel], Index: i + 1, Addrs: addrsOf(fabricAddrs(i + 1))}
		var err error
		if n.PodCIDRs, err = podCIDRs(o, n.Index); err != nil {
			return err
		}
		for _, other := range p.Nodes {
			if a, b, ok := overlap(n.PodCIDRs, other.PodCIDRs); ok {
				return o.bad("spec.podCIDRs", "%s overlaps %s of node %s", a, b, other.Name)
			}
		}
		p.Nodes = append(p.Nodes, n)
	}
	return nil
}

func podCIDRs(o *object, index int) ([]netip.Prefix, error) {
	var spec nodeSpec
	if err := o.decodeSpec(&spec); err != nil {
		return nil, err
	}
	given := spec.PodCIDRs
	if len(given) == 0 && spec.PodCIDR != "" {
		given = []string{spec.PodCIDR}
	}
	if len(given) == 0 {
		given = []string{fmt.Sprintf("10.77.%d.0/24", index), fmt.Sprintf("fd77:0:0:%d::/64", index)}
	}
	var prefixes []netip.Prefix
	for i, text := range given {
		field := fmt.Sprintf("spec.podCIDRs[%d]", i)
		prefix, err := netip.ParsePrefix(text)
		if err != nil || prefix.Addr().Is4In6() || prefix != prefix.Masked() {
			return nil, o.bad(field, "%q is not a network, like 10.77.1.0/24", text)
		}
		if prefix.Addr().BitLen()-prefix.Bits() < 3 {
			return nil, o.bad(field, "%s has no room for pods", prefix)
		}
		if slices.ContainsFunc(prefixes, func(q netip.Prefix) bool { return q.Addr().Is4() == prefix.Addr().Is4() }) {
			return nil, o.bad(field, "%s is the second of its family", prefix)
		}
		prefixes = append(prefixes, prefix)
	}
	// IPv4 first, so that the first address of a pod is too.
	slices.SortStableFunc(prefixes, func(a, b netip.Prefix) int { return a.Addr().BitLen() - b.Addr().BitLen() })
	return prefixes, nil
}

func overlap(a, b []netip.Prefix) (x, y netip.Prefix, ok bool) {
	for _, x := range a {
		for _, y := range b {
			if x.Overlaps(y) {
				return x, y, true
			}
		}
	}
	return x, y, false
}

// addressPod gives a pod its addresses: the lowest free number of its node (1 is the node's own), then those that its
// annotation adds.
func (p *plan) addressPod(pod *Pod, o *object) error {
	node := p.node(pod.Node)
	if pod.HostNetwork {
		pod.Addrs, pod.Number = slices.Clone(node.Addrs), 0
		return nil
	}
	if pod.Number == 0 {
		pod.Number = p.freeNumber(pod.Node)
	}
	for _, cidr := range node.PodCIDRs {
		if cidr.Addr().Is6() && pod.NoIPv6 {
			continue
		}
		addr, ok := nthAddr(cidr, pod.Number)
		if !ok {
			return o.bad("spec.nodeName", "no address is left in %s of node %s", cidr, node.Name)
		}
		pod.Addrs = append(pod.Addrs, addr)
	}
	if len(pod.Addrs) == 0 {
		return o.bad("metadata.annotations["+ipv6Annotation+"]", "node %s has IPv6 addresses only", node.Name)
	}
	return addExtraAddrs(pod, o)
}

func addExtraAddrs(pod *Pod, o *object) error {
	for text := range strings.SplitSeq(o.Metadata.Annotations[addressesAnnotation], ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" || addr.Is4In6() || !addr.IsGlobalUnicast() {
			return o.bad("metadata.annotations["+addressesAnnotation+"]", "%q is not an address that a pod can have", text)
		}
		if addr.Is6() && pod.NoIPv6 {
			return o.bad("metadata.annotations["+addressesAnnotation+"]", "%s: the pod has no IPv6", addr)
		}
		pod.Addrs = append(pod.Addrs, addr)
	}
	return nil
}

func (p *plan) freeNumber(node string) int {
	used := map[int]bool{1: true}
	for _, pod := range p.Pods {
		if pod.Node == node {
			used[pod.Number] = true
		}
	}
	n := 2
	for used[n] {
		n++
	}
	return n
}

// nthAddr is the nth address of a network; false if that is outside it, or is IPv4's broadcast address.
func nthAddr(prefix netip.Prefix, n int) (netip.Addr, bool) {
	bytes := prefix.Addr().AsSlice()
	sum := new(big.Int).Add(new(big.Int).SetBytes(bytes), big.NewInt(int64(n)))
	if sum.BitLen() > len(bytes)*8 {
		return netip.Addr{}, false
	}
	addr, _ := netip.AddrFromSlice(sum.FillBytes(bytes))
	if !prefix.Contains(addr) || addr.Is4() && !prefix.Contains(addr.Next()) {
		return netip.Addr{}, false
	}
	return addr, true
}

// checkAddresses refuses a lab in which two things have the same address.
func (p *plan) checkAddresses() error {
	owner := map[netip.Addr]string{}
	claim := func(who string, addrs []netip.Addr) error {
		for _, a := range addrs {
			if other, taken := owner[a]; taken {
				return fmt.Errorf("%w: address %s belongs to both %s and %s", ErrManifest, a, other, who)
			}
			owner[a] = who
		}
		return nil
	}
	type claimant struct {
		who   string
		addrs []netip.Addr
	}
	claims := []claimant{{"the lab's DNS", addrsOf(fabricAddrs(dnsHost))}, {"the controller", addrsOf(fabricAddrs(controllerHost))}}
	for _, n := range p.Nodes {
		claims = append(claims, claimant{"node " + n.Name, n.Addrs})
	}
	for _, s := range p.Services {
		claims = append(claims, claimant{"service " + s.FullName(), s.VIPs})
	}
	for _, pod := range p.Pods {
		if !pod.HostNetwork {
			claims = append(claims, claimant{"pod " + pod.FullName(), pod.Addrs})
		}
	}
	for _, c := range claims {
		if err := claim(c.who, c.addrs); err != nil {
			return err
		}
	}
	return nil
}

// newUID makes a random UUID, RFC 9562 version 4.
func newUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // documented never to fail
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", binary.BigEndian.Uint32(b[:4]), b[4:6], b[6:8], b[8:10], b[10:])
}
