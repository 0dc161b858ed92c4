package waypoint

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/internal/labtest"
)

// shop is a shop on two nodes whose service pay has a waypoint: shop/web and shop/guest on n1 ask, pay-v1 on n2 and pay-v2
// on n1 answer; each has a service of its own beside that of both. legacy/client is outside the mesh.
const shop = `
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/zone: a}}
---
apiVersion: v1
kind: Node
metadata: {name: n2, labels: {topology.kubernetes.io/zone: b}}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {warren.dev/mesh: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: legacy}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop%s}
spec:
  gatewayClassName: warren-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: v1
kind: Service
metadata: {name: pay, namespace: shop, labels: {warren.dev/use-waypoint: waypoint}}
spec: {selector: {app: pay}, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp-echo, port: 7, targetPort: 7}]}
---
apiVersion: v1
kind: Service
metadata: {name: one, namespace: shop}
spec: {selector: {app: pay, version: v1}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: two, namespace: shop}
spec: {selector: {app: pay, version: v2}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec:
  nodeName: n1
  serviceAccountName: web
  containers: [{name: app, image: warren.dev/sample, args: [http, --name, web, --port, "8080"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: guest, namespace: shop, labels: {app: guest}}
spec:
  nodeName: n1
  serviceAccountName: guest
  containers: [{name: app, image: warren.dev/sample, args: [http, --name, guest, --port, "8080"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: pay-v1, namespace: shop, labels: {app: pay, version: v1}}
spec:
  nodeName: n2
  serviceAccountName: pay
  containers:
  - {name: app, image: warren.dev/sample, args: [http, --name, v1, --port, "8080"]}
  - {name: echo, image: warren.dev/sample, args: [tcp, --port, "7"]}
---
apiVersion: v1
kind: Pod
metadata: {name: pay-v2, namespace: shop, labels: {app: pay, version: v2}}
spec:
  nodeName: n1
  serviceAccountName: pay
  containers:
  - {name: app, image: warren.dev/sample, args: [http, --name, v2, --port, "8080"]}
  - {name: echo, image: warren.dev/sample, args: [tcp, --port, "7"]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: legacy}
spec:
  nodeName: n1
  containers: [{name: app, image: warren.dev/sample, args: [http, --name, legacy, --port, "8080"]}]
`

// up brings the shop up, with more manifests; annotations are the Gateway's, as YAML flow content.
func up(t *testing.T, annotations string, more ...string) *labtest.Mesh {
	t.Helper()
	if annotations != "" {
		annotations = ", annotations: {" + annotations + "}"
	}
	return labtest.Up(t, strings.Join(append([]string{fmt.Sprintf(shop, annotations)}, more...), "\n---\n"))
}

// echo is what the sample app says of a request.
type echo struct {
	Service    string              `json:"service"`
	RemoteAddr string              `json:"remoteAddr"`
	URL        string              `json:"url"`
	HostHeader string              `json:"hostHeader"`
	Headers    map[string][]string `json:"headers"`
}

// curl asks for a URL in a pod and returns the status and what came; 0 if nothing did.
func curl(m *labtest.Mesh, pod string, args ...string) (status int, body string) {
	r := m.Run(pod, append([]string{"curl", "-s", "-m", "10", "-w", "\n%{http_code}"}, args...)...)
	body, code, _ := cutLast(r.Out, "\n")
	_, _ = fmt.Sscan(code, &status)
	return status, body
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// ask is curl for an answer of the sample app that must be 200.
func ask(t *testing.T, m *labtest.Mesh, pod string, args ...string) echo {
	t.Helper()
	status, body := curl(m, pod, args...)
	var e echo
	if err := json.Unmarshal([]byte(body), &e); status != 200 || err != nil {
		t.Fatalf("%s asks %v: %d %q (%v)", pod, args, status, body, err)
	}
	return e
}

// until waits for a change of the mesh to take effect.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	labtest.Await(t, what, 15*time.Second, ok)
}
