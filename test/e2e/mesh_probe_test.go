package e2e

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/warren-mesh/warren/test/e2e/mesh"
)

// probes are one kind each, as readiness, liveness and startup probe of a container.
func probes() map[string]pod {
	every := func(probe string) (out string) {
		for _, kind := range []string{"startupProbe", "readinessProbe", "livenessProbe"} {
			out += fmt.Sprintf("%s: {%s, periodSeconds: 1, failureThreshold: 2, timeoutSeconds: 2}\n", kind, probe)
		}
		return out
	}
	return map[string]pod{
		"http":      {container: every(`httpGet: {port: 8080, path: /healthz}`)},
		"http-name": {container: "ports: [{name: main, containerPort: 8080}]\n" + every(`httpGet: {port: main, path: /healthz}`)},
		"tcp":       {container: every(`tcpSocket: {port: 8080}`)},
		"exec":      {container: every(`exec: {command: [/sample, client, "http://127.0.0.1:8080/healthz"]}`)},
		"grpc": {container: every(`httpGet: {port: 8080, path: /healthz}`), spec: fmt.Sprintf(`
initContainers:
- name: health
  image: localhost/health:1
  imagePullPolicy: Never
  restartPolicy: Always
  %s`, indent(every(`grpc: {port: 9090}`), 2))},
	}
}

// testProbes: under STRICT the kubelet's probes of every kind pass, and nobody else on the node gets in.
func testProbes(m *mesh.Mesh) {
	t := m.TB()
	m.Namespace("probes", mesh.Enabled)
	m.Apply("probes", policy("PeerAuthentication", "strict", "{mtls: {mode: STRICT}}"))
	var all []pod
	for kind, p := range probes() {
		for _, node := range []string{nodeA, nodeB} {
			p.name, p.node = kind+"-"+strings.TrimPrefix(node, "node-"), node
			all = append(all, p)
		}
	}
	pods := start(m, "probes", all...)
	m.AwaitInMesh("probes", true)
	m.Kubectl("wait", "--namespace=probes", "peerauthentication/strict", "--for=condition=Programmed", "--timeout=10s")
	ready := time.Now()

	// A host process, on the pod's node and on the other; and one that takes the pod's own other port.
	for name, p := range pods {
		for _, family := range families() {
			for _, node := range m.Nodes() {
				target := "http://" + net.JoinHostPort(ip(p, family.index), "8080") + "/" + open
				out, err := node.Exec(context.Background(), "curl", "-sS", "-m", "3", target)
				if err == nil || strings.Contains(err.Error(), "exit status 28") { // a timeout is no refusal
					t.Errorf("a process on %s asked %s under STRICT, %s: %v %s", node.Name, name, family.name, err, out)
				}
			}
		}
	}
	// Each was probed five times and more by now, three ways.
	time.Sleep(time.Until(ready.Add(6 * time.Second)))
	for name, p := range pods {
		now := m.Pod("probes", name)
		for _, c := range append(now.Status.InitContainerStatuses, now.Status.ContainerStatuses...) {
			if c.RestartCount > 0 || !c.Ready || now.UID != p.UID {
				t.Errorf("container %s of %s: ready %t, restarted %d times", c.Name, name, c.Ready, c.RestartCount)
			}
		}
	}
	for line := range strings.Lines(m.Kubectl("get", "events", "--namespace=probes", "--field-selector=reason=Unhealthy", "--no-headers")) {
		if !strings.Contains(line, "Startup probe") { // before its server listens
			t.Errorf("a probe failed: %s", line)
		}
	}
	if passed := counters(m)["in_probe"]; passed < 20 {
		t.Errorf("the kernel counted %d probes that passed", passed)
	}

	m.Kubectl("delete", "--namespace=probes", "peerauthentication/strict")
	mesh.Await(t, "without STRICT a process on the node is served, so it was STRICT that refused it", 5*time.Second, func() error {
		_, err := m.Node(nodeA).Exec(context.Background(), "curl", "-sS", "-m", "3", "http://"+pods["http-a"].Status.PodIP+":8080/"+open)
		return err
	})
}
