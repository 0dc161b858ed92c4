package labtest

// Shop is a shop on two nodes, and a neighbour outside the mesh: shop/web and shop/cart on n1, shop/pay on n2 and
// legacy/client on n1. Each serves HTTP on 8080; cart and pay have services on port 80.
const Shop = `
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
