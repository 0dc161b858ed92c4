package ztunnel

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
)

// choiceWorld has a client on node n1 in zone a, and endpoints whose names say where they are: "<node>.<zone>.<name>".
// Each has an address of both families unless its name ends in 4 or 6. A name that begins with "host" is no workload.
func choiceWorld(t *testing.T, edit func(*mesh.Service), names ...string) (*mesh.Snapshot, map[netip.Addr]string) {
	t.Helper()
	svc := &mesh.Service{
		Namespace: "shop", Name: "web",
		VIPs:          []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd00:96::1")},
		ExternalAddrs: []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:1::1")},
		Ports:         []mesh.Port{{Name: "http", Number: 80, NodePort: 30080}, {Name: "unserved", Number: 81}},
	}
	ws := []*mesh.Workload{{UID: "client", Namespace: "shop", Name: "client", Node: "n1", Zone: "a", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.200")}}}
	who := map[netip.Addr]string{}
	for i, name := range names {
		addrs := []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), netip.MustParseAddr(fmt.Sprintf("fd00::%d", i+1))}
		switch name[len(name)-1] {
		case '4':
			addrs = addrs[:1]
		case '6':
			addrs = addrs[1:]
		}
		place := strings.Split(name, ".")
		e := mesh.Endpoint{Addrs: addrs, Ready: true, Serving: true, TargetPorts: map[uint16]uint16{80: 8080}}
		if strings.HasPrefix(place[2], "host") {
			e.Node, e.Zone = place[0], place[1]
		} else {
			e.Workload = mesh.UID(name)
			ws = append(ws, &mesh.Workload{UID: e.Workload, Namespace: "shop", Name: name, Node: place[0], Zone: place[1], Addrs: addrs})
		}
		svc.Endpoints = append(svc.Endpoints, e)
		for _, a := range addrs {
			who[a] = name
		}
	}
	if edit != nil {
		edit(svc)
	}
	m, err := mesh.NewSnapshot("test", 1, ws, []*mesh.Service{svc})
	if err != nil {
		t.Fatal(err)
	}
	nodes := map[netip.Addr]struct{}{}
	for _, a := range []string{"192.0.2.1", "192.0.2.2", "2001:db8::1", "10.0.0.200"} { // the last is a pod's, whatever a node says
		nodes[netip.MustParseAddr(a)] = struct{}{}
	}
	return m.WithSettings(mesh.Settings{NodeAddrs: nodes}), who
}

func choiceProxy() *Proxy {
	return &Proxy{cfg: Config{Node: "n1"}, loads: newLoads(), conns: newConns(0), affinities: newAffinities(100)}
}

const (
	near  = "n1.a.near"
	zonal = "n2.a.zonal"
	far   = "n3.b.far"
	far4  = "n3.b.far4"
	far6  = "n3.b.far6"
	host  = "n1.a.host"
	hostB = "n3.b.host"
)

func draining(names ...int) func(*mesh.Service) {
	return func(s *mesh.Service) {
		for _, i := range names {
			s.Endpoints[i].Ready, s.Endpoints[i].Terminating = false, true
		}
	}
}

func gone(i int) func(*mesh.Service) {
	return func(s *mesh.Service) { s.Endpoints[i].Ready, s.Endpoints[i].Serving = false, false }
}

func all(fs ...func(*mesh.Service)) func(*mesh.Service) {
	return func(s *mesh.Service) {
		for _, f := range fs {
			f(s)
		}
	}
}

func internalLocal(s *mesh.Service) { s.InternalLocal = true }
func preferZone(s *mesh.Service)    { s.PreferSameZone = true }
func preferNode(s *mesh.Service)    { s.PreferSameNode, s.PreferSameZone = true, true }
func unknownPod(s *mesh.Service)    { s.Endpoints[0].Workload = "nobody-knows" }
func publishUnready(s *mesh.Service) {
	s.Endpoints[0].Serving, s.Endpoints[0].Terminating = false, true
}

// choices are what kube-proxy would have done. `want` are those that may be tried first, "then" those after, or else a
// reason. Each row is dialled by IPv4, IPv6 and v4-mapped.
var choices = []struct {
	name      string
	endpoints []string
	edit      func(*mesh.Service)
	at        string // vip unless external or node
	port      uint16 // 80, or 30080 at a node
	want      []string
	then      []string
	reason    Reason
}{
	{name: "every ready endpoint", endpoints: []string{near, zonal, far}, want: []string{near, zonal, far}, then: []string{near, zonal, far}},
	{name: "none that is not ready", endpoints: []string{near, far}, edit: gone(0), want: []string{far}},
	{name: "none terminating while one is ready", endpoints: []string{near, far}, edit: draining(0), want: []string{far}},
	{name: "terminating ones while none is ready", endpoints: []string{near, zonal, far}, edit: all(draining(0, 1), gone(2)), want: []string{near, zonal}, then: []string{near, zonal}},
	{name: "ready because it says so, terminating or not", endpoints: []string{near}, edit: publishUnready, want: []string{near}},
	{name: "nobody left", endpoints: []string{near}, edit: gone(0), reason: ReasonNoEndpoint},
	{name: "no endpoint at all", reason: ReasonNoEndpoint},
	{name: "port without endpoints", endpoints: []string{near}, port: 81, reason: ReasonNoEndpoint},
	{name: "no such port", endpoints: []string{near}, port: 82, reason: ReasonNoPort},
	{name: "a pod that is not known is not dialled as it is", endpoints: []string{near, far}, edit: unknownPod, want: []string{far}},
	{name: "a host", endpoints: []string{host}, want: []string{host}},

	{name: "zone first, others after", endpoints: []string{near, zonal, far}, edit: preferZone, want: []string{near, zonal}, then: []string{near, zonal, far}},
	{name: "zone of a host", endpoints: []string{host, far}, edit: preferZone, want: []string{host}, then: []string{far}},
	{name: "nobody in the zone", endpoints: []string{far, hostB}, edit: preferZone, want: []string{far, hostB}, then: []string{far, hostB}},
	{name: "node first, then zone, then others", endpoints: []string{far, zonal, near}, edit: preferNode, want: []string{near}, then: []string{zonal, far}},
	{name: "nobody on the node", endpoints: []string{far, zonal}, edit: preferNode, want: []string{zonal}, then: []string{far}},
	{name: "ready far before terminating near", endpoints: []string{near, far}, edit: all(preferNode, draining(0)), want: []string{far}},

	{name: "local only", endpoints: []string{near, zonal, far, host}, edit: internalLocal, want: []string{near, host}, then: []string{near, host}},
	{name: "local and terminating, though others are ready", endpoints: []string{near, far}, edit: all(internalLocal, draining(0)), want: []string{near}},
	{name: "nobody local", endpoints: []string{zonal, far}, edit: internalLocal, reason: ReasonNotLocal},
	{name: "nobody anywhere, local or not", endpoints: []string{near, far}, edit: all(internalLocal, gone(0), gone(1)), reason: ReasonNoEndpoint},
	{name: "external is not internal", endpoints: []string{zonal, far}, edit: internalLocal, at: "external", want: []string{zonal, far}, then: []string{zonal, far}},
	{name: "a node's port is not internal", endpoints: []string{far}, edit: internalLocal, at: "node", port: 30080, want: []string{far}},

	{name: "external address", endpoints: []string{near}, at: "external", want: []string{near}},
	{name: "another port of an external address", endpoints: []string{near}, at: "external", port: 82, want: []string{"as dialled"}},
	{name: "node port", endpoints: []string{near, far}, at: "node", port: 30080, want: []string{near, far}, then: []string{near, far}},
	{name: "another port of a node", endpoints: []string{near}, at: "node", port: 80, want: []string{"as dialled"}},
	{name: "node port without endpoints", at: "node", port: 30080, reason: ReasonNoEndpoint},
	{name: "the number of a node port elsewhere", endpoints: []string{near}, at: "elsewhere", port: 30080, want: []string{"as dialled"}},
}

func TestEndpointsAreChosenAsKubeProxyDoes(t *testing.T) {
	dialled := map[string][2]string{
		"": {"10.96.0.1", "fd00:96::1"}, "external": {"198.51.100.1", "2001:db8:1::1"}, "node": {"192.0.2.2", "2001:db8::1"},
		"elsewhere": {"203.0.113.1", "2001:db8:2::1"},
	}
	for _, c := range choices {
		if c.port == 0 {
			c.port = 80
		}
		v4, v6 := netip.MustParseAddr(dialled[c.at][0]), netip.MustParseAddr(dialled[c.at][1])
		for family, dst := range map[string]netip.Addr{"v4": v4, "v6": v6, "v4-mapped": netip.AddrFrom16(v4.As16())} {
			t.Run(c.name+"/"+family, func(t *testing.T) {
				m, who := choiceWorld(t, c.edit, c.endpoints...)
				first, after, reason := tally(m, who, netip.AddrPortFrom(dst, c.port))
				if reason != c.reason || !same(first, c.want) || !same(after, c.then) {
					t.Errorf("first %v, then %v, reason %q; want %v, %v, %q", slices.Sorted(maps.Keys(first)), slices.Sorted(maps.Keys(after)), reason, c.want, c.then, c.reason)
				}
			})
		}
	}
}

// tally routes many times, and says who came first and who after that.
func tally(m *mesh.Snapshot, who map[netip.Addr]string, dst netip.AddrPort) (first, after map[string]bool, reason Reason) {
	p := choiceProxy()
	first, after = map[string]bool{}, map[string]bool{}
	name := func(h hop) string {
		if h.addr == dst {
			return "as dialled"
		}
		if h.addr.Port() != 8080 || h.addr.Addr().Is4() != dst.Addr().Unmap().Is4() {
			return "wrong: " + h.addr.String()
		}
		return who[h.addr.Addr()]
	}
	for range 100 {
		var way route
		if way, reason = p.find(m, m.Workload("client"), dst); reason != "" {
			return first, after, reason
		}
		p.affinities.settle(&way, time.Now(), true)
		for i, h := range way.hops {
			if i == 0 {
				first[name(h)] = true
			} else {
				after[name(h)] = true
			}
		}
	}
	return first, after, reason
}

func same(got map[string]bool, want []string) bool {
	return slices.Equal(slices.Sorted(maps.Keys(got)), slices.Sorted(slices.Values(want)))
}

// An endpoint has the families that it has: no family is made of the other.
func TestOnlyEndpointsOfTheDialledFamilyAreUsed(t *testing.T) {
	v4, v6 := netip.MustParseAddrPort("10.96.0.1:80"), netip.MustParseAddrPort("[fd00:96::1]:80")
	mapped := netip.AddrPortFrom(netip.AddrFrom16(v4.Addr().As16()), 80)
	for _, c := range []struct {
		endpoints []string
		edit      func(*mesh.Service)
		dst       netip.AddrPort
		want      []string
		reason    Reason
	}{
		{[]string{far4, far6}, nil, v4, []string{far4}, ""},
		{[]string{far4, far6}, nil, mapped, []string{far4}, ""},
		{[]string{far4, far6}, nil, v6, []string{far6}, ""},
		{[]string{far6}, nil, v4, nil, ReasonNoFamily},
		{[]string{far6}, nil, mapped, nil, ReasonNoFamily},
		{[]string{far4}, nil, v6, nil, ReasonNoFamily},
		{[]string{far4, far6}, draining(0), v4, []string{far4}, ""}, // readiness is each family's own
		{[]string{far4, far6}, gone(0), v4, nil, ReasonNoFamily},
		{[]string{far4}, gone(0), v6, nil, ReasonNoEndpoint},
		{[]string{far4, far6}, internalLocal, v4, nil, ReasonNotLocal},
	} {
		m, who := choiceWorld(t, c.edit, c.endpoints...)
		first, _, reason := tally(m, who, c.dst)
		if reason != c.reason || !same(first, c.want) {
			t.Errorf("%v at %s: %v, reason %q; want %v, %q", c.endpoints, c.dst, first, reason, c.want, c.reason)
		}
	}
}

func TestWhyThereIsNoRouteIsSaidInWords(t *testing.T) {
	m, _ := choiceWorld(t, internalLocal, far4)
	p := choiceProxy()
	for dst, want := range map[string]string{
		"10.96.0.1:80":    "service shop/web port 80: internalTrafficPolicy is Local, and no endpoint is ready on node n1: others are, elsewhere",
		"10.96.0.1:81":    "service shop/web port 81 has no ready endpoint",
		"10.96.0.1:82":    "service shop/web port 82: the service has no such TCP port",
		"[fd00:96::1]:80": "service shop/web port 80 was dialled at its IPv6 address, and none of its ready endpoints has an IPv6 address",
	} {
		at := netip.MustParseAddrPort(dst)
		way, missing := p.find(m, m.Workload("client"), at)
		if got := p.explain(m, &way, missing, at).Error(); got != want {
			t.Errorf("%s: %q, want %q", dst, got, want)
		}
	}
}

// A pod's address that a node claims stays the pod's.
func TestAPodsAddressIsNoNodes(t *testing.T) {
	m, who := choiceWorld(t, nil, near)
	first, _, _ := tally(m, who, netip.MustParseAddrPort("10.0.0.200:30080"))
	if !same(first, []string{"as dialled"}) {
		t.Errorf("the pod's port 30080 leads to %v", first)
	}
}

// A peer that asks for a pod which this node has let go is told to try elsewhere, not that a policy forbids it.
func TestAPodThatIsGoneIsNoRefusalByPolicy(t *testing.T) {
	m, err := mesh.NewSnapshot("e", 1, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := choiceProxy()
	p.cfg.World = mesh.NewStore(&World{Mesh: m})
	k := &conn{pod: &Pod{UID: "gone"}}
	_, _, f := p.admit(t.Context(), k, arrival{app: netip.MustParseAddrPort("10.0.0.1:8080"), security: MutualTLS})
	if f == nil || f.verdict != Denied || !f.retry || statusOf(f) != 503 {
		t.Errorf("it is answered %+v", f)
	}
}
