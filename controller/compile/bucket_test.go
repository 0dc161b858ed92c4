package compile

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/api/resource"
)

func endpoint(n int) *meshv1.Endpoint {
	return &meshv1.Endpoint{
		WorkloadUid: fmt.Sprintf("7c9e6679-7425-40de-944b-%012d", n),
		Addresses:   [][]byte{{10, byte(n >> 16), byte(n >> 8), byte(n)}},
		TargetPorts: map[uint32]uint32{80: 8080}, Ready: true,
	}
}

// spread returns the resources of a service with these endpoints.
func spread(of map[int]*meshv1.Endpoint) map[string]*meshv1.Resource {
	svc := &meshv1.Service{Namespace: "shop", Name: "web", Hostname: "web"}
	for _, n := range slices.Sorted(maps.Keys(of)) {
		svc.Endpoints = append(svc.Endpoints, of[n])
	}
	r := resource.Service(svc)
	out := map[string]*meshv1.Resource{r.GetKey(): r}
	spreadEndpoints(out)
	return out
}

// sent is how many endpoints and resources travel when before becomes after.
func sent(before, after map[string]*meshv1.Resource) (endpoints, resources int) {
	for key, r := range after {
		if !proto.Equal(before[key], r) {
			resources++
			endpoints += len(r.GetEndpoints().GetEndpoints()) + len(r.GetService().GetEndpoints())
		}
	}
	for key := range before {
		if after[key] == nil {
			resources++
		}
	}
	return endpoints, resources
}

// However many endpoints a service has, one that comes, goes or changes takes few others along, on every size on the
// way from none to hundreds and back.
func TestOneEndpointTakesFewAlong(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	of := make(map[int]*meshv1.Endpoint)
	before := spread(of)
	most, resources, sum, steps := 0, 0, 0, 0
	step := func() {
		t.Helper()
		after := spread(of)
		n, r := sent(before, after)
		most, resources, sum, steps = max(most, n), max(resources, r), sum+n, steps+1
		before = after
	}
	for n := range 500 {
		of[n] = endpoint(n)
		step()
		changed := proto.CloneOf(of[rnd.IntN(n+1)])
		changed.Ready = false
		for i, ep := range of {
			if ep.GetWorkloadUid() == changed.GetWorkloadUid() {
				of[i] = changed
			}
		}
		step()
	}
	for _, n := range rnd.Perm(500) {
		delete(of, n)
		step()
	}
	if most > maxBucket+1 || resources > 6 || sum/steps > maxBucket {
		t.Errorf("at most %d endpoints in %d resources, %d on average", most, resources, sum/steps)
	}
	t.Logf("at most %d endpoints in %d resources, %d on average", most, resources, sum/steps)
}

func TestBucketsAreBoundedAndWhole(t *testing.T) {
	for _, n := range []int{0, 1, maxBucket, maxBucket + 1, 10_000} {
		of := make(map[int]*meshv1.Endpoint)
		for i := range n {
			of[i] = endpoint(i)
		}
		resources := spread(of)
		if (len(resources) == 1) != (n <= maxBucket) {
			t.Errorf("%d endpoints are %d resources", n, len(resources))
		}
		for key, r := range resources {
			if len(r.GetEndpoints().GetEndpoints()) > maxBucket {
				t.Errorf("%s has %d endpoints", key, len(r.GetEndpoints().GetEndpoints()))
			}
		}
		decoded, err := resource.Decode("", 0, resources)
		if err != nil {
			t.Fatal(err)
		}
		got := decoded.Mesh.ServiceNamed("shop/web").Endpoints
		if len(got) != n {
			t.Fatalf("%d endpoints of %d", len(got), n)
		}
		for i, ep := range got {
			want, _ := netip.AddrFromSlice(of[i].GetAddresses()[0])
			if ep.Addrs[0] != want || string(ep.Workload) != of[i].GetWorkloadUid() {
				t.Fatalf("endpoint %d is %s at %s", i, ep.Workload, ep.Addrs[0])
			}
		}
	}
}

// Buckets are as deep as their number needs, and not much more, also if endpoints differ in their last byte only.
func TestBucketsAreShallow(t *testing.T) {
	of := make(map[int]*meshv1.Endpoint)
	for i := range 8192 {
		of[i] = endpoint(i)
		of[i].WorkloadUid = ""
	}
	deepest := 0
	for _, r := range spread(of) {
		deepest = max(deepest, len(r.GetEndpoints().GetSlice()))
	}
	if deepest > 11 { // 8192/32 are 8 bits
		t.Errorf("a bucket has %d bits", deepest)
	}
}

// Endpoints that no hash tells apart still travel.
func TestEndpointsOfOneWorkloadStayTogether(t *testing.T) {
	of := make(map[int]*meshv1.Endpoint)
	for i := range maxBucket + 5 {
		of[i] = endpoint(i)
		of[i].WorkloadUid = "one"
	}
	if got := len(spread(of)); got != 2 {
		t.Errorf("%d resources", got)
	}
}

const manyPods = `-- in.yaml --
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {warren.dev/mesh: enabled}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: warren.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: web, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, rules: [{}]}
---
apiVersion: warren.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: shop}
spec: {selector: {matchLabels: {app: nobody}}, rules: [{}]}
---
apiVersion: warren.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: odd, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, rules: [{from: [{source: {namespaces: ["NOT-A-NAME"]}}]}]}
`

func TestPoliciesGoToTheNodesOfTheirWorkloads(t *testing.T) {
	manifests := manyPods
	for i := range 40 {
		manifests += fmt.Sprintf("---\napiVersion: v1\nkind: Pod\n"+
			"metadata: {name: web-%d, namespace: shop, uid: web-%[1]d, labels: {app: web}}\n"+
			"spec: {nodeName: n%d}\nstatus: {podIP: 10.0.0.%d}\n", i, i%3, i+1)
	}
	manifests += "---\napiVersion: v1\nkind: Pod\nmetadata: {name: db, namespace: shop, uid: db}\n" +
		"spec: {nodeName: n9}\nstatus: {podIP: 10.0.1.1}\n"
	out := compileArchive(t, txtar.Parse([]byte(manifests)), nil)
	want := map[string][]string{
		"policy/shop/web":    {"node/n0", "node/n1", "node/n2", "waypoints"},
		"policy/shop/nobody": {"waypoints"},
	}
	if !maps.EqualFunc(out.Audience, want, slices.Equal) {
		t.Errorf("audiences are %v, want %v", out.Audience, want)
	}
	apart := 0
	for key := range out.Resources {
		if strings.HasPrefix(key, "endpoints/shop/web/") {
			apart++
		}
	}
	if got := out.Decoded.Mesh.ServiceNamed("shop/web").Endpoints; len(got) != 40 || apart < 2 {
		t.Errorf("%d endpoints, %d resources of them", len(got), apart)
	}
}

func TestRoutesAreForWaypoints(t *testing.T) {
	want := map[string][]string{"route/HTTP/shop/a": {Waypoints}, "traffic/shop/a": {Waypoints}, "authentication/shop/a": {Waypoints}}
	resources := map[string]*meshv1.Resource{"service/shop/a": {}, "settings/mesh": {}, "endpoints/shop/a/0": {}}
	for key := range want {
		resources[key] = &meshv1.Resource{}
	}
	if got := audiences(resources); !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("%v", got)
	}
}
