package waypoint

import (
	"fmt"
	"maps"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/warren-mesh/warren/internal/labtest"
)

// TestNothingIsLost: replicas that are restarted one after the other, changes of routes and policies, and a controller
// that dies cost no request; a replica that is killed costs what was under way there.
func TestNothingIsLost(t *testing.T) {
	m := up(t, `warren.dev/waypoint-replicas: "2"`, far)
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	l := listenFar(t, m)
	go func() { _ = server.Serve(l) }() // it ends with the test
	t.Cleanup(server.Stop)
	load := newLoad(t, m)
	load.more(t, 500)
	load.mayNotLose(t, "at rest")
	for i := range 4 {
		pod := fmt.Sprintf("shop/waypoint-%d", i%2)
		if err := m.RestartPod(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
		load.more(t, 500)
		load.mayNotLose(t, "while "+pod+" was restarted")
	}
	for i := range 10 {
		m.Write("mesh.yaml", changed(i))
		load.more(t, 200)
	}
	load.mayNotLose(t, "while routes and policies changed")
	if err := m.KillController(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	load.more(t, 1000)
	if err := m.StartController(t.Context()); err != nil {
		t.Fatal(err)
	}
	load.more(t, 1000)
	load.mayNotLose(t, "while the controller was away")
	load.killOne(t, m)
}

// changed are the manifests with one of several routes and policies, none of which forbids or breaks anything.
func changed(i int) string {
	route := routeTo("change", fmt.Sprintf(`
  - matches: [{path: {type: PathPrefix, value: /}}]
    backendRefs: [{name: one, port: 80, weight: %d}, {name: two, port: 80, weight: %d}]`, 1+i%3, 1+i%2))
	policy := fmt.Sprintf(`
apiVersion: warren.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: change, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: pay}]
  rules:
  - from: [{source: {serviceAccounts: [web]}}]
    to: [{operation: {methods: [POST, %s]}}]
`, []string{"GET", "PUT"}[i%2])
	parts := []string{fmt.Sprintf(shop, `, annotations: {warren.dev/waypoint-replicas: "2"}`), far}
	if i%4 != 1 {
		parts = append(parts, route)
	}
	if i%4 != 2 {
		parts = append(parts, policy)
	}
	return strings.Join(parts, "\n---\n")
}

func (l *load) mayNotLose(t *testing.T, when string) {
	t.Helper()
	for name, errs := range l.lost() {
		t.Errorf("%s, client %q lost %d: %v", when, name, len(errs), errs[0])
	}
}

// killOne kills a replica. Each client may lose what it had under way, and nothing after that.
func (l *load) killOne(t *testing.T, m *labtest.Mesh) {
	t.Helper()
	procs, err := m.PodProcesses("shop/waypoint-0")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	kill(t, procs)
	l.more(t, 2000)
	lost := l.lost()
	for name, errs := range maps.All(lost) {
		if len(errs) > 1 {
			t.Errorf("a replica was killed at %s, and client %q lost %d: %v", start.Format("05.000"), name, len(errs), errs)
		}
	}
	t.Logf("a replica was killed at %s, and %d of %d clients lost a request", start.Format("05.000"), len(lost), len(l.clients))
}
