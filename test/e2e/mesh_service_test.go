package e2e

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/sample"
	"github.com/warren-mesh/warren/test/e2e/mesh"
)

const services = "services" // the namespace

// plaza is the services and who asks them: client-a and client-b, one on each node.
type plaza struct {
	*mesh.Mesh
	web  map[string]string // name of the web pod on a node
	pods map[string]corev1.Pod
}

func newPlaza(m *mesh.Mesh) plaza {
	m.TB().Helper()
	m.Namespace(services, mesh.Enabled)
	raw, err := os.ReadFile("testdata/services.yaml")
	if err != nil {
		m.TB().Fatal(err)
	}
	m.Apply(services, string(raw))
	client := pod{node: nodeA, container: `env: [{name: SSL_CERT_FILE, value: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt}]`}
	clientA, clientB, overTCP := client, client, client
	clientA.name, clientB.name, clientB.node = "client-a", "client-b", nodeB
	overTCP.name, overTCP.spec = "client-tcp", `dnsConfig: {options: [{name: use-vc}]}`
	named := func(name, node, port string) pod {
		return pod{name: name, node: node, labels: "app-of: named", args: `http, "--port=` + port + `"`, container: "ports: [{name: main, containerPort: " + port + "}]"}
	}
	unready := pod{name: "unready", node: nodeB, container: `readinessProbe: {httpGet: {port: 1, path: /}}`}
	m.Apply(services, unready.yaml())
	p := plaza{Mesh: m, web: map[string]string{}, pods: start(m, services, clientA, clientB, overTCP, named("named-1", nodeA, "8080"), named("named-2", nodeB, "8081"),
		pod{name: "hosted", node: nodeB, spec: "hostNetwork: true", args: `http, "--port=18080"`})}
	for _, w := range m.Pods(services, "app=web", 2) {
		p.web[w.Spec.NodeName], p.pods[w.Name] = w.Name, w
	}
	mesh.Await(m.TB(), "the pod that will never be ready runs", 30*time.Second, func() error {
		u, err := m.Client.CoreV1().Pods(services).Get(context.Background(), "unready", metav1.GetOptions{})
		if err == nil && (u.Status.Phase != corev1.PodRunning || u.Status.PodIP == "") {
			err = fmt.Errorf("it is %s", u.Status.Phase)
		}
		return err
	})
	for name, address := range map[string]string{"by-hand": ip(p.pods["web-0"], 0), "by-hand-outside": m.Node(nodeB).Addrs()[0].String()} {
		port := map[string]int{"by-hand": 8080, "by-hand-outside": 18080}[name]
		m.Apply(services, fmt.Sprintf(`
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
endpoints: [{addresses: [%[2]q]}]
ports: [{port: %[3]d}]
`, name, address, port))
	}
	mesh.Await(m.TB(), "both web pods are endpoints, of both families", 30*time.Second, func() error {
		found, err := m.Client.DiscoveryV1().EndpointSlices(services).List(context.Background(), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=both"})
		if err != nil {
			return err
		}
		ready := 0
		for _, slice := range found.Items {
			for _, e := range slice.Endpoints {
				if e.Conditions.Ready != nil && *e.Conditions.Ready {
					ready++
				}
			}
		}
		if ready != 4 {
			return fmt.Errorf("%d are ready", ready)
		}
		return nil
	})
	mesh.Await(m.TB(), "the mesh is ready", 30*time.Second, func() error {
		_, err := m.TryAgentctl("status", "--wait", "--timeout=20s")
		return err
	})
	return p
}

// request is a row: who asks what, and which pods answer, each of them at least once. Without servers it must fail.
type request struct {
	name, from, host string
	servers          []string
	meshed           bool
}

// requests are all rows.
func (p plaza) requests() []request {
	both, all := []string{"web-0", "web-1"}, []request{}
	add := func(r request) { all = append(all, r) }
	vips := func(service string) []string {
		s, err := p.Client.CoreV1().Services(services).Get(context.Background(), service, metav1.GetOptions{})
		if err != nil {
			p.TB().Fatal(err)
		}
		return s.Spec.ClusterIPs
	}
	perVIP := func(name, from, service string, servers []string, meshed bool) {
		for _, vip := range vips(service) {
			add(request{name + " " + family(vip), from, net.JoinHostPort(vip, "80"), servers, meshed})
		}
	}
	perVIP("ClusterIP", "client-a", "both", both, true)
	for _, name := range []string{"both", "both.services", "both.services.svc.cluster.local"} {
		add(request{"by name " + name, "client-b", name, both, true})
	}
	add(request{"IPv6 only by name", "client-a", "six", both, true})
	add(request{"headless", "client-a", "peers:8080", nil, true})
	for _, pod := range both {
		add(request{"pod of a StatefulSet by name, " + pod, "client-a", pod + ".peers:8080", []string{pod}, true})
	}
	perVIP("named target port", "client-a", "named", []string{"named-1", "named-2"}, true)
	for _, node := range p.Nodes() {
		for _, a := range node.Addrs() {
			add(request{"NodePort of " + node.Name + " " + family(a.String()), "client-a", net.JoinHostPort(a.String(), "30080"), both, true})
		}
	}
	perVIP("a NodePort's ClusterIP", "client-b", "ports", both, true)
	add(request{"ExternalName", "client-a", "alias", both, true})
	perVIP("internalTrafficPolicy Local", "client-a", "local", []string{p.web[nodeA]}, true)
	perVIP("internalTrafficPolicy Local", "client-b", "local", []string{p.web[nodeB]}, true)
	perVIP("trafficDistribution PreferClose", "client-a", "close", []string{p.web[nodeA]}, true)
	perVIP("trafficDistribution PreferClose", "client-b", "close", []string{p.web[nodeB]}, true)
	perVIP("publishNotReadyAddresses", "client-a", "early", []string{"unready"}, true)
	perVIP("no ready endpoint", "client-a", "patient", []string{}, true)
	perVIP("in the host's network", "client-a", "hosted", []string{nodeB}, false) // named as its node is
	perVIP("endpoints by hand", "client-a", "by-hand", []string{"web-0"}, true)
	perVIP("endpoints by hand outside", "client-a", "by-hand-outside", []string{nodeB}, false)
	add(request{"DNS over TCP", "client-tcp", "both.services", both, true})
	return all
}

func family(address string) string {
	if strings.Contains(address, ":") {
		return "IPv6"
	}
	return "IPv4"
}

// testServices: a pod of the mesh reaches services of every kind as one outside would, and inside the mesh.
func testServices(m *mesh.Mesh) {
	p := newPlaza(m)
	t := m.TB().(*testing.T)
	for _, row := range p.requests() {
		t.Run(row.name+" from "+row.from, func(t *testing.T) { plaza{p.With(t), p.web, p.pods}.check(row) })
	}
	t.Run("sessionAffinity", func(t *testing.T) { plaza{p.With(t), p.web, p.pods}.testAffinity() })
	t.Run("API server", func(t *testing.T) { plaza{p.With(t), p.web, p.pods}.testAPIServer() })
}

// ask asks twenty times, with a connection each.
func (p plaza) ask(from, host, word string) ([]sample.Echo, error) {
	out, err := p.Ask(services, from, "http://"+host+"/"+word, "--new-connections", "--repeat=20")
	if err != nil {
		return nil, err
	}
	return answers(out)
}

func (p plaza) check(r request) {
	t := p.TB()
	word := open
	if r.meshed {
		word = canary
	}
	echoes, err := p.ask(r.from, r.host, word)
	if r.servers != nil && len(r.servers) == 0 {
		if err == nil {
			t.Errorf("%d requests to %s were answered: it has nobody to answer", len(echoes), r.host)
		}
		return
	}
	if err != nil {
		t.Fatalf("%s asks %s: %v", r.from, r.host, err)
	}
	seen := map[string]int{}
	for _, e := range echoes {
		seen[e.Host]++
	}
	if got := slices.Sorted(maps.Keys(seen)); r.servers != nil && !slices.Equal(got, r.servers) {
		t.Errorf("of 20 requests to %s the answers were %v; want from %v", r.host, seen, r.servers)
	}
	if r.meshed {
		p.sawMeshed(echoes)
	}
}

// sawMeshed fails unless every one of these requests is in the flows as a connection of the mesh.
func (p plaza) sawMeshed(echoes []sample.Echo) {
	p.TB().Helper()
	mesh.Await(p.TB(), "each request in agentctl flows as one of the mesh", 5*time.Second, func() error {
		inbound := map[string]*adminv1.Flow{}
		for _, f := range p.Flows("--since", "1m", "--reporter", "inbound", "--to", services+"/") {
			inbound[remoteOf(f)] = f
		}
		for _, e := range echoes {
			f := inbound[e.RemoteAddr]
			if f == nil {
				return fmt.Errorf("%s saw %s, of which no flow is", e.Host, e.RemoteAddr)
			}
			if wrong := notMeshed(f); wrong != "" {
				return fmt.Errorf("%s: %s", mesh.Describe(f), wrong)
			}
		}
		return nil
	})
}

// testAffinity: a client of a sticky service stays with one server, whichever family it asks by.
func (p plaza) testAffinity() {
	s, err := p.Client.CoreV1().Services(services).Get(context.Background(), "sticky", metav1.GetOptions{})
	if err != nil {
		p.TB().Fatal(err)
	}
	for _, from := range []string{"client-a", "client-b"} {
		for _, vip := range s.Spec.ClusterIPs {
			var all []sample.Echo
			for range 2 {
				echoes, err := p.ask(from, net.JoinHostPort(vip, "80"), canary)
				if err != nil {
					p.TB().Fatal(err)
				}
				all = append(all, echoes...)
			}
			for _, e := range all {
				if e.Host != all[0].Host {
					p.TB().Errorf("%s asked %s: %s answered, then %s", from, vip, all[0].Host, e.Host)
					break
				}
			}
			p.sawMeshed(all)
		}
	}
}

// testAPIServer: a pod of the mesh asks the API server by its service, as a client library does: its certificate is
// checked against the pod's own root, and the token is bound to the pod.
func (p plaza) testAPIServer() {
	uid := string(p.pods["client-a"].UID)
	token := strings.TrimSpace(p.Kubectl("create", "token", "default", "--namespace", services,
		"--bound-object-kind=Pod", "--bound-object-name=client-a", "--bound-object-uid="+uid))
	for _, host := range []string{"kubernetes.default", "kubernetes.default.svc.cluster.local"} {
		target := "https://" + host + "/api/v1/namespaces/" + services + "/pods/client-a"
		out, err := p.Ask(services, "client-a", target, "--header=Authorization: Bearer "+token)
		if err != nil || !strings.Contains(out, uid) {
			p.TB().Errorf("%s: %v\n%.300s", target, err, out)
		}
	}
	if _, err := p.Ask(services, "client-a", "https://kubernetes.default/api/v1/namespaces/"+services+"/pods/client-a"); err == nil || !strings.Contains(err.Error(), "403") {
		p.TB().Errorf("without the token the API server should answer 403: %v", err)
	}
}
