package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/warren-mesh/warren/test/e2e/mesh"
)

// testHealthy: what a person sees after agentctl install.
func testHealthy(m *mesh.Mesh) {
	t := m.TB()
	status := m.Status()
	if len(status.Nodes) != 2 || len(status.Problems) != 0 || status.Controller == nil || len(status.Controller.Rejected) > 0 {
		t.Errorf("agentctl status -o json: %v", status)
	}
	for _, n := range status.Nodes {
		if !n.Connected || !n.ControllerConnected || n.EnforcedVersion != n.LatestVersion || n.Version != m.Product.Tag {
			t.Errorf("node %s: %v", n.Node, n)
		}
	}
	if out := m.Agentctl("check"); strings.Contains(out, "×") || strings.Contains(out, "‼") {
		t.Errorf("agentctl check:\n%s", out)
	}
}

// settlers are pods that were there before the product, and their networks as they were then.
type settlers struct {
	pods     map[string]map[string]corev1.Pod // by namespace
	networks map[string]string
}

// settle makes them in a namespace that says nothing of the mesh, and in one that says it will not be in it.
func settle(m *mesh.Mesh) settlers {
	s := settlers{pods: map[string]map[string]corev1.Pod{}, networks: map[string]string{}}
	for namespace, label := range map[string]string{"quiet": "about=nothing", "aside": "warren.dev/mesh=disabled"} {
		m.Namespace(namespace, label)
		s.pods[namespace] = start(m, namespace, pod{name: "client", node: nodeA}, pod{name: "near", node: nodeA}, pod{name: "far", node: nodeB})
		for _, p := range s.pods[namespace] {
			s.networks[p.Namespace+"/"+p.Name] = network(m, p, true)
		}
	}
	return s
}

// network is everything of a pod's network that somebody could have added to: links, addresses, rules, routes, nftables,
// iptables and, if asked for, listening sockets.
func network(m *mesh.Mesh, p corev1.Pod, sockets bool) string {
	m.TB().Helper()
	const script = `
pid=$(grep -l "$0" /proc/[0-9]*/cgroup 2>/dev/null | head -1 | cut -d/ -f3)
[ -n "$pid" ] || { echo "no process of pod $0" >&2; exit 1; }
look() { echo "# $*"; nsenter --target "$pid" --net "$@" || exit 1; }
look ip -oneline link; look ip -oneline address
for family in -4 -6; do look ip $family rule; look ip $family route show table all; done
look nft list ruleset; look iptables-save | grep -v '^#'; look ip6tables-save | grep -v '^#'
[ "$1" = false ] || look ss --no-header --tcp --udp --listening --numeric`
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := m.Node(p.Spec.NodeName).Exec(ctx, "bash", "-c", script, string(p.UID), fmt.Sprint(sockets))
	if err != nil {
		m.TB().Fatal(err)
	}
	return out
}

// testUntouched: pods that are not in the mesh talk as they did without it, and the kernel decides nothing about them.
func (s settlers) testUntouched(m *mesh.Mesh) {
	t := m.TB()
	heard := m.Listen(open)
	counted := counters(m)
	for namespace, pods := range s.pods {
		for _, family := range families() {
			for _, server := range []string{"near", "far"} {
				echo, err := m.Get(namespace, "client", url(pods[server], family.index, 8080, open))
				if err != nil {
					t.Fatal(err)
				}
				source := netip.MustParseAddrPort(echo.RemoteAddr).Addr()
				if source.String() != ip(pods["client"], family.index) || echo.Host != server {
					t.Errorf("%s of %s, %s: %s answered and saw %s", server, namespace, family.name, echo.Host, source)
				}
			}
		}
		for _, p := range pods {
			if now := network(m, p, true); now != s.networks[p.Namespace+"/"+p.Name] {
				t.Errorf("the network of %s/%s was\n%s\nand is\n%s", p.Namespace, p.Name, s.networks[p.Namespace+"/"+p.Name], now)
			}
		}
		if flows := m.Flows("--since", "10m", "--from", namespace+"/"); len(flows) > 0 {
			t.Errorf("a flow of a pod that is not in the mesh: %s", mesh.Describe(flows[0]))
		}
	}
	if now := counters(m); !maps.Equal(now, counted) {
		t.Errorf("the kernel's decisions were %v and are %v: it decided about pods that are not in the mesh", counted, now)
	}
	mesh.Await(t, "what they say is heard between the nodes, or the tap is deaf", 5*time.Second, func() error {
		if heard.Readable.Load() < 8 {
			return fmt.Errorf("heard in %d packets", heard.Readable.Load())
		}
		return nil
	})
}

// counters are the decisions that the kernel counted, all nodes together.
func counters(m *mesh.Mesh) map[string]uint64 {
	m.TB().Helper()
	sum := map[string]uint64{}
	for _, n := range m.Status().Nodes {
		if len(n.CaptureCounters) == 0 {
			m.TB().Fatalf("node %s counts nothing at all", n.Node)
		}
		for name, count := range n.CaptureCounters {
			sum[name] += count
		}
	}
	return sum
}
