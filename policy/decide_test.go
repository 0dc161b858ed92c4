package policy

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/warren-mesh/warren/identity"
)

func mustID(t testing.TB, namespace, account string) identity.ID {
	t.Helper()
	id, err := identity.New("mesh", namespace, account)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func mustSet(t testing.TB, policies ...*Policy) *Set {
	t.Helper()
	set, err := NewSet(policies)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func from(action Action, s Source) *Policy {
	return &Policy{Namespace: "shop", Name: "p", Action: action, Rules: []Rule{{From: []Source{s}}}}
}

func to(action Action, o Operation) *Policy {
	return &Policy{Namespace: "shop", Name: "p", Action: action, Rules: []Rule{{To: []Operation{o}}}}
}

func when(action Action, c Condition) *Policy {
	return &Policy{Namespace: "shop", Name: "p", Action: action, Rules: []Rule{{When: []Condition{c}}}}
}

func conn(src identity.ID, addr string, port uint16) Conn {
	return Conn{Src: src, SrcAddr: netip.MustParseAddr(addr), Dst: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), port)}
}

var onlyP = Target{Policies: []string{"shop/p"}}

func TestOrderOfPrecedence(t *testing.T) {
	everything := []Rule{{}}
	set := mustSet(t,
		&Policy{Namespace: "shop", Name: "allow", Action: Allow, Rules: everything},
		&Policy{Namespace: "shop", Name: "deny", Action: Deny, Rules: everything},
		&Policy{Namespace: "shop", Name: "audit", Action: Audit, Rules: everything},
		&Policy{Namespace: "shop", Name: "allow-none", Action: Allow},
		&Policy{Namespace: "shop", Name: "deny-none", Action: Deny},
	)
	web := mustID(t, "shop", "web")
	names := func(s ...string) []string { return s }
	tests := []struct {
		name     string
		policies []string
		strict   bool
		source   string
		src      identity.ID
		reason   Reason
		rule     string
	}{
		{name: "nothing selects", reason: ReasonDefault},
		{name: "strict, plaintext", strict: true, reason: ReasonStrict, rule: "mesh default"},
		{name: "strict by a resource", strict: true, source: "shop/tls", reason: ReasonStrict, rule: "PeerAuthentication shop/tls"},
		{name: "strict, identity", strict: true, src: web, reason: ReasonDefault},
		{name: "unresolved before strict", strict: true, policies: names("shop/gone"), reason: ReasonUnresolved, rule: "AuthorizationPolicy shop/gone has not been received"},
		{name: "unresolved before allow", policies: names("shop/allow", "shop/gone"), reason: ReasonUnresolved, rule: "AuthorizationPolicy shop/gone has not been received"},
		{name: "strict before deny", strict: true, policies: names("shop/deny"), reason: ReasonStrict, rule: "mesh default"},
		{name: "deny before allow", policies: names("shop/allow", "shop/deny"), reason: ReasonDenied, rule: "AuthorizationPolicy shop/deny rule[0]"},
		{name: "allow", policies: names("shop/deny-none", "shop/allow"), reason: ReasonAllowed, rule: "AuthorizationPolicy shop/allow rule[0]"},
		{name: "one of two allows", policies: names("shop/allow-none", "shop/allow"), reason: ReasonAllowed, rule: "AuthorizationPolicy shop/allow rule[0]"},
		{name: "allow without rules", policies: names("shop/allow-none"), reason: ReasonNoAllow, rule: "no rule matched of AuthorizationPolicy shop/allow-none"},
		{name: "deny without rules", policies: names("shop/deny-none"), reason: ReasonDefault},
		{name: "audit alone", policies: names("shop/audit"), reason: ReasonDefault},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := set.Decide(Target{Policies: tt.policies, Strict: tt.strict, StrictSource: tt.source}, conn(tt.src, "10.0.0.1", 80))
			allowed := tt.reason == ReasonAllowed || tt.reason == ReasonDefault
			if got.Allowed != allowed || got.Permit().Valid() != allowed || got.Reason != tt.reason || got.Rule != tt.rule {
				t.Errorf("Decide = %+v, want %s by %q", got, tt.reason, tt.rule)
			}
		})
	}
}

func TestAuditReportsWithoutDeciding(t *testing.T) {
	everything := []Rule{{}}
	set := mustSet(t,
		&Policy{Namespace: "a", Name: "one", Action: Audit, Rules: everything},
		&Policy{Namespace: "a", Name: "two", Action: Audit, Rules: everything},
		&Policy{Namespace: "a", Name: "never", Action: Audit},
		&Policy{Namespace: "a", Name: "deny", Action: Deny, Rules: everything},
	)
	got := set.Decide(Target{Policies: []string{"a/one", "a/never", "a/two"}}, Conn{})
	if !got.Allowed || got.Audit != "AuthorizationPolicy a/one rule[0], AuthorizationPolicy a/two rule[0]" {
		t.Errorf("Decide = %+v", got)
	}
	got = set.Decide(Target{Policies: []string{"a/deny", "a/one"}}, Conn{})
	if got.Allowed || got.Audit != "AuthorizationPolicy a/one rule[0]" {
		t.Errorf("a denied connection: Decide = %+v", got)
	}
	got = set.Decide(Target{Policies: []string{"a/one", "a/gone"}}, Conn{})
	if got.Reason != ReasonUnresolved || got.Audit == "" {
		t.Errorf("an unresolved policy: Decide = %+v", got)
	}
}

// TestFields gives for each field the peers that match, so that a field which is ignored or inverted fails.
func TestFields(t *testing.T) {
	peers := map[string]identity.ID{
		"shop/web": mustID(t, "shop", "web"), "shop/db": mustID(t, "shop", "db"),
		"bank/web": mustID(t, "bank", "web"), "plain": {},
	}
	s := func(values ...string) []string { return values }
	tests := []struct {
		source        Source
		allow, denies string // who matches in an ALLOW, in a DENY policy
	}{
		{Source{Principals: s("mesh/ns/shop/sa/web")}, "shop/web", "shop/web"},
		{Source{Principals: s("mesh/ns/shop/*")}, "shop/db shop/web", "shop/db shop/web"},
		{Source{Principals: s("mesh/ns/bank/sa/web", "*/db")}, "bank/web shop/db", "bank/web shop/db"},
		{Source{Principals: s("*/ns/shop/sa/web")}, "shop/web", "shop/web"},
		{Source{Principals: s("*")}, "bank/web shop/db shop/web", "bank/web shop/db shop/web"},
		{Source{Principals: s("other/ns/shop/sa/web")}, "", ""},
		{Source{NotPrincipals: s("*/sa/web")}, "shop/db", "plain shop/db"},
		{Source{NotPrincipals: s("*")}, "", "plain"},
		{Source{Namespaces: s("shop")}, "shop/db shop/web", "shop/db shop/web"},
		{Source{Namespaces: s("*nk", "no")}, "bank/web", "bank/web"},
		{Source{Namespaces: s("sho*")}, "shop/db shop/web", "shop/db shop/web"},
		{Source{NotNamespaces: s("shop")}, "bank/web", "bank/web plain"},
		{Source{ServiceAccounts: s("web")}, "shop/web", "shop/web"},
		{Source{ServiceAccounts: s("bank/web")}, "bank/web", "bank/web"},
		{Source{ServiceAccounts: s("shop/*")}, "shop/db shop/web", "shop/db shop/web"},
		{Source{ServiceAccounts: s("*/web")}, "bank/web shop/web", "bank/web shop/web"},
		{Source{ServiceAccounts: s("*b")}, "shop/db shop/web", "shop/db shop/web"},
		{Source{NotServiceAccounts: s("web")}, "bank/web shop/db", "bank/web plain shop/db"},
		{Source{NotServiceAccounts: s("bank/web")}, "shop/db shop/web", "plain shop/db shop/web"},
		{Source{Namespaces: s("shop"), NotServiceAccounts: s("web")}, "shop/db", "shop/db"},
		{Source{Principals: s("*/web"), Namespaces: s("bank")}, "bank/web", "bank/web"},
		// Being in a block does not make up for having no identity.
		{Source{IPBlocks: prefixes("10.0.0.0/8"), NotPrincipals: s("*/db")}, "bank/web shop/web", "bank/web plain shop/web"},
		{Source{IPBlocks: prefixes("10.0.0.0/8"), Namespaces: s("shop")}, "shop/db shop/web", "shop/db shop/web"},
		{Source{IPBlocks: prefixes("192.0.2.0/24"), Namespaces: s("shop")}, "", ""},
	}
	for _, tt := range tests {
		for action, want := range map[Action]string{Allow: tt.allow, Deny: tt.denies} {
			set := mustSet(t, from(action, tt.source))
			var got []string
			for name, id := range peers {
				if set.Decide(onlyP, conn(id, "10.0.0.1", 80)).Allowed == (action == Allow) {
					got = append(got, name)
				}
			}
			slices.Sort(got)
			if strings.Join(got, " ") != want {
				t.Errorf("%s %s: matches %q, want %q", action, tt.source, got, want)
			}
		}
	}
}

func TestPlaintextIsNeverAdmittedByAbsenceOfIdentity(t *testing.T) {
	negatives := []Source{
		{NotPrincipals: []string{"mesh/ns/shop/sa/evil"}},
		{NotNamespaces: []string{"evil"}},
		{NotServiceAccounts: []string{"evil"}},
		{NotNamespaces: []string{"evil"}, NotIPBlocks: prefixes("192.0.2.0/24")},
	}
	plain := conn(identity.ID{}, "10.0.0.1", 80)
	for _, s := range negatives {
		if d := mustSet(t, from(Allow, s)).Decide(onlyP, plain); d.Allowed {
			t.Errorf("ALLOW %s admits plaintext: %+v", s, d)
		}
		if d := mustSet(t, from(Deny, s)).Decide(onlyP, plain); d.Allowed {
			t.Errorf("DENY %s lets plaintext escape: %+v", s, d)
		}
		if d := mustSet(t, from(Audit, s)).Decide(onlyP, plain); d.Audit == "" {
			t.Errorf("AUDIT %s misses plaintext", s)
		}
	}
}

func TestAddressesInEveryForm(t *testing.T) {
	tests := []struct {
		block, addr string
		inside      bool
	}{
		{"10.1.0.0/16", "10.1.2.3", true},
		{"10.1.0.0/16", "::ffff:10.1.2.3", true},
		{"10.1.0.0/16", "10.2.0.1", false},
		{"10.1.2.3/16", "10.1.9.9", true}, // host bits are cleared
		{"::ffff:10.1.0.0/112", "10.1.2.3", true},
		{"::ffff:10.1.0.0/112", "::ffff:10.1.2.3", true},
		{"::ffff:10.1.0.0/112", "10.2.2.3", false},
		{"0.0.0.0/0", "::ffff:192.0.2.1", true},
		{"::ffff:0.0.0.0/96", "192.0.2.1", true},
		{"::/0", "192.0.2.1", false},
		{"::/0", "::ffff:192.0.2.1", false},
		{"0.0.0.0/0", "2001:db8::1", false},
		{"2001:db8::/32", "2001:db8::1", true},
		{"2001:db8::/32", "2001:db9::1", false},
		{"fe80::/10", "fe80::1%eth0", true}, // a zone is no way around a DENY
	}
	for _, tt := range tests {
		block := prefixes(tt.block)
		c := conn(identity.ID{}, tt.addr, 80)
		for _, action := range []Action{Allow, Deny} {
			matched := func(s Source) bool { return mustSet(t, from(action, s)).Decide(onlyP, c).Allowed == (action == Allow) }
			if got := matched(Source{IPBlocks: block}); got != tt.inside {
				t.Errorf("%s ipBlocks %s, address %s: matched %t", action, tt.block, tt.addr, got)
			}
			if got := matched(Source{NotIPBlocks: block}); got == tt.inside {
				t.Errorf("%s notIpBlocks %s, address %s: matched %t", action, tt.block, tt.addr, got)
			}
		}
	}
}

func TestUnknownFactsNeverOpenADoor(t *testing.T) {
	web := mustID(t, "shop", "web")
	blind := Conn{Src: web}
	for _, p := range []*Policy{
		from(Allow, Source{IPBlocks: prefixes("0.0.0.0/0", "::/0")}), from(Allow, Source{NotIPBlocks: prefixes("10.0.0.0/8")}),
		from(Deny, Source{NotIPBlocks: prefixes("10.0.0.0/8")}),
		to(Allow, Operation{Ports: []uint16{80}}), to(Allow, Operation{NotPorts: []uint16{80}}),
		to(Deny, Operation{NotPorts: []uint16{80}}),
	} {
		if d := mustSet(t, p).Decide(onlyP, blind); d.Allowed {
			t.Errorf("%s %s: Decide = %+v", p.Action, p.Rules[0], d)
		}
	}
}

func TestPorts(t *testing.T) {
	tests := []struct {
		op      Operation
		matches []uint16
	}{
		{Operation{Ports: []uint16{80, 443}}, []uint16{80, 443}},
		{Operation{NotPorts: []uint16{80}}, []uint16{443, 8080}},
		{Operation{Ports: []uint16{80, 443}, NotPorts: []uint16{443}}, []uint16{80}},
	}
	for _, tt := range tests {
		for _, port := range []uint16{80, 443, 8080} {
			want := slices.Contains(tt.matches, port)
			for _, action := range []Action{Allow, Deny} {
				got := mustSet(t, to(action, tt.op)).Decide(onlyP, conn(identity.ID{}, "2001:db8::1", port)).Allowed == (action == Allow)
				if got != want {
					t.Errorf("%s %s, port %d: matched %t", action, tt.op, port, got)
				}
			}
		}
	}
}

func TestRuleNeedsBothSourceAndOperation(t *testing.T) {
	set := mustSet(t, &Policy{Namespace: "shop", Name: "p", Action: Allow, Rules: []Rule{
		{From: []Source{{Namespaces: []string{"bank"}}}, To: []Operation{{Ports: []uint16{443}}}},
		{From: []Source{{Namespaces: []string{"bank"}}, {Namespaces: []string{"shop"}}}, To: []Operation{{Ports: []uint16{80}}, {Ports: []uint16{81}}}},
	}})
	shop := mustID(t, "shop", "web")
	for port, rule := range map[uint16]string{80: "AuthorizationPolicy shop/p rule[1]", 81: "AuthorizationPolicy shop/p rule[1]"} {
		if d := set.Decide(onlyP, conn(shop, "10.0.0.1", port)); !d.Allowed || d.Rule != rule {
			t.Errorf("port %d: Decide = %+v", port, d)
		}
	}
	for _, port := range []uint16{443, 82} {
		if d := set.Decide(onlyP, conn(shop, "10.0.0.1", port)); d.Reason != ReasonNoAllow {
			t.Errorf("port %d: Decide = %+v", port, d)
		}
	}
}

func TestNilSetDeniesWhatNamesAPolicy(t *testing.T) {
	var set *Set
	if d := set.Decide(onlyP, Conn{}); d.Allowed || d.Reason != ReasonUnresolved {
		t.Errorf("Decide = %+v", d)
	}
	if d := set.Decide(Target{}, Conn{}); !d.Allowed {
		t.Errorf("Decide = %+v", d)
	}
	if set.All() != nil || set.Has("shop/p") {
		t.Error("a nil set has policies")
	}
}

func TestZeroDecisionGivesNoPermit(t *testing.T) {
	if (Decision{}).Permit().Valid() || (Decision{Allowed: true}).Permit().Valid() {
		t.Error("a permit that Decide did not make is valid")
	}
}

func TestDecideDoesNotAllocate(t *testing.T) {
	set := mustSet(t,
		&Policy{Namespace: "shop", Name: "deny", Action: Deny, Rules: []Rule{{From: []Source{{NotPrincipals: []string{"mesh/ns/shop/*", "*/sa/web"}, IPBlocks: prefixes("10.0.0.0/8")}}}}},
		&Policy{Namespace: "shop", Name: "audit", Action: Audit, Rules: []Rule{{From: []Source{{Namespaces: []string{"bank"}}}}}},
		&Policy{Namespace: "shop", Name: "allow", Action: Allow, Rules: []Rule{
			{From: []Source{{Principals: []string{"mesh/ns/bank/*"}}}},
			{From: []Source{{Principals: []string{"mesh/ns/shop/sa/web"}, ServiceAccounts: []string{"w*"}, NotIPBlocks: prefixes("fe80::/10")}}, To: []Operation{{Ports: []uint16{80}}}},
		}},
	)
	target := Target{Policies: []string{"shop/deny", "shop/audit", "shop/allow"}, Strict: true}
	c := conn(mustID(t, "shop", "web"), "::ffff:10.0.0.1", 80)
	if d := set.Decide(target, c); !d.Allowed || d.Reason != ReasonAllowed {
		t.Fatalf("Decide = %+v", d)
	}
	if n := testing.AllocsPerRun(100, func() { set.Decide(target, c) }); n != 0 {
		t.Errorf("Decide allocates %v times", n)
	}
}
