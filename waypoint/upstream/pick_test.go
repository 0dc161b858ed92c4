package upstream

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/route"
)

func TestOnlyReadyEndpointsAreChosenAndDrainingOnesIfThereIsNoOther(t *testing.T) {
	f := newField(t)
	f.pod("a", "10.0.0.1", nil)
	f.pod("b", "10.0.0.2", nil)
	f.pod("c", "10.0.0.3", nil)
	f.endpoint("b").Ready, f.endpoint("b").Serving = false, false
	f.endpoint("c").Ready, f.endpoint("c").Terminating = false, true
	f.publish()
	if got := f.chosen(50, f.ask); got["a"] != 50 {
		t.Errorf("chosen %v, want the ready one only", got)
	}
	f.endpoint("a").Ready = false
	f.publish()
	if got := f.chosen(50, f.ask); got["c"] != 50 {
		t.Errorf("chosen %v, want the draining one only", got)
	}
	f.endpoint("c").Serving = false
	f.publish()
	if _, err := f.u.Pick(f.ask()); !errors.Is(err, ErrNoEndpoint) {
		t.Errorf("error %v, want ErrNoEndpoint", err)
	}
}

func TestPodThatTheMeshDoesNotKnowIsNeverChosen(t *testing.T) {
	f := newField(t)
	f.pod("a", "10.0.0.1", nil)
	f.pods = nil
	f.publish()
	if _, err := f.u.Pick(f.ask()); !errors.Is(err, ErrNoEndpoint) {
		t.Errorf("error %v, want ErrNoEndpoint", err)
	}
	f.endpoint("a").Workload = "" // what is no pod is as good as any
	f.publish()
	p := f.pick(f.ask())
	if p.Endpoint.Workload != nil || p.Endpoint.Addr != netip.MustParseAddrPort("10.0.0.1:8080") {
		t.Errorf("picked %v", p.Endpoint)
	}
}

func TestFamilyThatWasDialledComesFirst(t *testing.T) {
	f := newField(t)
	a := f.pod("a", "10.0.0.1", nil)
	a.Addrs = append(a.Addrs, netip.MustParseAddr("fd00::1"))
	f.endpoint("a").Addrs = a.Addrs
	f.pod("b", "fd00::2", nil)
	f.publish()
	for range 20 {
		if p := f.pick(f.ask()); p.Endpoint.Addr.Addr().String() != "10.0.0.1" {
			t.Fatalf("IPv4 was dialled, picked %s", p.Endpoint.Addr)
		}
	}
	v6 := f.ask()
	v6.V4 = false
	if got := f.chosen(100, func() Ask { return v6 }); got["a"] == 0 || got["b"] == 0 {
		t.Errorf("IPv6 was dialled, chosen %v", got)
	}
	f.remove("a")
	f.publish()
	if p := f.pick(f.ask()); p.Endpoint.Addr.Addr().String() != "fd00::2" {
		t.Errorf("no endpoint has an IPv4 address, picked %s", p.Endpoint.Addr)
	}
}

func TestWorkloadIsReachedByItsOwnAddress(t *testing.T) {
	f := newField(t)
	w := f.pod("a", "10.0.0.1", nil)
	f.publish()
	p := f.pick(Ask{Target: w, TargetPort: 9000, V4: true})
	if p.Endpoint.Addr != netip.MustParseAddrPort("10.0.0.1:9000") || p.Endpoint.Workload != w {
		t.Errorf("picked %v", p.Endpoint)
	}
	f.remove("a")
	f.publish()
	if _, err := f.u.Pick(Ask{Target: w, TargetPort: 9000, V4: true}); !errors.Is(err, ErrNoEndpoint) {
		t.Errorf("error %v for a workload that is gone, want ErrNoEndpoint", err)
	}
}

func TestWhatFailedTheRequestComesLast(t *testing.T) {
	f := newField(t)
	f.pod("a", "10.0.0.1", nil)
	f.pod("b", "10.0.0.2", nil)
	f.publish()
	ask := f.ask()
	ask.Tried = []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:8080")}
	if got := f.chosen(50, func() Ask { return ask }); got["b"] != 50 {
		t.Errorf("chosen %v after a was tried", got)
	}
	ask.Tried = append(ask.Tried, netip.MustParseAddrPort("10.0.0.2:8080"))
	if got := f.chosen(50, func() Ask { return ask }); got["a"] == 0 || got["b"] == 0 {
		t.Errorf("chosen %v after both were tried, want both again", got)
	}
}

func TestServiceThatHasAllTheRequestsItMayIsOverloaded(t *testing.T) {
	f := newField(t)
	f.pod("a", "10.0.0.1", nil)
	f.publish()
	ask := f.ask()
	ask.Traffic.Connections = &route.ConnectionLimits{MaxRequests: 2}
	first := f.pick(ask)
	f.pick(ask)
	if _, err := f.u.Pick(ask); !errors.Is(err, ErrOverloaded) {
		t.Fatalf("error %v, want ErrOverloaded", err)
	}
	first.Release()
	first.Release() // once only
	f.pick(ask)
	if _, err := f.u.Pick(ask); !errors.Is(err, ErrOverloaded) {
		t.Errorf("error %v, want ErrOverloaded", err)
	}
	if n := f.metric("warren_waypoint_overloaded_total", "requests"); n != 2 {
		t.Errorf("%v counted as overloaded, want 2", n)
	}
}

func TestInternalLocalKeepsRequestsOnTheClientsNode(t *testing.T) {
	f := newField(t)
	f.pod("a", "10.0.0.1", nil)
	f.pod("b", "10.0.0.2", nil).Node = "n2"
	f.svc.InternalLocal = true
	f.publish()
	if got := f.chosen(50, f.ask); got["a"] != 50 {
		t.Errorf("chosen %v for a client of n1", got)
	}
	elsewhere := f.ask()
	elsewhere.Conn.Workload.Node = "n3"
	if _, err := f.u.Pick(elsewhere); !errors.Is(err, ErrNoEndpoint) {
		t.Errorf("error %v for a client of n3, want ErrNoEndpoint", err)
	}
	stranger := f.ask()
	stranger.Conn.Workload = nil
	if _, err := f.u.Pick(stranger); !errors.Is(err, ErrNoEndpoint) {
		t.Errorf("error %v for a client of nowhere, want ErrNoEndpoint", err)
	}
	external := f.ask()
	external.Conn.Service, external.Conn.Dialled = f.svc, netip.MustParseAddrPort("192.0.2.1:80")
	if got := f.chosen(50, func() Ask { return external }); got["b"] == 0 {
		t.Errorf("chosen %v for a client from outside, want all", got)
	}
}

func TestServiceThatLeftTheWorldHasNoEndpoint(t *testing.T) {
	f := newField(t)
	f.pod("a", "10.0.0.1", nil)
	f.publish()
	f.pick(f.ask()).Release()
	m, err := mesh.NewSnapshot("e", 99, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := *f.store.Load()
	w.Mesh = m
	f.store.Swap(&w)
	if _, err := f.u.Pick(f.ask()); !errors.Is(err, ErrNoEndpoint) {
		t.Errorf("error %v, want ErrNoEndpoint", err)
	}
	eventually(t, "the group is forgotten", func() bool { return len(f.u.all()) == 0 })
	f.u.mu.Lock()
	defer f.u.mu.Unlock()
	if len(f.u.peers)+len(f.u.services) > 0 {
		t.Errorf("%d endpoints and %d services are remembered", len(f.u.peers), len(f.u.services))
	}
}
