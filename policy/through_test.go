package policy

import (
	"net/netip"
	"testing"

	"github.com/warren-mesh/warren/identity"
)

// TestOnlyItsWaypointMayConnect: whoever else comes is refused, whatever policies say, and the waypoint is not held
// against policies that are about its clients.
func TestOnlyItsWaypointMayConnect(t *testing.T) {
	denyAll := &Policy{Namespace: "shop", Name: "deny", Action: Deny, Rules: []Rule{{}}}
	set, err := NewSet([]*Policy{denyAll})
	if err != nil {
		t.Fatal(err)
	}
	target := Target{Policies: []string{"shop/deny"}, Through: []string{"shop/other", "shop/waypoint"}, TrustDomain: "cluster.local"}
	for _, tt := range []struct {
		name, trustDomain, namespace, account string
		allowed                               bool
	}{
		{"its waypoint", "cluster.local", "shop", "waypoint", true},
		{"another of its waypoints", "cluster.local", "shop", "other", true},
		{"an app", "cluster.local", "shop", "web", false},
		{"the same name in another namespace", "cluster.local", "legacy", "waypoint", false},
		{"the same name in another trust domain", "elsewhere.org", "shop", "waypoint", false},
	} {
		id, err := identity.New(tt.trustDomain, tt.namespace, tt.account)
		if err != nil {
			t.Fatal(err)
		}
		got := set.Decide(target, Conn{Src: id, SrcAddr: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddrPort("10.0.0.2:80")})
		if got.Allowed != tt.allowed || got.Permit().Valid() != tt.allowed {
			t.Errorf("%s: %+v, want allowed %v", tt.name, got, tt.allowed)
		}
	}
	plain := set.Decide(target, Conn{SrcAddr: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddrPort("10.0.0.2:80")})
	if plain.Allowed || plain.Reason != ReasonBypass {
		t.Errorf("plaintext: %+v, want %s", plain, ReasonBypass)
	}
}
