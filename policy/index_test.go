package policy

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// checkIndex asks policies by an index however few they are, and one by one however many.
func checkIndex(t *testing.T, set *Set, target Target, conn Conn, r *Request) {
	t.Helper()
	who := newSubject(conn, r)
	var one, indexed findings
	set.surveyNames(&one, target.Policies, &who)
	names := set.planOf(target.Policies)
	if indexed.missing = names.missing; indexed.missing == "" {
		names.surveyByIndex(&indexed, &who)
	} else {
		names.survey(&indexed, &who)
	}
	for _, name := range target.Targets {
		for _, c := range set.targeting(name) {
			one.add(c, &who)
		}
		if p := set.planFor(name); p != nil {
			p.surveyByIndex(&indexed, &who)
		}
	}
	if one != indexed {
		t.Fatalf("by index:   %+v\none by one: %+v\ntarget %+v conn %+v request %+v\n%q", indexed, one, target, conn, r, set.ExplainRequest(target, conn, r))
	}
}

// TestManyPoliciesAgreeWithReference is TestDecideAgreesWithReference with more policies than are asked one by one.
func TestManyPoliciesAgreeWithReference(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	outcomes := map[Reason]int{}
	for range 60 {
		c := &chooser{data: make([]byte, 20_000)}
		for i := range c.data {
			c.data[i] = byte(random.Uint32())
		}
		var all []*Policy
		var target Target
		for i := range fewPolicies + 1 + random.IntN(40) {
			p := c.policy(i, fuzzPrincipals)
			if random.IntN(5) > 0 && p.Action == Custom || random.IntN(3) > 0 && p.Action == Deny {
				p.Action, p.External = Allow, nil // or nothing else would ever decide
			}
			if Validate(p) == nil {
				all = append(all, p)
				target.Policies = append(target.Policies, p.FullName())
			}
		}
		if random.IntN(2) > 0 {
			target.Targets = fuzzTargets[:1+random.IntN(2)]
		}
		if random.IntN(10) == 0 {
			target.Policies = append(target.Policies, "shop/not-here")
		}
		for range 20 {
			conn, r := c.conn(), c.request()
			checkAgainstReference(t, all, target, conn, r)
			outcomes[reference(all, target, conn, r).reason]++
		}
	}
	for _, reason := range []Reason{ReasonAllowed, ReasonDenied, ReasonExternal, ReasonNoAllow, ReasonUnresolved} {
		if outcomes[reason] < 20 {
			t.Errorf("only %d of the decisions were %s: the inputs test too little", outcomes[reason], reason)
		}
	}
}

// TestAListIsRememberedByItself: neither a list with the same beginning nor one that lies where another was is taken for it.
func TestAListIsRememberedByItself(t *testing.T) {
	var policies []*Policy
	var names []string
	for _, n := range "abcdefghijkl" {
		p := &Policy{Namespace: "shop", Name: string(n), Action: Deny}
		policies, names = append(policies, p), append(names, p.FullName())
	}
	policies[11].Rules = []Rule{{}}
	set := mustSet(t, policies...)
	for range 2 {
		for _, tt := range []struct {
			names  []string
			reason Reason
		}{
			{names, ReasonDenied}, {names[:11], ReasonDefault}, {names[1:], ReasonDenied}, {names[1:11], ReasonDefault},
			{slices.Concat(names[:11], []string{"shop/gone"}), ReasonUnresolved},
		} {
			if d := set.Decide(Target{Policies: tt.names}, Conn{}); d.Reason != tt.reason {
				t.Errorf("%q: %+v, want %s", tt.names, d, tt.reason)
			}
		}
	}
}

func TestOnlySoManyListsAreRemembered(t *testing.T) {
	set := mustSet(t, &Policy{Namespace: "shop", Name: "p", Action: Deny, Rules: []Rule{{}}})
	list := slices.Repeat([]string{"shop/p"}, fewPolicies+1)
	for range maxSelections + 10 {
		if d := set.Decide(Target{Policies: slices.Clone(list)}, Conn{}); d.Reason != ReasonDenied {
			t.Fatalf("%+v", d)
		}
	}
	if n := set.selections.n.Load(); n != maxSelections {
		t.Errorf("%d lists are remembered, want %d", n, maxSelections)
	}
}
