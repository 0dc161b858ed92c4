package resource

import (
	"net/netip"
	"time"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/policy"
)

const (
	maxExternalTimeout = time.Minute
	maxExternalBody    = 1 << 20
)

// DecodePolicy decodes one policy; policy.NewSet checks the rest.
// Returns an error that wraps ErrUndecodable.
func DecodePolicy(p *meshv1.AuthorizationPolicy) (*policy.Policy, error) {
	out := &policy.Policy{Namespace: p.GetNamespace(), Name: p.GetName(), Targets: p.GetTargets()}
	switch p.GetAction() {
	case meshv1.AuthorizationPolicy_ALLOW:
		out.Action = policy.Allow
	case meshv1.AuthorizationPolicy_DENY:
		out.Action = policy.Deny
	case meshv1.AuthorizationPolicy_AUDIT:
		out.Action = policy.Audit
	case meshv1.AuthorizationPolicy_CUSTOM:
		out.Action = policy.Custom
	default:
		return nil, undecodable("unknown action %d", p.GetAction())
	}
	if x := p.GetExternal(); x != nil {
		external, err := decodeExternal(x)
		if err != nil {
			return nil, undecodable("external: %w", err)
		}
		out.External = external
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

func decodeExternal(x *meshv1.ExternalAuthorizer) (*policy.ExternalAuthorizer, error) {
	out := &policy.ExternalAuthorizer{
		Service: x.GetService(), Timeout: time.Duration(x.GetTimeoutMs()) * time.Millisecond,
		MaxBodyBytes: x.GetMaxBodyBytes(), Broken: x.GetBroken(),
	}
	switch {
	case len(out.Service) > 2*maxName+1 || len(out.Broken) > maxBroken:
		return nil, undecodable("service or broken of %d and %d bytes", len(out.Service), len(out.Broken))
	case out.Timeout > maxExternalTimeout:
		return nil, undecodable("timeout_ms: %d, more than a minute", x.GetTimeoutMs())
	case out.MaxBodyBytes > maxExternalBody:
		return nil, undecodable("max_body_bytes: %d, more than %d", out.MaxBodyBytes, maxExternalBody)
	case out.Broken != "":
		return out, nil
	}
	var err error
	out.Port, err = decodePort("port", x.GetPort())
	return out, err
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
			RequestPrincipals: s.GetRequestPrincipals(), NotRequestPrincipals: s.GetNotRequestPrincipals(),
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
		rule.To = append(rule.To, policy.Operation{
			Ports: ports, NotPorts: notPorts, Hosts: o.GetHosts(), NotHosts: o.GetNotHosts(),
			Methods: o.GetMethods(), NotMethods: o.GetNotMethods(), Paths: o.GetPaths(), NotPaths: o.GetNotPaths(),
		})
	}
	for _, c := range r.GetWhen() {
		rule.When = append(rule.When, policy.Condition{Key: c.GetKey(), Values: c.GetValues(), NotValues: c.GetNotValues()})
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
