package mesh

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/labtest"
	"github.com/warren-mesh/warren/lab"
)

func TestADeletedPodsTrafficEndsAndItsAddressIsNobodysIdentity(t *testing.T) {
	m := up(t, town(meshed, ""))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	pay := bothOf(t, m, "shop/pay")
	gone, stays := open(t, m, "shop/web", pay[0]), open(t, m, "shop/web", at(t, m, "shop/cart", false, echoPort))
	awaitPings(t, m, "shop/web", pay...)

	// The client's node hears no more of the controller, and so believes that the address is still shop/pay's.
	n1 := nodeAddr(t, m, "n1")
	if code, err := m.Exec(ctx, "controller", []string{"ip", "route", "add", "blackhole", n1 + "/32"}, lab.Stdio{}); err != nil || code != 0 {
		t.Fatalf("cut the node off: exit code %d, %v", code, err)
	}
	must(t, m.RemovePod(ctx, "shop/pay"))
	if end, err := gone.mustEnd(t, 10*time.Second); end.IsZero() || err == nil {
		t.Errorf("the connection to the deleted pod ended at %v with %v", end, err)
	}
	stays.mustMove(t)
	for _, to := range pay {
		if err := ping(t, m, "shop/web", to); err == nil {
			t.Error("somebody answers under the deleted pod's address")
		}
	}
	if _, err := m.AddPod(ctx, []byte(strings.Split(strings.TrimPrefix(podYAML("shop/thief", "n2"), "\n---"), "\n---")[0])); err != nil {
		t.Fatal(err)
	}
	if got := bothOf(t, m, "shop/thief"); got[0] != pay[0] {
		t.Fatalf("the new pod has %s, not the old pod's address %s", got[0], pay[0])
	}
	for _, to := range pay {
		if err := ping(t, m, "shop/web", to); err == nil {
			t.Errorf("a pod that took over %s is served under its old owner's identity", to)
		}
	}
	s := statusAt(t, m, m.AgentSocket("n1"))
	if s.Nodes[0].ControllerConnected && s.Nodes[0].EnforcedVersion != s.Nodes[0].LatestVersion {
		t.Logf("node n1: %v", s.Nodes[0])
	}
	f := flowAt(t, m, "n1", &adminv1.FlowsRequest{From: "shop/web", To: "shop/pay"}, func(f *adminv1.Flow) bool { return f.Reason == "tls_failed" })
	if f.Verdict != "failed" || !strings.Contains(f.Detail, "ns/shop/sa/thief") || !strings.Contains(f.Detail, "ns/shop/sa/pay") {
		t.Errorf("flow is %s: %s", f.Verdict, f.Detail)
	}
	if code, err := m.Exec(ctx, "controller", []string{"ip", "route", "del", "blackhole", n1 + "/32"}, lab.Stdio{}); err != nil || code != 0 {
		t.Fatalf("connect the node: exit code %d, %v", code, err)
	}
	labtest.Await(t, "the address is the new pod's", 30*time.Second, func() bool { return ping(t, m, "shop/web", pay[0]) == nil })
	after := flowAt(t, m, "n1", &adminv1.FlowsRequest{From: "shop/web", To: "shop/thief"}, func(f *adminv1.Flow) bool { return f.Verdict == "forwarded" })
	if after.Dst.SpiffeId != "spiffe://cluster.local/ns/shop/sa/thief" {
		t.Errorf("it is served as %s", after.Dst.SpiffeId)
	}
}

// nodeAddr is a node's IPv4 address on the fabric.
func nodeAddr(t testing.TB, m *labtest.Mesh, node string) string {
	t.Helper()
	info, err := m.Info()
	must(t, err)
	for _, n := range info.Nodes {
		if n.Name == node {
			return n.Addrs[0].String()
		}
	}
	t.Fatalf("no node %s", node)
	return ""
}

func TestADeletedPodsAddressIsNotDialledInPlaintext(t *testing.T) {
	m := up(t, town(meshed, ""))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	pay := bothOf(t, m, "shop/pay")
	awaitPings(t, m, "shop/web", pay...)
	apply(t, m, func() { must(t, m.RemovePod(ctx, "shop/pay")) })
	for _, to := range pay {
		mustRefuse(t, m, "shop/web", to)
		f := m.AwaitFlow("flow to the deleted pod's address", &adminv1.FlowsRequest{From: "shop/web", To: to.Addr().String()},
			func(f *adminv1.Flow) bool { return f.Dst.Workload == "" })
		if f.Verdict != "failed" || f.Reason != "destination_left" {
			t.Errorf("flow is %s, %s", f.Verdict, f.Reason)
		}
	}
	load(t, m, "shop/web", pay...) // all the while that the addresses change hands
	if _, err := m.AddPod(ctx, []byte(strings.Split(strings.TrimPrefix(podYAML("shop/heir", "n2"), "\n---"), "\n---")[0])); err != nil {
		t.Fatal(err)
	}
	if got := bothOf(t, m, "shop/heir"); got[0] != pay[0] {
		t.Fatalf("the new pod has %s, not the old pod's address %s", got[0], pay[0])
	}
	awaitPings(t, m, "shop/web", pay...)
	for _, f := range m.Flows(&adminv1.FlowsRequest{From: "shop/web", Verdict: "forwarded", Last: 1000}) {
		if f.Security != "mtls" {
			t.Errorf("a connection was %s: %v", f.Security, f)
		}
	}
}
