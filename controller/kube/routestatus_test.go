package kube

import (
	"context"
	"log/slog"
	"reflect"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/warren-mesh/warren/controller/manifest"
)

func routes() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: manifest.GatewayGroup, Version: "v1", Resource: "httproutes"}
}

// routeObject is an HTTPRoute with two services as parents and one Gateway, and another controller's status.
func routeObject(path string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
		"metadata": map[string]any{"name": "r", "namespace": "shop", "uid": "u-1", "generation": int64(4)},
		"spec": map[string]any{
			"parentRefs": []any{
				map[string]any{"group": "", "kind": "Service", "name": "web", "port": int64(80)},
				map[string]any{"group": manifest.GatewayGroup, "kind": "Gateway", "name": "ingress"},
				map[string]any{"group": "", "kind": "Service", "name": "gone"},
			},
			"rules": []any{map[string]any{"matches": []any{map[string]any{"path": map[string]any{"type": "RegularExpression", "value": path}}}}},
		},
		"status": map[string]any{"parents": []any{theirs()}},
	}}
}

func theirs() map[string]any {
	return map[string]any{
		"controllerName": "example.com/ingress", "parentRef": map[string]any{"name": "ingress"},
		"conditions": []any{map[string]any{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
			"observedGeneration": int64(3), "lastTransitionTime": "2026-01-01T00:00:00Z"}},
	}
}

// routeCluster is a Cluster over an API server in memory that has HTTPRoutes.
func routeCluster(t *testing.T, objects ...runtime.Object) (*Cluster, *dynamicfake.FakeDynamicClient) {
	t.Helper()
	lists := map[schema.GroupVersionResource]string{routes(): "HTTPRouteList"}
	client := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), lists, objects...)
	c := &Cluster{cfg: Config{Log: slog.New(slog.DiscardHandler), Settle: time.Millisecond}, dynamic: client}
	c.source = &source{wake: make(chan struct{}, 1)}
	c.source.optional = newOptional(c, c.source)
	for _, k := range c.source.optional.kinds {
		if k.kind == manifest.KindHTTPRoute {
			k.at = routes()
		}
	}
	return c, client
}

func updates(client *dynamicfake.FakeDynamicClient) (n int) {
	for _, a := range client.Actions() {
		if u, ok := a.(clienttesting.UpdateAction); ok && u.GetSubresource() == "status" {
			n++
		}
	}
	return n
}

func parentsNow(t *testing.T, client *dynamicfake.FakeDynamicClient) []any {
	t.Helper()
	o, err := client.Resource(routes()).Namespace("shop").Get(context.Background(), "r", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	parents, _, err := unstructured.NestedSlice(o.Object, "status", "parents")
	if err != nil {
		t.Fatal(err)
	}
	return parents
}

func accepted(name string, status metav1.ConditionStatus) RouteParent {
	group, kind, port := "", "Service", uint16(80)
	return RouteParent{
		Ref:        manifest.ParentRef{Group: &group, Kind: &kind, Name: name, Port: &port},
		Conditions: []metav1.Condition{{Type: Accepted, Status: status, Reason: "Accepted", Message: "attached"}},
	}
}

func TestARoutesStatusIsWrittenOnceAndOthersAreLeftAlone(t *testing.T) {
	c, client := routeCluster(t, routeObject("/x"))
	ctx := context.Background()
	r := Route{Key: manifest.Key{Kind: "HTTPRoute", Namespace: "shop", Name: "r"}, UID: "u-1", Generation: 4}
	write := func(parents ...RouteParent) {
		t.Helper()
		if err := c.SetRouteStatus(ctx, r, parents); err != nil {
			t.Fatal(err)
		}
	}
	write(accepted("web", metav1.ConditionTrue))
	first := parentsNow(t, client)
	if len(first) != 2 || !reflect.DeepEqual(first[0], any(theirs())) {
		t.Fatalf("got %v", first)
	}
	mine := first[1].(map[string]any)
	want := map[string]any{"group": "", "kind": "Service", "name": "web", "port": int64(80)}
	if mine["controllerName"] != "warren.dev/controller" || !reflect.DeepEqual(mine["parentRef"], any(want)) {
		t.Errorf("got %v", mine)
	}
	condition := mine["conditions"].([]any)[0].(map[string]any)
	if condition["observedGeneration"] != int64(4) || condition["status"] != "True" {
		t.Errorf("got %v", condition)
	}
	write(accepted("web", metav1.ConditionTrue))
	if n := updates(client); n != 1 {
		t.Errorf("%d writes of the same status", n)
	}
	write(accepted("web", metav1.ConditionFalse), accepted("cart", metav1.ConditionTrue))
	if got := parentsNow(t, client); len(got) != 3 || updates(client) != 2 {
		t.Errorf("after %d writes got %v", updates(client), got)
	}
	write()
	if got := parentsNow(t, client); !reflect.DeepEqual(got, []any{theirs()}) {
		t.Errorf("what was ours stays: %v", got)
	}
	r.Generation = 5
	write(accepted("web", metav1.ConditionTrue))
	if got := parentsNow(t, client); len(got) != 1 {
		t.Errorf("the status of another generation was written: %v", got)
	}
}

// What cannot be understood is said at every service that it is for, and not at Gateways.
func TestARejectedRouteSaysSoAtItsServices(t *testing.T) {
	c, client := routeCluster(t, routeObject("(?=x)"))
	s := newStore(manifest.KindHTTPRoute, func() {})
	for _, path := range []string{"/good", "(?=x)"} {
		if err := s.Update(routeObject(path)); err != nil {
			t.Fatal(err)
		}
	}
	var r manifest.Result
	s.read(&r)
	if len(r.Objects) != 1 || len(r.Rejected) != 1 || r.Objects[0].Spec.(*manifest.Route).Rules[0].Matches[0].Path.Value != "/good" {
		t.Fatalf("what it said last is not in force: %+v", r)
	}
	all := s.routes()
	if len(all) != 1 || all[0].Rejected == "" || all[0].Stated {
		t.Fatalf("got %+v", all)
	}
	if err := c.SetRouteStatus(context.Background(), all[0], nil); err != nil {
		t.Fatal(err)
	}
	parents := parentsNow(t, client)
	if len(parents) != 3 {
		t.Fatalf("got %v", parents)
	}
	for i, name := range []string{"ingress", "web", "gone"} {
		entry := parents[i].(map[string]any)
		condition := entry["conditions"].([]any)[0].(map[string]any)
		if entry["parentRef"].(map[string]any)["name"] != name || i > 0 && condition["reason"] != "UnsupportedValue" {
			t.Errorf("parent %d is %v", i, entry)
		}
	}
	o, err := client.Resource(routes()).Namespace("shop").Get(context.Background(), "r", metav1.GetOptions{})
	if err != nil || !isStated(o) {
		t.Errorf("our entry is not seen: %v", err)
	}
}
