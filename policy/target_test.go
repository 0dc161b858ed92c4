package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/identity"
)

func TestTargetsCountBesideNames(t *testing.T) {
	rules := []Rule{{To: []Operation{{Paths: []string{"/admin"}}}}}
	set := mustSet(t,
		&Policy{Namespace: "shop", Name: "deny", Action: Deny, Rules: rules, Targets: []string{"Service shop/web", "Gateway shop/wp"}},
		&Policy{Namespace: "shop", Name: "allow", Action: Allow, Rules: []Rule{{}}, Targets: []string{"Gateway shop/wp"}},
		&Policy{Namespace: "shop", Name: "none", Action: Allow},
	)
	c := conn(mustID(t, "shop", "web"), "10.0.0.1", 80)
	tests := []struct {
		target Target
		path   string
		reason Reason
	}{
		{Target{}, "/admin", ReasonDefault},
		{Target{Targets: []string{"Service shop/db"}}, "/admin", ReasonDefault},
		{Target{Targets: []string{"Service shop/web"}}, "/admin", ReasonDenied},
		{Target{Targets: []string{"Service shop/web"}}, "/", ReasonDefault},
		{Target{Targets: []string{"Gateway shop/wp"}}, "/", ReasonAllowed},
		{Target{Targets: []string{"Gateway shop/wp"}, Policies: []string{"shop/none"}}, "/", ReasonAllowed},
		{Target{Targets: []string{"Service shop/web"}, Policies: []string{"shop/none"}}, "/", ReasonNoAllow},
		{Target{Targets: []string{"Gateway shop/wp"}, Policies: []string{"shop/gone"}}, "/", ReasonUnresolved},
	}
	for _, tt := range tests {
		if d := set.DecideRequest(tt.target, c, get("", tt.path)); d.Reason != tt.reason || d.Permit().Valid() != d.Allowed {
			t.Errorf("%v %s: %+v, want %s", tt.target, tt.path, d, tt.reason)
		}
	}
	lines := set.ExplainRequest(Target{Targets: []string{"Service shop/web"}}, c, get("", "/admin"))
	if want := "AuthorizationPolicy shop/deny DENY: rule[0] matches: from anywhere to (paths /admin)"; !slices.Equal(lines, []string{want}) {
		t.Errorf("ExplainRequest = %q", lines)
	}
	lines = set.Explain(Target{Targets: []string{"Service shop/web"}}, c)
	if len(lines) != 1 || !strings.Contains(lines[0], "only a waypoint can tell") {
		t.Errorf("Explain = %q", lines)
	}
}

func TestAuthorizersAreAskedBeforeAnythingElse(t *testing.T) {
	opa := &ExternalAuthorizer{Service: "auth/opa", Port: 9191, Timeout: time.Second}
	other := &ExternalAuthorizer{Service: "auth/other", Port: 9191}
	gone := &ExternalAuthorizer{Service: "auth/gone", Port: 1, Broken: "no such service"}
	admin := []Rule{{To: []Operation{{Paths: []string{"/admin*"}}}}}
	set := mustSet(t,
		&Policy{Namespace: "shop", Name: "opa", Action: Custom, Rules: []Rule{{}}, External: opa},
		&Policy{Namespace: "shop", Name: "opa2", Action: Custom, Rules: []Rule{{}}, External: opa},
		&Policy{Namespace: "shop", Name: "other", Action: Custom, Rules: admin, External: other},
		&Policy{Namespace: "shop", Name: "gone", Action: Custom, Rules: []Rule{{}}, External: gone},
		&Policy{Namespace: "shop", Name: "deny", Action: Deny, Rules: []Rule{{To: []Operation{{Paths: []string{"/admin/keys"}}}}}},
	)
	all := Target{Policies: []string{"shop/opa", "shop/opa2", "shop/other", "shop/deny"}}
	ask := func(r *Request) (asked []string, d Decision) {
		for d = set.DecideRequest(all, Conn{}, r); d.Ask != nil; d = set.DecideRequest(all, Conn{}, r) {
			if d.Allowed || d.Permit().Valid() || d.Reason != ReasonExternal || len(asked) > 5 {
				t.Fatalf("while asking: %+v", d)
			}
			asked = append(asked, d.Ask.Service)
			r.Passed = append(r.Passed, *d.Ask)
		}
		return asked, d
	}
	for path, want := range map[string]string{"/": "[auth/opa] no_policy", "/admin": "[auth/opa auth/other] no_policy", "/admin/keys": "[auth/opa auth/other] policy_denied"} {
		asked, d := ask(get("", path))
		if got := fmt.Sprint(asked, " ", d.Reason); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	d := set.DecideRequest(Target{Policies: []string{"shop/gone"}}, Conn{}, &Request{Passed: []ExternalAuthorizer{*gone}})
	if d.Allowed || d.Ask != nil || !strings.Contains(d.Rule, "shop/gone rule[0]") || !strings.Contains(d.Rule, "no such service") {
		t.Errorf("a broken authorizer: %+v", d)
	}
	d = set.Decide(all, Conn{})
	if d.Allowed || d.Ask != nil || d.Reason != ReasonExternal || !strings.Contains(d.Rule, "only a waypoint") {
		t.Errorf("a connection: %+v", d)
	}
}

func TestAuthenticationsAreFoundByTargetAndWorkload(t *testing.T) {
	rule := []JWTRule{{Issuer: "https://id.example", JWKSURI: "https://id.example/keys"}}
	set, err := NewAuthenticationSet([]*Authentication{
		{Namespace: "shop", Name: "b", Targets: []string{"Service shop/web", "Gateway shop/wp"}, Rules: rule},
		{Namespace: "shop", Name: "a", Targets: []string{"Gateway shop/wp"}, Workloads: []string{"u1"}, Rules: rule},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		targets  []string
		workload string
		want     string
	}{
		{nil, "", ""}, {nil, "u1", "a"}, {nil, "u2", ""}, {[]string{"Service shop/web"}, "", "b"},
		{[]string{"Service shop/web", "Gateway shop/wp"}, "", "ba"}, {[]string{"Gateway shop/wp"}, "u1", "ab"},
	} {
		got := ""
		for _, a := range set.For(tt.targets, tt.workload) {
			got += a.Name
		}
		if got != tt.want {
			t.Errorf("For(%q, %q) = %q, want %q", tt.targets, tt.workload, got, tt.want)
		}
	}
	for want, bad := range map[string]*Authentication{
		"issuer":        {Namespace: "a", Name: "b", Rules: []JWTRule{{JWKS: "x"}}},
		"exactly one":   {Namespace: "a", Name: "b", Rules: []JWTRule{{Issuer: "x", JWKS: "x", JWKSURI: "x"}}},
		"33 rules":      {Namespace: "a", Name: "b", Rules: make([]JWTRule, 33)},
		"target[0]":     {Namespace: "a", Name: "b", Targets: []string{"shop/web"}},
		".fromCookies:": {Namespace: "a", Name: "b", Rules: []JWTRule{{Issuer: "x", JWKS: "x", FromCookies: make([]string, 17)}}},
	} {
		if _, err := NewAuthenticationSet([]*Authentication{bad}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
}

func thousand(t testing.TB) (*Set, Target, Conn, *Request) {
	var policies []*Policy
	for i := range 1000 {
		policies = append(policies, &Policy{Namespace: "shop", Name: fmt.Sprint("p", i), Action: Action(1 + i%3), Targets: []string{fmt.Sprint("Service shop/s", i/4)},
			Rules: []Rule{{
				From: []Source{{Principals: []string{"mesh/ns/shop/sa/other", "mesh/ns/shop/*"}, RequestPrincipals: []string{"https://id.example/*"}}},
				To:   []Operation{{Methods: []string{"GET"}, Paths: []string{"/api/{*}/items/{**}"}, Hosts: []string{fmt.Sprintf("s%d.shop", i)}}},
				When: []Condition{{Key: "request.headers[x-env]", Values: []string{"prod"}}, {Key: "request.auth.claims[groups]", Values: []string{"ops"}}},
			}}})
	}
	policies = append(policies, &Policy{Namespace: "shop", Name: "open", Action: Allow, Rules: []Rule{{}}, Targets: []string{"Service shop/s7"}})
	r := &Request{Method: "GET", Host: "s7.shop:8080", Path: "/api/v1/items/9/x", Header: map[string][]string{"X-Env": {"prod"}},
		Token: Token{Issuer: "https://id.example", Subject: "ann", Claims: map[string]any{"groups": []any{"dev", "ops"}}}}
	return mustSet(t, policies...), Target{Targets: []string{"Gateway shop/wp", "Service shop/s7"}, Policies: []string{"shop/p0", "shop/p9"}},
		conn(mustID(t, "shop", "web"), "10.0.0.1", 80), r
}

func TestDecideRequestDoesNotAllocate(t *testing.T) {
	set, target, c, r := thousand(t)
	if d := set.DecideRequest(target, c, r); !d.Allowed || d.Reason != ReasonAllowed {
		t.Fatalf("DecideRequest = %+v", d)
	}
	if n := testing.AllocsPerRun(100, func() { set.DecideRequest(target, c, r) }); n != 0 {
		t.Errorf("DecideRequest allocates %v times", n)
	}
}

func BenchmarkDecideRequest(b *testing.B) {
	set, target, c, r := thousand(b)
	b.ReportAllocs()
	for b.Loop() {
		set.DecideRequest(target, c, r)
	}
}

func BenchmarkDecide(b *testing.B) {
	set := mustSet(b, from(Deny, Source{Namespaces: []string{"bank"}}), &Policy{Namespace: "shop", Name: "q", Action: Allow, Rules: []Rule{{}}})
	target, c := Target{Policies: []string{"shop/p", "shop/q"}}, conn(identity.ID{}, "10.0.0.1", 80)
	b.ReportAllocs()
	for b.Loop() {
		set.Decide(target, c)
	}
}
