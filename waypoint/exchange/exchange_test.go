package exchange

import (
	"reflect"
	"slices"
	"testing"

	"github.com/warren-mesh/warren/mesh"
)

const gateway = "shop/waypoint"

// worldOf is a world with one pod behind services of these names, which are the waypoint's.
func worldOf(t *testing.T, before *World, services ...*mesh.Service) *World {
	t.Helper()
	m, err := mesh.NewSnapshot("e", 1, []*mesh.Workload{{UID: "pod", Namespace: "shop", Name: "pod"}}, services)
	if err != nil {
		t.Fatal(err)
	}
	return &World{Mesh: m, Behind: BehindOf(gateway, m, before)}
}

func serviceOf(name, waypoint string) *mesh.Service {
	return &mesh.Service{Namespace: "shop", Name: name, Waypoint: waypoint, Endpoints: []mesh.Endpoint{{Workload: "pod"}}}
}

func TestTargetsAreTheGatewayAndTheServicesInvolved(t *testing.T) {
	a, b := serviceOf("a", gateway), serviceOf("b", gateway)
	w := worldOf(t, nil, a, b, serviceOf("other", "shop/another"))
	pod, stranger := &mesh.Workload{UID: "pod"}, &mesh.Workload{UID: "stranger"}
	for _, c := range []struct {
		name string
		conn *Conn
		want []string
	}{
		{"a service", &Conn{Service: a}, []string{"Gateway " + gateway, "Service shop/a"}},
		{"a pod behind two", &Conn{Target: pod}, []string{"Gateway " + gateway, "Service shop/a", "Service shop/b"}},
		{"a pod behind none", &Conn{Target: stranger}, []string{"Gateway " + gateway}},
	} {
		for range 2 {
			if got := w.Targets(gateway, c.conn); !slices.Equal(got, c.want) {
				t.Errorf("%s: %v, want %v", c.name, got, c.want)
			}
		}
		if n := testing.AllocsPerRun(100, func() { w.Targets(gateway, c.conn) }); n != 0 {
			t.Errorf("%s: %v allocations a request", c.name, n)
		}
	}
	if got := worldOf(t, w, a).Targets(gateway, &Conn{Target: pod}); !slices.Equal(got, []string{"Gateway " + gateway, "Service shop/a"}) {
		t.Errorf("in a world with one service less: %v", got)
	}
}

func TestWhatPodsAreBehindIsKeptWhileNoServiceChanges(t *testing.T) {
	a, b := serviceOf("a", gateway), serviceOf("b", gateway)
	w := worldOf(t, nil, a, b)
	same := func(o *World) bool { return reflect.ValueOf(o.Behind).Pointer() == reflect.ValueOf(w.Behind).Pointer() }
	if !same(worldOf(t, w, a, b)) {
		t.Error("it was made again, though no service changed")
	}
	if same(worldOf(t, w, a)) || same(worldOf(t, w, a, serviceOf("b", gateway))) {
		t.Error("it was kept, though a service changed")
	}
}
