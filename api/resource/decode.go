package resource

import (
	"net/netip"
	"strings"
	"time"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
)

// DecodeWorkload decodes one workload. Returns an error that wraps ErrUndecodable.
func DecodeWorkload(w *meshv1.Workload) (*mesh.Workload, error) {
	if _, err := identity.New(w.GetTrustDomain(), w.GetNamespace(), w.GetServiceAccount()); err != nil {
		return nil, undecodable("%w", err)
	}
	if n := w.GetName(); n == "" || len(n) > maxName {
		return nil, undecodable("name of %d bytes", len(n))
	}
	for _, s := range []string{w.GetNode(), w.GetZone(), w.GetApp(), w.GetUid()} {
		if len(s) > maxName {
			return nil, undecodable("a field of %d bytes, more than %d", len(s), maxName)
		}
	}
	if len(w.GetPolicies()) > maxList {
		return nil, undecodable("policies: %d, more than %d", len(w.GetPolicies()), maxList)
	}
	if err := checkWaypoints(w); err != nil {
		return nil, err
	}
	addrs, err := decodeAddrs("addresses", w.GetAddresses())
	if err != nil {
		return nil, err
	}
	mtls, err := decodeMTLS(w.GetMtls())
	if err != nil {
		return nil, err
	}
	return &mesh.Workload{
		UID: mesh.UID(w.GetUid()), Namespace: w.GetNamespace(), Name: w.GetName(),
		ServiceAccount: w.GetServiceAccount(), TrustDomain: w.GetTrustDomain(),
		Node: w.GetNode(), Zone: w.GetZone(), App: w.GetApp(), Addrs: addrs,
		Enrolled: w.GetEnrolled(), FailOpen: w.GetFailOpen(), Accelerate: w.GetAccelerate(), HostNetwork: w.GetHostNetwork(),
		Policies: w.GetPolicies(), MTLS: mtls,
		Waypoint: w.GetWaypoint(), Through: w.GetThrough(), Gateway: w.GetGateway(),
	}, nil
}

// checkWaypoints bounds what a workload says about waypoints.
func checkWaypoints(w *meshv1.Workload) error {
	if len(w.GetThrough()) > maxThrough {
		return undecodable("through: %d, more than %d", len(w.GetThrough()), maxThrough)
	}
	for _, name := range append([]string{w.GetWaypoint(), w.GetGateway()}, w.GetThrough()...) {
		if len(name) > 2*maxName+1 {
			return undecodable("a waypoint's name of %d bytes", len(name))
		}
	}
	for _, account := range w.GetThrough() {
		if namespace, name, ok := strings.Cut(account, "/"); !ok || namespace == "" || name == "" {
			return undecodable("through: %q is not <namespace>/<service account>", account)
		}
	}
	return nil
}

// decodeMTLS takes an unknown mode for an error: to guess would be to open or to close a port.
func decodeMTLS(m *meshv1.MTLS) (mesh.MTLS, error) {
	out := mesh.MTLS{Source: m.GetSource()}
	var err error
	if out.Default, err = decodeMode(m.GetMode()); err != nil {
		return mesh.MTLS{}, err
	}
	if len(m.GetPorts()) > maxList {
		return mesh.MTLS{}, undecodable("mtls.ports: %d, more than %d", len(m.GetPorts()), maxList)
	}
	for n, mode := range m.GetPorts() {
		port, err := decodePort("mtls.ports", n)
		if err != nil {
			return mesh.MTLS{}, err
		}
		decoded, err := decodeMode(mode)
		if err != nil {
			return mesh.MTLS{}, err
		}
		if out.Ports == nil {
			out.Ports = make(map[uint16]mesh.MTLSMode, len(m.GetPorts()))
		}
		out.Ports[port] = decoded
	}
	return out, nil
}

func decodeMode(mode meshv1.MTLS_Mode) (mesh.MTLSMode, error) {
	switch mode {
	case meshv1.MTLS_UNSPECIFIED, meshv1.MTLS_PERMISSIVE:
		return mesh.Permissive, nil
	case meshv1.MTLS_STRICT:
		return mesh.Strict, nil
	}
	return 0, undecodable("mtls: unknown mode %d", mode)
}

// DecodeService decodes one service. Returns an error that wraps ErrUndecodable.
func DecodeService(s *meshv1.Service) (*mesh.Service, error) {
	if len(s.GetEndpoints()) > maxEndpoints || len(s.GetPorts()) > maxList || len(s.GetHostname()) > 2*maxName {
		return nil, undecodable("%d endpoints, %d ports or a host name of %d bytes are too many",
			len(s.GetEndpoints()), len(s.GetPorts()), len(s.GetHostname()))
	}
	vips, err := decodeAddrs("vips", s.GetVips())
	if err != nil {
		return nil, err
	}
	external, err := decodeAddrsUpTo(maxExternal, "external_addresses", s.GetExternalAddresses())
	if err != nil {
		return nil, err
	}
	if s.GetAffinitySeconds() > maxAffinity {
		return nil, undecodable("affinity_seconds: %d, more than a day", s.GetAffinitySeconds())
	}
	out := &mesh.Service{
		Namespace: s.GetNamespace(), Name: s.GetName(), Hostname: s.GetHostname(), VIPs: vips, ExternalAddrs: external,
		PreferSameNode: s.GetPreferSameNode(), PreferSameZone: s.GetPreferSameZone(), InternalLocal: s.GetInternalLocal(),
		Affinity: time.Duration(s.GetAffinitySeconds()) * time.Second, Waypoint: s.GetWaypoint(),
	}
	if len(out.Waypoint) > 2*maxName+1 {
		return nil, undecodable("waypoint of %d bytes", len(out.Waypoint))
	}
	if out.Splits, err = decodeSplits(s.GetSplits()); err != nil {
		return nil, err
	}
	if out.Ports, err = decodeServicePorts(s.GetPorts()); err != nil {
		return nil, err
	}
	for _, ep := range s.GetEndpoints() {
		decoded, err := decodeEndpoint(ep)
		if err != nil {
			return nil, err
		}
		out.Endpoints = append(out.Endpoints, decoded)
	}
	return out, nil
}

func decodeServicePorts(ports []*meshv1.Port) ([]mesh.Port, error) {
	var out []mesh.Port
	for _, p := range ports {
		n, err := decodePort("ports", p.GetPort())
		if err != nil {
			return nil, err
		}
		if len(p.GetAppProtocol()) > maxName {
			return nil, undecodable("ports.app_protocol of %d bytes", len(p.GetAppProtocol()))
		}
		port := mesh.Port{Name: p.GetName(), Number: n, AppProtocol: p.GetAppProtocol()}
		if p.GetNodePort() != 0 {
			if port.NodePort, err = decodePort("ports.node_port", p.GetNodePort()); err != nil {
				return nil, err
			}
		}
		out = append(out, port)
	}
	return out, nil
}

func decodeSplits(splits []*meshv1.Split) (map[uint16]mesh.Split, error) {
	if len(splits) > maxList {
		return nil, undecodable("splits: %d, more than %d", len(splits), maxList)
	}
	var out map[uint16]mesh.Split
	for _, s := range splits {
		port, err := decodePort("splits.port", s.GetPort())
		if err != nil {
			return nil, err
		}
		if _, twice := out[port]; twice || len(s.GetBackends()) > maxBackends || len(s.GetRoute()) > 3*maxName {
			return nil, undecodable("splits: port %d occurs twice, or has more than %d backends", port, maxBackends)
		}
		split := mesh.Split{Route: s.GetRoute()}
		for _, b := range s.GetBackends() {
			backend := mesh.SplitBackend{Service: b.GetService(), Weight: b.GetWeight(), Broken: b.GetBroken()}
			if backend.Port, err = decodePort("splits.backends.port", b.GetPort()); err != nil && backend.Broken == "" {
				return nil, err
			}
			if b.GetWeight() > maxWeight || len(b.GetService()) > 2*maxName+1 || len(b.GetBroken()) > 1024 {
				return nil, undecodable("splits.backends: weight %d, or a service's name of %d bytes", b.GetWeight(), len(b.GetService()))
			}
			split.Backends = append(split.Backends, backend)
		}
		if out == nil {
			out = make(map[uint16]mesh.Split, len(splits))
		}
		out[port] = split
	}
	return out, nil
}

func decodeEndpoint(ep *meshv1.Endpoint) (mesh.Endpoint, error) {
	if len(ep.GetNode()) > maxName || len(ep.GetZone()) > maxName || len(ep.GetWorkloadUid()) > maxName {
		return mesh.Endpoint{}, undecodable("endpoints: a field of more than %d bytes", maxName)
	}
	addrs, err := decodeAddrs("endpoint addresses", ep.GetAddresses())
	if err != nil {
		return mesh.Endpoint{}, err
	}
	if len(ep.GetTargetPorts()) > maxList {
		return mesh.Endpoint{}, undecodable("target_ports: %d, more than %d", len(ep.GetTargetPorts()), maxList)
	}
	targets := make(map[uint16]uint16, len(ep.GetTargetPorts()))
	for from, to := range ep.GetTargetPorts() {
		f, err := decodePort("target_ports", from)
		if err != nil {
			return mesh.Endpoint{}, err
		}
		if targets[f], err = decodePort("target_ports", to); err != nil {
			return mesh.Endpoint{}, err
		}
	}
	return mesh.Endpoint{
		Workload: mesh.UID(ep.GetWorkloadUid()), Addrs: addrs, TargetPorts: targets, Ready: ep.GetReady(),
		Serving: ep.GetServing(), Terminating: ep.GetTerminating(), Node: ep.GetNode(), Zone: ep.GetZone(),
	}, nil
}

func decodeSettings(out *mesh.Settings, s *meshv1.Settings) error {
	out.Leaving = s.GetLeaving()
	addrs, err := decodeAddrsUpTo(MaxNodeAddrs, "node_addresses", s.GetNodeAddresses())
	if err != nil {
		return err
	}
	out.NodeAddrs = make(map[netip.Addr]struct{}, len(addrs))
	for _, a := range addrs {
		out.NodeAddrs[a] = struct{}{}
	}
	return nil
}
