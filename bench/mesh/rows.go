package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/warren-mesh/warren/bench/measure"
	"github.com/warren-mesh/warren/bench/proc"
	"github.com/warren-mesh/warren/bench/scene"
)

// Names of rows.
const (
	bareNear   = "bare same node"
	bareFar    = "bare across nodes"
	warrenNear = "warren same node"
	warrenFast = "warren same node accelerated"
	warrenTLS  = "warren same node encrypted"
	warrenFar  = "warren across nodes"
	warrenWay  = "warren waypoint"
)

const (
	serverPort  = 7000 // of the server in each pod that is connected to
	tunnelPort  = 15008
	waypointPod = "mesh/waypoint-0" // as the lab names it
)

const nodesAndNamespaces = `
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
metadata: {name: quick, labels: {warren.dev/mesh: enabled}, annotations: {warren.dev/accelerate: "true"}}
---
apiVersion: v1
kind: Namespace
metadata: {name: bare}
`

const waypointAndService = `
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: mesh, annotations: {warren.dev/lab-args: "%s"}}
spec:
  gatewayClassName: warren-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: v1
kind: Service
metadata: {name: way, namespace: mesh, labels: {warren.dev/use-waypoint: waypoint}}
spec: {selector: {app: way}, ports: [{name: tcp, port: 7000, targetPort: 7000, appProtocol: tcp}]}
`

// placeholder is a pod with nothing in it but its network namespace.
func placeholder(namespace, name, node string) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, labels: {app: %s}}
spec:
  nodeName: %s
  containers: [{name: pause, image: pause, command: [sleep, infinity]}]
`, name, namespace, name, node)
}

// row is one way from a client to a server.
type row struct {
	name, base string
	client     string // path of its network namespace
	address    string
	tunnel     uint16 // the port at the other end of what its connections travel in, as seen from the client's namespace
	pooled     bool   // that is there before a connection is, and may be used by the next one
	path       []proc.Process
	absent     error // why it cannot be measured
}

func (r *row) shown() measure.Row {
	out := measure.Row{Name: r.name, Base: r.base}
	if r.absent != nil {
		out.Absent = r.absent.Error()
	}
	return out
}

// stage is where the rows are: labs, and a server in every pod that is connected to.
type stage struct {
	dir, bin string
	profiled bool // agents and waypoints serve profiles
	scenes   []*scene.Scene
	servers  []*scene.Child
}

// close removes everything.
func (s *stage) close() error {
	var err error
	for _, c := range s.servers {
		err = errors.Join(err, c.Stop())
	}
	for _, sc := range s.scenes {
		err = errors.Join(err, sc.Remove())
	}
	return err
}

func (s *stage) up(ctx context.Context, o scene.Options) (*scene.Scene, error) {
	o.Dir, o.Bin = s.dir, s.bin
	if s.profiled {
		o.AgentArgs = append(o.AgentArgs, "--profile-dir", s.sockets())
	}
	sc, err := scene.Up(ctx, o)
	if err == nil {
		s.scenes = append(s.scenes, sc)
	}
	return sc, err
}

// serve starts a server in a pod.
func (s *stage) serve(ctx context.Context, sc *scene.Scene, pod string) error {
	c, err := sc.Serve(ctx, pod, pod, serverPort)
	if err == nil {
		s.servers = append(s.servers, c)
	}
	return err
}

// mainManifests are those of the lab of two nodes.
func (s *stage) mainManifests() string {
	args := ""
	if s.profiled {
		args = "--profile-dir=" + s.sockets()
	}
	out := nodesAndNamespaces + fmt.Sprintf(waypointAndService, args)
	for _, p := range [][3]string{
		{"mesh", "client", "n1"}, {"mesh", "near", "n1"}, {"mesh", "far", "n2"}, {"mesh", "way", "n2"},
		{"quick", "client", "n1"}, {"quick", "near", "n1"},
		{"bare", "client", "n1"}, {"bare", "near", "n1"}, {"bare", "far", "n2"},
		// The lab puts a waypoint on the node with the fewest pods: these make that n1, the client's.
		{"bare", "spare", "n2"}, {"bare", "spare2", "n2"}, {"bare", "spare3", "n2"},
	} {
		out += placeholder(p[0], p[1], p[2])
	}
	return out
}

// mainRows are those of that lab without peers.
func (s *stage) mainRows(ctx context.Context) (*scene.Scene, []*row, error) {
	sc, err := s.up(ctx, scene.Options{Name: "bench", Manifests: s.mainManifests()})
	if err != nil {
		return nil, nil, err
	}
	if p, err := sc.Lab.Pod(waypointPod); err != nil || p.Node != "n1" {
		return nil, nil, errors.Join(fmt.Errorf("%s is not on n1, where its row wants it", waypointPod), err)
	}
	for _, pod := range []string{"mesh/near", "quick/near", "mesh/far", "mesh/way", "bare/near", "bare/far"} {
		if err := s.serve(ctx, sc, pod); err != nil {
			return nil, nil, err
		}
	}
	near := direct(sc, row{name: warrenNear, base: bareNear}, "mesh/client", "mesh/near")
	agent, err := sc.Agent("n1")
	agent.PassedBy = true // the kernel connects pods of one node by itself once the agent has allowed it
	near.passes(agent, err)
	fast := direct(sc, row{name: warrenFast, base: bareNear}, "quick/client", "quick/near")
	fast.passes(agent, err)
	far := direct(sc, row{name: warrenFar, base: bareFar, tunnel: tunnelPort, pooled: true}, "mesh/client", "mesh/far")
	way := direct(sc, row{name: warrenWay, base: bareFar, tunnel: tunnelPort, pooled: true}, "mesh/client", "mesh/way")
	vip, err := sc.VIP("mesh/way")
	way.address = address(vip)
	way.fail(err)
	for _, r := range []*row{far, way} {
		r.passes(sc.Agent("n1"))
		r.passes(sc.Agent("n2"))
	}
	way.passes(sc.Pod("waypoint", waypointPod))
	return sc, []*row{
		direct(sc, row{name: bareNear}, "bare/client", "bare/near"), direct(sc, row{name: bareFar}, "bare/client", "bare/far"), near, fast, far, way,
	}, nil
}

// encryptedRow is in a lab of one node whose agent tunnels between its own pods too.
func (s *stage) encryptedRow(ctx context.Context) *row {
	r := &row{name: warrenTLS, base: bareNear, tunnel: tunnelPort, pooled: true}
	sc, err := s.up(ctx, scene.Options{
		Name: "bench-tls", AgentArgs: []string{"--encrypt-same-node"},
		Manifests: nodesAndNamespaces + placeholder("mesh", "client", "n1") + placeholder("mesh", "near", "n1"),
	})
	if err == nil {
		err = s.serve(ctx, sc, "mesh/near")
	}
	if err != nil {
		r.fail(err)
		return r
	}
	r = direct(sc, *r, "mesh/client", "mesh/near")
	r.passes(sc.Agent("n1"))
	return r
}

// direct completes a row whose client connects to a pod's own address.
func direct(sc *scene.Scene, r row, client, server string) *row {
	ns, err := sc.Lab.PodNetNS(client)
	r.fail(err)
	addr, err := sc.Addr(server)
	r.fail(err)
	r.client, r.address = ns, address(addr)
	return &r
}

func address(a netip.Addr) string { return netip.AddrPortFrom(a, serverPort).String() }

func (r *row) fail(err error) {
	if r.absent == nil {
		r.absent = err
	}
}

// passes puts a process on the row's path.
func (r *row) passes(p proc.Process, err error) {
	r.fail(err)
	r.path = append(r.path, p)
}
