package admin

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/warren-mesh/warren/mesh"
)

// target is where a connection goes: a workload and its port, possibly by way of a service.
type target struct {
	service  *mesh.Service
	workload *mesh.Workload // nil if the address is nobody's
	addr     netip.AddrPort
}

// resolve finds what dst names: an address, "namespace/pod", "namespace/service", a service's host name, or its short
// forms "service.namespace" and "service" (in namespace). Of a service the endpoint that source would prefer is
// taken: a ready one, on its node or in its zone if the service prefers that.
func resolve(s *mesh.Snapshot, source *mesh.Workload, dst string, port uint16) (target, error) {
	if a, err := netip.ParseAddr(dst); err == nil {
		return resolveAddr(s, source, a.Unmap(), port)
	}
	if w := s.WorkloadNamed(dst); w != nil {
		return direct(w, port)
	}
	if svc := serviceNamed(s, source, dst); svc != nil {
		return viaService(s, source, mesh.Frontend{Service: svc, Port: port})
	}
	return target{}, fmt.Errorf("%q is neither an address, a pod nor a service of the mesh: write namespace/name, or a host name", dst)
}

func serviceNamed(s *mesh.Snapshot, source *mesh.Workload, name string) *mesh.Service {
	host := strings.TrimSuffix(strings.ToLower(name), ".")
	candidates := []string{host, host + ".svc.cluster.local", host + ".cluster.local"}
	if source != nil {
		candidates = append(candidates, host+"."+source.Namespace+".svc.cluster.local")
	}
	for _, c := range candidates {
		if svc := s.ServiceHost(c); svc != nil {
			return svc
		}
	}
	return s.ServiceNamed(name)
}

func resolveAddr(s *mesh.Snapshot, source *mesh.Workload, a netip.Addr, port uint16) (target, error) {
	if f, ok := s.FrontendAt(netip.AddrPortFrom(a, port)); ok {
		return viaService(s, source, f)
	}
	if w := s.WorkloadAt(a); w != nil {
		return target{workload: w, addr: netip.AddrPortFrom(a, port)}, nil
	}
	return target{addr: netip.AddrPortFrom(a, port)}, nil
}

func direct(w *mesh.Workload, port uint16) (target, error) {
	if len(w.Addrs) == 0 {
		return target{}, fmt.Errorf("pod %s has no address", w.FullName())
	}
	return target{workload: w, addr: netip.AddrPortFrom(w.Addrs[0], port)}, nil
}

func viaService(s *mesh.Snapshot, source *mesh.Workload, f mesh.Frontend) (target, error) {
	svc, port := f.Service, f.Port
	if port == 0 && len(svc.Ports) == 1 {
		port = svc.Ports[0].Number
	}
	var best *mesh.Endpoint
	has := false
	for i := range svc.Endpoints {
		ep := &svc.Endpoints[i]
		if _, ok := ep.TargetPorts[port]; !ok || len(ep.Addrs) == 0 {
			continue
		}
		has = true
		if r := rank(s, source, f, ep); r > 0 && (best == nil || r > rank(s, source, f, best)) {
			best = ep
		}
	}
	switch {
	case best == nil && has && svc.InternalLocal && !f.External && source != nil:
		return target{service: svc}, fmt.Errorf("service %s has internalTrafficPolicy Local, and no ready endpoint for port %d on node %s",
			svc.FullName(), port, source.Node)
	case best == nil && has:
		return target{service: svc}, fmt.Errorf("service %s has no ready endpoint for port %d", svc.FullName(), port)
	case best == nil:
		return target{service: svc}, fmt.Errorf("service %s has no endpoint for port %d; its ports are %s", svc.FullName(), port, portList(svc))
	}
	addr := netip.AddrPortFrom(best.Addrs[0], best.TargetPorts[port])
	return target{service: svc, workload: s.Workload(best.Workload), addr: addr}, nil
}

// rank orders endpoints as source's node does, 0 for one that is not used.
func rank(s *mesh.Snapshot, source *mesh.Workload, f mesh.Frontend, ep *mesh.Endpoint) int {
	rank, svc := 1, f.Service
	switch {
	case ep.Ready:
		rank += 4
	case !ep.Draining():
		return 0
	}
	if source == nil {
		return rank
	}
	node, zone := ep.Node, ep.Zone
	if w := s.Workload(ep.Workload); w != nil {
		node, zone = w.Node, w.Zone
	}
	switch {
	case svc.InternalLocal && !f.External && node != source.Node:
		return 0
	case svc.PreferSameNode && node == source.Node:
		rank += 2
	case svc.PreferSameZone && source.Zone != "" && zone == source.Zone:
		rank++
	}
	return rank
}

func portList(svc *mesh.Service) string {
	var out []string
	for _, p := range svc.Ports {
		out = append(out, fmt.Sprint(p.Number))
	}
	return strings.Join(out, ", ")
}
