package peer

import (
	"net/netip"
	"sync"

	"github.com/warren-mesh/warren/mesh"
)

// Limits are how much of something peers may hold at once. One of 0 is none.
type Limits struct {
	PerPair   int // of one address to one pod
	PerSource int // of one address to all pods that the gate is for
	PerPod    int // of all addresses to one pod
}

// Gate holds peers to limits, counted by pod and by the peer's address, so that one peer's greed is its own trouble.
type Gate struct {
	limits Limits

	mu sync.Mutex
	n  map[gateKey]int
}

// gateKey is what is counted: its zero fields stand for all.
type gateKey struct {
	pod  mesh.UID
	from netip.Addr
}

// NewGate returns a gate that nobody has entered.
func NewGate(l Limits) *Gate { return &Gate{limits: l, n: map[gateKey]int{}} }

// Enter counts one more, unless that were too many. Whoever entered must leave.
func (g *Gate) Enter(pod mesh.UID, from netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.counted(pod, from) {
		if c.limit > 0 && g.n[c.key] >= c.limit {
			return false
		}
	}
	for _, c := range g.counted(pod, from) {
		if c.limit > 0 {
			g.n[c.key]++
		}
	}
	return true
}

// Leave takes one back.
func (g *Gate) Leave(pod mesh.UID, from netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.counted(pod, from) {
		if c.limit == 0 {
			continue
		}
		if g.n[c.key]--; g.n[c.key] == 0 {
			delete(g.n, c.key)
		}
	}
}

// limited is one count and its limit.
type limited struct {
	key   gateKey
	limit int
}

func (g *Gate) counted(pod mesh.UID, from netip.Addr) [3]limited {
	return [...]limited{
		{gateKey{pod, from}, g.limits.PerPair}, {gateKey{"", from}, g.limits.PerSource}, {gateKey{pod, netip.Addr{}}, g.limits.PerPod},
	}
}
