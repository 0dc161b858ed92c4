package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/warren-mesh/warren/internal/sample"
	"github.com/warren-mesh/warren/lab"
)

const (
	// readyPatience is how long a row may take until it does what it is to.
	readyPatience = 20 * time.Second
	checkRequests = 2000
	sigmas        = 4

	direct      = "direct"
	waypointPod = "mesh/waypoint-0" // as the lab names it
)

const manifests = `
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
---
apiVersion: v1
kind: Namespace
metadata: {name: mesh, labels: {warren.dev/mesh: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: bare}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: mesh}
spec:
  gatewayClassName: warren-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: mesh, labels: {warren.dev/use-waypoint: waypoint}}
spec: {selector: {app: shop}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: mesh}
spec:
  parentRefs: [{group: "", kind: Service, name: shop}]
  rules:
  - matches: [{headers: [{name: ` + header + `, value: two}]}]
    backendRefs: [{name: two, port: 80}]
  - backendRefs: [{name: one, port: 80, weight: 90}, {name: two, port: 80, weight: 10}]
`

// service is a service of the mesh in front of the pods with a label.
func service(name, selector string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: mesh}
spec: {selector: {%s}, ports: [{name: http, port: 80, targetPort: 8080}]}
`, name, selector)
}

// pod is a pod that answers with its version's name.
func pod(namespace, name, node, labels string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, labels: {%s}}
spec:
  nodeName: %s
  containers: [{name: app, image: warren.dev/sample, args: [http, --name, %s, --port, "8080"]}]
`, name, namespace, labels, node, name)
}

// scene is the lab in which everything happens.
type scene struct {
	lab *lab.Lab
	dir string // for Envoy's configuration
}

// row is one way from a client to its backends.
type row struct {
	name    string
	to      target
	proxies []proxy
	routes  bool  // it reads HTTP, and routes it
	absent  error // why it cannot be measured
}

func newScene(ctx context.Context, dir, bin string) (*scene, error) {
	all := manifests
	for _, doc := range []string{
		service("one", "app: shop, version: one"), service("two", "app: shop, version: two"), service("plain", "app: plain"),
		pod("mesh", "client", "n1", "app: client"), pod("bare", "client", "n1", "app: client"),
		pod("mesh", "one", "n2", "app: shop, version: one"), pod("mesh", "two", "n2", "app: shop, version: two"),
		pod("mesh", "plain", "n2", "app: plain"),
		pod("bare", "one", "n2", "app: shop"), pod("bare", "two", "n2", "app: shop"),
	} {
		all += "---" + doc
	}
	folder := filepath.Join(dir, "manifests")
	if err := os.Mkdir(folder, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(folder, "mesh.yaml"), []byte(all), 0o644); err != nil {
		return nil, err
	}
	l, err := lab.Up(ctx, lab.Options{Name: fmt.Sprintf("bench-%d", os.Getpid()), Manifests: folder, BinDir: bin})
	if err != nil {
		return nil, err
	}
	s := &scene{l, dir}
	if p, err := l.Pod(waypointPod); err != nil || p.Node != "n1" {
		return nil, errors.Join(fmt.Errorf("%s is not on n1, where its row wants it", waypointPod), err, s.remove())
	}
	return s, nil
}

// remove does so even after the run was interrupted.
func (s *scene) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return s.lab.Down(ctx)
}

// warrenRows are those that need nothing but the lab.
func (s *scene) warrenRows() []*row {
	one, err := s.podAddr("bare/one")
	rows := []*row{{name: direct}, {name: "warren l4"}, {name: "waypoint", routes: true}}
	rows[0].to, rows[0].absent = s.target("bare/client", netip.AddrPortFrom(one, 8080), err)
	plain, err := s.vip("plain")
	rows[1].to, rows[1].absent = s.target("mesh/client", plain, err)
	shop, err := s.vip("shop")
	rows[2].to, rows[2].absent = s.target("mesh/client", shop, err)
	for _, r := range rows[1:] {
		r.add(s.agentProcess("n1"))
		if r.routes {
			r.add(s.podProcess("waypoint", waypointPod))
		}
		r.add(s.agentProcess("n2"))
	}
	return rows
}

func (r *row) add(p proxy, err error) {
	if err != nil && r.absent == nil {
		r.absent = err
	}
	r.proxies = append(r.proxies, p)
}

func (s *scene) target(client string, to netip.AddrPort, err error) (target, error) {
	if err != nil {
		return target{}, err
	}
	ns, err := s.lab.PodNetNS(client)
	return target{ns, to.String()}, err
}

func (s *scene) podAddr(pod string) (netip.Addr, error) {
	addrs, err := s.lab.PodAddrs(pod)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addrs {
		if a.Is4() {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("pod %s has no IPv4 address", pod)
}

func (s *scene) vip(service string) (netip.AddrPort, error) {
	info, err := s.lab.Info()
	if err != nil {
		return netip.AddrPort{}, err
	}
	for _, svc := range info.Services {
		if svc.Namespace != "mesh" || svc.Name != service {
			continue
		}
		for _, a := range svc.VIPs {
			if a.Is4() {
				return netip.AddrPortFrom(a, 80), nil
			}
		}
	}
	return netip.AddrPort{}, fmt.Errorf("service mesh/%s has no IPv4 address", service)
}

func (s *scene) agentProcess(node string) (proxy, error) {
	return process("agent "+node, func() ([]lab.Process, error) { return s.lab.AgentProcesses(node) })
}

func (s *scene) podProcess(name, pod string) (proxy, error) {
	return process(name, func() ([]lab.Process, error) { return s.lab.PodProcesses(pod) })
}

func process(name string, find func() ([]lab.Process, error)) (proxy, error) {
	found, err := find()
	if err != nil {
		return proxy{}, err
	}
	if len(found) != 1 {
		return proxy{}, fmt.Errorf("%s: %d processes, want 1", name, len(found))
	}
	return proxy{name, found[0].PID}, nil
}

// verify waits until a row answers and, if it is to, routes.
func (s *scene) verify(ctx context.Context, r *row) error {
	deadline := time.Now().Add(readyPatience)
	for {
		err := s.try(ctx, r)
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (s *scene) try(ctx context.Context, r *row) error {
	c, err := r.to.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.conn.Close() }()
	unlabelled, err := c.whoAnswers(checkRequests, "")
	if err != nil || !r.routes {
		return err
	}
	want := 0.9 * checkRequests
	if off := math.Abs(float64(unlabelled["one"]) - want); off > sigmas*math.Sqrt(0.1*want) ||
		unlabelled["one"]+unlabelled["two"] != checkRequests {
		return fmt.Errorf("the route is not in force: of %d requests %v were answered, want nine of ten by one", checkRequests, unlabelled)
	}
	labelled, err := c.whoAnswers(checkRequests/everyNth, "two")
	if err == nil && labelled["two"] != checkRequests/everyNth {
		err = fmt.Errorf("the header does not choose: of %d requests for two %v were answered", checkRequests/everyNth, labelled)
	}
	return err
}

// whoAnswers asks n times and counts by the name that answered.
func (c *client) whoAnswers(n int, version string) (map[string]int, error) {
	by := map[string]int{}
	for range n {
		var body bytes.Buffer
		if err := c.ask("/", version, &body); err != nil {
			return by, err
		}
		var e sample.Echo
		if err := json.Unmarshal(body.Bytes(), &e); err != nil {
			return by, err
		}
		by[e.Service]++
	}
	return by, nil
}

// measure puts one load on one row.
func (s *scene) measure(ctx context.Context, r *row, l load, d time.Duration) (measurement, error) {
	w := newWatch(r.proxies)
	var used map[string]usage
	var usedErr error
	out, err := l.drive(ctx, r.to, d, w.begin, func() { used, usedErr = w.end() })
	m := measurement{
		Requests: len(out.latencies), Failed: out.failed, Seconds: out.took.Seconds(), Used: used,
		P50: micros(out.percentile(0.5)), P99: micros(out.percentile(0.99)),
	}
	if m.Seconds > 0 {
		m.PerSecond = float64(m.Requests) / m.Seconds
	}
	switch {
	case err != nil:
		return m, err
	case out.err != nil:
		return m, fmt.Errorf("%d connections failed, the last one: %w", out.failed, out.err)
	case usedErr != nil:
		return m, usedErr
	}
	return m, s.onPath(r, m)
}

// onPath refuses a measurement whose requests did not pass where the row says: who forwards a thousand of them uses at
// least one tick of CPU.
func (s *scene) onPath(r *row, m measurement) error {
	for _, p := range r.proxies {
		if m.Requests >= 1000 && m.Used[p.name].CPUSeconds == 0 {
			return fmt.Errorf("%s used no CPU for %d requests, so they did not pass it", p.name, m.Requests)
		}
	}
	return nil
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
