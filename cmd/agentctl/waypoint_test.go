package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/fstest"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/warren-mesh/warren/internal/cluster"
)

// gatewayObject is a waypoint's Gateway whose controller has said ready pods are ready, or -1 for nothing yet.
func gatewayObject(namespace, name, programmed string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
		"metadata": map[string]any{"namespace": namespace, "name": name, "generation": int64(1), "creationTimestamp": "2026-11-22T13:00:00Z"},
		"spec":     map[string]any{"gatewayClassName": "warren-waypoint"},
	}}
	if programmed == "" {
		return u
	}
	condition := func(kind, status, reason, message string) any {
		return map[string]any{"type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": int64(1),
			"lastTransitionTime": "2026-11-22T13:00:00Z"}
	}
	u.Object["status"] = map[string]any{
		"conditions": []any{condition("Accepted", "True", "Accepted", ""), condition("Programmed", programmed, "Why", "1 of 2 pods are ready")},
		"addresses":  []any{map[string]any{"type": "IPAddress", "value": "10.96.0.9"}},
	}
	return u
}

// kubeApp is an agentctl whose cluster has the objects; no controller answers.
func kubeApp(t *testing.T, stdin string, gateways []*unstructured.Unstructured, objects ...runtime.Object) (*cluster.Cluster, func(args ...string) (int, string)) {
	t.Helper()
	gvr := schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "gateways"}
	lists := map[schema.GroupVersionResource]string{gvr: "GatewayList"}
	c := &cluster.Cluster{Client: fake.NewClientset(objects...), Namespace: "warren-system", Context: "test",
		Dynamic: dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), lists)}
	for _, g := range gateways {
		if _, err := c.Dynamic.Resource(gvr).Namespace(g.GetNamespace()).Create(context.Background(), g, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return c, func(args ...string) (int, string) {
		var out bytes.Buffer
		e := env{stdin: strings.NewReader(stdin), stdout: &out, stderr: &out, getenv: func(string) string { return "" }, now: scriptTime,
			root: fstest.MapFS{}, version: "v0.1.0", isTerminal: func(io.Writer) bool { return false },
			dial:        func(context.Context, string) (net.Conn, error) { return nil, errors.New("nobody") },
			openCluster: func(cluster.Target) (*cluster.Cluster, error) { return c, nil }}
		return run(context.Background(), e, args), out.String()
	}
}

func waypointDeployment(ready, want int32) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "waypoint", Labels: map[string]string{
			"gateway.networking.k8s.io/gateway-name": "waypoint", "gateway.networking.k8s.io/gateway-class-name": "warren-waypoint"}},
		Spec: appsv1.DeploymentSpec{Replicas: &want}, Status: appsv1.DeploymentStatus{ReadyReplicas: ready},
	}
}

func using(namespace, name, in string) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"warren.dev/use-waypoint": "waypoint"}}
	if in != "" {
		m.Labels["warren.dev/use-waypoint-namespace"] = in
	}
	return m
}

func TestWaypointsAreListedWithWhoUsesThem(t *testing.T) {
	foreign := gatewayObject("shop", "edge", "True")
	foreign.Object["spec"] = map[string]any{"gatewayClassName": "nginx"}
	_, agentctl := kubeApp(t, "", []*unstructured.Unstructured{gatewayObject("shop", "waypoint", "True"), gatewayObject("pay", "waypoint", ""), foreign},
		waypointDeployment(1, 2), &corev1.Namespace{ObjectMeta: using("", "shop", "")}, &corev1.Service{ObjectMeta: using("web", "api", "shop")},
		&corev1.Pod{ObjectMeta: using("web", "none", "")})
	code, out := agentctl("waypoint", "list", "-o", "wide")
	want := []string{
		"NAMESPACE   NAME       FOR   READY   PROGRAMMED   USED BY                           AGE   REPLICAS   ADDRESSES   MESSAGE",
		"pay         waypoint   all   0/0     Unknown      -                                 60m   -          -           -",
		"shop        waypoint   all   1/2     True         Namespace shop, Service web/api   60m   -          10.96.0.9   1 of 2 pods are ready",
	}
	if got := strings.Split(strings.TrimRight(out, "\n"), "\n"); code != 0 || len(got) != 3 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("exit %d:\n%s\nwant:\n%s", code, out, strings.Join(want, "\n"))
	}
}

func TestAUsedWaypointIsNotDeletedUnasked(t *testing.T) {
	make := func(stdin string) (*cluster.Cluster, func(...string) (int, string)) {
		return kubeApp(t, stdin, []*unstructured.Unstructured{gatewayObject("shop", "waypoint", "True"), gatewayObject("shop", "idle", "True")},
			waypointDeployment(2, 2), &corev1.Namespace{ObjectMeta: using("", "shop", "")})
	}
	left := func(c *cluster.Cluster) int {
		list, err := c.Waypoints(context.Background(), "")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	for _, one := range []struct {
		stdin string
		args  []string
		code  int
		left  int
		says  string
	}{
		{"", []string{"waypoint", "-n", "shop"}, exitUsage, 2, "is used by Namespace shop: connections to them will be refused"},
		{"n\n", []string{"--all"}, exitUsage, 2, "nothing was deleted"},
		{"y\n", []string{"waypoint", "-n", "shop"}, exitOK, 1, "deleted Gateway shop/waypoint"},
		{"", []string{"shop/idle"}, exitOK, 1, "deleted Gateway shop/idle"},
		{"", []string{"--all", "--yes"}, exitOK, 0, "deleted Gateway shop/waypoint"},
		{"", []string{"nothing"}, exitError, 2, `there is no waypoint "nothing"`},
	} {
		c, agentctl := make(one.stdin)
		code, out := agentctl(append([]string{"waypoint", "delete"}, one.args...)...)
		if code != one.code || left(c) != one.left || !strings.Contains(out, one.says) {
			t.Errorf("%v: exit %d, %d left, says %q", one.args, code, left(c), out)
		}
	}
}

func TestAWaypointIsNotAppliedOverAnother(t *testing.T) {
	foreign := gatewayObject("shop", "edge", "True")
	foreign.Object["spec"] = map[string]any{"gatewayClassName": "nginx"}
	c, agentctl := kubeApp(t, "", []*unstructured.Unstructured{foreign}, waypointDeployment(1, 2),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	if code, out := agentctl("waypoint", "apply", "-n", "shop", "--name", "edge"); code != exitError || !strings.Contains(out, `of class "nginx" already`) {
		t.Errorf("over a Gateway of another class: exit %d, says %q", code, out)
	}
	before, err := c.EnrollNamespace(context.Background(), "shop", "waypoint")
	if err != nil || before != "" {
		t.Errorf("it used %q before: %v", before, err)
	}
	ns, err := c.Client.CoreV1().Namespaces().Get(context.Background(), "shop", metav1.GetOptions{})
	if err != nil || ns.Labels[cluster.UseWaypoint] != "waypoint" {
		t.Errorf("its labels are %v: %v", ns.Labels, err)
	}
}

func TestWhatIsWrongWithWaypointsIsFound(t *testing.T) {
	good := cluster.Waypoint{Namespace: "shop", Name: "waypoint", Ready: 2, Want: 2,
		Accepted: cluster.Condition{Status: "True"}, Programmed: cluster.Condition{Status: "True"}}
	for _, one := range []struct {
		spoil func(*cluster.Waypoint)
		state string
		says  string
	}{
		{func(*cluster.Waypoint) {}, checkOK, ""},
		{func(w *cluster.Waypoint) { w.Ready = 1 }, checkWarn, "shop/waypoint: 1 of 2 pods are ready"},
		{func(w *cluster.Waypoint) { w.Programmed = cluster.Condition{Status: "False", Message: "no pods"} }, checkFail, "shop/waypoint: no pods"},
		{func(w *cluster.Waypoint) { w.Accepted = cluster.Condition{Status: "False", Message: "bad label"} }, checkFail, "shop/waypoint: bad label"},
	} {
		w := good
		one.spoil(&w)
		s := []section{waypointSection([]cluster.Waypoint{w}, nil)}
		var details []string
		for _, r := range allChecks(s) {
			details = append(details, r.Details...)
		}
		if worst(s) != one.state || strings.Join(details, "") != one.says {
			t.Errorf("it is %s: %q, want %s: %q", worst(s), details, one.state, one.says)
		}
	}
	for version, state := range map[string]string{"v1.6.3": checkOK, "v1.1.0": checkOK, "v1.0.0": checkWarn, "v0.8.1": checkWarn, "": checkOK, "v2.0.0": checkOK} {
		if got := worst([]section{gatewayChecks(cluster.GatewayAPI{Installed: true, Version: version, Served: []string{"v1"}})}); got != state {
			t.Errorf("%s is %s", version, got)
		}
	}
	absent := gatewayChecks(cluster.GatewayAPI{})
	if worst([]section{absent}) != checkOK || !strings.Contains(absent.Checks[0].Hint, "kubectl apply") {
		t.Errorf("a cluster without it: %+v", absent)
	}
}

func TestWaypointsAreCompleted(t *testing.T) {
	_, agentctl := kubeApp(t, "", []*unstructured.Unstructured{gatewayObject("shop", "waypoint", "True"), gatewayObject("pay", "edge", "True")})
	for want, args := range map[string][]string{
		"pay/edge\nshop/waypoint\n:4\n": {"waypoint", "delete", ""},
		"waypoint\n:4\n":                {"waypoint", "status", "-n", "shop", ""},
		"all\nservice\nworkload\n:4\n":  {"waypoint", "generate", "--for", ""},
	} {
		if code, out := agentctl(append([]string{"__complete"}, args...)...); code != exitOK || !strings.HasPrefix(out, want) {
			t.Errorf("%v: exit %d, offers %q, want %q", args, code, out, want)
		}
	}
}
