package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// scene is a set of many policies, and who is decided by it.
type scene struct {
	name   string
	make   func(n int) ([]*Policy, Target)
	src    string // "<namespace>/<account>", "" for plaintext
	reason Reason
}

// scenes are shapes of meshes with n policies: elsewhere, or all on the one workload that is decided for.
var scenes = []scene{
	{"namespaces", perNamespace, "team-1/web", ReasonAllowed},
	{"principals", selecting(byPrincipal), "team-1/a1", ReasonAllowed},
	{"accounts", selecting(byAccount), "team-1/a1", ReasonAllowed},
	{"blocks", selecting(byCIDR), "", ReasonAllowed},
	{"ports", selecting(byPortNumber), "team-1/web", ReasonAllowed},
	{"mixed", selecting(mixed), "team-1/a1", ReasonAllowed},
	{"mixed-none", selecting(mixed), "team-none/web", ReasonNoAllow},
}

// perNamespace is a mesh of teams with four policies each, beside one DENY and one AUDIT for the whole mesh.
func perNamespace(n int) ([]*Policy, Target) {
	all := []*Policy{
		{Namespace: "mesh", Name: "deny", Action: Deny, Rules: []Rule{{From: []Source{{Namespaces: []string{"quarantine"}}}}}},
		{Namespace: "mesh", Name: "audit", Action: Audit, Rules: []Rule{{From: []Source{{IPBlocks: prefixes("192.0.2.0/24")}}}}},
	}
	for i := len(all); i < n; i++ {
		ns := fmt.Sprint("team-", i/4)
		all = append(all, &Policy{Namespace: ns, Name: fmt.Sprint("p", i%4), Action: []Action{Allow, Allow, Deny, Audit}[i%4],
			Rules: []Rule{{From: []Source{{Principals: []string{fmt.Sprintf("mesh/ns/%s/sa/x%d", ns, i), fmt.Sprintf("mesh/ns/%s/sa/web", ns)}}}, To: []Operation{{Ports: []uint16{uint16(80 + i%4)}}}}}})
	}
	return all, Target{Policies: []string{"mesh/audit", "mesh/deny", "team-1/p0", "team-1/p1", "team-1/p2", "team-1/p3"}}
}

// selecting makes policies that all select the one workload.
func selecting(rule func(i int) (Action, Rule)) func(n int) ([]*Policy, Target) {
	return func(n int) ([]*Policy, Target) {
		var all []*Policy
		var target Target
		for i := range n {
			action, r := rule(i)
			all = append(all, &Policy{Namespace: "shop", Name: fmt.Sprintf("p%05d", i), Action: action, Rules: []Rule{r}})
			target.Policies = append(target.Policies, all[i].FullName())
		}
		return all, target
	}
}

func byPrincipal(i int) (Action, Rule) {
	return Allow, Rule{From: []Source{{Principals: []string{fmt.Sprintf("mesh/ns/team-%d/sa/a%d", i%50, i)}}}}
}

func byAccount(i int) (Action, Rule) {
	return Allow, Rule{From: []Source{{ServiceAccounts: []string{fmt.Sprintf("team-%d/a%d", i%50, i)}}}}
}

func byCIDR(i int) (Action, Rule) {
	addr := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0})
	return Allow, Rule{From: []Source{{IPBlocks: []netip.Prefix{netip.PrefixFrom(addr, 22+i%7).Masked()}}}}
}

func byPortNumber(i int) (Action, Rule) {
	return Allow, Rule{To: []Operation{{Ports: []uint16{uint16(80 + i)}}}}
}

// mixed are the shapes that meshes have, one of ten an AUDIT, three a DENY.
func mixed(i int) (Action, Rule) {
	action := []Action{Allow, Deny, Allow, Allow, Audit, Allow, Deny, Allow, Deny, Allow}[i%10]
	_, r := []func(int) (Action, Rule){byPrincipal, byAccount, byCIDR, byPrincipal}[i%4](i)
	switch {
	case i%10 == 6:
		r = Rule{From: []Source{{Namespaces: []string{fmt.Sprint("bad-", i)}}}, When: []Condition{{Key: "destination.port", Values: []string{"8080"}}}}
	case i%3 == 0:
		r.To = []Operation{{Ports: []uint16{80, 443}}}
	}
	if i == 1 {
		action, r = byPrincipal(1)
	}
	return action, r
}

func (s scene) build(t testing.TB, n int) (*Set, Target, Conn) {
	t.Helper()
	policies, target := s.make(n)
	set := mustSet(t, policies...)
	c := Conn{SrcAddr: netip.MustParseAddr("10.0.1.7"), Dst: netip.MustParseAddrPort("10.9.0.1:80")}
	if ns, sa, ok := strings.Cut(s.src, "/"); ok {
		c.Src = mustID(t, ns, sa)
	}
	if d := set.Decide(target, c); d.Reason != s.reason {
		t.Fatalf("%s of %d: %+v, want %s", s.name, n, d, s.reason)
	}
	return set, target, c
}

// TestDecisionsDoNotAllocateHoweverManyPolicies is a budget: what an index costs is paid by a set's first decision.
func TestDecisionsDoNotAllocateHoweverManyPolicies(t *testing.T) {
	for _, s := range scenes {
		if s.reason == ReasonNoAllow {
			continue // a refusal says what refused
		}
		for _, n := range []int{10, 1000} {
			set, target, c := s.build(t, n)
			if got := testing.AllocsPerRun(100, func() { set.Decide(target, c) }); got != 0 {
				t.Errorf("%s of %d: %v allocations", s.name, n, got)
			}
		}
	}
}

// gateway is n policies of a gateway that ask about requests.
func gateway(t testing.TB, n int) (*Set, Target, Conn, *Request) {
	t.Helper()
	var all []*Policy
	for i := range n {
		o := []Operation{
			{Hosts: []string{fmt.Sprintf("s%d.shop", i)}}, {Paths: []string{fmt.Sprintf("/api/v%d/*", i)}},
			{Paths: []string{fmt.Sprintf("/items/%d/{*}/parts", i)}}, {Hosts: []string{fmt.Sprintf("*.s%d.example", i)}, Ports: []uint16{80}},
		}[i%4]
		o.Methods = []string{"GET", "HEAD"}
		all = append(all, &Policy{Namespace: "shop", Name: fmt.Sprintf("p%05d", i), Action: Allow, Rules: []Rule{{To: []Operation{o}}}, Targets: []string{"Gateway shop/wp"}})
	}
	r := &Request{Method: "GET", Host: "web.shop:80", Path: "/api/v5/things/7"}
	set, target, c := mustSet(t, all...), Target{Targets: []string{"Gateway shop/wp"}}, conn(mustID(t, "shop", "web"), "10.0.0.1", 80)
	if d := set.DecideRequest(target, c, r); d.Rule != "AuthorizationPolicy shop/p00005 rule[0]" || !d.Allowed {
		t.Fatalf("DecideRequest = %+v", d)
	}
	return set, target, c, r
}

func TestRequestsDoNotAllocateHoweverManyPolicies(t *testing.T) {
	for _, n := range []int{10, 1000} {
		set, target, c, r := gateway(t, n)
		if got := testing.AllocsPerRun(100, func() { set.DecideRequest(target, c, r) }); got != 0 {
			t.Errorf("%d policies: %v allocations", n, got)
		}
	}
}

func BenchmarkDecideRequestOfMany(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprintf("policies=%d", n), func(b *testing.B) {
			set, target, c, r := gateway(b, n)
			b.ReportAllocs()
			for b.Loop() {
				set.DecideRequest(target, c, r)
			}
		})
	}
}

// TestFewRulesAreAskedHoweverManyPolicies: a decision's time follows the rules that may match, not those that there are.
func TestFewRulesAreAskedHoweverManyPolicies(t *testing.T) {
	for _, s := range scenes[1:] {
		policies, target := s.make(10_000)
		x := newIndex(mustSet(t, policies...).planOf(target.Policies).policies, false)
		_, _, c := s.build(t, 10)
		who, asked := newSubject(c, nil), 0
		for _, found := range x.candidates(nil, &who) {
			asked += len(found)
		}
		if asked > 4 || len(x.rules) != len(policies) {
			t.Errorf("%s: %d of %d rules are asked", s.name, asked, len(x.rules))
		}
	}
}

func TestARefusalNamesAFewOfManyPolicies(t *testing.T) {
	for n, want := range map[int]string{2: "shop/p00000, shop/p00001", 1000: "shop/p00006, shop/p00007 and 992 more"} {
		policies, target := selecting(byPrincipal)(n)
		d := mustSet(t, policies...).Decide(target, Conn{})
		if d.Reason != ReasonNoAllow || !strings.HasSuffix(d.Rule, want) {
			t.Errorf("%d: %s by %q, want …%q", n, d.Reason, d.Rule, want)
		}
	}
}

func BenchmarkDecideOfMany(b *testing.B) {
	for _, s := range scenes {
		for _, n := range []int{10, 1000, 10_000} {
			b.Run(fmt.Sprintf("shape=%s/policies=%d", s.name, n), func(b *testing.B) {
				set, target, c := s.build(b, n)
				b.ReportAllocs()
				for b.Loop() {
					set.Decide(target, c)
				}
			})
		}
	}
}

// BenchmarkFirstDecision is the first by a set, which makes the index, beside making the set.
func BenchmarkFirstDecision(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		policies, target := selecting(mixed)(n)
		b.Run(fmt.Sprintf("policies=%d/set", n), func(b *testing.B) {
			for b.Loop() {
				mustSet(b, policies...)
			}
		})
		b.Run(fmt.Sprintf("policies=%d/index", n), func(b *testing.B) {
			list := mustSet(b, policies...).planOf(target.Policies).policies
			for b.Loop() {
				newIndex(list, false)
			}
		})
	}
}
