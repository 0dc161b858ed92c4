package resource

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/mesh"
)

func endpointAt(n int) *meshv1.Endpoint {
	return &meshv1.Endpoint{
		WorkloadUid: fmt.Sprintf("7c9e6679-7425-40de-944b-%012d", n),
		Addresses:   [][]byte{{10, byte(n >> 16), byte(n >> 8), byte(n)}},
		TargetPorts: map[uint32]uint32{80: 8080}, Ready: true,
	}
}

func slice(service, name string, endpoints ...*meshv1.Endpoint) *meshv1.Resource {
	return Endpoints(&meshv1.Endpoints{Namespace: "shop", Service: service, Slice: name, Endpoints: endpoints})
}

func service(name string, endpoints ...*meshv1.Endpoint) *meshv1.Resource {
	return Service(&meshv1.Service{Namespace: "shop", Name: name, Hostname: name, Endpoints: endpoints})
}

func stateOf(resources ...*meshv1.Resource) map[string]*meshv1.Resource {
	out := make(map[string]*meshv1.Resource)
	for _, r := range resources {
		out[r.GetKey()] = r
	}
	return out
}

func TestSlicesJoinTheirService(t *testing.T) {
	otherPort := proto.CloneOf(endpointAt(1))
	otherPort.TargetPorts = map[uint32]uint32{80: 9090}
	got, err := Decode("e", 1, stateOf(service("web", endpointAt(2)), service("db", endpointAt(7)),
		slice("web", "0", endpointAt(3), endpointAt(1)), slice("web", "1", otherPort, endpointAt(4))))
	if err != nil {
		t.Fatal(err)
	}
	var text []string
	for _, ep := range got.Mesh.ServiceNamed("shop/web").Endpoints {
		text = append(text, fmt.Sprintf("%s:%d", ep.Addrs[0], ep.TargetPorts[80]))
	}
	if got := strings.Join(text, " "); got != "10.0.0.1:8080 10.0.0.1:9090 10.0.0.2:8080 10.0.0.3:8080 10.0.0.4:8080" {
		t.Error(got)
	}
	if n := len(got.Mesh.ServiceNamed("shop/db").Endpoints); n != 1 {
		t.Errorf("the other service has %d endpoints", n)
	}
}

func TestSlicesThatCannotBeAreRefused(t *testing.T) {
	many := make([]*meshv1.Endpoint, maxList)
	for i := range many {
		many[i] = endpointAt(i)
	}
	crowd := []*meshv1.Resource{service("web")}
	for i := range maxEndpoints/maxList + 1 {
		crowd = append(crowd, slice("web", strconv.Itoa(i), many...))
	}
	nothing := &meshv1.Endpoint{Addresses: [][]byte{{1}}}
	for name, c := range map[string]struct {
		state  []*meshv1.Resource
		reason string
		kind   error
	}{
		"no service": {[]*meshv1.Resource{slice("web", "0", endpointAt(1))}, "shop/web, which is not there", mesh.ErrInconsistent},
		"twice": {[]*meshv1.Resource{service("web"), slice("web", "0", endpointAt(1)), slice("web", "1", endpointAt(1))},
			"10.0.0.1", mesh.ErrInconsistent},
		"twice, at home": {[]*meshv1.Resource{service("web", endpointAt(1)), slice("web", "1", endpointAt(1))},
			"there twice", mesh.ErrInconsistent},
		"no name": {[]*meshv1.Resource{service("web"), slice("web", "", endpointAt(1))}, "without a name", ErrUndecodable},
		"long name": {[]*meshv1.Resource{service("web"), slice("web", strings.Repeat("0", 65), endpointAt(1))},
			"65 bytes", ErrUndecodable},
		"bad endpoint": {[]*meshv1.Resource{service("web"), slice("web", "0", nothing)}, "unmapped", ErrUndecodable},
		"one too large": {[]*meshv1.Resource{service("web"), slice("web", "0", append(many, endpointAt(maxList))...)},
			"too many", ErrUndecodable},
		"all too large": {crowd, "more than 50000", mesh.ErrInconsistent},
	} {
		if _, err := Decode("e", 1, stateOf(c.state...)); !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is decoded by way of any number of states before is what is decoded afresh.
func TestNextIsDecode(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	state := make(map[string]*meshv1.Resource)
	var known Decoded
	for version := range uint64(600) {
		state = maps.Clone(state)
		change(rnd, state)
		fresh, err := Decode("e", version, state)
		next, nextErr := known.Next("e", version, state)
		if fmt.Sprint(err) != fmt.Sprint(nextErr) {
			t.Fatalf("version %d: %v, by way of others %v", version, err, nextErr)
		}
		if err != nil {
			continue
		}
		known = next
		if !reflect.DeepEqual(fresh.Mesh, next.Mesh) || !reflect.DeepEqual(fresh.Policies.All(), next.Policies.All()) {
			t.Fatalf("version %d differs from what is decoded afresh", version)
		}
		if len(known.known.values) > len(state) || len(known.known.joined) > 3 {
			t.Fatalf("%d values of %d resources are kept", len(known.known.values), len(state))
		}
	}
}

// change changes one resource of a few, some to what cannot be.
func change(rnd *rand.Rand, state map[string]*meshv1.Resource) {
	n := rnd.IntN(3)
	name := "svc-" + strconv.Itoa(n)
	ready := endpointAt(10*n + rnd.IntN(3))
	ready.Ready = rnd.IntN(2) == 0
	r := []*meshv1.Resource{
		service(name), service(name, endpointAt(100+n)),
		slice(name, "0", ready), slice(name, "1", endpointAt(10*n+5), endpointAt(10*n+6)),
		Workload(&meshv1.Workload{
			Uid: name, Namespace: "shop", Name: name, ServiceAccount: "a", TrustDomain: "t", App: strconv.Itoa(rnd.IntN(3)),
		}),
		Policy(&meshv1.AuthorizationPolicy{
			Namespace: "shop", Name: name, Action: meshv1.AuthorizationPolicy_Action(1 + rnd.IntN(2)),
		}),
	}[rnd.IntN(6)]
	if rnd.IntN(4) == 0 {
		delete(state, r.GetKey())
	} else {
		state[r.GetKey()] = r
	}
}

// BenchmarkDecode is what an update costs an agent that changes one endpoint of one service with 10,000, of a mesh of
// as many workloads: afresh, and by way of the state before.
func BenchmarkDecode(b *testing.B) {
	base := []*meshv1.Resource{service("web")}
	for i := range 10_000 {
		base = append(base, Workload(&meshv1.Workload{
			Uid: endpointAt(i).GetWorkloadUid(), Namespace: "shop", Name: "web-" + strconv.Itoa(i), ServiceAccount: "web",
			TrustDomain: "cluster.local", Node: "node-" + strconv.Itoa(i%1000), Addresses: endpointAt(i).GetAddresses(),
			Enrolled: true,
		}))
	}
	for i := range 500 {
		var of []*meshv1.Endpoint
		for j := range 20 {
			of = append(of, endpointAt(20*i+j))
		}
		base = append(base, slice("web", strconv.Itoa(i), of...))
	}
	before := stateOf(base...)
	known, err := Decode("e", 1, before)
	if err != nil {
		b.Fatal(err)
	}
	after := maps.Clone(before)
	changed := proto.CloneOf(after["endpoints/shop/web/7"])
	changed.GetEndpoints().Endpoints[0].Ready = false
	after[changed.GetKey()] = changed
	for name, from := range map[string]Decoded{"afresh": {}, "next": known} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := from.Next("e", 2, after); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
