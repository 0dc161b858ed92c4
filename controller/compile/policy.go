package compile

import (
	"cmp"
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
		targets := targetNames(o.Namespace, spec.TargetRefs)
		wire, err := c.wirePolicy(o, spec)
		var decoded *policy.Policy
		if err == nil {
			if decoded, err = resource.DecodePolicy(wire); err == nil {
				err = policy.Validate(decoded)
			}
		}
		if err == nil {
			add(out, resource.Policy(wire))
		} else {
			c.problem(o, "left out, and whatever it selects denies: %v", err)
			c.denyTargets(out, o, targets)
		}
		sel := Selection{Namespace: o.Namespace, Name: o.Name, Action: cmp.Or(spec.Action, v1alpha1.ActionAllow),
			Scope: c.scope(o, spec.Selector), Targets: targets, asksRequests: err == nil && decoded.AsksRequests()}
		if targets != nil {
			sel.Scope = "target"
		}
		if targets == nil {
			name := sel.FullName()
			for _, p := range c.authzSelected(o, spec.Selector) {
				p.workload.Policies = append(p.workload.Policies, name)
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

// authzSelected returns the pods that a policy selects. As in Istio, a policy in the root namespace reaches every
// namespace, with or without a selector. Workloads outside the mesh enforce nothing and are not selected.
func (c *compiler) authzSelected(o *manifest.Object, sel *v1alpha1.WorkloadSelector) []*pod {
	within := c.podsIn[o.Namespace]
	if o.Namespace == c.opts.RootNamespace {
		within = c.pods
	}
	var selected []*pod
	for _, p := range within {
		if p.workload.GetEnrolled() && selects(sel, p.object.Meta.Labels) {
			selected = append(selected, p)
		}
	}
	return selected
}

func sortSelections(all []Selection) {
	slices.SortFunc(all, func(a, b Selection) int { return cmp.Compare(a.FullName(), b.FullName()) })
}

func (c *compiler) wirePolicy(o *manifest.Object, spec *v1alpha1.AuthorizationPolicySpec) (*meshv1.AuthorizationPolicy, error) {
	wire := &meshv1.AuthorizationPolicy{Namespace: o.Namespace, Name: o.Name, Targets: targetNames(o.Namespace, spec.TargetRefs)}
	switch cmp.Or(spec.Action, v1alpha1.ActionAllow) {
	case v1alpha1.ActionAllow:
		wire.Action = meshv1.AuthorizationPolicy_ALLOW
	case v1alpha1.ActionDeny:
		wire.Action = meshv1.AuthorizationPolicy_DENY
	case v1alpha1.ActionAudit:
		wire.Action = meshv1.AuthorizationPolicy_AUDIT
	case v1alpha1.ActionCustom:
		wire.Action = meshv1.AuthorizationPolicy_CUSTOM
		wire.External = c.wireExternal(o, spec.External)
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
		for _, w := range r.When {
			rule.When = append(rule.When, &meshv1.Condition{Key: w.Key, Values: w.Values, NotValues: w.NotValues})
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
		RequestPrincipals: s.RequestPrincipals, NotRequestPrincipals: s.NotRequestPrincipals,
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
	wire := meshv1.Operation{
		Hosts: op.Hosts, NotHosts: op.NotHosts, Methods: op.Methods, NotMethods: op.NotMethods,
		Paths: op.Paths, NotPaths: op.NotPaths,
	}
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
