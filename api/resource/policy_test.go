package resource

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/policy"
)

func requestPolicy() *meshv1.AuthorizationPolicy {
	return &meshv1.AuthorizationPolicy{
		Namespace: "shop", Name: "p", Action: meshv1.AuthorizationPolicy_CUSTOM, Targets: []string{"Service shop/web"},
		External: &meshv1.ExternalAuthorizer{Service: "auth/opa", Port: 9191, TimeoutMs: 500, MaxBodyBytes: 10},
		Rules: []*meshv1.Rule{{
			From: []*meshv1.Source{{RequestPrincipals: []string{"a/*"}, NotRequestPrincipals: []string{"b/*"}, IpBlocks: []string{"10.0.0.0/8"}}},
			To: []*meshv1.Operation{{Ports: []uint32{80}, Hosts: []string{"h"}, NotHosts: []string{"nh"}, Methods: []string{"GET"},
				NotMethods: []string{"PUT"}, Paths: []string{"/p"}, NotPaths: []string{"/np"}}},
			When: []*meshv1.Condition{{Key: "request.headers[x]", Values: []string{"v"}, NotValues: []string{"w"}}},
		}},
	}
}

func requestAuthentication() *meshv1.RequestAuthentication {
	return &meshv1.RequestAuthentication{
		Namespace: "shop", Name: "jwt", Targets: []string{"Gateway shop/wp"}, Workloads: []string{"u1"},
		Rules: []*meshv1.JWTRule{{
			Issuer: "https://id", Audiences: []string{"shop"}, JwksUri: "https://id/keys", TimeoutMs: 700,
			FromHeaders: []*meshv1.JWTHeader{{Name: "x-jwt", Prefix: "p "}}, FromParams: []string{"q"}, FromCookies: []string{"c"},
			ForwardOriginalToken: true, OutputPayloadToHeader: "x-claims",
			ClaimsToHeaders: []*meshv1.ClaimToHeader{{Header: "x-sub", Claim: "sub"}},
		}},
	}
}

func TestPoliciesForRequestsAreDecoded(t *testing.T) {
	p, err := DecodePolicy(requestPolicy())
	if err != nil {
		t.Fatal(err)
	}
	want := &policy.Policy{
		Namespace: "shop", Name: "p", Action: policy.Custom, Targets: []string{"Service shop/web"},
		External: &policy.ExternalAuthorizer{Service: "auth/opa", Port: 9191, Timeout: 500 * time.Millisecond, MaxBodyBytes: 10},
		Rules: []policy.Rule{{
			From: []policy.Source{{RequestPrincipals: []string{"a/*"}, NotRequestPrincipals: []string{"b/*"}, IPBlocks: p.Rules[0].From[0].IPBlocks}},
			To: []policy.Operation{{Ports: []uint16{80}, Hosts: []string{"h"}, NotHosts: []string{"nh"}, Methods: []string{"GET"},
				NotMethods: []string{"PUT"}, Paths: []string{"/p"}, NotPaths: []string{"/np"}}},
			When: []policy.Condition{{Key: "request.headers[x]", Values: []string{"v"}, NotValues: []string{"w"}}},
		}},
	}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("DecodePolicy = %+v\nwant %+v", p, want)
	}
	if err := policy.Validate(p); err != nil {
		t.Error(err)
	}
}

func TestAuthenticationsAreDecoded(t *testing.T) {
	a, err := DecodeAuthentication(requestAuthentication())
	if err != nil {
		t.Fatal(err)
	}
	want := &policy.Authentication{Namespace: "shop", Name: "jwt", Targets: []string{"Gateway shop/wp"}, Workloads: []string{"u1"}, Rules: []policy.JWTRule{{
		Issuer: "https://id", Audiences: []string{"shop"}, JWKSURI: "https://id/keys", Timeout: 700 * time.Millisecond,
		FromHeaders: []policy.TokenHeader{{Name: "x-jwt", Prefix: "p "}}, FromParams: []string{"q"}, FromCookies: []string{"c"},
		ForwardOriginalToken: true, OutputPayloadToHeader: "x-claims", ClaimsToHeaders: []policy.ClaimToHeader{{Header: "x-sub", Claim: "sub"}},
	}}}
	if !reflect.DeepEqual(a, want) {
		t.Errorf("DecodeAuthentication = %+v\nwant %+v", a, want)
	}
	r := Authentication(requestAuthentication())
	d, err := Decode("e", 1, map[string]*meshv1.Resource{r.GetKey(): r})
	if err != nil || r.GetKey() != "authentication/shop/jwt" || len(d.Authentication.For(nil, "u1")) != 1 {
		t.Errorf("Decode = %+v, %v", d.Authentication, err)
	}
}

func TestForeignPoliciesAreBounded(t *testing.T) {
	long := strings.Repeat("a", 4096)
	tests := map[string]func(*meshv1.AuthorizationPolicy, *meshv1.RequestAuthentication){
		"action":     func(p *meshv1.AuthorizationPolicy, _ *meshv1.RequestAuthentication) { p.Action = 9 },
		"port 0":     func(p *meshv1.AuthorizationPolicy, _ *meshv1.RequestAuthentication) { p.External.Port = 0 },
		"timeout_ms": func(p *meshv1.AuthorizationPolicy, _ *meshv1.RequestAuthentication) { p.External.TimeoutMs = 60_001 },
		"max_body_bytes": func(p *meshv1.AuthorizationPolicy, _ *meshv1.RequestAuthentication) {
			p.External.MaxBodyBytes = 1<<20 + 1
		},
		"broken": func(p *meshv1.AuthorizationPolicy, _ *meshv1.RequestAuthentication) { p.External.Broken = long },
		"jwks_uri": func(_ *meshv1.AuthorizationPolicy, a *meshv1.RequestAuthentication) {
			a.Rules[0].JwksUri = "file:///etc/passwd"
		},
		"workloads": func(_ *meshv1.AuthorizationPolicy, a *meshv1.RequestAuthentication) {
			a.Workloads = slices.Repeat([]string{"u"}, maxList+1)
		},
		"a uid": func(_ *meshv1.AuthorizationPolicy, a *meshv1.RequestAuthentication) { a.Workloads = []string{long} },
		"a name": func(_ *meshv1.AuthorizationPolicy, a *meshv1.RequestAuthentication) {
			a.Rules[0].FromCookies = []string{long}
		},
		"jwks of": func(_ *meshv1.AuthorizationPolicy, a *meshv1.RequestAuthentication) {
			a.Rules[0].Jwks = strings.Repeat("a", maxKeySet+1)
		},
	}
	for want, change := range tests {
		p, a := requestPolicy(), requestAuthentication()
		change(p, a)
		_, errP := DecodePolicy(p)
		_, errA := DecodeAuthentication(a)
		err := errors.Join(errP, errA)
		if !errors.Is(err, ErrUndecodable) || !strings.Contains(err.Error(), want) {
			t.Errorf("err = %v, want %q", err, want)
		}
	}
	broken := requestPolicy()
	broken.External = &meshv1.ExternalAuthorizer{Broken: "no such service"}
	if p, err := DecodePolicy(broken); err != nil || p.External.Broken == "" {
		t.Errorf("a broken authorizer: %+v, %v", p, err)
	}
}

// FuzzDecodePolicies: whatever the bytes, decoding ends in a value that can be used or in an error, and a decision by
// what was accepted does not panic.
func FuzzDecodePolicies(f *testing.F) {
	for _, m := range []proto.Message{requestPolicy(), requestAuthentication()} {
		raw, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, "/p", "v")
	}
	f.Fuzz(func(t *testing.T, raw []byte, path, value string) {
		var p meshv1.AuthorizationPolicy
		if proto.Unmarshal(raw, &p) == nil {
			if decoded, err := DecodePolicy(&p); err == nil {
				if set, err := policy.NewSet([]*policy.Policy{decoded}); err == nil {
					r := &policy.Request{Method: "GET", Host: value, Path: path, Header: map[string][]string{"X": {value, path}}}
					set.ExplainRequest(policy.Target{Policies: []string{decoded.FullName()}, Targets: decoded.Targets}, policy.Conn{}, r)
				}
			}
		}
		var a meshv1.RequestAuthentication
		if proto.Unmarshal(raw, &a) == nil {
			if decoded, err := DecodeAuthentication(&a); err == nil {
				_, _ = policy.NewAuthenticationSet([]*policy.Authentication{decoded})
			}
		}
	})
}
