package ztunnel

import (
	"net/netip"
	"sync"
	"time"

	"github.com/warren-mesh/warren/mesh"
)

// departedFor is how long an address that an enrolled workload had until lately is not dialled in plaintext: longer than
// it takes a change to reach every node, and a client to forget the address.
const departedFor = 30 * time.Second

// departed remembers the addresses of enrolled workloads that are gone. What the mesh does not know is passed on as it
// is; of these addresses it is known that they were never meant to be dialled so, and the next pod may have them
// before this node hears of it.
type departed struct {
	world *mesh.Store[World]

	mu   sync.Mutex
	last *mesh.Snapshot
	gone map[netip.Addr]time.Time // until when
}

func newDeparted(world *mesh.Store[World]) *departed {
	return &departed{world: world, last: world.Load().Mesh, gone: map[netip.Addr]time.Time{}}
}

// has tells whether an address that the world in force does not know was an enrolled workload's until lately.
func (d *departed) has(a netip.Addr, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.follow(now)
	return now.Before(d.gone[a])
}

// changed takes up the world in force.
func (d *departed) changed(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.follow(now)
}

// follow compares the world in force with the last one that was seen. Caller holds mu.
func (d *departed) follow(now time.Time) {
	m := d.world.Load().Mesh
	if m == d.last {
		return
	}
	for _, w := range d.last.Workloads() {
		if !w.Tunnelled() {
			continue
		}
		for _, a := range w.Addrs {
			d.gone[a.Unmap()] = now.Add(departedFor)
		}
	}
	for a, until := range d.gone {
		if m.WorkloadAt(a) != nil || !now.Before(until) {
			delete(d.gone, a)
		}
	}
	d.last = m
}
