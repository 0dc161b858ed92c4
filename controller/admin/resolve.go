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
// taken: a ready one, in its zone if the service prefers that.
func resolve(s *mesh.Snapshot, source *mesh.Workload, dst string, port uint16) (target, error) {
	if a, err := netip.ParseAddr(dst); err == nil {
		return resolveAddr(s, source, a.Unmap(), port)
	}
	if w := s.WorkloadNamed(dst); w != nil {
		return direct(w, port)
	}
	if svc := serviceNamed(s, source, dst); svc != nil {
		return viaService(s, source, svc, port)
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
	if svc := s.ServiceAt(a); svc != nil {
		return viaService(s, source, svc, port)
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

func viaService(s *mesh.Snapshot, source *mesh.Workload, svc *mesh.Service, port uint16) (target, error) {
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
		if ep.Ready && (best == nil || svc.PreferSameZone && sameZone(s, source, ep) && !sameZone(s, source, best)) {
			best = ep
		}
	}
	switch {
	case best == nil && has:
		return target{service: svc}, fmt.Errorf("service %s has no ready endpoint for port %d", svc.FullName(), port)
	case best == nil:
		return target{service: svc}, fmt.Errorf("service %s has no endpoint for port %d; its ports are %s", svc.FullName(), port, portList(svc))
	}
	addr := netip.AddrPortFrom(best.Addrs[0], best.TargetPorts[port])
	return target{service: svc, workload: s.Workload(best.Workload), addr: addr}, nil
}

func sameZone(s *mesh.Snapshot, source *mesh.Workload, ep *mesh.Endpoint) bool {
	w := s.Workload(ep.Workload)
	return source != nil && source.Zone != "" && w != nil && w.Zone == source.Zone
}

func portList(svc *mesh.Service) string {
	var out []string
	for _, p := range svc.Ports {
		out = append(out, fmt.Sprint(p.Number))
	}
	return strings.Join(out, ", ")
}
