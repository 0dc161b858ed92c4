package compile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/controller/manifest"
)

const labelServiceName = "kubernetes.io/service-name"

// index is what endpoints are looked up by.
type index struct {
	podAt  map[netip.Addr]*pod
	byUID  map[string]*pod
	byName map[objectName]*pod
	slices map[objectName][]*manifest.Object // by the service that they are of
}

type objectName struct{ namespace, name string }

func (c *compiler) newIndex() *index {
	x := &index{
		podAt: make(map[netip.Addr]*pod, len(c.pods)), byUID: make(map[string]*pod, len(c.pods)),
		byName: make(map[objectName]*pod, len(c.pods)), slices: make(map[objectName][]*manifest.Object),
	}
	for _, p := range c.pods {
		x.byUID[p.workload.GetUid()] = p
		x.byName[objectName{p.object.Namespace, p.object.Name}] = p
		for _, a := range p.addrs {
			if !p.workload.GetHostNetwork() {
				x.podAt[a] = p
			}
		}
	}
	for _, o := range c.slices {
		// Names of hosts are the business of who resolves them: nobody routes to them by an address of the service.
		if o.Spec.(*manifest.EndpointSlice).AddressType != "FQDN" {
			of := objectName{o.Namespace, o.Meta.Labels[labelServiceName]}
			x.slices[of] = append(x.slices[of], o)
		}
	}
	return x
}

// behind returns the pod behind an endpoint, nil if it is none's, and whether the endpoint may be used.
//
// A slice and the pods that it names come by separate ways, so either may be the older. An endpoint that names a pod
// means that pod, whoever has the address: traffic to it must prove that it came to that very identity. It is left out
// if the pod is not known (it has ended, or is yet to be heard of), and if another pod has its address by now: what is
// sent there would reach that other one. Only if the other pod is going and this one is not is it the other's claim
// that is old. An endpoint that names no pod means its address, and so whoever has that.
func (x *index) behind(namespace string, ep manifest.SliceEndpoint, a netip.Addr) (p *pod, usable bool) {
	at, ref := x.podAt[a], ep.TargetRef
	p = x.byUID[ref.UID]
	if ref.Kind != manifest.KindPod || p != nil && p.object.Namespace != namespace {
		return at, true // who may write slices here has no word about pods elsewhere
	}
	if p == nil {
		// The API server's picture of a static pod has another uid than the pod. A name alone says little, a StatefulSet
		// gives it again and again; a name that has this address now is this pod.
		named := x.byName[objectName{namespace, ref.Name}]
		if named == nil || !slices.Contains(named.addrs, a) {
			return nil, false
		}
		p = named
	}
	stale := at != nil && at != p && (going(at) == 0 || going(p) == 1)
	return p, !stale
}

// slicedEndpoints are the endpoints of a service from its slices, which carry its label. Ports are joined by name.
func (c *compiler) slicedEndpoints(x *index, o *manifest.Object, svc *manifest.Service) []*meshv1.Endpoint {
	var out endpointSet
	for _, s := range x.slices[objectName{o.Namespace, o.Name}] {
		slice := s.Spec.(*manifest.EndpointSlice)
		targets := sliceTargets(svc, slice)
		if len(targets) == 0 {
			continue
		}
		ports := fmt.Sprint(targets)
		for _, ep := range slice.Endpoints {
			if wire := c.slicedEndpoint(x, s, ep); wire != nil {
				wire.TargetPorts = targets
				out.add(wire, ports)
			}
		}
	}
	return out.fold()
}

func sliceTargets(svc *manifest.Service, slice *manifest.EndpointSlice) map[uint32]uint32 {
	targets := make(map[uint32]uint32)
	for _, port := range tcpPorts(svc) {
		for _, sp := range slice.Ports {
			if sp.Name == port.Name && sp.Port != 0 && isTCP(sp.Protocol) {
				targets[uint32(port.Port)] = uint32(sp.Port)
			}
		}
	}
	return targets
}

// slicedEndpoint returns an endpoint by its first address, as kube-proxy reads it; nil if it cannot be used.
func (c *compiler) slicedEndpoint(x *index, slice *manifest.Object, ep manifest.SliceEndpoint) *meshv1.Endpoint {
	if len(ep.Addresses) == 0 {
		return nil
	}
	a, err := netip.ParseAddr(ep.Addresses[0])
	if err != nil {
		c.problem(slice, "an endpoint is left out: address %q", ep.Addresses[0])
		return nil
	}
	a = a.Unmap()
	is := func(condition *bool, absent bool) bool {
		return condition == nil && absent || condition != nil && *condition
	}
	wire := &meshv1.Endpoint{
		Addresses: wireAddrs([]netip.Addr{a}), Ready: is(ep.Conditions.Ready, true),
		Serving: is(ep.Conditions.Serving, true), Terminating: is(ep.Conditions.Terminating, false),
	}
	p, usable := x.behind(slice.Namespace, ep, a)
	if !usable {
		// One that is going is often named for a moment longer than its pod is known.
		if wire.GetReady() && !wire.GetTerminating() {
			c.problem(slice, "endpoint %s is left out: %s", a, x.whyUnusable(ep, a))
		}
		return nil
	}
	if p != nil {
		wire.WorkloadUid = p.workload.GetUid()
		return wire
	}
	wire.Node, wire.Zone = ep.NodeName, ep.Zone
	if node := c.nodes[ep.NodeName]; node != nil && wire.GetZone() == "" {
		wire.Zone = node.Meta.Labels[labelZone]
	}
	return wire
}

func (x *index) whyUnusable(ep manifest.SliceEndpoint, a netip.Addr) string {
	if at := x.podAt[a]; at != nil {
		return fmt.Sprintf("it is pod %s with uid %s there, but %s has the address",
			ep.TargetRef.Name, ep.TargetRef.UID, at.object.Key)
	}
	return fmt.Sprintf("nothing is known of its pod %s with uid %s", ep.TargetRef.Name, ep.TargetRef.UID)
}

// endpointSet collects endpoints of one service. While slices are rearranged one endpoint can be in two of them.
type endpointSet struct {
	all []backend
	at  map[backendKey]int // index in all
}

type backend struct {
	*meshv1.Endpoint
	ports string
}

// backendKey tells endpoints apart: by address and ports, or by pod, state and ports.
type backendKey struct {
	who   string
	use   int
	ports string
}

func (s *endpointSet) add(ep *meshv1.Endpoint, ports string) {
	if s.at == nil {
		s.at = make(map[backendKey]int)
	}
	key := backendKey{who: string(ep.GetAddresses()[0]), ports: ports}
	if i, dup := s.at[key]; !dup {
		s.at[key] = len(s.all)
		s.all = append(s.all, backend{ep, ports})
	} else if usefulness(ep) > usefulness(s.all[i].Endpoint) {
		s.all[i] = backend{ep, ports}
	}
}

// usefulness orders endpoints by what they are used for: any connection, none while another is ready, none at all.
func usefulness(ep *meshv1.Endpoint) int {
	switch {
	case ep.GetReady():
		return 2
	case ep.GetServing() && ep.GetTerminating():
		return 1
	}
	return 0
}

// fold returns the endpoints in order. The two families of one pod, which have slices of their own, are one endpoint.
func (s *endpointSet) fold() []*meshv1.Endpoint {
	slices.SortFunc(s.all, func(a, b backend) int {
		return cmp.Or(byAddress(a.Endpoint, b.Endpoint), cmp.Compare(a.ports, b.ports))
	})
	var out []*meshv1.Endpoint
	first := make(map[backendKey]*meshv1.Endpoint)
	for _, ep := range s.all {
		key := backendKey{ep.GetWorkloadUid(), usefulness(ep.Endpoint), ep.ports}
		if same := first[key]; same != nil && key.who != "" {
			same.Addresses = append(same.Addresses, ep.GetAddresses()...)
			continue
		}
		first[key] = ep.Endpoint
		out = append(out, ep.Endpoint)
	}
	return out
}

// byAddress puts IPv4 before IPv6.
func byAddress(a, b *meshv1.Endpoint) int {
	return slices.CompareFunc(a.GetAddresses(), b.GetAddresses(), func(x, y []byte) int {
		return cmp.Or(cmp.Compare(len(x), len(y)), slices.Compare(x, y))
	})
}
