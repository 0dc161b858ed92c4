package ztunnel_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/warren-mesh/warren/internal/meshtest"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/ztunnel"
)

var (
	node4, node6 = netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr("2001:db8::77")
	ext4, ext6   = netip.MustParseAddr("198.51.100.77"), netip.MustParseAddr("2001:db8:1::77")
)

// families are the addresses as apps write them.
func families(v4, v6 netip.Addr) map[string]netip.Addr {
	return map[string]netip.Addr{"v4": v4, "v6": v6, "v4-mapped": netip.AddrFrom16(v4.As16())}
}

// Without the mesh knowing them, both would be plaintext from a node's address, which STRICT refuses.
func TestNodePortsAndExternalAddressesReachAStrictPodWithIdentity(t *testing.T) {
	m := meshtest.New(t, zoned, func(w *mesh.Workload) { w.MTLS.Default = mesh.Strict })
	answerBy(t, m, "shop/far")
	echoService(m, func(s *mesh.Service) {
		s.Ports[0].NodePort = 30080
		s.ExternalAddrs = []netip.Addr{ext4, ext6}
		s.InternalLocal = true // says nothing about these addresses
	}, "shop/far")
	world := *m.World.Load()
	world.Mesh = world.Mesh.WithSettings(mesh.Settings{NodeAddrs: map[netip.Addr]struct{}{node4: {}, node6: {}}})
	m.World.Swap(&world)
	answered := func(addrs map[string]netip.Addr, port uint16) {
		t.Helper()
		for family, a := range addrs {
			if who, err := ask(t, m, "shop/client", a, port); err != nil || who != "shop/far" {
				t.Errorf("%s port %d: answered by %q, %v", family, port, who, err)
			}
			dialled := netip.AddrPortFrom(a.Unmap(), port)
			r := m.AwaitRecord("record", func(r ztunnel.Record) bool { return r.Reporter == ztunnel.Outbound && r.Dialled == dialled })
			if r.Security != ztunnel.MutualTLS || r.Service != "shop/echo" || r.Dst.Workload == nil || r.Dst.Workload.Name != "far" {
				t.Errorf("%s port %d: recorded as %s to %s of %q", family, port, r.Security, r.Dst.Addr, r.Service)
			}
		}
	}
	answered(families(node4, node6), 30080)
	answered(families(ext4, ext6), 80)
	for family, a := range families(vip4, vip6) { // the address that the policy is about
		if _, err := ask(t, m, "shop/client", a, 80); err == nil {
			t.Errorf("%s: a VIP whose traffic is to stay on the node was answered from another", family)
		}
		r := m.AwaitRecord("record", func(r ztunnel.Record) bool { return r.Dialled == netip.AddrPortFrom(a.Unmap(), 80) })
		if r.Reason != ztunnel.ReasonNotLocal {
			t.Errorf("%s: the reason is %s", family, r.Reason)
		}
	}
}

// kube-proxy masquerades such a connection; here nothing needs to be changed.
func TestAPodReachesItselfByItsService(t *testing.T) {
	m := meshtest.New(t, zoned)
	answerBy(t, m, "shop/client")
	echoService(m, nil, "shop/client")
	for family, a := range families(vip4, vip6) {
		if who, err := ask(t, m, "shop/client", a, 80); err != nil || who != "shop/client" {
			t.Errorf("%s: answered by %q, %v", family, who, err)
		}
	}
}

// The API server, and whatever else is no pod: dialled at its own address, from the pod's, and said to be plaintext.
func TestEndpointsThatAreNoPodsAreDialledThemselves(t *testing.T) {
	m := meshtest.New(t, append([]meshtest.Spec{{Name: "x/host", Node: "n2", Plain: true}}, zoned...))
	answerBy(t, m, "x/host")
	echoService(m, func(s *mesh.Service) { s.Endpoints[0].Workload = "" }, "x/host")
	for family, a := range families(vip4, vip6) {
		if who, err := ask(t, m, "shop/client", a, 80); err != nil || who != "x/host" {
			t.Errorf("%s: answered by %q, %v", family, who, err)
		}
		r := m.AwaitRecord("record", func(r ztunnel.Record) bool { return r.Dialled == netip.AddrPortFrom(a.Unmap(), 80) })
		if want := m.Pod("x/host").Addr(a.Is6() && !a.Is4In6(), 8080); r.Dst.Addr != want || r.Security != ztunnel.Plaintext {
			t.Errorf("%s: recorded as %s to %s, want plaintext to %s", family, r.Security, r.Dst.Addr, want)
		}
	}
}

// An endpoint whose enrolled pod has gone is not dialled as it is, and another one is.
func TestAnEndpointThatLeftIsTriedElsewhere(t *testing.T) {
	m := meshtest.New(t, zoned)
	answerBy(t, m, "shop/far")
	answerBy(t, m, "shop/near") // it would answer, were it asked
	echoService(m, func(s *mesh.Service) { s.Endpoints[0].Workload = "" }, "shop/near", "shop/far")
	world := *m.World.Load()
	var ws []*mesh.Workload
	for _, w := range world.Mesh.Workloads() {
		if w.FullName() != "shop/near" {
			ws = append(ws, w)
		}
	}
	var err error
	if world.Mesh, err = mesh.NewSnapshot("test", 100, ws, world.Mesh.Services()); err != nil {
		t.Fatal(err)
	}
	m.World.Swap(&world)
	for i := range 20 {
		if who, err := ask(t, m, "shop/client", vip4, 80); err != nil || who != "shop/far" {
			t.Fatalf("try %d: answered by %q, %v", i, who, err)
		}
	}
}

// What terminates is used while nothing else is there, and what refuses then is tried elsewhere.
func TestTerminatingEndpointsServeUntilTheyDoNot(t *testing.T) {
	m := meshtest.New(t, zoned)
	answerBy(t, m, "shop/far") // near has closed its listener already
	echoService(m, func(s *mesh.Service) {
		for i := range s.Endpoints {
			s.Endpoints[i].Ready, s.Endpoints[i].Serving, s.Endpoints[i].Terminating = false, true, true
		}
	}, "shop/near", "shop/far")
	for family, a := range families(vip4, vip6) {
		for i := range 5 {
			if who, err := ask(t, m, "shop/client", a, 80); err != nil || who != "shop/far" {
				t.Fatalf("%s, try %d: answered by %q, %v", family, i, who, err)
			}
		}
	}
}

// A client that stays goes where it is answered, and stays there.
func TestAffinityFollowsWhoAnswers(t *testing.T) {
	m := meshtest.New(t, zoned)
	for _, name := range []string{"shop/far", "shop/farther"} {
		answerBy(t, m, name) // near refuses
	}
	echoService(m, func(s *mesh.Service) { s.Affinity = 3 * time.Hour }, "shop/near", "shop/far", "shop/farther")
	for family, a := range families(vip4, vip6) {
		first := ""
		for i := range 10 {
			who, err := ask(t, m, "shop/client", a, 80)
			if err != nil {
				t.Fatal(family, err)
			}
			if first == "" {
				first = who
			}
			if who != first {
				t.Fatalf("%s: answer %d came from %s, the first from %s", family, i, who, first)
			}
		}
	}
}
