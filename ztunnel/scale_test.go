package ztunnel

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
)

// scaleWorld has n workloads, a service at 10.97.0.1 that selects all of them, and at 10.96.x.y a service for each ten.
func scaleWorld(t testing.TB, n int, edit func(*mesh.Service)) *mesh.Snapshot {
	t.Helper()
	all := scaleService("web", netip.MustParseAddr("10.97.0.1"))
	if edit != nil {
		edit(all)
	}
	services := []*mesh.Service{all}
	var workloads []*mesh.Workload
	for i := range n {
		addr := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		uid := mesh.UID(fmt.Sprint("w", i))
		workloads = append(workloads, &mesh.Workload{UID: uid, Namespace: "shop", Name: string(uid), Addrs: []netip.Addr{addr},
			Node: fmt.Sprint("n", i%100), Zone: fmt.Sprint("z", i%3), Enrolled: true})
		e := mesh.Endpoint{Workload: uid, Addrs: []netip.Addr{addr}, Ready: true, TargetPorts: map[uint16]uint16{80: 8080}}
		all.Endpoints = append(all.Endpoints, e)
		if i%10 == 0 {
			services = append(services, scaleService(fmt.Sprint("s", i/10), netip.AddrFrom4([4]byte{10, 96, byte(i / 10 >> 8), byte(i / 10)})))
		}
		last := services[len(services)-1]
		last.Endpoints = append(last.Endpoints, e)
	}
	m, err := mesh.NewSnapshot("test", 1, workloads, services)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func scaleService(name string, vip netip.Addr) *mesh.Service {
	return &mesh.Service{Namespace: "shop", Name: name, VIPs: []netip.Addr{vip}, Ports: []mesh.Port{{Number: 80}}}
}

// scaleScenes are what a connection may be to, in a mesh however large.
var scaleScenes = []struct {
	name, dst string
	edit      func(*mesh.Service)
}{
	{"a pod", "10.0.0.1:8080", nil},
	{"outside", "192.0.2.1:443", nil},
	{"a service of ten", "10.96.0.0:80", nil},
	{"a service of all", "10.97.0.1:80", nil},
	{"zone first", "10.97.0.1:80", func(s *mesh.Service) { s.PreferSameZone = true }},
	{"clients stay", "10.97.0.1:80", func(s *mesh.Service) { s.Affinity = time.Hour }},
}

func scaleProxy() *Proxy {
	return &Proxy{cfg: Config{Node: "n1"}, loads: newLoads(), conns: newConns(0), affinities: newAffinities(10)}
}

// routed finds a route to dst as each connection does.
func routed(t testing.TB, p *Proxy, m *mesh.Snapshot, dst netip.AddrPort) func() {
	client := &mesh.Workload{UID: "client", Zone: "z1"}
	return func() {
		way, reason := p.find(m, client, dst)
		p.affinities.settle(&way, time.Now(), true)
		if reason != "" || len(way.hops) == 0 {
			t.Fatalf("no route: %s", reason)
		}
	}
}

// TestARoutesMemoryDoesNotGrowWithTheMesh counts bytes: one allocation can be as large as a service.
func TestARoutesMemoryDoesNotGrowWithTheMesh(t *testing.T) {
	for _, s := range scaleScenes {
		var bytes []uint64
		for _, n := range []int{10, 1000, 10_000} {
			find := routed(t, scaleProxy(), scaleWorld(t, n, s.edit), netip.MustParseAddrPort(s.dst))
			find() // the first of a snapshot searches
			if got := testing.AllocsPerRun(100, find); got > 1 {
				t.Errorf("%s, %d workloads: %v allocations, more than 1", s.name, n, got)
			}
			bytes = append(bytes, bytesOf(find))
		}
		if bytes[1] > bytes[0]+64 || bytes[2] > bytes[0]+64 || bytes[2] > 1024 {
			t.Errorf("%s: with 10, 1,000 and 10,000 workloads a route takes %v bytes", s.name, bytes)
		}
	}
}

func bytesOf(f func()) uint64 {
	const times = 200
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range times {
		f()
	}
	runtime.ReadMemStats(&after)
	return (after.TotalAlloc - before.TotalAlloc) / times
}

// TestEveryEndpointOfManyIsChosenAlike: chance picks among all that are as near.
func TestEveryEndpointOfManyIsChosenAlike(t *testing.T) {
	const endpoints, tries = 300, 30_000
	p, m := scaleProxy(), scaleWorld(t, endpoints, func(s *mesh.Service) { s.PreferSameZone = true })
	places := [maxAttempts]map[netip.AddrPort]int{{}, {}, {}}
	for range tries {
		way, _ := p.find(m, &mesh.Workload{UID: "client", Zone: "z1"}, netip.MustParseAddrPort("10.97.0.1:80"))
		for i, h := range way.hops {
			if h.workload.Zone != "z1" {
				t.Fatalf("%s is tried, which is further than others", h.addr)
			}
			places[i][h.addr]++
		}
	}
	for i, seen := range places { // 300 times each is expected, with a standard deviation of 17
		if len(seen) != endpoints/3 {
			t.Errorf("choice %d: %d endpoints are ever chosen, want %d", i, len(seen), endpoints/3)
		}
		for a, n := range seen {
			if n < 200 || n > 400 {
				t.Errorf("choice %d: %s is chosen %d times, want about 300", i, a, n)
			}
		}
	}
}

// TestAChangeOfTheMeshIsSeenByTheNextConnection: nothing of an earlier snapshot is used again.
func TestAChangeOfTheMeshIsSeenByTheNextConnection(t *testing.T) {
	p, dst := scaleProxy(), netip.MustParseAddrPort("10.97.0.1:80")
	before := scaleWorld(t, 10, nil)
	svc := *before.ServiceNamed("shop/web")
	svc.Endpoints = svc.Endpoints[:1]
	after, err := mesh.NewSnapshot("test", 2, before.Workloads(), []*mesh.Service{&svc})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		m    *mesh.Snapshot
		want int
	}{{before, maxAttempts}, {after, 1}, {before, maxAttempts}, {after, 1}} {
		if way, _ := p.find(tt.m, &mesh.Workload{}, dst); len(way.hops) != tt.want {
			t.Fatalf("%d hops, want %d", len(way.hops), tt.want)
		}
	}
}

func BenchmarkRouteOfMany(b *testing.B) {
	for _, s := range scaleScenes {
		for _, n := range []int{10, 1000, 10_000} {
			b.Run(fmt.Sprintf("to=%s/workloads=%d", s.name, n), func(b *testing.B) {
				find := routed(b, scaleProxy(), scaleWorld(b, n, s.edit), netip.MustParseAddrPort(s.dst))
				find()
				b.ReportAllocs()
				for b.Loop() {
					find()
				}
			})
		}
	}
}

// BenchmarkFirstRoute is what a change of the mesh costs the first connection to a service after it.
func BenchmarkFirstRoute(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprintf("endpoints=%d", n), func(b *testing.B) {
			p, m := scaleProxy(), scaleWorld(b, n, nil)
			find := routed(b, p, m, netip.MustParseAddrPort("10.97.0.1:80"))
			b.ReportAllocs()
			for b.Loop() {
				p.reaches.current.Store(nil)
				find()
			}
		})
	}
}
