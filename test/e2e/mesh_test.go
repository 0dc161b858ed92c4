package e2e

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/warren-mesh/warren/internal/sample"
	"github.com/warren-mesh/warren/test/e2e/cluster"
	"github.com/warren-mesh/warren/test/e2e/mesh"
)

const (
	nodeA, nodeB = "node-a", "node-b"
	// canary is in every request and answer between pods of the mesh. It must not be heard between nodes.
	canary = "meshed-canary"
	// open is in those that are meant to pass in the clear.
	open = "open-word"
)

// TestMesh is about one installation on a cluster of two nodes, from agentctl install on. NetworkPolicy is not in it:
// nothing in this cluster enforces one.
func TestMesh(t *testing.T) {
	product, err := artifacts.product()
	if err != nil {
		t.Fatal(err)
	}
	m := mesh.Of(t, up(t, "mesh", nil).Cluster, product)
	before := settle(m)
	m.Install()
	tap := m.Listen(canary)
	for _, sub := range []struct {
		name string
		test func(*mesh.Mesh)
	}{
		{"healthy", testHealthy}, {"outside nothing changes", before.testUntouched},
		{"labels while connections are open", testLabelling}, {"labels of pods", testPodLabels},
		{"addresses and identities", testAddresses}, {"first packet", testFirstPacket},
		{"policies", testPolicies}, {"bad policies", testBadPolicies}, {"live connections", testLiveConnections},
		{"probes", testProbes}, {"services", testServices},
	} {
		heard := tap.Readable.Load()
		t.Run(sub.name, func(t *testing.T) { sub.test(m.With(t)) })
		if now := tap.Readable.Load(); now > heard {
			t.Errorf("%s: %d packets between the nodes carried the payload of meshed pods readably; the first of all are %s", sub.name, now-heard, tap)
		}
	}
	if tap.Packets.Load() == 0 {
		t.Error("the wiretap between the nodes heard nothing at all")
	}
}

// TestMeshOnIPTables is the same product beside kube-proxy in its other mode, and pods on a bridge.
func TestMeshOnIPTables(t *testing.T) {
	m := meshed(t, "iptables", func(c *cluster.Config) { c.ProxyMode, c.CNI = cluster.ProxyIPTables, cluster.CNIBridge })
	m.Tap(canary)
	for _, sub := range []struct {
		name string
		test func(*mesh.Mesh)
	}{
		{"healthy", testHealthy}, {"addresses and identities", testAddresses}, {"probes", testProbes}, {"services", testServices},
	} {
		t.Run(sub.name, func(t *testing.T) { sub.test(m.With(t)) })
	}
}

// pod is a pod of the sample app.
type pod struct {
	name, node string
	account    string // service account, "default" if empty
	args       string // of /sample, an HTTP server on 8080 if empty
	labels     string // beside app: name, in YAML's flow style
	spec       string // more lines of its spec
	container  string // more lines of its container
}

// yaml is the pod, and its service account if that is its own.
func (p pod) yaml() string {
	account := ""
	if p.account != "" {
		account = fmt.Sprintf("---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: %s}\n", p.account)
	}
	if p.container == "" && p.args == "" {
		p.container = "readinessProbe: {httpGet: {port: 8080, path: /healthz}, periodSeconds: 1}"
	}
	return account + fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, labels: {app: %[1]s, %[2]s}}
spec:
  terminationGracePeriodSeconds: 0
  serviceAccountName: %[3]s
  nodeSelector: {kubernetes.io/hostname: %[4]s}
  %[5]s
  containers:
  - name: app
    image: localhost/sample:1
    imagePullPolicy: Never
    args: [%[6]s]
    %[7]s
`, p.name, p.labels, cmp.Or(p.account, "default"), p.node, indent(p.spec, 2), cmp.Or(p.args, "http"), indent(p.container, 4))
}

// indent indents all lines but the first.
func indent(text string, by int) string {
	return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+strings.Repeat(" ", by))
}

// start makes pods in a namespace and waits until all are ready.
func start(m *mesh.Mesh, namespace string, pods ...pod) map[string]corev1.Pod {
	m.TB().Helper()
	var all strings.Builder
	for _, p := range pods {
		all.WriteString(p.yaml())
	}
	m.Apply(namespace, all.String())
	ready := map[string]corev1.Pod{}
	for _, p := range pods {
		ready[p.name] = m.Pod(namespace, p.name)
	}
	return ready
}

// families are rows of every test in which an address is.
func families() []struct {
	name  string
	index int
} {
	return []struct {
		name  string
		index int
	}{{"IPv4", 0}, {"IPv6", 1}}
}

// ip is a pod's address of a family.
func ip(p corev1.Pod, family int) string { return p.Status.PodIPs[family].IP }

// url is a URL at a pod's address.
func url(p corev1.Pod, family, port int, path string) string {
	return fmt.Sprintf("http://%s/%s", net.JoinHostPort(ip(p, family), fmt.Sprint(port)), path)
}

// answers takes apart what several requests gave.
func answers(out string) (all []sample.Echo, err error) {
	d := json.NewDecoder(bytes.NewReader([]byte(out)))
	for d.More() {
		var e sample.Echo
		if err := d.Decode(&e); err != nil {
			return all, fmt.Errorf("after %d answers: %w\n%s", len(all), err, out)
		}
		all = append(all, e)
	}
	return all, nil
}
