package ztunnel

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
)

// fill enters until the gate refuses, and returns how often it did not.
func fill(g *gate, pod func(i int) mesh.UID, from func(i int) netip.Addr) (n int) {
	for n < 10000 && g.enter(pod(n), from(n)) {
		n++
	}
	return n
}

func TestHandshakeGateBoundsAPeerAndAPodButNoBystander(t *testing.T) {
	attacker, peer := netip.MustParseAddr("10.0.0.66"), netip.MustParseAddr("10.0.0.7")
	one := func(int) mesh.UID { return "victim" }
	many := func(i int) mesh.UID { return mesh.UID(fmt.Sprint("pod", i)) }
	same := func(int) netip.Addr { return attacker }
	all := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}) }

	g := newHandshakeGate()
	if n := fill(g, one, same); n != 64 {
		t.Errorf("one address holds %d of one pod, want 64", n)
	}
	if !g.enter("victim", peer) {
		t.Error("another address is refused with it")
	}
	if n := fill(g, many, same); n != 256-64 {
		t.Errorf("the address holds %d more of other pods, want %d", n, 256-64)
	}
	if !g.enter("pod0", peer) {
		t.Error("another address is refused at the other pods")
	}
	if n := fill(g, one, all); n != 1024-64-1 {
		t.Errorf("all addresses hold %d more of the pod, want %d", n, 1024-64-1)
	}
}

func TestGateForgetsWhoLeft(t *testing.T) {
	g := newHandshakeGate()
	a := netip.MustParseAddr("fd00::1")
	for range 3 * 64 {
		if !g.enter("pod", a) {
			t.Fatal("refused, though everyone before had left")
		}
		g.leave("pod", a)
	}
	if len(g.n) != 0 {
		t.Errorf("it remembers %v", g.n)
	}
}

// TestTunnelsOfAnExpiredCertificateTakeNoNewStream: the pool dials anew, once, and a straggler changes nothing.
func TestTunnelsOfAnExpiredCertificateTakeNoNewStream(t *testing.T) {
	tns := &tunnels{dialled: map[tunnelKey]round{}}
	now := time.Now()
	key := tunnelKey{pod: "a"}
	first := tns.inRound(key, now)
	tns.note(first, timing{connect: 1}, now.Add(time.Hour))
	tns.note(first, timing{connect: 2}, now.Add(time.Minute)) // the first to end counts
	if again := tns.inRound(key, now.Add(time.Second)); again != first {
		t.Errorf("a valid tunnel is not used again: %v, %v", again, first)
	}
	second := tns.inRound(key, now.Add(2*time.Minute))
	if second == first {
		t.Fatal("an expired tunnel is used again")
	}
	tns.note(first, timing{connect: 3}, now)
	if again := tns.inRound(key, now.Add(3*time.Minute)); again != second || tns.newest(second).connect != 0 {
		t.Errorf("a straggler of the first round made it %v with %v", again, tns.newest(second))
	}
	if other := tns.inRound(tunnelKey{pod: "b"}, now); other.round == first.round || other.round == second.round {
		t.Errorf("another key is in round %d, as one before", other.round)
	}
}

func TestWhatIsKnownOfDestinationsIsBounded(t *testing.T) {
	tns := &tunnels{dialled: map[tunnelKey]round{}}
	now := time.Now()
	addr := netip.MustParseAddr("fd00::1")
	seen := map[uint32]bool{}
	for range maxDialled + 100 {
		key := tns.inRound(tunnelKey{pod: "a", to: addr}, now)
		if seen[key.round] {
			t.Fatalf("round %d was given twice", key.round)
		}
		seen[key.round] = true
		addr = addr.Next()
	}
	if len(tns.dialled) != maxDialled {
		t.Errorf("%d destinations are remembered, want %d", len(tns.dialled), maxDialled)
	}
}

func TestLastStreamIsBeforeTheFirstEnd(t *testing.T) {
	now := time.Now()
	for _, c := range []struct{ ours, peers, want time.Duration }{
		{12 * time.Hour, 6 * time.Hour, 6*time.Hour - time.Minute},
		{time.Hour, 2 * time.Hour, time.Hour - time.Minute},
		{10 * time.Second, time.Hour, 9 * time.Second},
	} {
		if got := lastStream(now, now.Add(c.ours), now.Add(c.peers)).Sub(now); got != c.want {
			t.Errorf("certificates that end in %s and %s: last stream in %s, want %s", c.ours, c.peers, got, c.want)
		}
	}
}
