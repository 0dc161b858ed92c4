package admin

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/mesh"
)

func snapshot(t *testing.T) *mesh.Snapshot {
	t.Helper()
	pod := func(name, zone, addr string, enrolled bool) *mesh.Workload {
		return &mesh.Workload{UID: mesh.UID(name), Namespace: "a", Name: name, ServiceAccount: name, TrustDomain: "cluster.local",
			Zone: zone, Addrs: []netip.Addr{netip.MustParseAddr(addr)}, Enrolled: enrolled}
	}
	end := func(name, addr string, ready bool) mesh.Endpoint {
		return mesh.Endpoint{Workload: mesh.UID(name), Addrs: []netip.Addr{netip.MustParseAddr(addr)}, TargetPorts: map[uint16]uint16{80: 8080}, Ready: ready}
	}
	going := end("near", "10.0.0.2", false)
	going.Serving, going.Terminating = true, true
	s, err := mesh.NewSnapshot("e", 1,
		[]*mesh.Workload{pod("far", "z1", "10.0.0.1", true), pod("near", "z2", "10.0.0.2", true), pod("src", "z2", "fd00::3", true), pod("plain", "z2", "10.0.0.4", false)},
		[]*mesh.Service{
			{Namespace: "a", Name: "web", Hostname: "web.a.svc.cluster.local", VIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")},
				Ports: []mesh.Port{{Number: 80, NodePort: 30080}}, Endpoints: []mesh.Endpoint{end("far", "10.0.0.1", true), end("near", "10.0.0.2", true)}, PreferSameZone: true},
			{Namespace: "a", Name: "going", Hostname: "going.a.svc.cluster.local", Ports: []mesh.Port{{Number: 80}}, Endpoints: []mesh.Endpoint{end("far", "10.0.0.1", false), going}},
			{Namespace: "a", Name: "local", Hostname: "local.a.svc.cluster.local", Ports: []mesh.Port{{Number: 80}}, InternalLocal: true, Endpoints: []mesh.Endpoint{
				{Node: "elsewhere", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.9")}, TargetPorts: map[uint16]uint16{80: 8080}, Ready: true}}},
			{Namespace: "a", Name: "down", Hostname: "down.a.svc.cluster.local", Ports: []mesh.Port{{Number: 80}}, Endpoints: []mesh.Endpoint{end("far", "10.0.0.1", false)}},
		})
	if err != nil {
		t.Fatal(err)
	}
	return s.WithSettings(mesh.Settings{NodeAddrs: map[netip.Addr]struct{}{netip.MustParseAddr("192.0.2.1"): {}}})
}

func TestNamesResolveAsAnAppWouldWriteThem(t *testing.T) {
	s := snapshot(t)
	for _, c := range []struct {
		dst  string
		port uint16
		want string // the workload and the address, or the error
	}{
		{"web", 80, "near 10.0.0.2:8080"},
		{"web.a", 80, "near 10.0.0.2:8080"},
		{"web.a.svc", 80, "near 10.0.0.2:8080"},
		{"WEB.a.svc.cluster.local.", 80, "near 10.0.0.2:8080"},
		{"a/web", 0, "near 10.0.0.2:8080"},
		{"10.96.0.1", 80, "near 10.0.0.2:8080"},
		{"::ffff:10.96.0.1", 80, "near 10.0.0.2:8080"},
		{"192.0.2.1", 30080, "near 10.0.0.2:8080"},
		{"192.0.2.1", 80, "nobody 192.0.2.1:80"},
		{"going", 80, "near 10.0.0.2:8080"},
		{"local", 80, "internalTrafficPolicy Local, and no ready endpoint for port 80 on node "},
		{"a/far", 9, "far 10.0.0.1:9"},
		{"fd00::3", 9, "src [fd00::3]:9"},
		{"203.0.113.1", 9, "nobody 203.0.113.1:9"},
		{"web", 81, "has no endpoint for port 81; its ports are 80"},
		{"down", 80, "has no ready endpoint"},
		{"nosuch", 80, "neither an address, a pod nor a service"},
	} {
		got, err := resolve(s, s.WorkloadNamed("a/src"), c.dst, c.port)
		if err != nil {
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s:%d: %v, want %s", c.dst, c.port, err, c.want)
			}
			continue
		}
		name := "nobody"
		if got.workload != nil {
			name = got.workload.Name
		}
		if text := name + " " + got.addr.String(); text != c.want {
			t.Errorf("%s:%d: %s, want %s", c.dst, c.port, text, c.want)
		}
	}
}

func TestIdentityIsThatOfTheCaller(t *testing.T) {
	s := snapshot(t)
	for from, want := range map[string]string{
		"a/src":                            "spiffe://cluster.local/ns/a/sa/src",
		"fd00::3":                          "spiffe://cluster.local/ns/a/sa/src",
		"a/plain":                          "", // outside the mesh: plaintext
		"":                                 "",
		"spiffe://cluster.local/ns/x/sa/y": "spiffe://cluster.local/ns/x/sa/y",
	} {
		_, id, err := whoFrom(s, &adminv1.AuthzRequest{From: from})
		if err != nil || id.String() != want {
			t.Errorf("%q is %q, %v; want %q", from, id, err, want)
		}
		if _, id, err = whoFrom(s, &adminv1.AuthzRequest{From: from, Plaintext: true}); err != nil || !id.IsZero() {
			t.Errorf("%q in plaintext is %q, %v", from, id, err)
		}
	}
	for _, from := range []string{"a/nosuch", "spiffe://cluster.local/node/n1", "10.9.9.9"} {
		if _, _, err := whoFrom(s, &adminv1.AuthzRequest{From: from}); err == nil {
			t.Errorf("%q is somebody", from)
		}
	}
}

func TestVerdictNamesTheFirstStepThatFailed(t *testing.T) {
	step := func(name, state string) *adminv1.Step { return &adminv1.Step{Name: name, State: state, Text: "x"} }
	for _, c := range []struct {
		steps []*adminv1.Step
		want  string
	}{
		{nil, "ok"},
		{[]*adminv1.Step{step("route", stateOK), step("authorize", stateSkipped)}, "ok"},
		{[]*adminv1.Step{step("capture", stateUnknown), step("tls", stateFailed), step("authorize", stateFailed)}, "fails at tls: x"},
		{[]*adminv1.Step{step("route", stateOK), step("capture", stateUnknown)}, "unknown: capture: x"},
	} {
		if got := verdict(c.steps); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
