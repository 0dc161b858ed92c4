package ztunnel

import (
	"fmt"
	"net/netip"
	"sync"

	"github.com/warren-mesh/warren/mesh"
)

// hop is one place that a connection may be sent to.
type hop struct {
	addr     netip.AddrPort
	workload *mesh.Workload // nil for what is not in the mesh's knowledge
	near     nearness
	asked    netip.AddrPort // what a waypoint at addr is asked for; zero for all other hops
}

// target is what a tunnel to the hop is asked for.
func (h hop) target() netip.AddrPort {
	if h.asked.IsValid() {
		return h.asked
	}
	return h.addr
}

// nearness is how near an endpoint is to the client, as far as its service cares.
type nearness uint8

const (
	anywhere nearness = iota
	sameZone
	sameNode
)

// route is where a connection may go: hops in the order to try them.
type route struct {
	front  mesh.Frontend // without a service unless one was dialled
	client mesh.UID
	hops   []hop
	// dialled is the service that the client dialled; front is another's if a route or a waypoint is in between.
	dialled  *mesh.Service
	waypoint string         // the name of the waypoint's service, "" if none is in between
	reach    *reach         // of which hops are some; nil unless it is a service's
	asked    netip.AddrPort // what is asked of a waypoint, zero without one
	broken   error          // why a route cannot be followed
}

func (r *route) service() *mesh.Service { return r.front.Service }

// maxAttempts is how many endpoints are tried before a connection fails.
const maxAttempts = 3

// find returns the route to dst for a client, or a reason why there is none. Who has been at a service before is not
// asked here: see affinities.settle.
func (p *Proxy) find(m *mesh.Snapshot, client *mesh.Workload, dst netip.AddrPort) (route, Reason) {
	front, ok := m.FrontendAt(dst)
	if !ok {
		w := m.WorkloadAt(dst.Addr())
		if w != nil && w.Waypoint != "" {
			return p.toWaypoint(m, route{client: client.UID}, client, w.Waypoint, dst)
		}
		return route{hops: []hop{{addr: dst, workload: w}}}, ""
	}
	way := route{front: front, client: client.UID, dialled: front.Service}
	if !front.Service.HasPort(front.Port) {
		return way, ReasonNoPort
	}
	if front.Service.Waypoint != "" {
		return p.toWaypoint(m, way, client, front.Service.Waypoint, dst)
	}
	var missing Reason
	if missing, way.broken = way.split(m); missing != "" {
		return way, missing
	}
	way.reach = p.reachOf(p.searchFor(m, way.front, client, dst))
	way.hops = p.order(way.reach)
	return way, way.reach.missing
}

// searchFor is the search of a client that dialled dst, which leads to front.
func (p *Proxy) searchFor(m *mesh.Snapshot, front mesh.Frontend, client *mesh.Workload, dst netip.AddrPort) search {
	return search{
		m: m, front: front, v4: dst.Addr().Unmap().Is4(), node: p.cfg.Node, zone: client.Zone,
		local: front.Service.InternalLocal && !front.External,
	}
}

// search is which endpoints a client may reach by what it dialled.
type search struct {
	m          *mesh.Snapshot
	front      mesh.Frontend
	v4         bool   // the family that was dialled
	local      bool   // only those of the client's node
	waypoint   bool   // only a waypoint's own pods, and not others that its service selects
	node, zone string // the client's
}

// endpoints returns what may serve a service's port, by the rules of kube-proxy: endpoints of the family that was
// dialled; ready ones, or else those that terminate and serve still; if only those of the client's node may, this holds
// for each by itself. A reason says why there is none.
func (s search) endpoints() (hops []hop, missing Reason) {
	all := s.front.Service.Endpoints
	hops = make([]hop, 0, len(all))
	missing = ReasonNoEndpoint
	for _, draining := range [...]bool{false, true} {
		for i := range all {
			if all[i].Ready == draining || draining && !all[i].Draining() {
				continue
			}
			h, unfit := s.hop(&all[i])
			switch {
			case unfit == "":
				hops = append(hops, h)
			case missing != ReasonNotLocal && unfit != ReasonNoEndpoint:
				missing = unfit // what is only elsewhere says most
			}
		}
		if len(hops) > 0 {
			return hops, ""
		}
	}
	return nil, missing
}

// hop returns how to reach an endpoint, or a reason why this client cannot by what it dialled.
func (s search) hop(e *mesh.Endpoint) (hop, Reason) {
	target, ok := e.TargetPorts[s.front.Port]
	w := s.m.Workload(e.Workload)
	if !ok || w == nil && e.Workload != "" {
		// A pod that this node knows nothing of may be in the mesh: nothing is sent to it as it is.
		return hop{}, ReasonNoEndpoint
	}
	if s.waypoint && (w == nil || w.Gateway == "") {
		return hop{}, ReasonNoEndpoint
	}
	addr, ok := e.AddrOf(s.v4)
	if !ok {
		return hop{}, ReasonNoFamily
	}
	node, zone := e.Node, e.Zone
	if w != nil {
		node, zone = w.Node, w.Zone
	}
	if s.local && node != s.node {
		return hop{}, ReasonNotLocal
	}
	h := hop{addr: netip.AddrPortFrom(addr, target), workload: w}
	switch svc := s.front.Service; {
	case svc.PreferSameNode && node == s.node:
		h.near = sameNode
	case svc.PreferSameZone && zone != "" && zone == s.zone:
		h.near = sameZone
	}
	return h, ""
}

// explain says in words why there is no route.
func (p *Proxy) explain(m *mesh.Snapshot, way *route, missing Reason, dst netip.AddrPort) error {
	switch missing {
	case ReasonNoWaypoint:
		return way.explainWaypoint(m)
	case ReasonBrokenRoute:
		return way.broken
	}
	what := fmt.Sprintf("service %s port %d", way.service().FullName(), way.front.Port)
	family := "IPv6"
	if dst.Addr().Is4() {
		family = "IPv4"
	}
	switch missing {
	case ReasonNoPort:
		return fmt.Errorf("%s: the service has no such TCP port", what)
	case ReasonNoFamily:
		return fmt.Errorf("%s was dialled at its %s address, and none of its ready endpoints has an %s address",
			what, family, family)
	case ReasonNotLocal:
		return fmt.Errorf("%s: internalTrafficPolicy is Local, and no endpoint is ready on node %s: others are, elsewhere",
			what, p.cfg.Node)
	}
	return fmt.Errorf("%s has no ready endpoint", what)
}

// order picks what to try first by power of two choices on open connections, then others at random. The nearest, as far
// as the service cares, come before all others.
func (p *Proxy) order(r *reach) []hop {
	hops := r.pick()
	if r.alike() > 1 && p.loads.of(hops[1].addr) < p.loads.of(hops[0].addr) {
		hops[0], hops[1] = hops[1], hops[0]
	}
	return hops
}

// loads counts this node's open connections to each endpoint.
type loads struct {
	mu sync.Mutex
	n  map[netip.AddrPort]int
}

func newLoads() *loads { return &loads{n: map[netip.AddrPort]int{}} }

func (l *loads) of(a netip.AddrPort) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n[a]
}

func (l *loads) add(a netip.AddrPort, by int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n[a] += by; l.n[a] == 0 {
		delete(l.n, a)
	}
}
