package compile

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/api/resource"
	"github.com/warren-mesh/warren/api/v1alpha1"
	"github.com/warren-mesh/warren/controller/manifest"
	"github.com/warren-mesh/warren/policy"
)

// addPolicies makes a resource of every AuthorizationPolicy and names it in the workloads that it selects. One that
// is refused is named all the same: the workloads that it selects then deny, which is the safe half of a policy that
// nobody can read.
func (c *compiler) addPolicies(out *Output) []Selection {
	var all []Selection
	for _, o := range c.authz {
		spec := o.Spec.(*v1alpha1.AuthorizationPolicySpec)
		wire, err := wirePolicy(o, spec)
		if err == nil {
			var decoded *policy.Policy
			if decoded, err = resource.DecodePolicy(wire); err == nil {
				err = policy.Validate(decoded)
			}
		}
		if err == nil {
			add(out, resource.Policy(wire))
		} else {
			c.problem(o, "left out, and whatever it selects denies: %v", err)
		}
		sel := Selection{Namespace: o.Namespace, Name: o.Name, Action: cmp.Or(spec.Action, v1alpha1.ActionAllow), Scope: c.scope(o, spec.Selector)}
		for _, p := range c.pods {
			if c.authzSelects(o, spec.Selector, p) {
				p.workload.Policies = append(p.workload.Policies, o.Namespace+"/"+o.Name)
				sel.UIDs = append(sel.UIDs, p.workload.GetUid())
			}
		}
		slices.Sort(sel.UIDs)
		all = append(all, sel)
	}
	for _, p := range c.pods {
		slices.Sort(p.workload.Policies)
	}
	sortSelections(all)
	return all
}

// authzSelects tells whether a policy selects a pod. As in Istio, a policy in the root namespace reaches every
// namespace, with or without a selector. Workloads outside the mesh enforce nothing and are not selected.
func (c *compiler) authzSelects(o *manifest.Object, sel *v1alpha1.WorkloadSelector, p *pod) bool {
	if !p.workload.GetEnrolled() || o.Namespace != c.opts.RootNamespace && o.Namespace != p.object.Namespace {
		return false
	}
	return selects(sel, p.object.Meta.Labels)
}

func sortSelections(all []Selection) {
	slices.SortFunc(all, func(a, b Selection) int { return cmp.Compare(a.FullName(), b.FullName()) })
}

func wirePolicy(o *manifest.Object, spec *v1alpha1.AuthorizationPolicySpec) (*meshv1.AuthorizationPolicy, error) {
	wire := &meshv1.AuthorizationPolicy{Namespace: o.Namespace, Name: o.Name}
	switch cmp.Or(spec.Action, v1alpha1.ActionAllow) {
	case v1alpha1.ActionAllow:
		wire.Action = meshv1.AuthorizationPolicy_ALLOW
	case v1alpha1.ActionDeny:
		wire.Action = meshv1.AuthorizationPolicy_DENY
	case v1alpha1.ActionAudit:
		wire.Action = meshv1.AuthorizationPolicy_AUDIT
	}
	for _, r := range spec.Rules {
		rule := &meshv1.Rule{}
		for _, f := range r.From {
			rule.From = append(rule.From, wireSource(o.Namespace, f.Source))
		}
		for _, t := range r.To {
			op, err := wireOperation(t.Operation)
			if err != nil {
				return nil, err
			}
			rule.To = append(rule.To, op)
		}
		wire.Rules = append(wire.Rules, rule)
	}
	return wire, nil
}

func wireSource(namespace string, s *v1alpha1.Source) *meshv1.Source {
	return &meshv1.Source{
		Principals: s.Principals, NotPrincipals: s.NotPrincipals,
		Namespaces: s.Namespaces, NotNamespaces: s.NotNamespaces,
		ServiceAccounts:    qualified(namespace, s.ServiceAccounts),
		NotServiceAccounts: qualified(namespace, s.NotServiceAccounts),
		IpBlocks:           wireBlocks(s.IPBlocks), NotIpBlocks: wireBlocks(s.NotIPBlocks),
	}
}

// qualified puts the policy's own namespace before service accounts that name none.
func qualified(namespace string, accounts []string) []string {
	var out []string
	for _, a := range accounts {
		if !strings.Contains(a, "/") {
			a = namespace + "/" + a
		}
		out = append(out, a)
	}
	return out
}

// wireBlocks writes every block as a canonical CIDR: an address is a block of one, host bits are cleared.
func wireBlocks(blocks []string) []string {
	var out []string
	for _, b := range blocks {
		if a, err := netip.ParseAddr(b); err == nil {
			a = a.Unmap()
			b = netip.PrefixFrom(a, a.BitLen()).String()
		} else if p, err := netip.ParsePrefix(b); err == nil {
			b = p.Masked().String()
		}
		out = append(out, b)
	}
	return out
}

func wireOperation(op *v1alpha1.Operation) (*meshv1.Operation, error) {
	var wire meshv1.Operation
	for _, p := range op.Ports {
		n, err := p.Number()
		if err != nil {
			return nil, err
		}
		wire.Ports = append(wire.Ports, uint32(n))
	}
	for _, p := range op.NotPorts {
		n, err := p.Number()
		if err != nil {
			return nil, err
		}
		wire.NotPorts = append(wire.NotPorts, uint32(n))
	}
	return &wire, nil
}

// applyPeerAuthentications resolves the mTLS mode of every enrolled workload, as Istio does. The narrowest scope
// that sets a mode decides: workload (a selector), namespace, mesh (the root namespace, no selector). Of several in
// one scope the oldest is taken, by creation time, then by name. UNSET, or no mode, inherits. Without any the mode is
// PERMISSIVE. A port's mode comes from the one that a selector chose.
func (c *compiler) applyPeerAuthentications() []Selection {
	selected := make(map[*manifest.Object][]string)
	for _, p := range c.pods {
		if !p.workload.GetEnrolled() {
			continue
		}
		mtls := &meshv1.MTLS{Mode: meshv1.MTLS_PERMISSIVE}
		for _, scope := range []string{"mesh", "namespace", "workload"} {
			if o := c.peerAuthFor(p, scope); o != nil {
				applyPeerAuthentication(mtls, o)
				selected[o] = append(selected[o], p.workload.GetUid())
			}
		}
		p.workload.Mtls = mtls
	}
	var all []Selection
	for _, o := range c.peerAuth {
		spec := o.Spec.(*v1alpha1.PeerAuthenticationSpec)
		slices.Sort(selected[o])
		all = append(all, Selection{Namespace: o.Namespace, Name: o.Name, Action: modeOf(spec.MTLS),
			Scope: c.scope(o, spec.Selector), UIDs: selected[o]})
	}
	sortSelections(all)
	return all
}

// peerAuthFor returns the oldest PeerAuthentication of a scope that applies to a pod, or nil.
func (c *compiler) peerAuthFor(p *pod, scope string) *manifest.Object {
	for _, o := range c.peerAuth { // older first
		spec := o.Spec.(*v1alpha1.PeerAuthenticationSpec)
		if c.scope(o, spec.Selector) != scope || scope != "mesh" && o.Namespace != p.object.Namespace {
			continue
		}
		if selects(spec.Selector, p.object.Meta.Labels) {
			return o
		}
	}
	return nil
}

func applyPeerAuthentication(mtls *meshv1.MTLS, o *manifest.Object) {
	spec := o.Spec.(*v1alpha1.PeerAuthenticationSpec)
	if mode := wireMode(modeOf(spec.MTLS)); mode != meshv1.MTLS_UNSPECIFIED {
		mtls.Mode, mtls.Source = mode, o.Namespace+"/"+o.Name
	}
	for _, port := range slices.Sorted(maps.Keys(spec.PortLevelMTLS)) {
		override := spec.PortLevelMTLS[port]
		n, err := v1alpha1.Port(port).Number()
		mode := wireMode(modeOf(&override))
		if err != nil || mode == meshv1.MTLS_UNSPECIFIED {
			continue
		}
		if mtls.Ports == nil {
			mtls.Ports = make(map[uint32]meshv1.MTLS_Mode)
		}
		mtls.Ports[uint32(n)], mtls.Source = mode, o.Namespace+"/"+o.Name
	}
}

func modeOf(m *v1alpha1.MutualTLS) string {
	if m == nil {
		return v1alpha1.ModeUnset
	}
	return cmp.Or(m.Mode, v1alpha1.ModeUnset)
}

func wireMode(mode string) meshv1.MTLS_Mode {
	switch mode {
	case v1alpha1.ModeStrict:
		return meshv1.MTLS_STRICT
	case v1alpha1.ModePermissive:
		return meshv1.MTLS_PERMISSIVE
	}
	return meshv1.MTLS_UNSPECIFIED
}
