package resource

import (
	"net/netip"
	"time"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/policy"
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
		Enrolled: w.GetEnrolled(), FailOpen: w.GetFailOpen(), HostNetwork: w.GetHostNetwork(),
		Policies: w.GetPolicies(), MTLS: mtls,
	}, nil
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
	if len(s.GetEndpoints()) > maxList || len(s.GetPorts()) > maxList || len(s.GetHostname()) > 2*maxName {
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
		Affinity: time.Duration(s.GetAffinitySeconds()) * time.Second,
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
		port := mesh.Port{Name: p.GetName(), Number: n}
		if p.GetNodePort() != 0 {
			if port.NodePort, err = decodePort("ports.node_port", p.GetNodePort()); err != nil {
				return nil, err
			}
		}
		out = append(out, port)
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

// DecodePolicy decodes one policy; policy.NewSet checks the rest.
// Returns an error that wraps ErrUndecodable.
func DecodePolicy(p *meshv1.AuthorizationPolicy) (*policy.Policy, error) {
	out := &policy.Policy{Namespace: p.GetNamespace(), Name: p.GetName()}
	switch p.GetAction() {
	case meshv1.AuthorizationPolicy_ALLOW:
		out.Action = policy.Allow
	case meshv1.AuthorizationPolicy_DENY:
		out.Action = policy.Deny
	case meshv1.AuthorizationPolicy_AUDIT:
		out.Action = policy.Audit
	default:
		return nil, undecodable("unknown action %d", p.GetAction())
	}
	for i, r := range p.GetRules() {
		rule, err := decodeRule(r)
		if err != nil {
			return nil, undecodable("rules[%d]: %w", i, err)
		}
		out.Rules = append(out.Rules, rule)
	}
	return out, nil
}

func decodeRule(r *meshv1.Rule) (policy.Rule, error) {
	var rule policy.Rule
	for _, s := range r.GetFrom() {
		blocks, err := decodeBlocks("ip_blocks", s.GetIpBlocks())
		if err != nil {
			return policy.Rule{}, err
		}
		notBlocks, err := decodeBlocks("not_ip_blocks", s.GetNotIpBlocks())
		if err != nil {
			return policy.Rule{}, err
		}
		rule.From = append(rule.From, policy.Source{
			Principals: s.GetPrincipals(), NotPrincipals: s.GetNotPrincipals(),
			Namespaces: s.GetNamespaces(), NotNamespaces: s.GetNotNamespaces(),
			ServiceAccounts: s.GetServiceAccounts(), NotServiceAccounts: s.GetNotServiceAccounts(),
			IPBlocks: blocks, NotIPBlocks: notBlocks,
		})
	}
	for _, o := range r.GetTo() {
		ports, err := decodePorts("ports", o.GetPorts())
		if err != nil {
			return policy.Rule{}, err
		}
		notPorts, err := decodePorts("not_ports", o.GetNotPorts())
		if err != nil {
			return policy.Rule{}, err
		}
		rule.To = append(rule.To, policy.Operation{Ports: ports, NotPorts: notPorts})
	}
	return rule, nil
}

func decodeBlocks(field string, raw []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for i, s := range raw {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, undecodable("%s[%d]: %q is not a CIDR block", field, i, s)
		}
		out = append(out, p)
	}
	return out, nil
}

func decodePorts(field string, raw []uint32) ([]uint16, error) {
	var out []uint16
	for _, n := range raw {
		port, err := decodePort(field, n)
		if err != nil {
			return nil, err
		}
		out = append(out, port)
	}
	return out, nil
}
