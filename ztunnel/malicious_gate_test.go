package ztunnel

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/ztunnel/peer"
)

// fill enters until the gate refuses, and returns how often it did not.
func fill(g *peer.Gate, pod func(i int) mesh.UID, from func(i int) netip.Addr) (n int) {
	for n < 10000 && g.Enter(pod(n), from(n)) {
		n++
	}
	return n
}

func TestHandshakeGateBoundsAPeerAndAPodButNoBystander(t *testing.T) {
	attacker, other := netip.MustParseAddr("10.0.0.66"), netip.MustParseAddr("10.0.0.7")
	one := func(int) mesh.UID { return "victim" }
	many := func(i int) mesh.UID { return mesh.UID(fmt.Sprint("pod", i)) }
	same := func(int) netip.Addr { return attacker }
	all := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}) }

	g := peer.NewGate(handshakeLimits())
	if n := fill(g, one, same); n != 64 {
		t.Errorf("one address holds %d of one pod, want 64", n)
	}
	if !g.Enter("victim", other) {
		t.Error("another address is refused with it")
	}
	if n := fill(g, many, same); n != 256-64 {
		t.Errorf("the address holds %d more of other pods, want %d", n, 256-64)
	}
	if !g.Enter("pod0", other) {
		t.Error("another address is refused at the other pods")
	}
	if n := fill(g, one, all); n != 1024-64-1 {
		t.Errorf("all addresses hold %d more of the pod, want %d", n, 1024-64-1)
	}
}
