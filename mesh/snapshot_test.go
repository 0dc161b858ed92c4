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
