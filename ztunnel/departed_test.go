package ztunnel

import (
	"net/netip"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
)

func TestAnAddressThatAnEnrolledWorkloadLeftIsRememberedForAWhile(t *testing.T) {
	meshed, plain := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	never := netip.MustParseAddr("192.0.2.1")
	version := uint64(0)
	worldOf := func(ws ...*mesh.Workload) *World {
		version++
		m, err := mesh.NewSnapshot("e", version, ws, nil)
		if err != nil {
			t.Fatal(err)
		}
		return &World{Mesh: m}
	}
	a := &mesh.Workload{UID: "a", Namespace: "shop", Name: "a", Enrolled: true, Addrs: []netip.Addr{meshed}}
	b := &mesh.Workload{UID: "b", Namespace: "shop", Name: "b", Addrs: []netip.Addr{plain}}
	store := mesh.NewStore(worldOf(a, b))
	d := newDeparted(store)
	now := time.Unix(1000, 0)
	check := func(when string, want bool) {
		t.Helper()
		if got := d.has(meshed, now); got != want {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
		if d.has(plain, now) || d.has(never, now) {
			t.Errorf("%s: an address that no enrolled workload had is taken for one", when)
		}
	}
	check("while it is there", false)
	store.Swap(worldOf())
	check("once it has gone", true)
	now = now.Add(departedFor - time.Second)
	store.Swap(worldOf(b))
	check("shortly before it is forgotten", true)
	store.Swap(worldOf(&mesh.Workload{UID: "c", Namespace: "shop", Name: "c", Addrs: []netip.Addr{meshed}}))
	check("when another workload has it", false)
	store.Swap(worldOf(a))
	d.changed(now)
	store.Swap(worldOf())
	check("gone again", true)
	now = now.Add(departedFor)
	check("after a while", false)
}
