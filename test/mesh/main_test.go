// Package mesh proves the whole: real nodes, real pods, real programs, the binaries as they are shipped.
package mesh

import (
	"testing"

	"github.com/warren-mesh/warren/internal/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m, "../..") }

// twoNodes is a shop on two nodes, and a neighbour outside the mesh.
const twoNodes = `
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
metadata: {name: cart, namespace: shop, labels: {app: cart}}
spec:
  nodeName: n1
  serviceAccountName: cart
  containers: [{name: app, image: warren.dev/sample, args: [http, --name, cart, --port, "8080"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: pay, namespace: shop, labels: {app: pay}}
spec:
  nodeName: n2
  serviceAccountName: pay
  containers: [{name: app, image: warren.dev/sample, args: [http, --name, pay, --port, "8080"]}]
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: pay, namespace: shop}
spec: {selector: {app: pay}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: legacy, labels: {app: client}}
spec:
  nodeName: n1
  containers: [{name: app, image: warren.dev/sample, args: [http, --name, legacy, --port, "8080"]}]
`
