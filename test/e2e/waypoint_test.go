package e2e

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/test/e2e/mesh"
)

const (
	way = "way" // the namespace
	// ofWaypoint finds what was made for its waypoint.
	ofWaypoint = "gateway.networking.k8s.io/gateway-name=waypoint"
)

// TestWaypoint is one waypoint as a user meets it, from a cluster without the Gateway API to the mesh's end.
func TestWaypoint(t *testing.T) {
	m := meshed(t, "waypoint", nil)
	for _, sub := range []struct {
		name string
		test func(*mesh.Mesh)
	}{
		{"without the Gateway API", testNoGatewayAPI}, {"made by agentctl", testWaypointMade},
		{"requests go through it", testThroughWaypoint}, {"routes by header and weight", testWaypointRoutes},
		{"no way past it", testNoWayPast}, {"a rolling restart loses nothing", testWaypointRestart},
		{"its number of pods changes", testWaypointScales}, {"what is changed is put right", testWaypointRepair},
		{"what is somebody else's stays", testWaypointTaken}, {"the controller is held to waypoints", testControllerIsHeld},
		{"none is ready", testWaypointDown}, {"deleted with its Gateway", testWaypointDeleted},
		{"the mesh leaves", testWaypointLeaves},
	} {
		if !t.Run(sub.name, func(t *testing.T) { sub.test(m.With(t)) }) {
			t.Fatalf("%s: what follows builds upon it", sub.name)
		}
	}
}

// testNoGatewayAPI: the mesh works without; agentctl says what is missing and how to get it.
func testNoGatewayAPI(m *mesh.Mesh) {
	tb := m.TB()
	tb.Helper()
	m.Agentctl("check")
	if out := m.Agentctl("check", "--pre"); !strings.Contains(out, "for waypoints: kubectl apply") {
		tb.Errorf("check --pre does not say how to get the Gateway API:\n%s", out)
	}
	_, err := m.TryAgentctl("waypoint", "apply", "-n", "default")
	if err == nil || !strings.Contains(err.Error(), "the Gateway API is not installed") || !strings.Contains(err.Error(), "hint: install it") {
		tb.Errorf("agentctl waypoint apply: %v", err)
	}
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api").Output()
	if err != nil {
		tb.Fatal(err)
	}
	m.Kubectl("apply", "--server-side", "-f", filepath.Join(strings.TrimSpace(string(dir)), "config", "crd", "standard"))
	m.Kubectl("wait", "--for=condition=Established", "crd/gateways.gateway.networking.k8s.io", "--timeout=30s")
	mesh.Await(tb, "the GatewayClass is there, without a restart", 30*time.Second, func() error {
		out, err := m.TryKubectl("get", "gatewayclass", "warren-waypoint", "-o", `jsonpath={.status.conditions[?(@.type=="Accepted")].status}`)
		if err == nil && out != "True" {
			err = fmt.Errorf("its condition Accepted is %q", out)
		}
		return err
	})
	if out := m.Agentctl("check", "--pre"); strings.Contains(out, "for waypoints: kubectl apply") {
		tb.Errorf("check --pre does not see the Gateway API:\n%s", out)
	}
}

// testWaypointMade: in a namespace that admits only pods with no rights at all.
func testWaypointMade(m *mesh.Mesh) {
	tb := m.TB()
	ns := fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s, labels: {warren.dev/mesh: enabled, "+
		"pod-security.kubernetes.io/warn: restricted, pod-security.kubernetes.io/enforce: baseline}}\n", way)
	m.Apply("default", ns)
	start(m, way, pod{name: "client", node: nodeA, account: "client"},
		pod{name: "v1", node: nodeB, labels: "of: shop", args: `http, "--name=v1"`, container: ready8080},
		pod{name: "v2", node: nodeA, labels: "of: shop", args: `http, "--name=v2"`, container: ready8080})
	m.Apply(way, serviceOf("shop", "of: shop")+serviceOf("v1", "app: v1")+serviceOf("v2", "app: v2"))
	out := m.Agentctl("waypoint", "apply", "-n", way, "--enroll-namespace")
	for _, want := range []string{"applied Gateway way/waypoint", "waypoint way/waypoint: ready", "labelled Namespace way"} {
		if !strings.Contains(out, want) {
			tb.Errorf("agentctl waypoint apply does not say %q:\n%s", want, out)
		}
	}
	awaitReplicas(m, 2)
	if out := m.Agentctl("waypoint", "list"); !strings.Contains(out, "Namespace way") || !strings.Contains(out, "2/2") {
		tb.Errorf("agentctl waypoint list:\n%s", out)
	}
	if out := m.Agentctl("waypoint", "status", "way/waypoint"); strings.Count(out, "connected") != 2 {
		tb.Errorf("agentctl waypoint status does not show two pods that follow the controller:\n%s", out)
	}
	m.Kubectl("label", "namespace", way, "--overwrite", "pod-security.kubernetes.io/enforce=restricted")
	nodes := strings.Fields(m.Kubectl("get", "pods", "-n", way, "-l", ofWaypoint, "-o", "jsonpath={.items[*].spec.nodeName}"))
	if len(nodes) != 2 || nodes[0] == nodes[1] {
		tb.Errorf("its pods are on %v", nodes)
	}
	m.Agentctl("check")
}

const ready8080 = "readinessProbe: {httpGet: {port: 8080, path: /healthz}, periodSeconds: 1}"

func serviceOf(name, selector string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {selector: {%s}, ipFamilyPolicy: PreferDualStack, "+
		"ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}]}\n", name, selector)
}

// awaitReplicas waits until the waypoint has that many pods, all ready and known to the controller.
func awaitReplicas(m *mesh.Mesh, n int) {
	m.TB().Helper()
	mesh.Await(m.TB(), fmt.Sprintf("the waypoint has %d pods", n), time.Minute, func() error {
		out, err := m.TryAgentctl("waypoint", "list", "-n", way)
		if err == nil && !strings.Contains(out, fmt.Sprintf(" %d/%d ", n, n)) {
			err = errors.New(out)
		}
		if err != nil {
			return err
		}
		connected := 0
		for _, w := range m.Status().Waypoints {
			if w.Connected && w.EnforcedVersion >= w.LatestVersion {
				connected++
			}
		}
		if connected != n {
			return fmt.Errorf("the controller knows %d", connected)
		}
		return nil
	})
}

// testThroughWaypoint: a request reaches the app by the waypoint, which the flow tells.
func testThroughWaypoint(m *mesh.Mesh) {
	mesh.Await(m.TB(), "a request is answered", 10*time.Second, func() error {
		echo, err := m.Get(way, "client", "http://shop/hello")
		if err == nil && echo.Service != "v1" && echo.Service != "v2" {
			err = fmt.Errorf("%q answered", echo.Service)
		}
		return err
	})
	f := m.AwaitFlow("the request at the waypoint", func(f *adminv1.Flow) string {
		if f.GetHttp().GetGateway() != way+"/waypoint" || f.GetHttp().GetPath() != "/hello" {
			return "it is another"
		}
		return ""
	}, "--namespace", way)
	if h := f.Http; h.Method != "GET" || h.Status != 200 || f.Src.SpiffeId != "spiffe://cluster.local/ns/way/sa/client" {
		m.TB().Errorf("the flow is %s, %+v", mesh.Describe(f), h)
	}
}

const shopRoute = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: shop, port: 80}]
  rules:
  - matches: [{headers: [{name: x-version, value: v2}]}]
    backendRefs: [{name: v2, port: 80}]
  - backendRefs: [{name: v1, port: 80, weight: 90}, {name: v2, port: 80, weight: 10}]
`

// testWaypointRoutes: a canary, and the one who asks for it.
func testWaypointRoutes(m *mesh.Mesh) {
	tb := m.TB()
	m.Apply(way, shopRoute)
	m.Kubectl("wait", "-n", way, "httproute/shop", "--timeout=15s",
		`--for=jsonpath={.status.parents[0].conditions[?(@.type=="Accepted")].status}=True`)
	mesh.Await(tb, "the header decides", 10*time.Second, func() error {
		return only(m, "v2", 20, "--header", "x-version: v2")
	})
	out, err := m.Ask(way, "client", "http://shop/", "--repeat=400")
	if err != nil {
		tb.Fatal(err)
	}
	all, err := answers(out)
	if err != nil {
		tb.Fatal(err)
	}
	got := map[string]int{}
	for _, one := range all {
		got[one.Service]++
	}
	// 400 at 10 %: 40, and six standard deviations of 6 around it.
	if got["v1"]+got["v2"] != 400 || got["v2"] < 4 || got["v2"] > 76 {
		tb.Errorf("400 requests went to %v", got)
	}
	tb.Logf("400 requests at 90 to 10 went to %v", got)
}

// only asks several times and wants every answer from one.
func only(m *mesh.Mesh, who string, times int, flags ...string) error {
	out, err := m.Ask(way, "client", "http://shop/", append([]string{fmt.Sprintf("--repeat=%d", times)}, flags...)...)
	if err != nil {
		return err
	}
	all, err := answers(out)
	if err != nil {
		return err
	}
	for _, one := range all {
		if one.Service != who {
			return fmt.Errorf("%s answered", one.Service)
		}
	}
	return nil
}

// testNoWayPast: the app takes connections from the waypoint only, whoever dials it, from its own node too.
func testNoWayPast(m *mesh.Mesh) {
	tb := m.TB()
	m.Kubectl("label", "namespace", way, "--overwrite", "pod-security.kubernetes.io/enforce=baseline")
	pods := start(m, way, pod{name: "outsider-a", node: nodeA, labels: "warren.dev/mesh: disabled"},
		pod{name: "outsider-b", node: nodeB, labels: "warren.dev/mesh: disabled"})
	v1 := m.Pod(way, "v1")
	for name := range pods {
		if echo, err := m.Get(way, name, url(v1, 0, 8080, "past")); err == nil {
			tb.Errorf("%s reached %s past the waypoint", name, echo.Service)
		}
	}
	echo, err := m.Get(way, "client", url(v1, 0, 8080, "addressed"))
	if err != nil || echo.Service != "v1" {
		tb.Errorf("the pod's own address: %q answered, %v", echo.Service, err)
	}
	m.AwaitFlow("a request to the pod's own address at the waypoint", func(f *adminv1.Flow) string {
		if f.GetHttp().GetPath() != "/addressed" {
			return "it is another"
		}
		return ""
	}, "--namespace", way)
}

// testWaypointRestart: pods come and go one at a time, and those that go finish what they began.
func testWaypointRestart(m *mesh.Mesh) {
	tb := m.TB()
	over := make(chan string, 2)
	for _, how := range []string{"--new-connections=true", "--new-connections=false"} {
		go func() {
			out, err := m.Exec(way, "client", "/sample", "load", "--duration=45s", "--rate=40", "--connections=8", how, "http://shop/load")
			over <- fmt.Sprint(how, ": ", out, err)
		}()
	}
	for range 2 {
		m.Kubectl("rollout", "restart", "-n", way, "deployment/waypoint")
		m.Kubectl("rollout", "status", "-n", way, "deployment/waypoint", "--timeout=60s")
	}
	for range 2 {
		out := <-over
		tb.Log(out)
		if !strings.Contains(out, ", 0 failed") {
			tb.Errorf("requests failed: %s", out)
		}
	}
	awaitReplicas(m, 2)
}

// testWaypointScales: by an annotation, and by an autoscaler without a dip.
func testWaypointScales(m *mesh.Mesh) {
	tb := m.TB()
	m.Agentctl("waypoint", "apply", "-n", way, "--replicas=3")
	awaitReplicas(m, 3)
	m.Agentctl("waypoint", "apply", "-n", way, "--replicas=2-5")
	mesh.Await(tb, "there is an autoscaler", 10*time.Second, func() error {
		out, err := m.TryKubectl("get", "hpa", "-n", way, "waypoint", "-o", "jsonpath={.spec.minReplicas}-{.spec.maxReplicas}")
		if err == nil && out != "2-5" {
			err = fmt.Errorf("it says %s", out)
		}
		return err
	})
	if out := m.Kubectl("get", "deployment", "-n", way, "waypoint", "-o", "jsonpath={.spec.replicas}"); out != "3" {
		tb.Errorf("once there is an autoscaler the Deployment has %s pods", out)
	}
	m.Agentctl("waypoint", "apply", "-n", way, "--replicas=2")
	mesh.Await(tb, "the autoscaler is gone", 10*time.Second, func() error {
		if out, err := m.TryKubectl("get", "hpa", "-n", way, "waypoint"); err == nil {
			return errors.New(out)
		}
		return nil
	})
	awaitReplicas(m, 2)
}

// testWaypointRepair: who may edit a Deployment cannot make a waypoint something else for long.
func testWaypointRepair(m *mesh.Mesh) {
	image := "jsonpath={.spec.template.spec.containers[0].image}"
	want := m.Kubectl("get", "deployment", "-n", way, "waypoint", "-o", image)
	m.Kubectl("set", "image", "-n", way, "deployment/waypoint", "waypoint=localhost/other:1")
	m.Kubectl("delete", "-n", way, "pdb/waypoint")
	mesh.Await(m.TB(), "the image and the budget are put right", 10*time.Second, func() error {
		got, err := m.TryKubectl("get", "deployment", "-n", way, "waypoint", "-o", image)
		if err == nil && got != want {
			err = fmt.Errorf("the image is %s", got)
		}
		if err == nil {
			_, err = m.TryKubectl("get", "-n", way, "pdb/waypoint")
		}
		return err
	})
	m.Kubectl("rollout", "status", "-n", way, "deployment/waypoint", "--timeout=60s")
}

// testWaypointTaken: a Gateway whose name somebody else's Service has gets none, and says so.
func testWaypointTaken(m *mesh.Mesh) {
	tb := m.TB()
	_, err := m.TryAgentctl("waypoint", "apply", "-n", way, "--name", "shop", "--timeout=5s")
	if err == nil || !strings.Contains(err.Error(), "there is a Service way/shop already") {
		tb.Errorf("agentctl waypoint apply --name shop: %v", err)
	}
	if out := m.Kubectl("get", "service", "-n", way, "shop", "-o", "jsonpath={.spec.ports[*].port}{.metadata.ownerReferences}"); out != "80" {
		tb.Errorf("the Service is %s now", out)
	}
	m.Agentctl("waypoint", "delete", "-n", way, "shop")
	if err := only(m, "v2", 5, "--header", "x-version: v2"); err != nil {
		tb.Errorf("the service: %v", err)
	}
}

// testControllerIsHeld: with the controller's credentials there is nothing to be had but waypoints.
func testControllerIsHeld(m *mesh.Mesh) {
	tb := m.TB()
	as := "--as=system:serviceaccount:" + mesh.Namespace + ":warren-controller"
	for what, argv := range map[string][]string{
		"a Deployment of its own":     {"create", "deployment", "-n", way, "x", "--image=localhost/sample:1", as},
		"a service account":           {"create", "serviceaccount", "-n", "kube-system", "x", as},
		"somebody else's ConfigMap":   {"create", "configmap", "-n", "kube-system", "x", as},
		"somebody else's Service":     {"delete", "service", "-n", way, "v1", as},
		"CoreDNS":                     {"delete", "deployment", "-n", "kube-system", "coredns", as},
		"the waypoint's image":        {"patch", "deployment", "-n", way, "waypoint", "-p", `{"spec":{"template":{"spec":{"containers":[{"name":"waypoint","image":"localhost/sample:1"}]}}}}`, as},
		"the waypoint's account":      {"patch", "deployment", "-n", way, "waypoint", "-p", `{"spec":{"template":{"spec":{"serviceAccountName":"client"}}}}`, as},
		"a token for the waypoint":    {"create", "token", "-n", way, "waypoint", as},
		"a Gateway":                   {"delete", "gateway", "-n", way, "waypoint", as},
		"the waypoint's Service port": {"patch", "service", "-n", way, "waypoint", "--type=json", "-p", `[{"op":"replace","path":"/spec/ports/0/port","value":443}]`, as},
	} {
		out, err := m.TryKubectl(argv...)
		if err == nil {
			tb.Errorf("the controller got %s: %s", what, out)
			continue
		}
		if text := err.Error(); !strings.Contains(text, "forbidden") && !strings.Contains(text, "Forbidden") {
			tb.Errorf("%s: refused for another reason: %v", what, err)
		}
	}
}

// testWaypointDown: no pod is ready, so nothing is let through, and check says so.
func testWaypointDown(m *mesh.Mesh) {
	tb := m.TB()
	m.Agentctl("waypoint", "apply", "-n", way, "--replicas=1")
	awaitReplicas(m, 1)
	v1 := m.Pod(way, "v1")
	for _, n := range m.Nodes() {
		m.Kubectl("cordon", n.Name)
	}
	m.Kubectl("delete", "pod", "-n", way, "-l", ofWaypoint, "--grace-period=1")
	for _, target := range []string{"http://shop/", url(v1, 0, 8080, "down")} {
		if echo, err := m.Get(way, "client", target); err == nil {
			tb.Errorf("%s: without a waypoint %s answered", target, echo.Service)
		}
	}
	mesh.Await(tb, "agentctl says that it is not programmed", 15*time.Second, func() error {
		out, err := m.TryAgentctl("waypoint", "status", "-n", way)
		if err == nil || !strings.Contains(out, "0 of 1 pods are ready") {
			return fmt.Errorf("it says %s", out)
		}
		return nil
	})
	if out, err := m.TryAgentctl("check"); err == nil || !strings.Contains(out, "× every waypoint is programmed") {
		tb.Errorf("agentctl check: %v\n%s", err, out)
	}
	for _, n := range m.Nodes() {
		m.Kubectl("uncordon", n.Name)
	}
	m.Agentctl("waypoint", "apply", "-n", way)
	mesh.Await(tb, "requests are answered again", 20*time.Second, func() error { return only(m, "v2", 1, "--header", "x-version: v2") })
}

// madeFor lists everything that was made for waypoints, in any namespace.
func madeFor(m *mesh.Mesh) (found []string) {
	m.TB().Helper()
	out := m.Kubectl("get", "deployments,replicasets,pods,services,serviceaccounts,configmaps,pdb,hpa,endpointslices", "-A",
		"-l", "gateway.networking.k8s.io/gateway-class-name=warren-waypoint", "-o", "name")
	return strings.Fields(out)
}

// testWaypointDeleted: what was made for it goes with the Gateway, which agentctl does not delete unasked while it is used.
func testWaypointDeleted(m *mesh.Mesh) {
	tb := m.TB()
	if out, err := m.TryAgentctl("waypoint", "delete", "-n", way, "waypoint"); err == nil || !strings.Contains(out, "is used by Namespace way") {
		tb.Errorf("agentctl waypoint delete: %v\n%s", err, out)
	}
	m.Kubectl("label", "namespace", way, "warren.dev/use-waypoint-")
	mesh.Await(tb, "requests go without it", 10*time.Second, func() error {
		_, err := m.Get(way, "client", "http://shop/")
		return err
	})
	m.Agentctl("waypoint", "delete", "-n", way, "waypoint")
	mesh.Await(tb, "nothing is left of the waypoint", time.Minute, func() error {
		if left := madeFor(m); len(left) > 0 {
			return fmt.Errorf("there are %v", left)
		}
		return nil
	})
	if _, err := m.Get(way, "client", "http://shop/"); err != nil {
		tb.Errorf("after it is gone: %v", err)
	}
}

// testWaypointLeaves: a mesh that is uninstalled takes its waypoints along, whoever uses them; the Gateway stays.
func testWaypointLeaves(m *mesh.Mesh) {
	tb := m.TB()
	m.Agentctl("waypoint", "apply", "-n", way, "--enroll-namespace")
	awaitReplicas(m, 2)
	out := m.Agentctl("uninstall", "--yes")
	if !strings.Contains(out, "1 Gateway of class warren-waypoint") {
		tb.Errorf("agentctl uninstall does not say what stays:\n%s", out)
	}
	if strings.Contains(out, "deleted Deployment") {
		tb.Errorf("the controller left waypoints to agentctl:\n%s", out)
	}
	mesh.Await(tb, "nothing is left of waypoints", time.Minute, func() error {
		if left := madeFor(m); len(left) > 0 {
			return fmt.Errorf("there are %v", left)
		}
		return nil
	})
	if _, err := m.Get(way, "client", "http://shop/"); err != nil {
		tb.Errorf("without the mesh: %v", err)
	}
	cfg, err := m.RestConfig()
	if err != nil {
		tb.Fatal(err)
	}
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	group := schema.GroupVersion{Group: "gateway.networking.k8s.io", Version: "v1"}
	if _, err := client.Resource(group.WithResource("gatewayclasses")).Get(context.Background(), "warren-waypoint", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		tb.Errorf("the GatewayClass is there: %v", err)
	}
	gw, err := client.Resource(group.WithResource("gateways")).Namespace(way).Get(context.Background(), "waypoint", metav1.GetOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	conditions, _, _ := unstructured.NestedSlice(gw.Object, "status", "conditions")
	for _, c := range conditions {
		if c.(map[string]any)["status"] != "Unknown" {
			tb.Errorf("the Gateway still says %v", c)
		}
	}
}
