package mesh

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func pod(name string, addrs ...string) *Workload {
	ns, n, _ := strings.Cut(name, "/")
	w := &Workload{UID: UID("uid-" + name), Namespace: ns, Name: n}
	for _, a := range addrs {
		w.Addrs = append(w.Addrs, netip.MustParseAddr(a))
	}
	return w
}

func TestSnapshotFindsByEveryKey(t *testing.T) {
	w := pod("shop/web", "10.0.0.1", "fd00::1")
	svc := &Service{Namespace: "shop", Name: "web", Hostname: "web.shop.svc.cluster.local", VIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")}}
	s, err := NewSnapshot("e", 7, []*Workload{w}, []*Service{svc})
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"10.0.0.1", "::ffff:10.0.0.1", "fd00::1"} { // v4, v4-mapped, v6
		if s.WorkloadAt(netip.MustParseAddr(addr)) != w {
			t.Errorf("nobody at %s", addr)
		}
	}
	if s.Workload(w.UID) != w || s.WorkloadNamed("shop/web") != w {
		t.Error("workload is not found by uid or name")
	}
	if s.ServiceAt(netip.MustParseAddr("::ffff:10.96.0.1")) != svc || s.ServiceNamed("shop/web") != svc || s.ServiceHost(svc.Hostname) != svc {
		t.Error("service is not found by address, name or host name")
	}
	if s.WorkloadAt(netip.MustParseAddr("10.0.0.2")) != nil || s.ServiceAt(netip.MustParseAddr("10.0.0.1")) != nil {
		t.Error("found what is not there")
	}
}

func TestInconsistentSnapshotsAreRefusedNamingBoth(t *testing.T) {
	cases := map[string]struct {
		workloads []*Workload
		services  []*Service
		says      string
	}{
		"no uid":         {workloads: []*Workload{{Namespace: "a", Name: "b"}}, says: "a/b: no uid"},
		"uid twice":      {workloads: []*Workload{pod("a/b"), {UID: "uid-a/b", Namespace: "a", Name: "c"}}, says: "uid-a/b"},
		"name twice":     {workloads: []*Workload{pod("a/b"), {UID: "other", Namespace: "a", Name: "b"}}, says: "uid-a/b"},
		"address twice":  {workloads: []*Workload{pod("a/b", "10.0.0.1"), pod("a/c", "10.0.0.1")}, says: "also that of a/b"},
		"mapped address": {workloads: []*Workload{pod("a/b", "::ffff:10.0.0.1")}, says: "::ffff:10.0.0.1"},
		"loopback":       {workloads: []*Workload{pod("a/b", "127.0.0.1")}, says: "127.0.0.1"},
		"unspecified":    {workloads: []*Workload{pod("a/b", "::")}, says: `"::"`},
		"multicast":      {workloads: []*Workload{pod("a/b", "ff02::1")}, says: "ff02::1"},
		"zone":           {workloads: []*Workload{pod("a/b", "fe80::1%eth0")}, says: "fe80::1%eth0"},
		"service twice":  {services: []*Service{{Namespace: "a", Name: "s"}, {Namespace: "a", Name: "s"}}, says: "a/s: name occurs twice"},
		"vip twice": {services: []*Service{
			{Namespace: "a", Name: "s", VIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")}},
			{Namespace: "a", Name: "r", VIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")}}}, says: "also that of service a/s"},
		"external address and port twice": {services: []*Service{
			{Namespace: "a", Name: "s", ExternalAddrs: []netip.Addr{netip.MustParseAddr("198.51.100.1")}, Ports: []Port{{Number: 80}}},
			{Namespace: "a", Name: "r", ExternalAddrs: []netip.Addr{netip.MustParseAddr("198.51.100.1")}, Ports: []Port{{Number: 80}}}},
			says: "198.51.100.1:80 is also that of service a/s"},
		"external address that is none": {services: []*Service{
			{Namespace: "a", Name: "s", ExternalAddrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Ports: []Port{{Number: 80}}}}, says: "127.0.0.1"},
		"node port twice": {services: []*Service{
			{Namespace: "a", Name: "s", Ports: []Port{{Number: 80, NodePort: 30080}}},
			{Namespace: "a", Name: "r", Ports: []Port{{Number: 80, NodePort: 30080}}}}, says: "node port 30080 is also that of service a/s"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := NewSnapshot("e", 1, c.workloads, c.services)
			if !errors.Is(err, ErrInconsistent) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error is %v, want one that says %q", err, c.says)
			}
		})
	}
}

func TestServicesAreFoundWhereTheyAreAnswered(t *testing.T) {
	addrs := func(texts ...string) (out []netip.Addr) {
		for _, a := range texts {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	external := addrs("198.51.100.1", "2001:db8:1::1")
	a := &Service{Namespace: "s", Name: "a", VIPs: addrs("10.96.0.1", "fd00:96::1"), ExternalAddrs: external, Ports: []Port{{Number: 80, NodePort: 30080}}}
	b := &Service{Namespace: "s", Name: "b", Hostname: "b", ExternalAddrs: external, Ports: []Port{{Number: 443}}} // shares the address
	s, err := NewSnapshot("e", 1, []*Workload{pod("s/p", "192.0.2.9")}, []*Service{a, b})
	if err != nil {
		t.Fatal(err)
	}
	nodes := map[netip.Addr]struct{}{}
	for _, n := range addrs("192.0.2.1", "2001:db8::1", "192.0.2.9") {
		nodes[n] = struct{}{}
	}
	s = s.WithSettings(Settings{NodeAddrs: nodes})
	for _, c := range []struct {
		v4, v6 string
		port   uint16
		want   Frontend
	}{
		{"10.96.0.1", "fd00:96::1", 80, Frontend{a, 80, false}},
		{"10.96.0.1", "fd00:96::1", 9999, Frontend{a, 9999, false}}, // the address is the service's alone
		{"198.51.100.1", "2001:db8:1::1", 80, Frontend{a, 80, true}},
		{"198.51.100.1", "2001:db8:1::1", 443, Frontend{b, 443, true}},
		{"198.51.100.1", "2001:db8:1::1", 22, Frontend{}},
		{"192.0.2.1", "2001:db8::1", 30080, Frontend{a, 80, true}},
		{"192.0.2.1", "2001:db8::1", 80, Frontend{}},
		{"192.0.2.9", "2001:db8::9", 30080, Frontend{}}, // a pod's, and nobody's
	} {
		v4 := netip.MustParseAddr(c.v4)
		for _, dst := range []netip.Addr{v4, netip.AddrFrom16(v4.As16()), netip.MustParseAddr(c.v6)} { // v4, v4-mapped, v6
			got, ok := s.FrontendAt(netip.AddrPortFrom(dst, c.port))
			if got != c.want || ok != (c.want.Service != nil) {
				t.Errorf("%s port %d is %+v, want %+v", dst, c.port, got, c.want)
			}
		}
	}
}

func TestHostNetworkPodsShareTheirNodesAddress(t *testing.T) {
	a, b := pod("a/b", "10.0.0.1"), pod("a/c", "10.0.0.1")
	a.HostNetwork, b.HostNetwork = true, true
	s, err := NewSnapshot("e", 1, []*Workload{a, b}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if w := s.WorkloadAt(netip.MustParseAddr("10.0.0.1")); w != nil {
		t.Errorf("the node's address is said to be %s", w.FullName())
	}
}

func TestModeOfAPort(t *testing.T) {
	m := MTLS{Default: Strict, Ports: map[uint16]MTLSMode{8080: Permissive}}
	if m.ModeOf(8080) != Permissive || m.ModeOf(80) != Strict || (MTLS{}).ModeOf(80) != Permissive {
		t.Error("a port's mode is not its own, or not the default")
	}
}

func TestStoreWakesWhoAskedBeforeTheSwap(t *testing.T) {
	one, two := 1, 2
	s := NewStore(&one)
	changed := s.Changed()
	select {
	case <-changed:
		t.Fatal("changed before any swap")
	default:
	}
	s.Swap(&two)
	<-changed
	if *s.Load() != 2 {
		t.Errorf("store holds %d", *s.Load())
	}
	if s.Changed() == changed {
		t.Error("the next change has no channel of its own")
	}
}
