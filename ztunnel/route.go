package ztunnel

import (
	"math/rand/v2"
	"net/netip"
	"sync"

	"github.com/warren-mesh/warren/mesh"
)

// hop is one place that a connection may be sent to.
type hop struct {
	addr     netip.AddrPort
	workload *mesh.Workload // nil for what is not in the mesh's knowledge
}

// route is where a connection may go: hops in the order to try them.
type route struct {
	service *mesh.Service // nil unless a service's address was dialled
	hops    []hop
}

// maxAttempts is how many endpoints are tried before a connection fails.
const maxAttempts = 3

// find returns the route to dst for a client, or a reason why there is none.
func (p *Proxy) find(m *mesh.Snapshot, client *mesh.Workload, dst netip.AddrPort) (route, Reason) {
	svc := m.ServiceAt(dst.Addr())
	if svc == nil {
		return route{hops: []hop{{addr: dst, workload: m.WorkloadAt(dst.Addr())}}}, ""
	}
	hops, hasPort := endpoints(m, svc, dst)
	if !hasPort {
		return route{service: svc}, ReasonNoPort
	}
	if len(hops) == 0 {
		return route{service: svc}, ReasonNoEndpoint
	}
	return route{service: svc, hops: p.order(svc, client, hops)}, ""
}

// endpoints returns the ready endpoints of a service's port, one address each, of the dialled family if there
// is one.
func endpoints(m *mesh.Snapshot, svc *mesh.Service, dst netip.AddrPort) (hops []hop, hasPort bool) {
	for _, port := range svc.Ports {
		hasPort = hasPort || port.Number == dst.Port()
	}
	hops = make([]hop, 0, len(svc.Endpoints))
	for _, e := range svc.Endpoints {
		target, ok := e.TargetPorts[dst.Port()]
		if !ok || !e.Ready || len(e.Addrs) == 0 {
			continue
		}
		addr := e.Addrs[0]
		for _, a := range e.Addrs {
			if a.Is4() == dst.Addr().Is4() {
				addr = a
				break
			}
		}
		hops = append(hops, hop{addr: netip.AddrPortFrom(addr, target), workload: m.Workload(e.Workload)})
	}
	return hops, hasPort
}

// order picks what to try first by power of two choices on open connections, then others at random. If the
// service prefers it and one is there, endpoints in the client's zone come before all others.
func (p *Proxy) order(svc *mesh.Service, client *mesh.Workload, hops []hop) []hop {
	rand.Shuffle(len(hops), func(i, j int) { hops[i], hops[j] = hops[j], hops[i] })
	near := 0
	if svc.PreferSameZone && client.Zone != "" {
		for i, h := range hops {
			if h.workload != nil && h.workload.Zone == client.Zone {
				hops[i], hops[near] = hops[near], hops[i]
				near++
			}
		}
	}
	choices := len(hops)
	if near > 0 {
		choices = near
	}
	if choices > 1 && p.loads.of(hops[1].addr) < p.loads.of(hops[0].addr) {
		hops[0], hops[1] = hops[1], hops[0]
	}
	return hops[:min(len(hops), maxAttempts)]
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
