package e2e

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/test/e2e/mesh"
)

// remoteOf is where a connection comes from, as the server should see it.
func remoteOf(f *adminv1.Flow) string { return net.JoinHostPort(f.Src.Address, fmt.Sprint(f.Src.Port)) }

// testAddresses: accept, getpeername and getsockname tell the truth, and each end's identity is its service account's.
func testAddresses(m *mesh.Mesh) {
	t := m.TB()
	m.Namespace("wire", mesh.Enabled)
	pods := start(m, "wire", pod{name: "web", node: nodeA, account: "web"},
		pod{name: "near", node: nodeA, account: "cart"}, pod{name: "far", node: nodeB, account: "pay"})
	m.AwaitInMesh("wire", true)
	for _, row := range []struct{ server, account, security string }{{"near", "cart", "local"}, {"far", "pay", "mtls"}} {
		for _, family := range families() {
			what := fmt.Sprintf("web to %s, %s", row.server, family.name)
			echo, err := m.Get("wire", "web", url(pods[row.server], family.index, 8080, canary), "--data="+canary)
			if err != nil {
				t.Errorf("%s: %v", what, err)
				continue
			}
			peer := netip.MustParseAddrPort(echo.RemoteAddr)
			if peer.Addr().String() != ip(pods["web"], family.index) || echo.PeerName != echo.RemoteAddr {
				t.Errorf("%s: accept says %s and getpeername %s", what, echo.RemoteAddr, echo.PeerName)
			}
			if want := net.JoinHostPort(ip(pods[row.server], family.index), "8080"); echo.LocalAddr != want || echo.Body != canary {
				t.Errorf("%s: getsockname says %s; body %q", what, echo.LocalAddr, echo.Body)
			}
			awaitInbound(m, echo.RemoteAddr, func(f *adminv1.Flow) string {
				const id = "spiffe://cluster.local/ns/wire/sa/"
				if f.Src.SpiffeId != id+"web" || f.Dst.SpiffeId != id+row.account || f.Security != row.security {
					return fmt.Sprintf("want %sweb to %s%s by %s", id, id, row.account, row.security)
				}
				return ""
			})
		}
	}
}

// testFirstPacket: what a new pod says first, from an init container, is said inside the mesh.
func testFirstPacket(m *mesh.Mesh) {
	t := m.TB()
	m.Namespace("first", mesh.Enabled)
	servers := start(m, "first", pod{name: "cart", node: nodeB})
	m.Apply("first", `
apiVersion: v1
kind: Service
metadata: {name: cart}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: cart}
  ports: [{port: 80, targetPort: 8080}]
`)
	m.AwaitInMesh("first", true)
	targets := map[string]string{"by-name": "http://cart/" + canary}
	for _, family := range families() {
		targets[[]string{"by-v4", "by-v6"}[family.index]] = url(servers["cart"], family.index, 8080, canary)
	}
	var early []pod
	for name, target := range targets {
		early = append(early, pod{name: name, node: nodeA, spec: fmt.Sprintf(`
initContainers:
- name: at-once
  image: localhost/sample:1
  imagePullPolicy: Never
  args: [client, "--timeout=5s", %q]`, target)})
	}
	for name, p := range start(m, "first", early...) {
		if n := p.Status.InitContainerStatuses[0].RestartCount; n > 0 {
			t.Errorf("the init container of %s failed %d times", name, n)
		}
		for _, reporter := range []string{"outbound", "inbound"} {
			// By its address: the other node may not have known its name yet.
			m.AwaitFlow(name+"'s first connection", func(f *adminv1.Flow) string {
				if f.Reporter != reporter || f.Src.Address != ip(p, 0) && f.Src.Address != ip(p, 1) {
					return "another connection"
				}
				return notMeshed(f)
			}, "--to", "first/cart")
		}
	}
}
