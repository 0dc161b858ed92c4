package waypoint

import (
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/warren-mesh/warren/internal/labtest"
)

// far is a pod on n2 in which tests listen, and a service of it that has a waypoint: a port for each thing that a port
// may say that it speaks, all of them to 9000.
const far = `
apiVersion: v1
kind: Pod
metadata: {name: far, namespace: shop, labels: {app: far}}
spec:
  nodeName: n2
  serviceAccountName: far
  containers: [{name: app, image: warren.dev/sample, args: [http, --name, far, --port, "8080"]}]
---
apiVersion: v1
kind: Service
metadata: {name: far, namespace: shop, labels: {warren.dev/use-waypoint: waypoint}}
spec:
  selector: {app: far}
  ports:
  - {name: a, port: 80, targetPort: 9000, appProtocol: http}
  - {name: b, port: 81, targetPort: 9000, appProtocol: grpc}
  - {name: c, port: 82, targetPort: 9000, appProtocol: kubernetes.io/h2c}
  - {name: d, port: 83, targetPort: 9000}
  - {name: e, port: 84, targetPort: 9000, appProtocol: kubernetes.io/ws}
`

// The ports of far, by what they say.
const (
	farHTTP, farGRPC, farH2C, farSilent, farWS = 80, 81, 82, 83, 84

	farPod, farService, farListen = "shop/far", "shop/far", ":9000"
)

// serveFar serves in the pod until the test ends.
func serveFar(t *testing.T, m *labtest.Mesh, handler http.Handler) {
	t.Helper()
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, Protocols: &protocols}
	l := listenFar(t, m)
	go func() { _ = server.Serve(l) }() // it ends with the test
	t.Cleanup(func() { _ = server.Close() })
}

func listenFar(t *testing.T, m *labtest.Mesh) net.Listener {
	t.Helper()
	l, err := m.ListenIn(farPod, farListen)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}
