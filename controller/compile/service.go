package compile

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/api/resource"
	"github.com/warren-mesh/warren/controller/manifest"
)

const (
	// labelServiceProxy on a service says that another program than the cluster's own proxy answers its addresses.
	labelServiceProxy = "service.kubernetes.io/service-proxy-name"
	// defaultAffinity is how long a client stays with an endpoint if the service only says that it does, seconds.
	defaultAffinity = 10_800
)

// service is one service on its way to a resource.
type service struct {
	object *manifest.Object
	spec   *manifest.Service
	wire   *meshv1.Service
}

// frontends are the addresses and ports that lead to services, each claimed by one.
type frontends struct {
	vips      map[netip.Addr]*manifest.Object
	external  map[netip.AddrPort]*manifest.Object
	nodePorts map[uint16]*manifest.Object
	podAt     map[netip.Addr]*pod
}

// addServices makes a resource of every service that has endpoints of its own: an ExternalName's clients are told
// another name, and dial what that stands for. One with a virtual address of an older service is left out.
func (c *compiler) addServices(out *Output) {
	x := c.newIndex()
	f := &frontends{
		vips: make(map[netip.Addr]*manifest.Object), external: make(map[netip.AddrPort]*manifest.Object),
		nodePorts: make(map[uint16]*manifest.Object), podAt: x.podAt,
	}
	var services []*service
	for _, o := range c.services {
		svc := o.Spec.(*manifest.Service)
		if svc.Type == "ExternalName" {
			continue
		}
		if wire := c.newService(f, o, svc); wire != nil {
			services = append(services, &service{o, svc, wire})
		}
	}
	for _, s := range services { // after every virtual address is claimed, which no external one may take
		if len(s.wire.GetVips()) > 0 {
			c.addFrontends(f, s)
		}
		if len(x.slices[objectName{s.object.Namespace, s.object.Name}]) > 0 || len(s.spec.Selector) == 0 {
			s.wire.Endpoints = c.slicedEndpoints(x, s.object, s.spec)
		} else {
			s.wire.Endpoints = c.selectedEndpoints(s.object, s.spec)
		}
		if _, err := resource.DecodeService(s.wire); err != nil {
			c.problem(s.object, "left out: %v", err)
			continue
		}
		add(out, resource.Service(s.wire))
	}
	c.nodePortsUsed = len(f.nodePorts) > 0
	c.applyWaypoints(x)
	c.reportBypassed(services)
}

// newService returns a service without endpoints, nil if it is left out.
func (c *compiler) newService(f *frontends, o *manifest.Object, svc *manifest.Service) *meshv1.Service {
	vips, ok := c.serviceVIPs(f, o, svc)
	if !ok {
		return nil
	}
	sameNode, sameZone := c.distribution(o, svc)
	wire := &meshv1.Service{
		Namespace: o.Namespace, Name: o.Name, Hostname: o.Name + "." + o.Namespace + ".svc." + c.opts.ClusterDomain,
		Waypoint: c.serviceWaypointName(o),
		Vips:     wireAddrs(vips), PreferSameNode: sameNode, PreferSameZone: sameZone,
		InternalLocal: svc.InternalTrafficPolicy == "Local",
	}
	if svc.SessionAffinity == "ClientIP" {
		wire.AffinitySeconds = uint32(cmp.Or(max(svc.SessionAffinityConfig.ClientIP.TimeoutSeconds, 0), defaultAffinity))
	}
	for _, port := range tcpPorts(svc) {
		wire.Ports = append(wire.Ports, &meshv1.Port{Name: port.Name, Port: uint32(port.Port), AppProtocol: appProtocol(port)})
	}
	return wire
}

func (c *compiler) serviceVIPs(f *frontends, o *manifest.Object, svc *manifest.Service) ([]netip.Addr, bool) {
	var vips []netip.Addr
	if o.Meta.Labels[labelServiceProxy] != "" {
		return nil, true // whoever that is answers, as it does for pods outside the mesh
	}
	for _, ip := range svc.ClusterAddrs() {
		a, err := netip.ParseAddr(ip)
		if err != nil {
			c.problem(o, "left out: address %q", ip)
			return nil, false
		}
		a = a.Unmap()
		if other := f.vips[a]; other != nil {
			c.problem(o, "left out: address %s is also that of %s (%s), which is older", a, other.Key, other.Origin)
			return nil, false
		}
		if p := f.podAt[a]; p != nil {
			c.problem(o, "left out: address %s is also that of %s (%s)", a, p.object.Key, p.object.Origin)
			return nil, false
		}
		if slices.Contains(vips, a) {
			continue
		}
		vips = append(vips, a)
	}
	for _, a := range vips {
		f.vips[a] = o
	}
	return vips, true
}

// addFrontends adds where else a service is answered than at its virtual addresses: external and load balancers'
// addresses, and ports of nodes.
func (c *compiler) addFrontends(f *frontends, s *service) {
	for _, ip := range slices.Concat(s.spec.ExternalIPs, s.spec.LoadBalancerIPs) {
		if a, ok := c.externalAddr(f, s, ip); ok {
			s.wire.ExternalAddresses = append(s.wire.ExternalAddresses, a.AsSlice())
		}
	}
	for i, port := range tcpPorts(s.spec) {
		if port.NodePort == 0 {
			continue
		}
		if other := f.nodePorts[port.NodePort]; other != nil {
			c.problem(s.object, "node port %d does not lead to it: it is also that of %s (%s), which is older",
				port.NodePort, other.Key, other.Origin)
			continue
		}
		f.nodePorts[port.NodePort] = s.object
		s.wire.Ports[i].NodePort = uint32(port.NodePort)
	}
}

// externalAddr claims an external address for a service; false if it is not the service's to have: who may write a
// service must not be able to take a pod's address, or another service's.
func (c *compiler) externalAddr(f *frontends, s *service, ip string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(ip)
	a = a.Unmap()
	if err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() {
		c.problem(s.object, "external address %q does not lead to it: it is not one that a peer can have", ip)
		return a, false
	}
	taken := func(by *manifest.Object) bool {
		if by != nil {
			c.problem(s.object, "external address %s does not lead to it: it is also that of %s (%s)", a, by.Key, by.Origin)
		}
		return by != nil
	}
	if p := f.podAt[a]; p != nil && taken(p.object) || taken(f.vips[a]) {
		return a, false
	}
	ports := tcpPorts(s.spec)
	for _, port := range ports {
		by := f.external[netip.AddrPortFrom(a, port.Port)]
		if by == s.object {
			return a, false // written twice
		}
		if taken(by) {
			return a, false
		}
	}
	for _, port := range ports {
		f.external[netip.AddrPortFrom(a, port.Port)] = s.object
	}
	return a, len(ports) > 0
}

func (c *compiler) distribution(o *manifest.Object, svc *manifest.Service) (sameNode, sameZone bool) {
	switch v := cmp.Or(svc.TrafficDistribution, o.Meta.Annotations[manifest.AnnotationTrafficDistribution]); v {
	case "PreferSameNode":
		return true, true
	case "PreferClose", "PreferSameZone":
		return false, true
	case "", "Any":
	default:
		c.problem(o, "trafficDistribution %q is not supported and taken for none: "+
			"PreferClose, PreferSameZone and PreferSameNode are", v)
	}
	return false, false
}

func isTCP(protocol string) bool { return protocol == "" || protocol == "TCP" }

func tcpPorts(svc *manifest.Service) []manifest.ServicePort {
	var out []manifest.ServicePort
	for _, p := range svc.Ports {
		if isTCP(p.Protocol) {
			out = append(out, p)
		}
	}
	return out
}
