// Package meshview shows a snapshot of the mesh in the form of the admin API: what an agent answers for its node
// and the controller for all, the same way.
package meshview

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/policy"
)

// Workloads lists the workloads of a namespace, "" for all.
func Workloads(m *mesh.Snapshot, namespace string) *adminv1.WorkloadsReply {
	out := &adminv1.WorkloadsReply{}
	for _, w := range m.Workloads() {
		if namespace != "" && w.Namespace != namespace {
			continue
		}
		info := &adminv1.WorkloadInfo{
			Uid: string(w.UID), Namespace: w.Namespace, Name: w.Name, ServiceAccount: w.ServiceAccount,
			SpiffeId: ID(w).String(), Node: w.Node, Zone: w.Zone, Addresses: texts(w.Addrs), Enrolled: w.Enrolled,
			Mtls: w.MTLS.Default.String(), MtlsSource: w.MTLS.Source, Policies: w.Policies, FailOpen: w.FailOpen, Accelerate: w.Accelerate,
		}
		for port, mode := range w.MTLS.Ports {
			if info.MtlsPorts == nil {
				info.MtlsPorts = map[uint32]string{}
			}
			info.MtlsPorts[uint32(port)] = mode.String()
		}
		out.Workloads = append(out.Workloads, info)
	}
	return out
}

// ID returns a workload's identity; the zero ID for one that is not in the mesh.
func ID(w *mesh.Workload) identity.ID {
	if w == nil || !w.Enrolled {
		return identity.ID{}
	}
	id, err := identity.New(w.TrustDomain, w.Namespace, w.ServiceAccount)
	if err != nil {
		return identity.ID{}
	}
	return id
}

// Services lists the services of a namespace, "" for all.
func Services(m *mesh.Snapshot, namespace string) *adminv1.ServicesReply {
	out := &adminv1.ServicesReply{}
	for _, s := range m.Services() {
		if namespace != "" && s.Namespace != namespace {
			continue
		}
		info := &adminv1.ServiceInfo{
			Namespace: s.Namespace, Name: s.Name, Hostname: s.Hostname, Vips: texts(slices.Concat(s.VIPs, s.ExternalAddrs)),
		}
		for _, p := range s.Ports {
			info.Ports = append(info.Ports, portText(p))
		}
		for _, e := range s.Endpoints {
			info.Endpoints = append(info.Endpoints, endpoint(m, e))
		}
		out.Services = append(out.Services, info)
	}
	return out
}

// portText is "name:port:node port", without what is not there.
func portText(p mesh.Port) string {
	text := fmt.Sprint(p.Number)
	if p.Name != "" {
		text = p.Name + ":" + text
	}
	if p.NodePort != 0 {
		text += fmt.Sprintf(":%d", p.NodePort)
	}
	return text
}

func endpoint(m *mesh.Snapshot, e mesh.Endpoint) *adminv1.EndpointInfo {
	info := &adminv1.EndpointInfo{Addresses: texts(e.Addrs), Ready: e.Ready, Workload: string(e.Workload), Node: e.Node, Zone: e.Zone}
	if w := m.Workload(e.Workload); w != nil {
		info.Workload, info.Node, info.Zone, info.Mesh = w.FullName(), w.Node, w.Zone, w.Enrolled
	}
	for _, target := range slices.Sorted(maps.Values(e.TargetPorts)) {
		for i := range info.Addresses {
			if _, err := netip.ParseAddr(info.Addresses[i]); err == nil && len(e.TargetPorts) == 1 {
				info.Addresses[i] = netip.AddrPortFrom(e.Addrs[i], target).String()
			}
		}
	}
	return info
}

// Policies lists the AuthorizationPolicies of a namespace, "" for all, with the workloads that name them.
func Policies(m *mesh.Snapshot, set *policy.Set, namespace string) *adminv1.PoliciesReply {
	selected := map[string][]string{}
	for _, w := range m.Workloads() {
		for _, name := range w.Policies {
			selected[name] = append(selected[name], w.FullName())
		}
	}
	out := &adminv1.PoliciesReply{}
	for _, p := range set.All() {
		if namespace != "" && p.Namespace != namespace {
			continue
		}
		info := &adminv1.PolicyInfo{
			Kind: "AuthorizationPolicy", Namespace: p.Namespace, Name: p.Name, Action: p.Action.String(),
			Rules: uint32(len(p.Rules)), Workloads: selected[p.FullName()],
		}
		for _, r := range p.Rules {
			info.Text = append(info.Text, r.String())
		}
		out.Policies = append(out.Policies, info)
	}
	return out
}

func texts(addrs []netip.Addr) []string {
	out := make([]string, len(addrs))
	for i, a := range addrs {
		out[i] = a.String()
	}
	return out
}
