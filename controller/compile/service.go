package compile

import (
	"net/netip"
	"slices"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/api/resource"
	"github.com/warren-mesh/warren/controller/manifest"
)

const labelServiceName = "kubernetes.io/service-name"

// addServices makes a resource of every service. One with a virtual address of an older service is left out.
func (c *compiler) addServices(out *Output) {
	byVIP := make(map[netip.Addr]*manifest.Object)
	podAt := make(map[netip.Addr]*pod, len(c.pods))
	for _, p := range c.pods {
		for _, a := range p.addrs {
			if !p.workload.GetHostNetwork() {
				podAt[a] = p
			}
		}
	}
	for _, o := range c.services {
		svc := o.Spec.(*manifest.Service)
		if svc.Type == "ExternalName" {
			continue
		}
		vips, ok := c.serviceVIPs(o, svc, byVIP, podAt)
		if !ok {
			continue
		}
		wire := &meshv1.Service{
			Namespace: o.Namespace, Name: o.Name, Hostname: o.Name + "." + o.Namespace + ".svc." + c.opts.ClusterDomain,
			Vips: wireAddrs(vips), PreferSameZone: c.prefersSameZone(o, svc),
		}
		for _, port := range tcpPorts(svc) {
			wire.Ports = append(wire.Ports, &meshv1.Port{Name: port.Name, Port: uint32(port.Port)})
		}
		if len(svc.Selector) > 0 {
			wire.Endpoints = c.selectedEndpoints(o, svc)
		} else {
			wire.Endpoints = c.slicedEndpoints(o, svc, podAt)
		}
		if _, err := resource.DecodeService(wire); err != nil {
			c.problem(o, "left out: %v", err)
			continue
		}
		add(out, resource.Service(wire))
	}
}

func (c *compiler) serviceVIPs(o *manifest.Object, svc *manifest.Service, byVIP map[netip.Addr]*manifest.Object, podAt map[netip.Addr]*pod) ([]netip.Addr, bool) {
	var vips []netip.Addr
	for _, ip := range svc.ClusterAddrs() {
		a, err := netip.ParseAddr(ip)
		if err != nil {
			c.problem(o, "left out: address %q", ip)
			return nil, false
		}
		a = a.Unmap()
		if other := byVIP[a]; other != nil {
			c.problem(o, "left out: address %s is also that of %s (%s), which is older", a, other.Key, other.Origin)
			return nil, false
		}
		if p := podAt[a]; p != nil {
			c.problem(o, "left out: address %s is also that of %s (%s)", a, p.object.Key, p.object.Origin)
			return nil, false
		}
		if slices.Contains(vips, a) {
			continue
		}
		vips = append(vips, a)
	}
	for _, a := range vips {
		byVIP[a] = o
	}
	return vips, true
}

func (c *compiler) prefersSameZone(o *manifest.Object, svc *manifest.Service) bool {
	v := svc.TrafficDistribution
	if v == "" {
		v = o.Meta.Annotations[manifest.AnnotationTrafficDistribution]
	}
	switch v {
	case "PreferClose", "PreferSameZone":
		return true
	case "", "Any":
	default:
		c.problem(o, "trafficDistribution %q is not supported and taken for none: PreferClose and PreferSameZone are", v)
	}
	return false
}

func tcpPorts(svc *manifest.Service) []manifest.ServicePort {
	var out []manifest.ServicePort
	for _, p := range svc.Ports {
		if p.Protocol == "" || p.Protocol == "TCP" {
			out = append(out, p)
		}
	}
	return out
}

// selectedEndpoints are the pods that the service's selector selects, in order of namespace and name.
func (c *compiler) selectedEndpoints(o *manifest.Object, svc *manifest.Service) []*meshv1.Endpoint {
	var out []*meshv1.Endpoint
	for _, p := range c.pods {
		if p.object.Namespace != o.Namespace || !matches(svc.Selector, p.object.Meta.Labels) {
			continue
		}
		targets := c.targetPorts(o, svc, p)
		if len(targets) == 0 {
			continue
		}
		out = append(out, &meshv1.Endpoint{
			WorkloadUid: p.workload.GetUid(), Addresses: wireAddrs(p.addrs), TargetPorts: targets,
			Ready: svc.PublishNotReadyAddresses || ready(p),
		})
	}
	sortEndpoints(out)
	return out
}

func sortEndpoints(eps []*meshv1.Endpoint) {
	slices.SortFunc(eps, func(a, b *meshv1.Endpoint) int {
		return slices.CompareFunc(a.GetAddresses(), b.GetAddresses(), slices.Compare)
	})
}

func (c *compiler) targetPorts(o *manifest.Object, svc *manifest.Service, p *pod) map[uint32]uint32 {
	targets := make(map[uint32]uint32)
	for _, port := range tcpPorts(svc) {
		switch {
		case port.TargetPort.Name != "":
			n := containerPort(p.spec, port.TargetPort.Name)
			if n == 0 {
				c.problem(o, "port %d: targetPort %q is no TCP port of a container of %s (%s)", port.Port, port.TargetPort.Name, p.object.Key, p.object.Origin)
				continue
			}
			targets[uint32(port.Port)] = uint32(n)
		case port.TargetPort.Number != 0:
			targets[uint32(port.Port)] = uint32(port.TargetPort.Number)
		default:
			targets[uint32(port.Port)] = uint32(port.Port)
		}
	}
	return targets
}

// containerPort returns the number of a named TCP port, 0 if no container has it. Of the init containers only
// sidecars run beside the app.
func containerPort(spec *manifest.Pod, name string) uint16 {
	containers := slices.Clone(spec.Spec.Containers)
	for _, init := range spec.Spec.InitContainers {
		if init.RestartPolicy == "Always" {
			containers = append(containers, init)
		}
	}
	for _, container := range containers {
		for _, port := range container.Ports {
			if port.Name == name && (port.Protocol == "" || port.Protocol == "TCP") {
				return port.ContainerPort
			}
		}
	}
	return 0
}

// ready tells whether a pod takes connections: its Ready condition says so, or its phase if there is no condition.
func ready(p *pod) bool {
	if p.object.Meta.DeletionTimestamp != "" {
		return false
	}
	for _, cond := range p.spec.Status.Conditions {
		if cond.Type == "Ready" {
			return cond.Status == "True"
		}
	}
	return p.spec.Status.Phase == "" || p.spec.Status.Phase == "Running"
}

// slicedEndpoints are the endpoints of a service without a selector, from the slices that carry its label. Ports are
// joined by name.
func (c *compiler) slicedEndpoints(o *manifest.Object, svc *manifest.Service, podAt map[netip.Addr]*pod) []*meshv1.Endpoint {
	var out []*meshv1.Endpoint
	for _, s := range c.slices {
		if s.Namespace != o.Namespace || s.Meta.Labels[labelServiceName] != o.Name {
			continue
		}
		slice := s.Spec.(*manifest.EndpointSlice)
		targets := make(map[uint32]uint32)
		for _, port := range tcpPorts(svc) {
			for _, sp := range slice.Ports {
				if sp.Name == port.Name && sp.Port != 0 && (sp.Protocol == "" || sp.Protocol == "TCP") {
					targets[uint32(port.Port)] = uint32(sp.Port)
				}
			}
		}
		for _, ep := range slice.Endpoints {
			if wire := slicedEndpoint(ep, targets, podAt); wire != nil {
				out = append(out, wire)
			}
		}
	}
	sortEndpoints(out)
	return out
}

func slicedEndpoint(ep manifest.SliceEndpoint, targets map[uint32]uint32, podAt map[netip.Addr]*pod) *meshv1.Endpoint {
	wire := &meshv1.Endpoint{TargetPorts: targets, Ready: ep.Conditions.Ready == nil || *ep.Conditions.Ready}
	for _, ip := range ep.Addresses {
		a, err := netip.ParseAddr(ip)
		if err != nil {
			continue
		}
		a = a.Unmap()
		wire.Addresses = append(wire.Addresses, a.AsSlice())
		if p := podAt[a]; p != nil {
			wire.WorkloadUid = p.workload.GetUid()
		}
	}
	if len(wire.Addresses) == 0 || len(targets) == 0 {
		return nil
	}
	return wire
}
