package policy

import (
	"encoding/json"
	"strings"
	"testing"
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
