package policy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/identity"
)

func get(host, path string) *Request { return &Request{Method: "GET", Host: host, Path: path} }

// matches tells whether the one rule of shop/p matches a request.
func matches(t *testing.T, p *Policy, r *Request) bool {
	t.Helper()
	if p.Action == Custom {
		p.External = &ExternalAuthorizer{Service: "auth/opa", Port: 9191}
	}
	d := mustSet(t, p).DecideRequest(onlyP, conn(mustID(t, "shop", "web"), "10.0.0.1", 80), r)
	switch p.Action {
	case Audit:
		return d.Audit != ""
	case Custom:
		return d.Reason == ReasonExternal
	}
	return d.Allowed == (p.Action == Allow)
}

var everyAction = []Action{Allow, Deny, Audit, Custom}

func TestMethodsHostsAndPaths(t *testing.T) {
	s := func(values ...string) []string { return values }
	tests := []struct {
		op   Operation
		yes  []*Request
		nope []*Request
	}{
		{Operation{Methods: s("GET", "get")}, []*Request{{Method: "GET"}, {Method: "gEt"}}, []*Request{{Method: "POST"}, {Method: "GETS"}, {}}},
		{Operation{Methods: s("PROP*")}, []*Request{{Method: "PROPFIND"}}, []*Request{{Method: "POST"}}},
		{Operation{NotMethods: s("GET")}, []*Request{{Method: "POST"}}, []*Request{{Method: "GET"}, {Method: "get"}}},
		{Operation{Hosts: s("Shop.example.")}, []*Request{get("shop.example", ""), get("SHOP.example:8080", ""), get("shop.example.:80", "")},
			[]*Request{get("shop.example.org", ""), get("a.shop.example", ""), get("", "")}},
		{Operation{Hosts: s("*.shop.example")}, []*Request{get("a.shop.example.", "")}, []*Request{get("shop.example", "")}},
		{Operation{Hosts: s("[2001:db8::1]")}, []*Request{get("[2001:DB8::1]:80", ""), get("[2001:db8::1]", "")}, []*Request{get("[2001:db8::2]", "")}},
		{Operation{Paths: s("/admin")}, []*Request{get("", "/admin")}, []*Request{get("", "/admin/"), get("", "/Admin"), get("", "/adminx"), get("", "")}},
		{Operation{Paths: s("/admin/*", "*.php")}, []*Request{get("", "/admin/"), get("", "/x.php")}, []*Request{get("", "/admin"), get("", "/x.phpx")}},
		{Operation{NotPaths: s("/admin*")}, []*Request{get("", "/shop")}, []*Request{get("", "/admin/x"), get("", "/admin")}},
		{Operation{Paths: s("/a/{*}/c")}, []*Request{get("", "/a/b/c")}, []*Request{get("", "/a//c"), get("", "/a/b/b/c"), get("", "/a/b/c/"), get("", "/a/c")}},
		{Operation{Paths: s("/a/{**}")}, []*Request{get("", "/a/"), get("", "/a/b/c")}, []*Request{get("", "/a"), get("", "/ab")}},
		{Operation{Paths: s("/{*}/{**}/end")}, []*Request{get("", "/a/b/c/end")}, []*Request{get("", "/a/end"), get("", "/a/b/end/")}},
		{Operation{Paths: s("/caf%c3%a9/%7Eme", "/naïve")}, []*Request{get("", "/caf%C3%A9/~me"), get("", "/na%C3%AFve")}, []*Request{get("", "/café/~me")}},
		{Operation{Methods: s("GET"), Paths: s("/a"), Ports: []uint16{80}}, []*Request{get("", "/a")}, []*Request{get("", "/b"), {Method: "PUT", Path: "/a"}}},
	}
	for _, tt := range tests {
		for _, action := range everyAction {
			for _, r := range tt.yes {
				if !matches(t, to(action, tt.op), r) {
					t.Errorf("%s %s does not match %s %q %q", action, tt.op, r.Method, r.Host, r.Path)
				}
			}
			for _, r := range tt.nope {
				if matches(t, to(action, tt.op), r) {
					t.Errorf("%s %s matches %s %q %q", action, tt.op, r.Method, r.Host, r.Path)
				}
			}
		}
	}
}

// TestRepeatedHeadersCountAgainstTheRequest: whichever value a backend reads, a DENY has seen it, and an ALLOW has not
// been opened by another.
func TestRepeatedHeadersCountAgainstTheRequest(t *testing.T) {
	s := func(values ...string) []string { return values }
	is := func(v ...string) Condition { return Condition{Key: "request.headers[X-role]", Values: v} }
	not := func(v ...string) Condition { return Condition{Key: "request.headers[x-role]", NotValues: v} }
	tests := []struct {
		condition    Condition
		lines        []string
		allow, other bool
	}{
		{is("user"), s("user"), true, true},
		{is("user"), nil, false, false},
		{is("user"), s("admin"), false, false},
		{is("user"), s("user", "admin"), false, true},
		{is("user"), s("admin", "user"), false, true},
		{is("user"), s("admin, user"), false, true},
		{is("user"), s("admin,user , x"), false, true},
		{is("a,b"), s("a", "b"), false, true},
		{is("a, b"), s("a", "b"), false, true},
		{is("user", "guest"), s("user", "guest"), true, true},
		{is("Mozilla/*"), s("Mozilla/5.0 (KHTML, like Gecko)"), true, true},
		{is("*"), s(""), true, true},
		{is("*"), nil, false, false},
		{not("admin"), nil, true, true},
		{not("admin"), s("user"), true, true},
		{not("admin"), s("admin"), false, false},
		{not("admin"), s("user", "admin"), false, true},
		{not("admin"), s("user,admin"), false, true},
		{not("a*"), s("ab", "c"), false, true},
		{Condition{Key: "request.headers[x-role]", Values: s("a*"), NotValues: s("ab")}, s("ac"), true, true},
		{Condition{Key: "request.headers[x-role]", Values: s("a*"), NotValues: s("ab")}, s("ab"), false, false},
		{Condition{Key: "request.headers[x-role]", Values: s("a*"), NotValues: s("ab")}, s("ab", "ac"), false, true},
	}
	for _, tt := range tests {
		for _, action := range everyAction {
			want := tt.other
			if action == Allow {
				want = tt.allow
			}
			r := &Request{Header: map[string][]string{"X-Role": tt.lines}}
			if got := matches(t, when(action, tt.condition), r); got != want {
				t.Errorf("%s %s with %q: matched %t", action, tt.condition, tt.lines, got)
			}
		}
	}
}

func testToken(t *testing.T) Token {
	t.Helper()
	claims := map[string]any{}
	text := `{"iss":"https://id.example","sub":"ann","groups":["dev","ops"],"admin":true,"level":3,"scope":"read write",
		"name":"ann b","realm":{"roles":["buyer"]},"odd":[{"a":1},"x"],"none":null}`
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&claims); err != nil {
		t.Fatal(err)
	}
	return Token{Issuer: "https://id.example", Subject: "ann", Audiences: []string{"shop", "bank"}, Presenter: "cli", Claims: claims}
}

func TestTokens(t *testing.T) {
	s := func(values ...string) []string { return values }
	is := func(key string, v ...string) *Policy { return when(0, Condition{Key: key, Values: v}) }
	not := func(key string, v ...string) *Policy { return when(0, Condition{Key: key, NotValues: v}) }
	const claims = "request.auth.claims"
	tests := []struct {
		policy *Policy
		// with the token; without any in an ALLOW; without any in others
		with, allowBare, otherBare bool
	}{
		{from(0, Source{RequestPrincipals: s("https://id.example/ann")}), true, false, false},
		{from(0, Source{RequestPrincipals: s("https://id.example/*")}), true, false, false},
		{from(0, Source{RequestPrincipals: s("*/ann")}), true, false, false},
		{from(0, Source{RequestPrincipals: s("*")}), true, false, false},
		{from(0, Source{RequestPrincipals: s("https://id.example/bob", "ann")}), false, false, false},
		{from(0, Source{NotRequestPrincipals: s("*")}), false, false, true},
		{from(0, Source{NotRequestPrincipals: s("*/bob")}), true, false, true},
		{is("request.auth.principal", "https://id.example/ann"), true, false, false},
		{not("request.auth.principal", "*/ann"), false, false, true},
		{is("request.auth.audiences", "bank"), true, false, false},
		{not("request.auth.audiences", "bank"), false, false, true},
		{is("request.auth.presenter", "cli"), true, false, false},
		{not("request.auth.presenter", "web"), true, false, true},
		{is(claims+"[groups]", "ops"), true, false, false},
		{is(claims+"[groups]", "op"), false, false, false},
		{not(claims+"[groups]", "ops"), false, false, true},
		{not(claims+"[groups]", "sec"), true, false, true},
		{is(claims+"[admin]", "true"), true, false, false},
		{is(claims+"[level]", "3"), true, false, false},
		{is(claims+"[scope]", "write"), true, false, false},
		{is(claims+"[name]", "ann"), false, false, false},
		{is(claims+"[realm][roles]", "buyer"), true, false, false},
		{is(claims+"[realm][roles][x]", "buyer"), false, false, false},
		{is(claims+"[missing]", "*"), false, false, false},
		{is(claims+"[none]", "*"), false, false, false},
		{not(claims+"[missing]", "x"), true, false, true},
		{is(claims+"[odd]", "x"), true, false, false},
	}
	token := testToken(t)
	for _, tt := range tests {
		for _, action := range everyAction {
			tt.policy.Action, tt.policy.External = action, nil
			bare := tt.otherBare
			if action == Allow {
				bare = tt.allowBare
			}
			if got := matches(t, tt.policy, &Request{Token: token}); got != tt.with {
				t.Errorf("%s %s, with a token: matched %t", action, tt.policy.Rules[0], got)
			}
			if got := matches(t, tt.policy, &Request{}); got != bare {
				t.Errorf("%s %s, without a token: matched %t", action, tt.policy.Rules[0], got)
			}
		}
	}
	opaque := not(claims+"[odd]", "y")
	for action, want := range map[Action]bool{Allow: false, Deny: true} {
		opaque.Action = action
		if got := matches(t, opaque, &Request{Token: token}); got != want {
			t.Errorf("%s %s: matched %t", action, opaque.Rules[0], got)
		}
	}
}

func TestConditionsOnConnections(t *testing.T) {
	s := func(values ...string) []string { return values }
	for _, tt := range []struct {
		condition Condition
		want      bool
	}{
		{Condition{Key: "source.ip", Values: s("10.0.0.0/24")}, true},
		{Condition{Key: "source.ip", Values: s("10.0.0.1")}, true},
		{Condition{Key: "source.ip", NotValues: s("10.0.0.1")}, false},
		{Condition{Key: "source.namespace", Values: s("shop")}, true},
		{Condition{Key: "source.namespace", NotValues: s("sh*")}, false},
		{Condition{Key: "source.principal", Values: s("mesh/ns/shop/sa/web")}, true},
		{Condition{Key: "source.principal", Values: s("mesh/ns/shop/sa/db")}, false},
		{Condition{Key: "destination.port", Values: s("80", "81")}, true},
		{Condition{Key: "destination.port", NotValues: s("80")}, false},
	} {
		for _, action := range everyAction {
			for _, r := range []*Request{nil, {}} {
				if got := matches(t, when(action, tt.condition), r); got != tt.want {
					t.Errorf("%s %s, request %v: matched %t", action, tt.condition, r, got)
				}
			}
		}
	}
}

// TestUnreadRequestsAreDenied: a connection of whose requests nobody knows gains nothing by that.
func TestUnreadRequestsAreDenied(t *testing.T) {
	shop := []Source{{Namespaces: []string{"shop"}}}
	asks := []Rule{
		{To: []Operation{{Methods: []string{"GET"}}}}, {To: []Operation{{NotPaths: []string{"/admin"}}}},
		{From: []Source{{RequestPrincipals: []string{"*"}}}}, {From: []Source{{NotRequestPrincipals: []string{"x"}}}},
		{From: shop, When: []Condition{{Key: "request.headers[x]", Values: []string{"a"}}}},
		{From: shop, When: []Condition{{Key: "request.auth.claims[x]", NotValues: []string{"a"}}}},
	}
	for _, r := range asks {
		for _, action := range everyAction {
			p := &Policy{Namespace: "shop", Name: "p", Action: action, Rules: []Rule{r}}
			if got := matches(t, p, nil); got != (action != Allow) {
				t.Errorf("%s %s: matched %t", action, r, got)
			}
			if !p.AsksRequests() {
				t.Errorf("%s: asks nothing of requests", r)
			}
		}
	}
	plain := from(Deny, Source{Namespaces: []string{"bank"}})
	if matches(t, plain, nil) || plain.AsksRequests() {
		t.Error("a policy of layer 4 asks requests")
	}
	// What can be told of the connection still counts.
	deny := &Policy{Namespace: "shop", Name: "p", Action: Deny, Rules: []Rule{{From: []Source{{Namespaces: []string{"bank"}}}, To: asks[0].To}}}
	if matches(t, deny, nil) {
		t.Error("a DENY on another namespace's requests matches this one's connection")
	}
	// Another source of the same rule, which asks nothing, still allows.
	allow := &Policy{Namespace: "shop", Name: "p", Action: Allow, Rules: []Rule{{From: append(shop, asks[2].From...)}}}
	if !matches(t, allow, nil) {
		t.Error("an ALLOW does not match by the source that asks nothing of requests")
	}
}

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
