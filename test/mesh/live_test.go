package mesh

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/labtest"
	"github.com/warren-mesh/warren/lab"
)

// The ports of every pod that podYAML makes.
const (
	httpPort = 8080
	echoPort = 9000
)

// podYAML is a pod that serves HTTP on 8080 and echoes on 9000 and 9001, with a service of its own name. labels are
// further ones, in YAML's flow style.
func podYAML(fullName, node string, labels ...string) string {
	ns, name, _ := strings.Cut(fullName, "/")
	all := strings.Join(append([]string{"app: " + name}, labels...), ", ")
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Pod
metadata: {name: %[2]s, namespace: %[1]s, labels: {%[4]s}}
spec:
  nodeName: %[3]s
  serviceAccountName: %[2]s
  containers:
  - {name: http, image: warren.dev/sample, args: [http, --name, %[2]s, --port, "8080"], env: &quick [{name: GORACE, value: atexit_sleep_ms=0}]}
  - {name: echo, image: warren.dev/sample, args: [tcp, --mode, echo, --port, "9000", --port, "9001"], env: *quick}
---
apiVersion: v1
kind: Service
metadata: {name: %[2]s, namespace: %[1]s}
spec: {selector: {app: %[2]s}, ports: [{name: http, port: 80, targetPort: 8080}, {name: echo, port: 9000, targetPort: 9000}]}
`, ns, name, node, all)
}

// namespaceYAML is a namespace; meta is what its metadata has besides the name, in YAML's flow style.
func namespaceYAML(name, meta string) string {
	return fmt.Sprintf("\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: %s%s}\n", name, meta)
}

const meshed = `, labels: {warren.dev/mesh: enabled}`

const nodesYAML = `
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/zone: a}}
---
apiVersion: v1
kind: Node
metadata: {name: n2, labels: {topology.kubernetes.io/zone: b}}
`

// town is a shop in the mesh, on both nodes, and a neighbour outside of it on both. `shop` and `legacy` are the
// namespaces' metadata.
func town(shop, legacy string) string {
	return nodesYAML + namespaceYAML("shop", shop) + namespaceYAML("legacy", legacy) +
		podYAML("shop/web", "n1") + podYAML("shop/cart", "n1") + podYAML("shop/pay", "n2") +
		podYAML("legacy/near", "n1") + podYAML("legacy/far", "n2")
}

// up is labtest.Up with a wiretap between the nodes, for the canary.
func up(t *testing.T, manifests string, edit ...func(*lab.Options)) *labtest.Mesh {
	t.Helper()
	m := labtest.Up(t, manifests, edit...)
	m.Tap(canary)
	return m
}

// dial connects from a pod, as an app in it would.
func dial(t testing.TB, m *labtest.Mesh, pod string, to netip.AddrPort) (net.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return m.Dial(ctx, pod, to.String())
}

// at returns a pod's address of a family, with a port.
func at(t testing.TB, m *labtest.Mesh, pod string, v6 bool, port uint16) netip.AddrPort {
	t.Helper()
	addrs, err := m.PodAddrs(pod)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if a.Is6() == v6 {
			return netip.AddrPortFrom(a, port)
		}
	}
	t.Fatalf("pod %s has no such address: %v", pod, addrs)
	return netip.AddrPort{}
}

// status is the whole mesh's, from the controller.
func status(t testing.TB, m *labtest.Mesh) *adminv1.StatusReply {
	t.Helper()
	return statusAt(t, m, m.ControllerSocket())
}

func statusAt(t testing.TB, m *labtest.Mesh, socket string) *adminv1.StatusReply {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := m.Admin(socket).Status(ctx, &adminv1.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// podState is a pod's state as its agent has it, "" if it does not know the pod.
func podState(t testing.TB, m *labtest.Mesh, pod string) string {
	t.Helper()
	for _, n := range status(t, m).Nodes {
		for _, p := range n.Pods {
			if p.Namespace+"/"+p.Name == pod {
				return p.State
			}
		}
	}
	return ""
}

// apply changes one manifest, waits until every node enforces what that makes of the mesh, and returns how long it took.
func apply(t testing.TB, m *labtest.Mesh, change func()) time.Duration {
	t.Helper()
	before := status(t, m).Controller.ConfigVersion
	begin := time.Now()
	change()
	labtest.Await(t, "every node enforces the change", 10*time.Second, func() bool {
		s := status(t, m)
		for _, n := range s.Nodes {
			if n.EnforcedVersion < s.Controller.ConfigVersion {
				return false
			}
		}
		return s.Controller.ConfigVersion > before
	})
	return time.Since(begin)
}

// counters is a node's captures by reason.
func counters(t testing.TB, m *labtest.Mesh, node string) map[string]uint64 {
	t.Helper()
	return statusAt(t, m, m.AgentSocket(node)).Nodes[0].CaptureCounters
}

// listenInNode serves echoes on a port of a node itself, which is outside the mesh.
func listenInNode(t testing.TB, m *labtest.Mesh, node string, v6 bool) netip.AddrPort {
	t.Helper()
	info, err := m.Info()
	if err != nil {
		t.Fatal(err)
	}
	var to netip.AddrPort
	for _, n := range info.Nodes {
		for _, a := range n.Addrs {
			if n.Name == node && a.Is6() == v6 {
				to = netip.AddrPortFrom(a, 7777)
			}
		}
	}
	var l net.Listener
	if err := labtest.InNetNS(m.NodeNetNS(node), func() (err error) {
		l, err = net.Listen("tcp", to.String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, struct{ io.Reader }{c}) }()
		}
	}()
	return to
}

// families runs a subtest for each.
func families(t *testing.T, f func(t *testing.T, v6 bool)) {
	t.Run("v4", func(t *testing.T) { f(t, false) })
	t.Run("v6", func(t *testing.T) { f(t, true) })
}

// grep returns the lines of a text that have all of the words.
func grep(text string, words ...string) string {
	var out bytes.Buffer
lines:
	for line := range strings.Lines(text) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue lines
			}
		}
		out.WriteString(line)
	}
	return out.String()
}
