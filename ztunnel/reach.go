package ztunnel

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/warren-mesh/warren/mesh"
)

// reach is which endpoints may serve what was dialled. It is made once for a snapshot and shared by all connections, so
// that none of them looks at all endpoints of a service.
type reach struct {
	hops    []hop             // the nearer first
	ends    [sameNode + 1]int // how many are on the same node, there or in the same zone, anywhere
	missing Reason            // why there is none
	// places are where in hops an address is, for services whose clients stay.
	places map[netip.AddrPort]int
}

// newReach searches a snapshot.
func newReach(s search) *reach {
	r := &reach{}
	if r.hops, r.missing = s.endpoints(); len(r.hops) == 0 {
		return r
	}
	slices.SortStableFunc(r.hops, func(a, b hop) int { return cmp.Compare(b.near, a.near) })
	for _, h := range r.hops {
		for i := sameNode - h.near; i <= sameNode; i++ {
			r.ends[i]++
		}
	}
	if s.front.Service.Affinity > 0 {
		r.places = make(map[netip.AddrPort]int, len(r.hops))
		for i := range r.hops {
			r.places[r.hops[i].addr] = i
		}
	}
	return r
}

// pick takes maxAttempts of the hops at random, or all if there are fewer, the nearest before all others.
func (r *reach) pick() []hop {
	var taken [maxAttempts]int
	n, from := 0, 0
	for _, to := range r.ends {
		for n < min(to, maxAttempts) {
			if i := from + rand.IntN(to-from); !slices.Contains(taken[:n], i) {
				taken[n] = i
				n++
			}
		}
		from = to
	}
	hops := make([]hop, n)
	for i := range hops {
		hops[i] = r.hops[taken[i]]
	}
	return hops
}

// alike returns how many hops are as near as the nearest.
func (r *reach) alike() int {
	for _, n := range r.ends {
		if n > 0 {
			return n
		}
	}
	return 0
}

// at returns the hop with an address, if it is one that may be used.
func (r *reach) at(a netip.AddrPort) (hop, bool) {
	i, ok := r.places[a]
	if !ok {
		return hop{}, false
	}
	return r.hops[i], true
}

// reaches are those of one snapshot that somebody has asked for.
type reaches struct {
	mesh *mesh.Snapshot

	mu    sync.RWMutex
	byKey map[reachKey]*reach
}

// reachKey is a search without the snapshot, and without what is the same for all of a node's pods.
type reachKey struct {
	service             *mesh.Service
	port                uint16
	v4, local, waypoint bool
	zone                string
}

// reachOf returns what a search finds.
func (p *Proxy) reachOf(s search) *reach {
	all := p.reaches.of(s.m)
	key := reachKey{s.front.Service, s.front.Port, s.v4, s.local, s.waypoint, s.zone}
	all.mu.RLock()
	r := all.byKey[key]
	all.mu.RUnlock()
	if r != nil {
		return r
	}
	r = newReach(s)
	all.mu.Lock()
	defer all.mu.Unlock()
	all.byKey[key] = r
	return r
}

// reachCache holds the reaches of the snapshot that was asked for last.
type reachCache struct{ current atomic.Pointer[reaches] }

// of returns those of a snapshot. Connections that still go by an earlier one at a change may make some twice.
func (c *reachCache) of(m *mesh.Snapshot) *reaches {
	all := c.current.Load()
	if all == nil || all.mesh != m {
		all = &reaches{mesh: m, byKey: map[reachKey]*reach{}}
		c.current.Store(all)
	}
	return all
}
