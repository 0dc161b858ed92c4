package ztunnel_test

import (
	"testing"

	"github.com/warren-mesh/warren/internal/meshtest"
	"github.com/warren-mesh/warren/ztunnel"
)

// The client's node does not have the policies of another one's pods: it is told which rule refused.
func TestTheDestinationNamesTheRuleThatRefused(t *testing.T) {
	m := meshtest.New(t, []meshtest.Spec{{Name: "shop/web", Node: "n1"}, {Name: "shop/pay", Node: "n2"}}, allowCartOnly)
	m.Update(addPolicy(cartOnly()))
	whoami(t, m.Pod("shop/pay").NS, 8080)
	if _, err := tryDial(t, m.Pod("shop/web").NS, m.Pod("shop/pay").Addr(false, 8080)); err != nil {
		t.Logf("refused while it was dialled: %v", err)
	}
	const rule = "no rule matched of AuthorizationPolicy shop/cart-only"
	for _, reporter := range []ztunnel.Reporter{ztunnel.Inbound, ztunnel.Outbound} {
		got := m.AwaitRecord("denied", func(r ztunnel.Record) bool { return r.Reporter == reporter })
		if got.Verdict != ztunnel.Denied || got.Rule != rule {
			t.Errorf("%s: %s for %s by %q, want denied by %q", reporter, got.Verdict, got.Reason, got.Rule, rule)
		}
	}
}
