package compile

import (
	"slices"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/api/resource"
	"github.com/warren-mesh/warren/api/v1alpha1"
	"github.com/warren-mesh/warren/controller/manifest"
	"github.com/warren-mesh/warren/policy"
)

// actionJWT is the action of a RequestAuthentication's Selection.
const actionJWT = "JWT"

// addAuthentications makes a resource of every RequestAuthentication. One that is refused is left out: requests have no
// request principal by it then, so that a policy which asks for one matches none.
func (c *compiler) addAuthentications(out *Output) []Selection {
	var all []Selection
	for _, o := range c.jwtAuth {
		spec := o.Spec.(*v1alpha1.RequestAuthenticationSpec)
		sel := Selection{Namespace: o.Namespace, Name: o.Name, Action: actionJWT, Scope: c.scope(o, spec.Selector),
			Targets: targetNames(o.Namespace, spec.TargetRefs), asksRequests: true}
		if sel.Targets != nil {
			sel.Scope = "target"
		}
		if sel.Targets == nil {
			for _, p := range c.authzSelected(o, spec.Selector) {
				sel.UIDs = append(sel.UIDs, p.workload.GetUid())
			}
		}
		slices.Sort(sel.UIDs)
		wire := wireAuthentication(o, spec, sel)
		decoded, err := resource.DecodeAuthentication(wire)
		if err == nil {
			err = policy.ValidateAuthentication(decoded)
		}
		if err == nil {
			add(out, resource.Authentication(wire))
		} else {
			c.problem(o, "left out: %v", err)
		}
		all = append(all, sel)
	}
	sortSelections(all)
	return all
}

func wireAuthentication(o *manifest.Object, spec *v1alpha1.RequestAuthenticationSpec, sel Selection) *meshv1.RequestAuthentication {
	wire := &meshv1.RequestAuthentication{Namespace: o.Namespace, Name: o.Name, Targets: sel.Targets, Workloads: sel.UIDs}
	for i := range spec.JWTRules {
		r := &spec.JWTRules[i]
		rule := &meshv1.JWTRule{
			Issuer: r.Issuer, Audiences: r.Audiences, Jwks: r.JWKS, JwksUri: r.JWKSURI,
			FromParams: r.FromParams, FromCookies: r.FromCookies, ForwardOriginalToken: r.ForwardOriginalToken,
			OutputPayloadToHeader: r.OutputPayloadToHeader, TimeoutMs: timeoutOf(r.Timeout, 0),
		}
		for _, h := range r.FromHeaders {
			rule.FromHeaders = append(rule.FromHeaders, &meshv1.JWTHeader{Name: h.Name, Prefix: h.Prefix})
		}
		for _, c := range r.OutputClaimToHeaders {
			rule.ClaimsToHeaders = append(rule.ClaimsToHeaders, &meshv1.ClaimToHeader{Header: c.Header, Claim: c.Claim})
		}
		wire.Rules = append(wire.Rules, rule)
	}
	return wire
}
