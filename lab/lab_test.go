package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// twoNodes has pods on both nodes that say whom they see.
const twoNodes = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/zone: a}}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec:
  nodeName: n1
  containers: [{name: app, image: warren.dev/sample, args: [tcp, --mode, peer, --port, "9000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop, labels: {app: cart}}
spec:
  nodeName: n1
  containers: [{name: app, image: "warren.dev/sample:v1", args: [tcp, --mode, peer, --port, "9000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: catalog, namespace: shop, labels: {app: catalog}}
spec:
  nodeName: n2
  containers:
  - {name: app, image: warren.dev/sample, args: [tcp, --mode, peer, --port, "9000"], ports: [{name: peer, containerPort: 9000}]}
  - {name: web, image: warren.dev/sample, args: [http, --port, "8080"]}
---
apiVersion: v1
kind: Service
metadata: {name: catalog, namespace: shop}
spec:
  selector: {app: catalog}
  ports: [{name: peer, port: 80, targetPort: peer}, {name: http, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIP: None, selector: {app: cart}, ports: [{port: 9000}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody, namespace: shop}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
`

func TestPodsReachEachOther(t *testing.T) {
	w := up(t, "reach", twoNodes)
	for _, c := range []struct{ name, from, to string }{
		{"same node", "shop/web", "shop/cart"},
		{"other node", "shop/web", "shop/catalog"},
		{"and back", "shop/catalog", "shop/web"},
	} {
		for i, family := range []string{"IPv4", "IPv6"} {
			t.Run(c.name+" "+family, func(t *testing.T) {
				got := w.ask(c.from, net.JoinHostPort(w.addr(c.to, i), "9000"))
				want := "accept=" + strings.TrimSuffix(net.JoinHostPort(w.addr(c.from, i), "x"), "x")
				if !strings.HasPrefix(got, want) {
					t.Errorf("%s sees %q, want a connection that starts with %q", c.to, got, want)
				}
			})
		}
	}
	t.Run("from the node and the controller", func(t *testing.T) {
		for target, want := range map[string]string{"node/n1": "accept=10.78.0.1:", "node/n2": "accept=10.78.0.2:", "controller": "accept=10.78.0.254:"} {
			if got := w.ask(target, net.JoinHostPort(w.addr("shop/catalog", 0), "9000")); !strings.HasPrefix(got, want) {
				t.Errorf("from %s catalog sees %q, want %q", target, got, want)
			}
		}
	})
}

func TestAddressesAreThoseOfTheNodes(t *testing.T) {
	w := up(t, "addrs", twoNodes)
	for pod, want := range map[string]string{
		"shop/web":     "10.77.1.2 fd77:0:0:1::2",
		"shop/cart":    "10.77.1.3 fd77:0:0:1::3",
		"shop/catalog": "10.77.2.2 fd77:0:0:2::2",
	} {
		if got := w.addr(pod, 0) + " " + w.addr(pod, 1); got != want {
			t.Errorf("%s has %s, want %s", pod, got, want)
		}
	}
}

func TestNamesWorkInsidePods(t *testing.T) {
	w := up(t, "dns", twoNodes)
	info, err := w.Info()
	if err != nil {
		t.Fatal(err)
	}
	catalog := info.Services[0]
	for _, c := range []struct{ name, want string }{
		{"catalog", catalog.VIPs[0].String()},
		{"catalog.shop", catalog.VIPs[0].String()},
		{"catalog.shop.svc.cluster.local", catalog.VIPs[0].String()},
		{"cart", w.addr("shop/cart", 0)},
		{"cart.cart.shop.svc.cluster.local", w.addr("shop/cart", 0)},
		{"web.shop.pod.cluster.local", w.addr("shop/web", 0)},
		{"10-77-1-2.shop.pod.cluster.local", w.addr("shop/web", 0)},
	} {
		out, code := w.exec("shop/web", "getent", "ahostsv4", c.name)
		if code != 0 || !strings.HasPrefix(out, c.want+" ") {
			t.Errorf("%s: exit %d, %q; want %s", c.name, code, out, c.want)
		}
	}
	if out, code := w.exec("shop/web", "getent", "ahostsv6", "catalog"); code != 0 || !strings.HasPrefix(out, catalog.VIPs[1].String()) {
		t.Errorf("catalog by IPv6: exit %d, %q; want %s", code, out, catalog.VIPs[1])
	}
	if out, code := w.exec("shop/web", "getent", "hosts", w.addr("shop/cart", 0)); code != 0 || !strings.Contains(out, "cart") {
		t.Errorf("reverse lookup: exit %d, %q", code, out)
	}
	for _, name := range []string{"missing", "missing.shop.svc.cluster.local", "www.example.com"} {
		if out, code := w.exec("shop/web", "getent", "ahosts", name); code == 0 {
			t.Errorf("%s resolves to %q; want nothing", name, out)
		}
	}
}

func TestPodSeesItsOwnFiles(t *testing.T) {
	w := up(t, "files", twoNodes)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		argv []string
		want string
	}{
		{[]string{"hostname"}, "web"},
		{[]string{"cat", "/etc/hostname"}, "web"},
		{[]string{"cat", "/etc/resolv.conf"}, "nameserver 10.78.0.253\nnameserver fd78::253\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5"},
		{[]string{"getent", "ahostsv4", "web"}, "10.77.1.2"},
		{[]string{"sh", "-c", "cat /proc/self/cgroup | grep ^0:"}, "0::/warren-lab/files/shop_web"},
	} {
		if out, code := w.exec("shop/web", c.argv...); code != 0 || !strings.HasPrefix(out, c.want) {
			t.Errorf("%v: exit %d, %q; want %q", c.argv, code, out, c.want)
		}
	}
	if now, _ := os.Hostname(); now != host {
		t.Errorf("the machine is now called %q, was %q", now, host)
	}
}

func TestUnmeshedPodUsesServices(t *testing.T) {
	w := up(t, "vips", twoNodes)
	info, err := w.Info()
	if err != nil {
		t.Fatal(err)
	}
	catalog, nobody := info.Services[0], info.Services[2]
	for i, vip := range catalog.VIPs {
		for from, source := range map[string]string{
			"shop/web":     w.addr("shop/web", i),           // another node's backend
			"node/n1":      info.Nodes[0].Addrs[i].String(), // a node's own process
			"shop/catalog": "",                              // itself, through its node
		} {
			got := w.ask(from, net.JoinHostPort(vip.String(), "80"))
			if want := strings.TrimSuffix(net.JoinHostPort(source, "x"), "x"); source != "" && !strings.HasPrefix(got, "accept="+want) {
				t.Errorf("catalog sees %q from %s, want %s", got, from, want)
			}
		}
	}
	for _, vip := range nobody.VIPs {
		target := net.JoinHostPort(vip.String(), "80")
		out, code := w.exec("shop/web", os.Getenv("WARREN_TEST_BIN")+"/sample", "client", target)
		if code != 1 || !strings.Contains(out, "connection refused") {
			t.Errorf("a service without a backend: exit %d, %q; want connection refused", code, out)
		}
	}
	if got := w.ask("shop/web", "http://catalog:8080/"); !strings.Contains(got, `"service": "catalog"`) {
		t.Errorf("http://catalog:8080/ answered %q", got)
	}
}

func TestExecReturnsTheCodeOfTheCommand(t *testing.T) {
	w := up(t, "exec", twoNodes)
	for _, c := range []struct {
		argv []string
		want int
	}{
		{[]string{"true"}, 0},
		{[]string{"sh", "-c", "exit 42"}, 42},
		{[]string{"sh", "-c", "kill -9 $$"}, 137},
		{[]string{"no-such-command"}, 127},
		{[]string{"/etc/passwd"}, 126},
	} {
		if out, code := w.exec("shop/cart", c.argv...); code != c.want {
			t.Errorf("%v: exit %d (%s), want %d", c.argv, code, out, c.want)
		}
	}
	for _, target := range []string{"shop/missing", "node/missing", "missing"} {
		if _, err := w.Exec(t.Context(), target, []string{"true"}, Stdio{}); !errors.Is(err, ErrNotFound) {
			t.Errorf("exec in %s: %v, want ErrNotFound", target, err)
		}
	}
	var out strings.Builder
	if code, err := w.Exec(t.Context(), "shop/cart", []string{"cat"}, Stdio{In: strings.NewReader("hello"), Out: &out}); err != nil || code != 0 || out.String() != "hello" {
		t.Errorf("cat: exit %d, %v, %q; want its input", code, err, out.String())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := w.Exec(ctx, "shop/cart", []string{"sleep", "60"}, Stdio{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("sleep past the deadline: %v, want it exceeded", err)
	}
}

func TestTwoLabsUseTheSameAddresses(t *testing.T) {
	a, b := up(t, "twin-a", twoNodes), up(t, "twin-b", twoNodes)
	for _, w := range []world{a, b} {
		target := net.JoinHostPort(w.addr("shop/catalog", 0), "9000")
		if got := w.ask("shop/web", target); !strings.HasPrefix(got, "accept=10.77.1.2:") {
			t.Errorf("catalog sees %q", got)
		}
	}
	if _, err := Up(t.Context(), Options{Name: "twin-a", Manifests: writeManifest(t, twoNodes), WithoutMesh: true, BinDir: os.Getenv("WARREN_TEST_BIN")}); !errors.Is(err, ErrExists) {
		t.Errorf("a second lab of the same name: %v, want ErrExists", err)
	}
	if err := a.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := b.ask("shop/web", net.JoinHostPort(b.addr("shop/cart", 1), "9000")); !strings.HasPrefix(got, "accept=[fd77:0:0:1::2]:") {
		t.Errorf("after the other lab is down, cart sees %q", got)
	}
	labs, err := List()
	if err != nil || !strings.Contains(fmt.Sprint(labs), "twin-b") || strings.Contains(fmt.Sprint(labs), "twin-a") {
		t.Errorf("List: %v, %v; want twin-b and not twin-a", labs, err)
	}
}

func TestPodWithoutIPv6AndPodWithMoreAddresses(t *testing.T) {
	w := up(t, "special", `
apiVersion: v1
kind: Node
metadata: {name: a}
spec: {podCIDRs: [10.9.0.0/24, "fd09::/64"]}
---
{apiVersion: v1, kind: Node, metadata: {name: b}}
---
apiVersion: v1
kind: Pod
metadata: {name: old, annotations: {warren.dev/lab-ipv6: disabled}}
spec: {nodeName: a, containers: [{name: c, image: warren.dev/sample, args: [tcp, --mode, peer]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: many, annotations: {warren.dev/lab-addresses: "192.0.2.7, fd99::7"}}
spec: {nodeName: b, containers: [{name: c, image: warren.dev/sample, args: [tcp, --mode, peer]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: host}
spec: {nodeName: a, hostNetwork: true, containers: [{name: c, image: warren.dev/sample, args: [tcp, --mode, peer, --port, "9100"]}]}
`)
	if addrs, err := w.PodAddrs("default/old"); err != nil || fmt.Sprint(addrs) != "[10.9.0.2]" {
		t.Errorf("old has %v, %v", addrs, err)
	}
	if out, _ := w.exec("default/old", "cat", "/proc/net/if_inet6"); out != "" {
		t.Errorf("old still has IPv6 addresses: %s", out)
	}
	for target, want := range map[string]string{
		"192.0.2.7:9000": "local=192.0.2.7:9000", "10.77.2.2:9000": "local=10.77.2.2:9000",
	} {
		if got := w.ask("default/old", target); !strings.HasSuffix(got, want) {
			t.Errorf("old asks %s: %q, want %s", target, got, want)
		}
	}
	if got := w.ask("default/host", "[fd99::7]:9000"); !strings.HasPrefix(got, "accept=[fd78::1]:") {
		t.Errorf("many sees %q from the host's network", got)
	}
	if got := w.ask("default/many", "10.78.0.1:9100"); !strings.Contains(got, "local=10.78.0.1:9100") {
		t.Errorf("the pod on the host's network answered %q", got)
	}
}
