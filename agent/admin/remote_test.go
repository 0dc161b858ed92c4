package admin

import (
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/ztunnel"
)

func pod(name, node, addr string, policies ...string) *mesh.Workload {
	return &mesh.Workload{
		UID: mesh.UID(name), Namespace: "shop", Name: name, ServiceAccount: name, TrustDomain: "cluster.local", Node: node,
		Addrs: []netip.Addr{netip.MustParseAddr(addr)}, Enrolled: true, Policies: policies,
	}
}

// on returns a server of node n1, which has only the policy of its own workload.
func on(t *testing.T) (*Server, *ztunnel.World) {
	t.Helper()
	plain := pod("plain", "n2", "10.0.0.9")
	plain.Enrolled = false
	snapshot, err := mesh.NewSnapshot("e", 1, []*mesh.Workload{
		pod("web", "n1", "10.0.0.1"), pod("near", "n1", "10.0.0.2", "shop/near"),
		pod("far", "n2", "10.0.0.3", "shop/far"), pod("open", "n2", "10.0.0.4"), plain,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	near := &policy.Policy{Namespace: "shop", Name: "near", Action: policy.Deny, Rules: []policy.Rule{{}}}
	set, err := policy.NewSet([]*policy.Policy{near})
	if err != nil {
		t.Fatal(err)
	}
	world := &ztunnel.World{Mesh: snapshot, Policies: set}
	return New(Config{Node: "n1", World: mesh.NewStore(world)}), world
}

// A node does not have the policies of another one's workloads, so it must not say what these would decide.
func TestAuthzIsAnsweredForOwnWorkloadsOnly(t *testing.T) {
	s, _ := on(t)
	for to, want := range map[string]codes.Code{
		"shop/near": codes.OK, "shop/plain": codes.OK, "shop/far": codes.FailedPrecondition, "shop/open": codes.FailedPrecondition,
	} {
		reply, err := s.Authz(t.Context(), &adminv1.AuthzRequest{From: "shop/web", To: to, Port: 80})
		if status.Code(err) != want {
			t.Errorf("%s: %v", to, err)
		}
		if err != nil && !strings.Contains(err.Error(), "is on node n2") {
			t.Errorf("%s: %v", to, err)
		}
		if to == "shop/near" && (reply.GetAllowed() || reply.GetReason() != "policy_denied") {
			t.Errorf("%s: %v", to, reply)
		}
	}
}

func TestWhyLeavesTheDecisionToTheDestinationsNode(t *testing.T) {
	s, world := on(t)
	for name, want := range map[string]string{"near": "failed", "far": "unknown", "open": "unknown"} {
		j := &journey{node: "n1"}
		w := world.Mesh.WorkloadNamed("shop/" + name)
		hop := ztunnel.Hop{Addr: netip.AddrPortFrom(w.Addrs[0], 80), Workload: w}
		ok := s.whyAuthorize(j, world, world.Mesh.WorkloadNamed("shop/web"), hop)
		if ok != (want != "failed") || len(j.steps) != 1 || j.steps[0].GetState() != want {
			t.Errorf("%s: %v", name, j.steps)
		}
		if want == "unknown" && !strings.Contains(j.verdict(), "node n2 decides") {
			t.Errorf("%s: verdict %q", name, j.verdict())
		}
	}
}
