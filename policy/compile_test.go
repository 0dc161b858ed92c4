package policy

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/warren-mesh/warren/identity"
)

func TestInvalidPoliciesAreRefusedByName(t *testing.T) {
	s := func(values ...string) []string { return values }
	tests := []struct {
		policy *Policy
		want   []string // parts of the error
	}{
		{nil, s("nil")},
		{&Policy{Namespace: "shop", Action: Allow}, s(`name ""`)},
		{&Policy{Name: "p", Action: Allow}, s(`namespace ""`)},
		{&Policy{Namespace: "shop", Name: "p"}, s("shop/p", "Action(0)")},
		{&Policy{Namespace: "shop", Name: "p", Action: 5}, s("shop/p", "Action(5)")},
		{&Policy{Namespace: "shop", Name: "p", Action: Custom}, s("shop/p", "whom to ask")},
		{&Policy{Namespace: "shop", Name: "p", Action: Allow, External: &ExternalAuthorizer{}}, s("shop/p", "goes with action CUSTOM")},
		{&Policy{Namespace: "shop", Name: "p", Action: Allow, Targets: s("Pod shop/web")}, s("shop/p", `target[0]: "Pod shop/web"`)},
		{&Policy{Namespace: "shop", Name: "p", Action: Allow, Targets: s("Service shop/web", "Service shop/web")}, s(`target[1]`)},
		{&Policy{Namespace: "shop", Name: "p", Action: Allow, Rules: make([]Rule, maxRules+1)}, s("shop/p", "513 rules")},
		{&Policy{Namespace: "shop", Name: "p", Action: Deny, Rules: []Rule{{}, {From: []Source{}}}}, s("shop/p: rule[1].from: the list is empty")},
		{&Policy{Namespace: "shop", Name: "p", Action: Deny, Rules: []Rule{{To: []Operation{}}}}, s("rule[0].to: the list is empty")},
		{from(Allow, Source{}), s("rule[0].from[0].source: no field is set")},
		{from(Deny, Source{}), s("rule[0].from[0].source: no field is set")},
		{to(Deny, Operation{}), s("rule[0].to[0].operation: no field is set")},
		{from(Allow, Source{Namespaces: s("shop"), Principals: []string{}}), s("source.principals: the list is empty")},
		{from(Allow, Source{Principals: s("spiffe://mesh/ns/a/sa/b")}), s(`source.principals[0]: "spiffe://mesh/ns/a/sa/b"`, "without spiffe://")},
		{from(Allow, Source{Principals: s("*", "mesh/ns/a")}), s(`source.principals[1]: "mesh/ns/a"`)},
		{from(Allow, Source{Principals: s("mesh/ns/*/sa/b")}), s("source.principals[0]", "asterisk")},
		{from(Allow, Source{Principals: s("*mesh*")}), s("asterisk")},
		{from(Allow, Source{Principals: s("**")}), s("asterisk")},
		{from(Allow, Source{Principals: s("mesh/ns/a\x00*")}), s(`"mesh/ns/a\x00*"`)},
		{from(Allow, Source{Principals: s(strings.Repeat("a", 1025))}), s("longer than 1024")},
		{from(Allow, Source{NotPrincipals: s("")}), s(`source.notPrincipals[0]: ""`, "empty")},
		{from(Allow, Source{Namespaces: s("Shop")}), s(`source.namespaces[0]: "Shop"`)},
		{from(Allow, Source{NotNamespaces: s("a/b")}), s(`source.notNamespaces[0]: "a/b"`)},
		{from(Allow, Source{ServiceAccounts: s("*")}), s(`source.serviceAccounts[0]: "*"`, "shop/*")},
		{from(Allow, Source{ServiceAccounts: s("/web")}), s("source.serviceAccounts[0]")},
		{from(Allow, Source{ServiceAccounts: s("shop/")}), s("source.serviceAccounts[0]")},
		{from(Allow, Source{NotServiceAccounts: s("a/b/c")}), s(`source.notServiceAccounts[0]: "a/b/c"`)},
		{from(Allow, Source{IPBlocks: []netip.Prefix{{}}}), s("source.ipBlocks[0]", "not a CIDR")},
		{from(Allow, Source{NotIPBlocks: prefixes("::ffff:0.0.0.0/95")}), s("source.notIpBlocks[0]", "IPv4-mapped")},
		{to(Allow, Operation{Ports: []uint16{80, 0}}), s("operation.ports[1]: port 0")},
		{to(Allow, Operation{NotPorts: []uint16{0}}), s("operation.notPorts[0]: port 0")},
		{to(Allow, Operation{Ports: []uint16{80}, NotPorts: []uint16{}}), s("operation.notPorts: the list is empty")},
		{to(Allow, Operation{Ports: make([]uint16, maxValues+1)}), s("4097 values")},
		{to(Allow, Operation{Paths: []string{}}), s("operation.paths: the list is empty")},
		{to(Allow, Operation{Paths: s("admin")}), s(`operation.paths[0]: "admin"`, "slash")},
		{to(Allow, Operation{Paths: s("/a?b=c")}), s("query")},
		{to(Allow, Operation{NotPaths: s("/a//b")}), s("operation.notPaths[0]", "normalised")},
		{to(Allow, Operation{Paths: s("/a/../b")}), s("dot segments")},
		{to(Allow, Operation{Paths: s("/a*b")}), s("asterisk")},
		{to(Allow, Operation{Paths: s("/a/{*}.txt")}), s("whole elements")},
		{to(Allow, Operation{Paths: s("/{**}/b/{*}")}), s("last operator")},
		{to(Allow, Operation{Paths: s("/a/{b}")}), s("whole elements")},
		{to(Allow, Operation{Hosts: s("shop.local:80")}), s("operation.hosts[0]", "without their port")},
		{to(Allow, Operation{NotHosts: s("a b")}), s("operation.notHosts[0]")},
		{to(Allow, Operation{Methods: s("GET /")}), s("operation.methods[0]", "not a method")},
		{from(Allow, Source{RequestPrincipals: s("a*b")}), s("source.requestPrincipals[0]")},
		{from(Allow, Source{NotRequestPrincipals: s("a\nb")}), s("source.notRequestPrincipals[0]", "control")},
		{when(Allow, Condition{Key: "source.ip"}), s("when[0]", "neither values")},
		{when(Allow, Condition{Key: "source.ip", Values: s("10.0.0.0/33")}), s("when[0].values[0]", "CIDR")},
		{when(Allow, Condition{Key: "destination.port", NotValues: s("http")}), s("when[0].notValues[0]", "not a port")},
		{when(Allow, Condition{Key: "request.headers[host]", Values: s("a")}), s("when[0].key", "hosts")},
		{when(Allow, Condition{Key: "request.headers[:path]", Values: s("a")}), s("when[0].key", "not a header's name")},
		{when(Allow, Condition{Key: "request.headers[te]", Values: s("a")}), s("when[0].key", "one connection")},
		{when(Allow, Condition{Key: "request.headers[a][b]", Values: s("a")}), s("when[0].key", "2 names")},
		{when(Allow, Condition{Key: "request.headers[]", Values: s("a")}), s("when[0].key", "brackets")},
		{when(Allow, Condition{Key: "request.auth.claims[a", Values: s("a")}), s("when[0].key", "brackets")},
		{when(Allow, Condition{Key: "request.regex.headers", Values: s("a")}), s("when[0].key", "not known")},
		{when(Allow, Condition{Key: "request.auth.presenter", Values: []string{}}), s("when[0].values: the list is empty")},
		{&Policy{Namespace: "shop", Name: "p", Action: Deny, Rules: []Rule{{When: []Condition{}}}}, s("rule[0].when: the list is empty")},
	}
	for _, tt := range tests {
		_, err := NewSet([]*Policy{tt.policy})
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("NewSet(%+v) = %v, want ErrInvalid", tt.policy, err)
			continue
		}
		for _, part := range tt.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("error %q does not say %q", err, part)
			}
		}
		if strings.ContainsRune(err.Error(), 0) {
			t.Errorf("error %q has a raw NUL", err)
		}
		if Validate(tt.policy) == nil {
			t.Errorf("Validate accepts %+v", tt.policy)
		}
	}
}

func TestLimitsAreInclusive(t *testing.T) {
	longest := "mesh/" + strings.Repeat("a", maxValueBytes-len("mesh/*")) + "*"
	mustSet(t, from(Allow, Source{Principals: []string{longest}}))
	mustSet(t, &Policy{Namespace: "shop", Name: "p", Action: Allow, Rules: make([]Rule, maxRules)})
	mustSet(t, from(Allow, Source{Namespaces: slices.Repeat([]string{"shop"}, maxValues)}))
}

func TestDuplicateNamesAreRefused(t *testing.T) {
	p := &Policy{Namespace: "shop", Name: "p", Action: Allow}
	if _, err := NewSet([]*Policy{p, {Namespace: "shop", Name: "p", Action: Deny}}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "shop/p is there twice") {
		t.Errorf("NewSet = %v", err)
	}
	set := mustSet(t, p, &Policy{Namespace: "bank", Name: "p", Action: Deny})
	var names []string
	for _, p := range set.All() {
		names = append(names, p.FullName())
	}
	if !slices.Equal(names, []string{"bank/p", "shop/p"}) || !set.Has("bank/p") || set.Has("p") {
		t.Errorf("All = %q", names)
	}
}

func TestPrincipalPatternsAgreeWithPlainText(t *testing.T) {
	id, err := identity.New("mesh", "shop", "web")
	if err != nil {
		t.Fatal(err)
	}
	text := id.Principal()
	for i := range len(text) + 1 {
		for value, want := range map[string]bool{
			text[:i] + "*": true, "*" + text[i:]: true,
			text[:i] + "x*": false, "*x" + text[i:]: false,
			text + "x*": false, "*x" + text: false,
		} {
			p, err := parsePrincipal(value)
			if err != nil {
				t.Fatalf("parsePrincipal(%q) = %v", value, err)
			}
			if got := p.matchesPrincipal(id); got != want {
				t.Errorf("%q matches %q: %t", value, text, got)
			}
		}
	}
	for value, want := range map[string]bool{text: true, text + "x": false, "mesh/ns/shop/sa/we": false, "mes/ns/shop/sa/web": false, "mesh/ns/shop2/sa/web": false} {
		p, err := parsePrincipal(value)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.matchesPrincipal(id); got != want {
			t.Errorf("exact %q matches %q: %t", value, text, got)
		}
	}
}

func TestExplainSaysWhatEachPolicySays(t *testing.T) {
	set := mustSet(t,
		&Policy{Namespace: "shop", Name: "deny", Action: Deny, Rules: []Rule{
			{From: []Source{{Namespaces: []string{"bank"}}}}, {To: []Operation{{Ports: []uint16{22}}}},
		}},
		&Policy{Namespace: "shop", Name: "allow", Action: Allow, Rules: []Rule{{From: []Source{{IPBlocks: prefixes("10.0.0.0/8")}}}}},
		&Policy{Namespace: "shop", Name: "empty", Action: Allow},
	)
	target := Target{Policies: []string{"shop/deny", "shop/allow", "shop/empty", "shop/gone"}, Strict: true}
	got := set.Explain(target, conn(identity.ID{}, "::ffff:10.0.0.1", 80))
	want := []string{
		"mesh default STRICT: refuses a peer without an identity",
		"AuthorizationPolicy shop/deny DENY: does not match: rule[0] by namespaces, rule[1] by ports",
		"AuthorizationPolicy shop/allow ALLOW: rule[0] matches: from (ip blocks 10.0.0.0/8) to any port",
		"AuthorizationPolicy shop/empty ALLOW: has no rules, so it matches nothing",
		"AuthorizationPolicy shop/gone: has not been received, so everything is denied",
	}
	if !slices.Equal(got, want) {
		t.Errorf("Explain =\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestRuleAsText(t *testing.T) {
	r := Rule{
		From: []Source{{Principals: []string{"a", "b"}, NotNamespaces: []string{"c"}}, {ServiceAccounts: []string{"d/e"}}},
		To:   []Operation{{Ports: []uint16{80}, NotPorts: []uint16{81}}},
	}
	if got, want := r.String(), "from (principals a, b; not namespaces c) or (service accounts d/e) to (ports 80; not ports 81)"; got != want {
		t.Errorf("String = %q, want %q", got, want)
	}
	if got, want := (Rule{}).String(), "from anywhere to any port"; got != want {
		t.Errorf("String = %q, want %q", got, want)
	}
}
