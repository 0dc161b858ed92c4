package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/warren-mesh/warren/bench/load"
	"github.com/warren-mesh/warren/bench/proc"
	"github.com/warren-mesh/warren/bench/scene"
)

const (
	// readyPatience is how long a row may take until it does what it is to.
	readyPatience = 20 * time.Second
	checkRequests = 2000
	sigmas        = 4

	direct      = "direct"
	waypointPod = "mesh/waypoint-0" // as the lab names it
	serverPort  = 8080
	h2c         = "kubernetes.io/h2c"
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
---
apiVersion: v1
kind: Service
metadata: {name: calls, namespace: mesh, labels: {warren.dev/use-waypoint: waypoint}}
spec: {selector: {app: shop}, ports: [{name: grpc, port: 80, targetPort: 8080, appProtocol: kubernetes.io/h2c}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: calls, namespace: mesh}
spec:
  parentRefs: [{group: "", kind: Service, name: calls}]
  rules:
  - matches: [{headers: [{name: ` + header + `, value: two}]}]
    backendRefs: [{name: calls-two, port: 80}]
  - backendRefs: [{name: calls-one, port: 80, weight: 90}, {name: calls-two, port: 80, weight: 10}]
`

// service is a service of the mesh in front of the pods with a label.
func service(name, selector, protocol string) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: mesh}
spec: {selector: {%s}, ports: [{name: web, port: 80, targetPort: 8080, appProtocol: %s}]}
`, name, selector, protocol)
}

// pod is a pod with nothing in it but its network namespace.
func pod(namespace, name, node, labels string) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, labels: {%s}}
spec:
  nodeName: %s
  containers: [{name: pause, image: pause, command: [sleep, infinity]}]
`, name, namespace, labels, node)
}

// stage is the lab in which everything happens, and the servers in its pods.
type stage struct {
	*scene.Scene
	servers []*scene.Child
}

// row is one way from a client to its backends.
type row struct {
	name   string
	to     map[protocol]load.Target
	path   []proc.Process
	routes bool  // it reads HTTP, and routes it
	absent error // why it cannot be measured
}

func newStage(ctx context.Context, dir, bin string) (*stage, error) {
	all := manifests
	for _, doc := range []string{
		service("one", "app: shop, version: one", "http"), service("two", "app: shop, version: two", "http"),
		service("calls-one", "app: shop, version: one", h2c), service("calls-two", "app: shop, version: two", h2c),
		service("plain", "app: plain", "tcp"),
		pod("mesh", "client", "n1", "app: client"), pod("bare", "client", "n1", "app: client"),
		pod("mesh", "one", "n2", "app: shop, version: one"), pod("mesh", "two", "n2", "app: shop, version: two"),
		pod("mesh", "plain", "n2", "app: plain"),
		pod("bare", "one", "n2", "app: shop"), pod("bare", "two", "n2", "app: shop"),
	} {
		all += doc
	}
	sc, err := scene.Up(ctx, scene.Options{Name: "bench", Dir: dir, Bin: bin, Manifests: all})
	if err != nil {
		return nil, err
	}
	s := &stage{Scene: sc}
	if p, err := sc.Lab.Pod(waypointPod); err != nil || p.Node != "n1" {
		return nil, errors.Join(fmt.Errorf("%s is not on n1, where its row wants it", waypointPod), err, s.close())
	}
	for _, pod := range []string{"mesh/one", "mesh/two", "mesh/plain", "bare/one", "bare/two"} {
		_, name, _ := strings.Cut(pod, "/")
		server, err := sc.Serve(ctx, pod, name, serverPort)
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s.servers = append(s.servers, server)
	}
	return s, nil
}

func (s *stage) close() (err error) {
	for _, c := range s.servers {
		err = errors.Join(err, c.Stop())
	}
	return errors.Join(err, s.Remove())
}

// warrenRows are those that need nothing but the lab.
func (s *stage) warrenRows() []*row {
	one, err := s.Addr("bare/one")
	rows := []*row{{name: direct}, {name: "warren l4"}, {name: "waypoint", routes: true}}
	rows[0].goes(s, "bare/client", one, one, serverPort, err)
	plain, err := s.VIP("mesh/plain")
	rows[1].goes(s, "mesh/client", plain, plain, 80, err)
	shop, err := s.VIP("mesh/shop")
	calls, err2 := s.VIP("mesh/calls")
	rows[2].goes(s, "mesh/client", shop, calls, 80, errors.Join(err, err2))
	for _, r := range rows[1:] {
		r.passes(s.Agent("n1"))
		if r.routes {
			r.passes(s.Pod("waypoint", waypointPod))
		}
		r.passes(s.Agent("n2"))
	}
	return rows
}

// goes says from where to where requests of each protocol go.
func (r *row) goes(s *stage, client string, web, calls netip.Addr, port uint16, err error) {
	ns, nsErr := s.Lab.PodNetNS(client)
	r.fail(errors.Join(err, nsErr))
	r.to = map[protocol]load.Target{
		overHTTP: {NetNS: ns, Address: netip.AddrPortFrom(web, port).String()},
		overGRPC: {NetNS: ns, Address: netip.AddrPortFrom(calls, port).String()},
	}
}

func (r *row) passes(p proc.Process, err error) {
	r.fail(err)
	r.path = append(r.path, p)
}

func (r *row) fail(err error) {
	if r.absent == nil {
		r.absent = err
	}
}

// verify waits until a row answers and, if it is to, routes.
func verify(ctx context.Context, r *row, p protocol) error {
	deadline := time.Now().Add(readyPatience)
	for {
		err := try(ctx, r, p)
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func try(ctx context.Context, r *row, p protocol) error {
	clients, closers, err := p.connect(ctx, r.to[p], 1)
	defer func() {
		for _, c := range closers {
			_ = c.Close()
		}
	}()
	if err != nil {
		return err
	}
	unlabelled, err := clients[0].whoAnswers(checkRequests, "")
	if err != nil || !r.routes {
		return err
	}
	want := 0.9 * checkRequests
	if off := math.Abs(float64(unlabelled["one"]) - want); off > sigmas*math.Sqrt(0.1*want) ||
		unlabelled["one"]+unlabelled["two"] != checkRequests {
		return fmt.Errorf("the route of %s is not in force: of %d requests %v were answered, want nine of ten by one", p, checkRequests, unlabelled)
	}
	labelled, err := clients[0].whoAnswers(checkRequests/everyNth, "two")
	if err == nil && labelled["two"] != checkRequests/everyNth {
		err = fmt.Errorf("the header does not choose: of %d requests for two %v were answered", checkRequests/everyNth, labelled)
	}
	return err
}

// whoAnswers asks n times and counts by the name that answered.
func (c *client) whoAnswers(n int, version string) (map[string]int, error) {
	by := map[string]int{}
	for range n {
		name, err := c.who(version)
		if err != nil {
			return by, err
		}
		by[name]++
	}
	return by, nil
}
