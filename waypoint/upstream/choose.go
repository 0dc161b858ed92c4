package upstream

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/warren-mesh/warren/route"
)

// chooser chooses an endpoint for one request.
type chooser struct {
	u   *Upstreams
	g   *group
	v   *view
	ask *Ask
	now time.Time
	lb  route.LoadBalancing
	// local is set if only endpoints of the client's node may be chosen, and there are others.
	local bool
}

// choose returns the endpoint for the request: the one that its session names, the one that its client stays with, or
// one of the nearest as far as anybody cares, by the way of balancing asked for. nil is none. The stamp is that of a
// session that was kept.
func (c *chooser) choose() (*entry, stamp) {
	if lb := c.ask.Traffic.LoadBalancing; lb != nil {
		c.lb = *lb
	}
	t := c.v.tier(c.ask.V4)
	entries := c.permitted(t)
	if len(entries) == 0 {
		return nil, stamp{}
	}
	usable := entries
	if c.someLeftOut() {
		usable = c.usable(entries)
	}
	if c.ask.Session != nil && c.ask.Request != nil {
		if e, s := c.session(usable); e != nil {
			return e, s
		}
	}
	if c.v.service != nil && c.v.service.Affinity > 0 && c.ask.Conn != nil {
		return c.u.affinities.settle(c, usable), stamp{}
	}
	return c.balance(c.nearest(t, usable)), stamp{}
}

// permitted returns the endpoints that the client may reach at all: internalTrafficPolicy Local is a promise that no
// traffic leaves the client's node, for those who dial the service by its virtual address or come to it by a route.
func (c *chooser) permitted(t *tier) []*entry {
	svc, conn := c.v.service, c.ask.Conn
	if svc == nil || !svc.InternalLocal || conn == nil || c.external() {
		return t.entries
	}
	c.local = len(t.entries) > 0
	if conn.Workload == nil {
		return nil
	}
	t.index()
	return t.byNode[conn.Workload.Node]
}

// external tells whether the client dialled this very service by an address that is not its own alone.
func (c *chooser) external() bool {
	svc, conn := c.v.service, c.ask.Conn
	if conn.Service == nil || conn.Service.Name != svc.Name || conn.Service.Namespace != svc.Namespace {
		return false
	}
	return !slices.Contains(svc.VIPs, conn.Dialled.Addr().Unmap())
}

// missing says in words why there is no endpoint.
func (c *chooser) missing() string {
	if c.local {
		return "internalTrafficPolicy is Local, and no endpoint is ready on the client's node: others are, elsewhere"
	}
	if c.v.service == nil {
		return "it is not in the mesh, or no longer"
	}
	return "no endpoint is ready"
}

// someLeftOut tells whether any endpoint may have to be passed over. Mostly none has.
func (c *chooser) someLeftOut() bool {
	return len(c.ask.Tried) > 0 || c.g.ejectedUntil.Load() > c.now.UnixNano()
}

// usable returns the endpoints that were neither left out for their failures nor tried already; if there is none, those
// that were tried, and if all are left out, all: something that fails is better than nothing.
func (c *chooser) usable(entries []*entry) []*entry {
	fresh, healthy := make([]*entry, 0, len(entries)), make([]*entry, 0, len(entries))
	for _, e := range entries {
		if e.outlier.ejected(c.now) {
			continue
		}
		healthy = append(healthy, e)
		if !slices.Contains(c.ask.Tried, e.peer.key.addr) {
			fresh = append(fresh, e)
		}
	}
	switch {
	case len(fresh) > 0:
		return fresh
	case len(healthy) > 0:
		return healthy
	}
	return entries
}

// clientZone is where the client is, or else the waypoint.
func (c *chooser) clientZone() string {
	if c.ask.Conn != nil && c.ask.Conn.Workload != nil {
		return c.ask.Conn.Workload.Zone
	}
	return c.u.cfg.Zone
}

// nearest returns the endpoints near the client, as far as the service or its policy cares: those of its node, those of
// its zone, or all. usable are those of the tier that may be chosen.
func (c *chooser) nearest(t *tier, usable []*entry) []*entry {
	svc := c.v.service
	if svc == nil || !svc.PreferSameNode && !svc.PreferSameZone && !c.lb.LocalityFailover {
		return usable
	}
	t.index()
	all := len(usable) == len(t.entries)
	if svc.PreferSameNode && c.ask.Conn != nil && c.ask.Conn.Workload != nil {
		node := c.ask.Conn.Workload.Node
		if near := among(t.byNode[node], usable, all); node != "" && len(near) > 0 {
			return near
		}
	}
	zone := c.clientZone()
	if zone == "" || !svc.PreferSameZone && !c.lb.LocalityFailover {
		return usable
	}
	near := among(t.byZone[zone], usable, all)
	if len(near) == 0 || c.lb.LocalityFailover && c.spills(len(near), t.expected[zone]) {
		return c.elsewhere(usable, near, zone)
	}
	return near
}

// among returns those of some that are usable, without making a list if all are.
func among(some, usable []*entry, all bool) []*entry {
	if all || len(some) == 0 {
		return some
	}
	var both []*entry
	for _, e := range usable {
		if slices.Contains(some, e) {
			both = append(both, e)
		}
	}
	return both
}

// zoneSurplus is how much more than its share an endpoint of a zone can take, in per cent: as long as 5 of 7 endpoints
// of a zone do, they suffice for it.
const zoneSurplus = 140

// spills tells, by lot, whether a request leaves its zone as too few endpoints of it are usable.
func (c *chooser) spills(usable, expected int) bool {
	if expected == 0 {
		return false
	}
	return rand.IntN(100*expected) >= usable*zoneSurplus
}

// elsewhere returns what is usable outside a zone, or the zone's if that is all.
func (c *chooser) elsewhere(usable, near []*entry, zone string) []*entry {
	if len(near) == 0 {
		return usable
	}
	far := make([]*entry, 0, len(usable)-len(near))
	for _, e := range usable {
		if e.zone != zone {
			far = append(far, e)
		}
	}
	if len(far) == 0 {
		return near
	}
	return far
}

// balance chooses one of the entries, of which there is at least one.
func (c *chooser) balance(entries []*entry) *entry {
	if len(entries) == 1 {
		return entries[0]
	}
	switch c.lb.Kind {
	case route.RoundRobin:
		return entries[(c.g.turn.Add(1)-1)%uint64(len(entries))]
	case route.Random:
		return entries[rand.IntN(len(entries))]
	case route.ConsistentHash:
		if key, ok := c.ask.hashKey(&c.lb); ok {
			return highest(entries, key)
		}
	}
	return c.betterOfTwo(entries)
}

// betterOfTwo draws two and takes the one that is better off (power of two choices, Mitzenmacher 2001).
func (c *chooser) betterOfTwo(entries []*entry) *entry {
	i, j := rand.IntN(len(entries)), rand.IntN(len(entries)-1)
	if j >= i {
		j++
	}
	a, b := entries[i], entries[j]
	openA, openB := a.peer.open.Load(), b.peer.open.Load()
	if c.lb.Kind == route.LeastRequests {
		if openB < openA {
			return b
		}
		return a
	}
	if b.peer.latency.cost(openB, c.now) < a.peer.latency.cost(openA, c.now) {
		return b
	}
	return a
}

// String is for errors.
func (e *entry) String() string {
	if e.workload == nil {
		return e.peer.key.addr.String()
	}
	return fmt.Sprintf("%s at %s", e.workload.FullName(), e.peer.key.addr)
}
