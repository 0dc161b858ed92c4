package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/warren-mesh/warren/identity"
)

// chooser turns a fuzzer's bytes into choices; when they are used up it chooses the first.
type chooser struct{ data []byte }

func (c *chooser) below(n int) int {
	if len(c.data) == 0 {
		return 0
	}
	b := c.data[0]
	c.data = c.data[1:]
	return int(b) % n
}

func some[T any](c *chooser, pool []T) []T {
	var out []T
	for range []int{0, 0, 0, 1, 1, 2}[c.below(6)] {
		out = append(out, pool[c.below(len(pool))])
	}
	return out
}

var (
	fuzzPrincipals = []string{"mesh/ns/shop/sa/web", "mesh/ns/*", "*/sa/web", "*", "mesh*", "*b", "other.org/ns/shop/sa/web",
		"mesh/ns/shop/sa/web*", "*mesh/ns/shop/sa/web", "mesh/ns/sh*", "*op/sa/web", "mesh/ns/shop/sa/db"}
	fuzzNamespaces = []string{"shop", "sh*", "*op", "*", "bank"}
	fuzzAccounts   = []string{"web", "shop/web", "bank/*", "*/web", "w*", "*b", "sh*/web", "bank/db"}
	fuzzBlocks     = prefixes("10.0.0.0/8", "10.1.2.3/32", "::ffff:10.1.0.0/112", "0.0.0.0/0", "::/0", "fe80::/10", "2001:db8::/32", "10.1.2.99/24")
	fuzzAddrs      = addrs("10.1.2.3", "10.9.9.9", "::ffff:10.1.2.3", "192.0.2.1", "fe80::1%eth0", "2001:db8::7", "::1")
	fuzzPorts      = []uint16{80, 443, 8080}
)

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

func addrs(texts ...string) (out []netip.Addr) {
	for _, t := range texts {
		out = append(out, netip.MustParseAddr(t))
	}
	return append(out, netip.Addr{})
}

func (c *chooser) policy(i int, principals []string) *Policy {
	p := &Policy{Namespace: fuzzNamespaces[4*c.below(2)], Name: fmt.Sprint("p", i), Action: Action(1 + c.below(4))}
	if p.Action == Custom {
		p.External = &fuzzAuthorizers[c.below(len(fuzzAuthorizers))]
	}
	if c.below(3) == 2 {
		p.Targets = fuzzTargets[c.below(len(fuzzTargets)):]
	}
	for range c.below(3) {
		var r Rule
		for range c.below(3) {
			r.From = append(r.From, Source{
				Principals: some(c, principals), NotPrincipals: some(c, principals),
				Namespaces: some(c, fuzzNamespaces), NotNamespaces: some(c, fuzzNamespaces),
				ServiceAccounts: some(c, fuzzAccounts), NotServiceAccounts: some(c, fuzzAccounts),
				IPBlocks: some(c, fuzzBlocks), NotIPBlocks: some(c, fuzzBlocks),
				RequestPrincipals: rarely(c, fuzzRequestPrincipals), NotRequestPrincipals: rarely(c, fuzzRequestPrincipals),
			})
		}
		for range c.below(3) {
			r.To = append(r.To, Operation{
				Ports: some(c, fuzzPorts), NotPorts: some(c, fuzzPorts), Hosts: rarely(c, fuzzHosts), NotHosts: rarely(c, fuzzHosts),
				Methods: rarely(c, fuzzMethods), NotMethods: rarely(c, fuzzMethods), Paths: rarely(c, fuzzPaths), NotPaths: rarely(c, fuzzPaths),
			})
		}
		for range []int{0, 0, 1, 2}[c.below(4)] {
			r.When = append(r.When, c.condition())
		}
		p.Rules = append(p.Rules, r)
	}
	return p
}

func (c *chooser) conn() Conn {
	var id identity.ID
	if c.below(4) > 0 {
		td := []string{"mesh", "other.org"}[c.below(2)]
		id, _ = identity.New(td, []string{"shop", "bank", "shop2"}[c.below(3)], []string{"web", "db", "web2"}[c.below(3)])
	}
	port := append(fuzzPorts, 0)[c.below(4)]
	return Conn{Src: id, SrcAddr: fuzzAddrs[c.below(len(fuzzAddrs))], Dst: netip.AddrPortFrom(fuzzAddrs[0], port)}
}

// FuzzDecide compares Decide with the reference. custom is a principal's pattern of the fuzzer's own.
func FuzzDecide(f *testing.F) {
	f.Add([]byte{}, "")
	f.Add([]byte{0, 1, 1, 1, 3, 2, 1, 5, 7, 200, 3, 3, 3, 1, 0, 2, 2}, "mesh/ns/shop/sa/w*")
	f.Add([]byte{2, 0, 1, 2, 1, 0, 4, 1, 1, 4, 2, 2, 4, 3, 3, 3, 4, 1, 5, 2, 1, 1, 1, 9, 9, 9, 1, 2, 3, 4}, "*op/sa/web")
	f.Add([]byte("a policy is only words until something checks it against every connection"), "*")
	f.Fuzz(func(t *testing.T, data []byte, custom string) {
		c := &chooser{data}
		principals := fuzzPrincipals
		if _, err := parsePrincipal(custom); err == nil {
			principals = append(principals[:len(principals):len(principals)], custom, custom, custom)
		}
		var all []*Policy
		target := Target{Strict: c.below(4) == 1, StrictSource: "shop/strict"}
		for i := range 1 + c.below(3) {
			p := c.policy(i, principals)
			if Validate(p) != nil {
				continue // a source or an operation without a field
			}
			all = append(all, p)
			if c.below(2) > 0 {
				target.Targets = fuzzTargets[:1+c.below(2)]
			}
			if c.below(4) > 0 {
				target.Policies = append(target.Policies, p.FullName())
			}
		}
		if c.below(8) == 7 {
			target.Policies = append(target.Policies, "shop/not-here")
		}
		checkAgainstReference(t, all, target, c.conn(), c.request())
	})
}

func checkAgainstReference(t *testing.T, policies []*Policy, target Target, conn Conn, r *Request) {
	t.Helper()
	set, err := NewSet(policies)
	if err != nil {
		t.Fatal(err)
	}
	want := reference(policies, target, conn, r)
	got := set.DecideRequest(target, conn, r)
	if got.Allowed != want.allowed || got.Reason != want.reason || got.Audit != want.audit || got.Permit().Valid() != want.allowed {
		t.Fatalf("Decide = %+v\nreference = %+v\ntarget %+v conn %+v request %+v\n%v", got, want, target, conn, r, set.ExplainRequest(target, conn, r))
	}
	if want.rule != "" && got.Rule != want.rule {
		t.Fatalf("Decide names %q, the reference %q", got.Rule, want.rule)
	}
	checkIndex(t, set, target, conn, r)
	if lines := set.ExplainRequest(target, conn, r); len(lines) < len(target.Policies) {
		t.Fatalf("Explain has %d lines for %d policies: %q", len(lines), len(target.Policies), lines)
	}
}

// TestDecideAgreesWithReference is FuzzDecide on bytes that are random but the same in every run.
func TestDecideAgreesWithReference(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	outcomes := map[Reason]int{}
	for range 20_000 {
		data := make([]byte, random.IntN(200))
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		c := &chooser{data}
		var all []*Policy
		target := Target{Strict: c.below(4) == 1}
		for i := range 1 + c.below(3) {
			if p := c.policy(i, fuzzPrincipals); Validate(p) == nil {
				all = append(all, p)
				target.Policies = append(target.Policies, p.FullName())
			}
		}
		conn, r := c.conn(), c.request()
		checkAgainstReference(t, all, target, conn, r)
		outcomes[reference(all, target, conn, r).reason]++
	}
	for _, reason := range []Reason{ReasonAllowed, ReasonDefault, ReasonDenied, ReasonNoAllow, ReasonStrict, ReasonExternal} {
		if outcomes[reason] < 20 {
			t.Errorf("only %d of the decisions were %s: the inputs test too little", outcomes[reason], reason)
		}
	}
}
