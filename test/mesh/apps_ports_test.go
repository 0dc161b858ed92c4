package mesh

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/warren-mesh/warren/api/adminv1"
)

// meshPorts are ports that meshes use in pods: Istio's ztunnel the first three and the last two, Warren's agent on its
// node the fourth. Only 15008 means something to Warren in a pod, and only to those outside of it.
var meshPorts = []int{15001, 15006, 15008, 15020, 15021}

const tunnelPort = 15008

// whoami is a pod that says, on every mesh port, whom it sees.
func whoami(name, node string) appPod {
	command := []string{"sample", "http", "--name", name}
	for _, p := range meshPorts {
		command = append(command, "--port", fmt.Sprint(p))
	}
	return appPod{name: name, node: node, ports: meshPorts, command: command}
}

// peerSeen asks a server for the address of its client, which must also be what the client takes for its own.
func (a *apps) peerSeen(t *testing.T, from string, w way, port int, headers ...string) netip.AddrPort {
	t.Helper()
	args := []string{"-w", "%{stderr}%{local_ip} %{local_port}"}
	for _, h := range headers {
		args = append(args, "-H", h)
	}
	r := a.try(t, from, curl(append(args, w.url(port, "/"))...)...)
	if r.Code != 0 {
		t.Fatalf("curl %s from %s: exit code %d: %s", w.url(port, "/"), from, r.Code, r.Err)
	}
	var seen struct{ Service, RemoteAddr, PeerName, LocalAddr string }
	if err := json.Unmarshal([]byte(r.Out), &seen); err != nil {
		t.Fatalf("%s: %v", r.Out, err)
	}
	peer, err := netip.ParseAddrPort(seen.RemoteAddr)
	if err != nil || seen.PeerName != seen.RemoteAddr || seen.Service != w.server {
		t.Fatalf("curl %s from %s: the server says %+v (%v)", w.url(port, "/"), from, seen, err)
	}
	ip, local, _ := strings.Cut(r.Err, " ")
	if self, err := netip.ParseAddr(ip); err != nil || self.Unmap() != peer.Addr() || local != fmt.Sprint(peer.Port()) {
		t.Errorf("port %d: the client is at %s, the server says %s", port, r.Err, peer)
	}
	return peer
}

func TestAppsMayUseTheMeshsPorts(t *testing.T) {
	a := appsUp(t, appPod{name: "client", node: "n1"}, whoami("near", "n1"), whoami("far", "n2"), appPod{name: "client", node: "n1", plain: true})
	a.Tap(appsCanary)
	a.everyWay(t, func(t *testing.T, w way) {
		for _, port := range meshPorts {
			if seen, want := a.peerSeen(t, client, w, port, "X-Canary: "+appsCanary).Addr(), a.addr(t, "client", w.v6); seen != want {
				t.Errorf("port %d: the server sees %s, want %s", port, seen, want)
			}
		}
	})
	for _, server := range []string{"near", "far"} {
		t.Run(server+" itself", func(t *testing.T) { a.meshPortsFromInside(t, server) })
	}
}

func (a *apps) meshPortsFromInside(t *testing.T, server string) {
	ways := append(a.ways(t, server), way{server, "loopback", "127.0.0.1", false}, way{server, "loopback", "::1", true},
		way{server, "loopback mapped", "::ffff:127.0.0.1", false})
	for _, w := range ways {
		for _, port := range meshPorts {
			want := a.addr(t, server, w.v6)
			if strings.HasPrefix(w.how, "loopback") {
				want = netip.MustParseAddr(w.host).Unmap()
			}
			if seen := a.peerSeen(t, "apps/"+server, w, port).Addr(); seen != want {
				t.Errorf("port %d by %s: the pod sees %s, want %s", port, w.how, seen, want)
			}
		}
	}
}

// TestUnmeshedClientsOnTheMeshsPorts: an unmeshed client reaches every port but the tunnel's, where ztunnel answers and wants TLS and an identity. The node
// rewrites what it sends to a service, as kube-proxy does, but not its address.
func TestUnmeshedClientsOnTheMeshsPorts(t *testing.T) {
	a := appsUp(t, whoami("near", "n1"), whoami("far", "n2"), appPod{name: "client", node: "n1", plain: true})
	a.Tap(appsCanary)
	for _, w := range a.names("far") { // what others may read is not this
		a.peerSeen(t, "apps/near", w, meshPorts[0], "X-Canary: "+appsCanary)
	}
	a.bothFamilies(t, func(t *testing.T, w way) {
		for _, port := range meshPorts {
			if port == tunnelPort {
				a.tunnelRefuses(t, w)
			} else if seen, want := a.peerSeen(t, "legacy/client", w, port).Addr(), a.addr(t, "legacy/client", w.v6); seen != want {
				t.Errorf("port %d: the server sees %s, want %s", port, seen, want)
			}
		}
	})
}

func (a *apps) tunnelRefuses(t *testing.T, w way) {
	t.Helper()
	r := a.try(t, "legacy/client", curl(w.url(tunnelPort, "/"))...)
	t.Logf("curl on port %d: code %d, %s", tunnelPort, r.Code, strings.TrimSpace(r.Err))
	if r.Code == 0 || r.Out != "" {
		t.Errorf("the app answered on the tunnel's port: exit code %d, %q", r.Code, r.Out)
	}
	from := a.addr(t, "legacy/client", w.v6).String()
	a.With(t).AwaitFlow("flow of the refused tunnel", &adminv1.FlowsRequest{To: "apps/" + w.server}, func(f *adminv1.Flow) bool {
		return f.Verdict == "denied" && f.Reason == "tls_failed" && f.Src.Address == from && f.Dst.Port == tunnelPort
	})
}

func TestAPodReachesItself(t *testing.T) {
	a := appsUp(t, appPod{name: "web", node: "n1", ports: []int{8080}, command: []string{"sample", "http", "--name", "web", "--port", "8080"}},
		appPod{name: "other", node: "n2"})
	a.Tap(appsCanary)
	ways := append(a.ways(t, "web"), way{"web", "loopback", "127.0.0.1", false}, way{"web", "loopback", "::1", true},
		way{"web", "loopback mapped", "::ffff:127.0.0.1", false}, way{"web", "localhost", "localhost", false}, way{"web", "own name", "web", false})
	for _, w := range ways {
		t.Run(w.how+" "+w.host, func(t *testing.T) { a.peerSeen(t, "apps/web", w, 8080, "X-Canary: "+appsCanary) })
	}
	// So that the wiretap has something to hear.
	a.must(t, "apps/other", curl("-H", "X-Canary: "+appsCanary, a.names("web")[0].url(8080, "/"))...)
}
