package resource

import (
	"net/url"
	"time"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/policy"
)

const (
	maxKeySet     = 256 << 10
	maxURI        = 2048
	maxKeyTimeout = time.Minute
)

// Authentication wraps a RequestAuthentication as a resource under its key.
func Authentication(a *meshv1.RequestAuthentication) *meshv1.Resource {
	return &meshv1.Resource{Key: "authentication/" + fullName(a), Kind: &meshv1.Resource_Authentication{Authentication: a}}
}

// DecodeAuthentication decodes one RequestAuthentication; policy.NewAuthenticationSet checks the rest.
// Returns an error that wraps ErrUndecodable.
func DecodeAuthentication(a *meshv1.RequestAuthentication) (*policy.Authentication, error) {
	if len(a.GetWorkloads()) > maxList {
		return nil, undecodable("workloads: %d, more than %d", len(a.GetWorkloads()), maxList)
	}
	for _, uid := range a.GetWorkloads() {
		if len(uid) > maxName {
			return nil, undecodable("workloads: a uid of %d bytes", len(uid))
		}
	}
	out := &policy.Authentication{
		Namespace: a.GetNamespace(), Name: a.GetName(), Targets: a.GetTargets(), Workloads: a.GetWorkloads(),
	}
	for i, r := range a.GetRules() {
		rule, err := decodeJWTRule(r)
		if err != nil {
			return nil, undecodable("rules[%d]: %w", i, err)
		}
		out.Rules = append(out.Rules, rule)
	}
	return out, nil
}

func decodeJWTRule(r *meshv1.JWTRule) (policy.JWTRule, error) {
	out := policy.JWTRule{
		Issuer: r.GetIssuer(), Audiences: r.GetAudiences(), JWKS: r.GetJwks(), JWKSURI: r.GetJwksUri(),
		Timeout:    time.Duration(r.GetTimeoutMs()) * time.Millisecond,
		FromParams: r.GetFromParams(), FromCookies: r.GetFromCookies(),
		ForwardOriginalToken: r.GetForwardOriginalToken(), OutputPayloadToHeader: r.GetOutputPayloadToHeader(),
	}
	for _, h := range r.GetFromHeaders() {
		out.FromHeaders = append(out.FromHeaders, policy.TokenHeader{Name: h.GetName(), Prefix: h.GetPrefix()})
	}
	for _, c := range r.GetClaimsToHeaders() {
		out.ClaimsToHeaders = append(out.ClaimsToHeaders, policy.ClaimToHeader{Header: c.GetHeader(), Claim: c.GetClaim()})
	}
	return out, checkJWTRule(&out)
}

func checkJWTRule(r *policy.JWTRule) error {
	switch {
	case len(r.JWKS) > maxKeySet:
		return undecodable("jwks of %d bytes, more than %d", len(r.JWKS), maxKeySet)
	case r.Timeout > maxKeyTimeout:
		return undecodable("timeout_ms: %s, more than %s", r.Timeout, maxKeyTimeout)
	case r.JWKSURI != "" && !isFetchable(r.JWKSURI):
		return undecodable("jwks_uri: %.64q is not an http or https URL with a host", r.JWKSURI)
	}
	texts := append([]string{r.OutputPayloadToHeader}, r.Audiences...)
	texts = append(append(texts, r.FromParams...), r.FromCookies...)
	for _, h := range r.FromHeaders {
		texts = append(texts, h.Name, h.Prefix)
	}
	for _, c := range r.ClaimsToHeaders {
		texts = append(texts, c.Header, c.Claim)
	}
	for _, t := range texts {
		if len(t) > maxPath {
			return undecodable("a name or an audience of %d bytes, more than %d", len(t), maxPath)
		}
	}
	return nil
}

func isFetchable(uri string) bool {
	u, err := url.Parse(uri)
	return err == nil && len(uri) <= maxURI && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && u.User == nil
}
