package resource

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/mesh"
)

func raw(texts ...string) (out [][]byte) {
	for _, s := range texts {
		out = append(out, netip.MustParseAddr(s).AsSlice())
	}
	return out
}

func TestAServiceIsDecodedWhole(t *testing.T) {
	got, err := DecodeService(&meshv1.Service{
		Namespace: "shop", Name: "web", Hostname: "web.shop.svc.cluster.local", Vips: raw("10.96.0.1", "fd00:96::1"),
		ExternalAddresses: raw("198.51.100.1"), PreferSameNode: true, PreferSameZone: true, InternalLocal: true, AffinitySeconds: 60,
		Ports: []*meshv1.Port{{Name: "http", Port: 80, NodePort: 30080}, {Port: 81}},
		Endpoints: []*meshv1.Endpoint{{
			Addresses: raw("192.0.2.1"), TargetPorts: map[uint32]uint32{80: 8080}, Serving: true, Terminating: true, Node: "n1", Zone: "a",
		}},
	})
	want := &mesh.Service{
		Namespace: "shop", Name: "web", Hostname: "web.shop.svc.cluster.local",
		VIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd00:96::1")}, ExternalAddrs: []netip.Addr{netip.MustParseAddr("198.51.100.1")},
		PreferSameNode: true, PreferSameZone: true, InternalLocal: true, Affinity: time.Minute,
		Ports: []mesh.Port{{Name: "http", Number: 80, NodePort: 30080}, {Number: 81}},
		Endpoints: []mesh.Endpoint{{
			Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, TargetPorts: map[uint16]uint16{80: 8080}, Serving: true, Terminating: true, Node: "n1", Zone: "a",
		}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
	}
}

// What an older controller sends has none of the later fields.
func TestAServiceOfAnOlderControllerMeansWhatItMeant(t *testing.T) {
	got, err := DecodeService(&meshv1.Service{
		Namespace: "shop", Name: "web", Vips: raw("10.96.0.1"), Ports: []*meshv1.Port{{Port: 80}},
		Endpoints: []*meshv1.Endpoint{{WorkloadUid: "a", Addresses: raw("10.0.0.1"), Ready: true}, {WorkloadUid: "b", Addresses: raw("10.0.0.2")}},
	})
	if err != nil || !got.Endpoints[0].Ready || got.Endpoints[1].Ready || got.Endpoints[1].Draining() || got.InternalLocal || got.Affinity != 0 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestImpossibleServicesAreRefusedByField(t *testing.T) {
	var many [][]byte
	for range maxExternal + 1 {
		many = append(many, raw("198.51.100.1")...)
	}
	for says, s := range map[string]*meshv1.Service{
		"external_addresses: 257":       {ExternalAddresses: many},
		"external_addresses[0]":         {ExternalAddresses: raw("::ffff:198.51.100.1")},
		"ports.node_port: port 65536":   {Ports: []*meshv1.Port{{Port: 80, NodePort: 65536}}},
		"affinity_seconds: 86401":       {AffinitySeconds: 86_401},
		"endpoints: a field of more":    {Endpoints: []*meshv1.Endpoint{{Node: strings.Repeat("n", maxName+1)}}},
		"endpoints: a field of more th": {Endpoints: []*meshv1.Endpoint{{Zone: strings.Repeat("z", maxName+1)}}},
	} {
		if _, err := DecodeService(s); !errors.Is(err, ErrUndecodable) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}

func TestSettingsSayWhereNodePortsAre(t *testing.T) {
	decode := func(addrs [][]byte) (Decoded, error) {
		return Decode("e", 1, map[string]*meshv1.Resource{
			"settings/mesh": Settings(&meshv1.Settings{NodeAddresses: addrs}),
			"service/s/a":   Service(&meshv1.Service{Namespace: "s", Name: "a", Ports: []*meshv1.Port{{Port: 80, NodePort: 30080}}}),
		})
	}
	d, err := decode(raw("192.0.2.1", "2001:db8::1"))
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]bool{"192.0.2.1:30080": true, "[2001:db8::1]:30080": true, "192.0.2.2:30080": false} {
		if _, ok := d.Mesh.FrontendAt(netip.MustParseAddrPort(at)); ok != want {
			t.Errorf("%s: %v", at, ok)
		}
	}
	if _, err := decode([][]byte{{1, 2, 3}}); !errors.Is(err, ErrUndecodable) {
		t.Errorf("an address of three bytes: %v", err)
	}
	if _, err := decode(make([][]byte, MaxNodeAddrs+1)); !errors.Is(err, ErrUndecodable) {
		t.Errorf("too many addresses: %v", err)
	}
}
