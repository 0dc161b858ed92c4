package ztunnel

import (
	"net/netip"
	"sync"

	"github.com/warren-mesh/warren/mesh"
)

// gate bounds how much of something peers may hold at once, counted by pod and by the peer's address, so that one
// peer's greed is its own trouble. A limit of 0 is none.
type gate struct {
	perPair   int // of one address to one pod
	perSource int // of one address to all pods of the node
	perPod    int // of all addresses to one pod

	mu sync.Mutex
	n  map[gateKey]int
}

// gateKey is what is counted: its zero fields stand for all.
type gateKey struct {
	pod  mesh.UID
	from netip.Addr
}

// newHandshakeGate bounds connections whose peer has proved nothing yet. Each costs a file descriptor, a goroutine and
// up to HandshakeTimeout. An honest peer's pool dials a few at once.
func newHandshakeGate() *gate {
	return &gate{perPair: 64, perSource: 256, perPod: 1024, n: map[gateKey]int{}}
}

// newTunnelGate bounds tunnels that are up, used or idle. A peer of ours has a handful to each pod; one of Istio's has
// one for each 100 of its connections. A pod has as many peers as it has.
func newTunnelGate() *gate {
	return &gate{perPair: 256, perSource: 1024, n: map[gateKey]int{}}
}

// enter counts one more, unless that were too many. Whoever entered must leave.
func (g *gate) enter(pod mesh.UID, from netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	limits := g.limits(pod, from)
	for key, limit := range limits {
		if g.n[key] >= limit {
			return false
		}
	}
	for key := range limits {
		g.n[key]++
	}
	return true
}

func (g *gate) leave(pod mesh.UID, from netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for key := range g.limits(pod, from) {
		if g.n[key]--; g.n[key] == 0 {
			delete(g.n, key)
		}
	}
}

func (g *gate) limits(pod mesh.UID, from netip.Addr) map[gateKey]int {
	all := map[gateKey]int{{pod, from}: g.perPair, {"", from}: g.perSource, {pod, netip.Addr{}}: g.perPod}
	for key, limit := range all {
		if limit == 0 {
			delete(all, key)
		}
	}
	return all
}
