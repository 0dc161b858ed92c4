// Package meshtest runs nodes of a mesh inside a test: real capture, real network namespaces, real certificates, and no
// controller. Every pod is on one bridge; which node serves it is the test's word.
package meshtest

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/warren-mesh/warren/agent/direct"
	"github.com/warren-mesh/warren/agent/enroll"
	"github.com/warren-mesh/warren/agent/podnet"
	"github.com/warren-mesh/warren/bpf"
	"github.com/warren-mesh/warren/ca"
	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/internal/nettest"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/ztunnel"
)

// TrustDomain is that of every test mesh.
const TrustDomain = "cluster.local"

// Spec is one pod. Its name is "<namespace>/<name>"; its service account is its name.
type Spec struct {
	Name  string
	Node  string
	Zone  string
	Plain bool // not in the mesh
}

// Pod is one pod of the mesh.
type Pod struct {
	*nettest.NS
	Spec     Spec
	Workload *mesh.Workload
}

// Addr returns its address of a family, with a port.
func (p *Pod) Addr(v6 bool, port uint16) netip.AddrPort {
	if v6 {
		return netip.AddrPortFrom(p.Addrs[1], port)
	}
	return netip.AddrPortFrom(p.Addrs[0], port)
}

// Mesh is a running mesh.
type Mesh struct {
	tb        testing.TB
	World     *mesh.Store[ztunnel.World]
	Authority *ca.Authority
	Nodes     map[string]*Node
	pods      map[string]*Pod

	mu       sync.Mutex
	services []*mesh.Service
	policies []*policy.Policy
	version  uint64
	records  []ztunnel.Record
}

// Node is one node's data path.
type Node struct {
	Proxy    *ztunnel.Proxy
	Capture  *bpf.Capture
	Certs    *identity.Manager
	Enroller *enroll.Enroller
	bundle   *identity.BundleStore
}

// New brings up the mesh and waits until its pods are enrolled. `edit` may change each pod's workload first.
func New(tb testing.TB, specs []Spec, edit ...func(*mesh.Workload)) *Mesh {
	tb.Helper()
	sweep(tb)
	m := &Mesh{tb: tb, Nodes: map[string]*Node{}, pods: map[string]*Pod{}}
	authority, err := ca.Open(ca.Config{TrustDomain: TrustDomain, StateDir: tb.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	m.Authority = authority
	var nss []*nettest.NS
	for _, s := range specs {
		p := &Pod{NS: nettest.New(tb), Spec: s}
		m.pods[s.Name] = p
		nss = append(nss, p.NS)
	}
	m.watch(nettest.Join(tb, nss...))
	for _, s := range specs {
		m.pods[s.Name].Workload = workload(m.pods[s.Name], s)
		for _, f := range edit {
			f(m.pods[s.Name].Workload)
		}
	}
	m.World = mesh.NewStore(m.compile())
	for _, s := range specs {
		if m.Nodes[s.Node] == nil && !s.Plain {
			m.Nodes[s.Node] = m.startNode(s.Node)
		}
	}
	for _, s := range specs {
		if !s.Plain {
			m.Enrol(m.pods[s.Name])
		}
	}
	return m
}

func workload(p *Pod, s Spec) *mesh.Workload {
	ns, name, _ := cut(s.Name)
	return &mesh.Workload{
		UID: mesh.UID("uid-" + s.Name), Namespace: ns, Name: name, ServiceAccount: name, TrustDomain: TrustDomain,
		Node: s.Node, Zone: s.Zone, Addrs: p.Addrs, Enrolled: !s.Plain,
	}
}

func cut(name string) (ns, pod string, ok bool) {
	for i := range name {
		if name[i] == '/' {
			return name[:i], name[i+1:], true
		}
	}
	return "", name, false
}

// Enrol registers a pod at its node, as a CNI plug-in would.
func (m *Mesh) Enrol(p *Pod) {
	m.tb.Helper()
	state, err := m.Nodes[p.Spec.Node].Enroller.Add(context.Background(), enroll.Registration{
		UID: p.Workload.UID, Namespace: p.Workload.Namespace, Name: p.Workload.Name, Netns: p.Path,
	})
	if err != nil || state != enroll.Enrolled {
		m.tb.Fatalf("enrol %s: state %q, error %v", p.Spec.Name, state, err)
	}
}

// Pod returns a pod by name.
func (m *Mesh) Pod(name string) *Pod { return m.pods[name] }

// Update changes services and policies and waits until every node enforces them.
func (m *Mesh) Update(f func(services *[]*mesh.Service, policies *[]*policy.Policy)) {
	m.tb.Helper()
	m.mu.Lock()
	f(&m.services, &m.policies)
	world := m.compile()
	m.mu.Unlock()
	m.World.Swap(world)
	for _, n := range m.Nodes {
		n.Proxy.Redecide()
	}
}

func (m *Mesh) compile() *ztunnel.World {
	m.version++
	var ws []*mesh.Workload
	for _, p := range m.pods {
		w := *p.Workload
		ws = append(ws, &w)
	}
	snapshot, err := mesh.NewSnapshot("test", m.version, ws, m.services)
	if err != nil {
		m.tb.Fatal(err)
	}
	set, err := policy.NewSet(m.policies)
	if err != nil {
		m.tb.Fatal(err)
	}
	return &ztunnel.World{Mesh: snapshot, Policies: set}
}

// sink keeps every record of an ended connection.
func (m *Mesh) sink(r ztunnel.Record) {
	if r.End.IsZero() {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.records = append(m.records, r)
}

// Records returns the records of ended connections that match.
func (m *Mesh) Records(match func(ztunnel.Record) bool) []ztunnel.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []ztunnel.Record
	for _, r := range m.records {
		if match(r) {
			out = append(out, r)
		}
	}
	return out
}

// AwaitRecord waits for the record of an ended connection that matches.
func (m *Mesh) AwaitRecord(what string, match func(ztunnel.Record) bool) ztunnel.Record {
	m.tb.Helper()
	var found []ztunnel.Record
	Eventually(m.tb, what, func() bool {
		found = m.Records(match)
		return len(found) > 0
	})
	return found[0]
}

// Eventually waits until the condition holds, at most 5 s.
func Eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			tb.Fatalf("not within 5 s: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// CertsOf adapts an identity manager to what ztunnel asks for.
type CertsOf struct {
	*identity.Manager
	Store *identity.BundleStore
}

// Bundle returns the trust bundle.
func (c CertsOf) Bundle() *identity.Bundle { return c.Store.Load() }

func (m *Mesh) startNode(name string) *Node {
	m.tb.Helper()
	fatal := func(err error) {
		m.tb.Helper()
		if err != nil {
			m.tb.Fatalf("node %s: %v", name, err)
		}
	}
	log := slog.New(errorsFail{m.tb})
	root, err := bpf.CgroupRoot("")
	fatal(err)
	capture, err := bpf.Open(bpf.Config{PinDir: pinDir(m.tb, name), CgroupRoot: root, Log: log})
	fatal(err)
	n := &Node{Capture: capture, bundle: &identity.BundleStore{}}
	n.bundle.Swap(m.Authority.Bundle())
	n.Certs, err = identity.NewManager(identity.ManagerConfig{Signer: signer{m}, Bundle: n.bundle.Load, Log: log})
	fatal(err)
	certs := CertsOf{n.Certs, n.bundle}
	thread := podnet.NewThread()
	kernel, err := direct.New(capture, log)
	fatal(err)
	n.Proxy = ztunnel.New(ztunnel.Config{
		Node: name, World: m.World, Certs: certs, Log: log, Sink: m.sink, MaxConns: 4096, Kernel: kernel,
	})
	n.Enroller, err = enroll.New(enroll.Config{
		Node: name, StateDir: m.tb.TempDir(), World: m.World, Capture: capture, Thread: thread, Proxy: n.Proxy, Certs: certs, Log: log,
	})
	fatal(err)

	ctx, cancel := context.WithCancel(context.Background())
	tctx, stopThread := context.WithCancel(context.Background())
	var running, threads sync.WaitGroup
	running.Go(func() { _ = n.Certs.Run(ctx) })
	running.Go(func() { _ = n.Enroller.Run(ctx) })
	running.Go(func() { fatal(kernel.Run(ctx, n.Proxy)) })
	threads.Go(func() { _ = thread.Run(tctx) })
	m.tb.Cleanup(func() {
		cancel()
		running.Wait()
		n.Proxy.Close(0)
		stopThread()
		threads.Wait()
		fatal(capture.Close())
	})
	return n
}
