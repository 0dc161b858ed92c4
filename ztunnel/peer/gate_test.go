package peer

import (
	"net/netip"
	"testing"
)

func TestGateForgetsWhoLeft(t *testing.T) {
	g := NewGate(Limits{PerPair: 64, PerSource: 256, PerPod: 1024})
	a := netip.MustParseAddr("fd00::1")
	for range 3 * 64 {
		if !g.Enter("pod", a) {
			t.Fatal("refused, though everyone before had left")
		}
		g.Leave("pod", a)
	}
	if len(g.n) != 0 {
		t.Errorf("it remembers %v", g.n)
	}
}

func TestALimitOfNothingIsNone(t *testing.T) {
	g := NewGate(Limits{PerPod: 3})
	a := netip.MustParseAddr("10.0.0.1")
	for range 3 {
		if !g.Enter("pod", a) {
			t.Fatal("an address is counted, though it has no limit")
		}
	}
	if g.Enter("pod", a) || !g.Enter("other", a) {
		t.Error("the limit of one pod is not that of each")
	}
}
