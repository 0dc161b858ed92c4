package upstream

import (
	"net/netip"
	"sync"

	"github.com/warren-mesh/warren/mesh"
)

// view is a group's endpoints in one world. It does not change.
type view struct {
	mesh    *mesh.Snapshot
	service *mesh.Service // nil of a workload
	// v4 and v6 are for clients that dialled one or the other.
	v4, v6 *tier
}

// tier is the endpoints that may be chosen, and how they lie.
type tier struct {
	entries []*entry
	// expected is how many endpoints a zone has that are not on their way out, ready or not.
	expected map[string]int

	once           sync.Once
	byNode, byZone map[string][]*entry
}

// entry is one endpoint in one world.
type entry struct {
	*member
	workload   *mesh.Workload
	node, zone string
}

// member is what a group remembers of an endpoint.
type member struct {
	peer    *peer
	hash    uint64
	token   token
	outlier outlier
}

func (v *view) tier(v4 bool) *tier {
	if v4 {
		return v.v4
	}
	return v.v6
}

func (t *tier) index() {
	t.once.Do(func() {
		t.byNode, t.byZone = map[string][]*entry{}, map[string][]*entry{}
		for _, e := range t.entries {
			t.byNode[e.node] = append(t.byNode[e.node], e)
			t.byZone[e.zone] = append(t.byZone[e.zone], e)
		}
	})
}

// refresh makes the view of the current world, unless somebody else just did; nil if the group is gone.
func (u *Upstreams) refresh(g *group) *view {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone {
		return nil
	}
	m := u.cfg.World.Load().Mesh
	v := g.view.Load()
	if v != nil && v.mesh == m {
		return v
	}
	b := builder{u: u, g: g, m: m, members: map[peerKey]*member{}}
	v = b.build()
	b.settle()
	g.view.Store(v)
	return v
}

// builder makes a view. Its group's mu is held.
type builder struct {
	u       *Upstreams
	g       *group
	m       *mesh.Snapshot
	members map[peerKey]*member
}

func (b *builder) build() *view {
	v := &view{mesh: b.m, v4: &tier{}, v6: &tier{}}
	if b.g.key.workload {
		b.ofWorkload(v)
	} else if svc := b.m.ServiceNamed(b.g.key.namespace + "/" + b.g.key.name); svc != nil && svc.HasPort(b.g.key.port) {
		v.service = svc
		v.v4 = b.tier(svc, true)
		if v.v6 = v.v4; !oneFamily(svc) {
			v.v6 = b.tier(svc, false)
		}
	}
	return v
}

func (b *builder) ofWorkload(v *view) {
	w := b.m.Workload(b.g.key.uid)
	if w == nil {
		return
	}
	e := mesh.Endpoint{Workload: w.UID, Addrs: w.Addrs, TargetPorts: map[uint16]uint16{b.g.key.port: b.g.key.port}}
	for _, v4 := range [...]bool{true, false} {
		for _, family := range [...]bool{v4, !v4} {
			if t := v.tier(v4); len(t.entries) == 0 {
				t.entries = b.add(nil, &e, family)
			}
		}
	}
}

// oneFamily tells whether all endpoints have addresses of the same family, so that it does not matter what was dialled.
func oneFamily(svc *mesh.Service) bool {
	var v4, v6 bool
	for i := range svc.Endpoints {
		for _, a := range svc.Endpoints[i].Addrs {
			v4, v6 = v4 || a.Is4(), v6 || !a.Is4()
		}
	}
	return !v4 || !v6
}

// tier returns the endpoints for clients that dialled a family: ready ones, or else those that terminate and serve
// still, as kube-proxy and ztunnel have it; of the family that was dialled, or else of the other.
func (b *builder) tier(svc *mesh.Service, v4 bool) *tier {
	t := &tier{expected: map[string]int{}}
	for i := range svc.Endpoints {
		if e := &svc.Endpoints[i]; !e.Terminating {
			_, zone := b.place(e)
			t.expected[zone]++
		}
	}
	for _, draining := range [...]bool{false, true} {
		for _, family := range [...]bool{v4, !v4} {
			for i := range svc.Endpoints {
				if e := &svc.Endpoints[i]; e.Ready != draining && (!draining || e.Draining()) {
					t.entries = b.add(t.entries, e, family)
				}
			}
			if len(t.entries) > 0 {
				return t
			}
		}
	}
	return t
}

// place returns where an endpoint is, as far as that is known.
func (b *builder) place(e *mesh.Endpoint) (node, zone string) {
	if w := b.m.Workload(e.Workload); w != nil {
		return w.Node, w.Zone
	}
	return e.Node, e.Zone
}

// add appends an endpoint, if it has an address of the family and is known. A pod that the mesh knows nothing of may be
// in it: nothing is sent to it as it is.
func (b *builder) add(to []*entry, e *mesh.Endpoint, v4 bool) []*entry {
	port, ok := e.TargetPorts[b.g.key.port]
	w := b.m.Workload(e.Workload)
	if !ok || w == nil && e.Workload != "" {
		return to
	}
	addr, ok := e.AddrOf(v4)
	if !ok {
		return to
	}
	key := peerKey{addr: netip.AddrPortFrom(addr, port), uid: e.Workload}
	member := b.members[key]
	if member == nil {
		if member = b.g.members[key]; member == nil {
			member = b.newMember(key)
		}
		b.members[key] = member
	}
	node, zone := b.place(e)
	return append(to, &entry{member: member, workload: w, node: node, zone: zone})
}

func (b *builder) newMember(key peerKey) *member {
	return &member{peer: b.u.peer(key), hash: key.hash(), token: tokenOf(b.g.key.serviceKey, key)}
}

// settle gives up the endpoints that are no longer there.
func (b *builder) settle() {
	for key, m := range b.g.members {
		if b.members[key] == nil {
			b.u.drop(m.peer)
		}
	}
	b.g.members = b.members
}
