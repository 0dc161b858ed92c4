package waypoint

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// TestAgentsBesideAWaypointAreReplaced: requests that the waypoint has for pods of a node whose agent goes are served, by the
// next agent or elsewhere; and what pods dial waits for it.
func TestAgentsBesideAWaypointAreReplaced(t *testing.T) {
	m := up(t, "", far)
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	l := listenFar(t, m)
	go func() { _ = server.Serve(l) }() // it ends with the test
	t.Cleanup(server.Stop)
	load := newLoad(t, m)
	load.more(t, 500)
	load.mayNotLose(t, "at rest")
	replace := func(node string) {
		if err := m.KillAgent(node, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := m.StartAgent(ctx, node); err != nil {
			t.Fatal(err)
		}
		load.more(t, 1000)
	}
	for range 2 {
		replace("n2")
		load.mayNotLose(t, "while the agent of n2 was replaced")
	}
	replace("n1") // the clients' own, which carries the connections that they keep
	for name, errs := range load.lost() {
		if strings.HasPrefix(name, "renews") {
			t.Errorf("while the agent of n1 was replaced, client %q lost %d: %v", name, len(errs), errs[0])
		}
	}
}
