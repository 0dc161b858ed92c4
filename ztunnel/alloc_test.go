package ztunnel

import (
	"net/netip"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
)

// TestRoutesAndRecordsKeepToTheirAllocations: what every connection pays before its first byte, and what a snapshot of
// the open ones costs for each.
func TestRoutesAndRecordsKeepToTheirAllocations(t *testing.T) {
	client := &mesh.Workload{UID: "client", Zone: "z1"}
	p := &Proxy{loads: newLoads(), conns: newConns(0), affinities: newAffinities(10)}
	few := scaleWorld(t, 3, func(s *mesh.Service) { s.Affinity = time.Hour })
	many := scaleWorld(t, 200, func(s *mesh.Service) { s.PreferSameZone = true })
	pod, vip := netip.MustParseAddrPort("10.0.0.1:8080"), netip.MustParseAddrPort("10.97.0.1:80")
	find := func(m *mesh.Snapshot, dst netip.AddrPort) func() {
		return func() {
			way, reason := p.find(m, client, dst)
			if reason != "" || len(way.hops) == 0 {
				t.Fatalf("no route: %s", reason)
			}
			p.affinities.settle(&way, time.Now(), true)
		}
	}
	open := &conn{record: Record{Start: time.Now()}}
	budgets := []struct {
		name string
		f    func()
		most float64
	}{
		{"route to a pod", find(few, pod), 1},
		{"route to nowhere in the mesh", find(few, netip.MustParseAddrPort("192.0.2.1:443")), 1},
		{"route to a service of 3, where clients stay", find(few, vip), 1},
		{"route to a service of 200", find(many, vip), 1},
		{"record of an open connection", func() { _ = open.snapshot() }, 0},
		{"change of a record", func() { open.set(func(r *Record) { r.Verdict = Forwarded }) }, 0},
		{"count of bytes", func() { add([]*conn{open}, 1, true) }, 0},
	}
	for _, b := range budgets {
		if got := testing.AllocsPerRun(200, b.f); got > b.most {
			t.Errorf("%s: %v allocations, budget %v", b.name, got, b.most)
		}
	}
}
