package enroll

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/warren-mesh/warren/agent/podnet"
	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/ztunnel"
)

// step is what to do about one pod: the plan is pure, so that it can be tested by itself.
type step string

const (
	stay    step = "stay"
	enrol   step = "enrol"
	release step = "release"  // it left the mesh
	unknown step = "unknown"  // the controller has not told about it
	outside step = "outside"  // it is not in the mesh, and never was here
	rename  step = "identity" // it is enrolled under an identity that is no longer its own
)

// plan says what to do about a registered pod, given the controller's record of it (nil if none).
func plan(node string, w *mesh.Workload, captured bool, has identity.ID) step {
	switch {
	case w == nil && captured:
		return stay // a record that vanished is no reason to let a pod out; Remove is
	case w == nil:
		return unknown
	case !w.Captured() || w.Node != node:
		if captured {
			return release
		}
		return outside
	case !captured:
		return enrol
	}
	if id, err := identity.New(w.TrustDomain, w.Namespace, w.ServiceAccount); err == nil && id != has {
		return rename
	}
	return stay
}

// reconcile brings every registered pod to where the world wants it. One pod's failure is its own.
func (e *Enroller) reconcile(ctx context.Context) {
	world := e.cfg.World.Load()
	e.mu.Lock()
	all := make([]*pod, 0, len(e.pods))
	for _, p := range e.pods {
		all = append(all, p)
	}
	e.mu.Unlock()
	var batch sync.WaitGroup
	room := make(chan struct{}, 8) // pods at once: each loads a program and waits for an SVID
	for _, p := range all {
		room <- struct{}{}
		batch.Go(func() {
			defer func() { <-room }()
			e.bring(ctx, p, world.Mesh.Workload(p.reg.UID))
		})
	}
	batch.Wait()
}

func (e *Enroller) bring(ctx context.Context, p *pod, w *mesh.Workload) {
	if w != nil && (w.Namespace != p.reg.Namespace || w.Name != p.reg.Name) {
		w = nil // a UID that says another name: believe neither
	}
	var captured bool
	var has identity.ID
	e.locked(func() { captured, has = p.net != nil, p.id })
	switch plan(e.cfg.Node, w, captured, has) {
	case enrol:
		e.enrol(ctx, p, w)
	case release:
		e.release(p)
	case outside:
		e.locked(func() { e.setState(p, Unmanaged, "") })
	case unknown:
		e.locked(func() { e.setState(p, Unknown, "waiting for the controller") })
	case rename:
		e.locked(func() { e.adoptIdentity(p, w) })
		fallthrough
	case stay:
		if w != nil {
			e.refresh(ctx, p, w)
		}
	}
}

func (e *Enroller) locked(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

// enrol gets the pod's identity, captures the pod, and opens the way. A pod that runs already goes on meanwhile as it did; one
// that starts has no process yet.
func (e *Enroller) enrol(ctx context.Context, p *pod, w *mesh.Workload) {
	var id identity.ID
	spec := podnet.Spec{Netns: p.reg.Netns, Choices: choicesOf(w)}
	e.locked(func() {
		e.adoptIdentity(p, w)
		id, spec.Running = p.id, !p.starts
		e.setState(p, Pending, "waiting for its identity")
	})
	e.awaitSVID(ctx, p, id)
	octx, cancel := context.WithTimeout(ctx, addTimeout)
	defer cancel()
	net, err := podnet.Open(octx, e.cfg.Thread, e.cfg.Capture, spec)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = errors.New("network namespace is gone")
		}
		e.locked(func() { e.setState(p, Pending, err.Error()) })
		return
	}
	e.mu.Lock()
	if e.pods[p.reg.UID] != p { // removed meanwhile
		e.mu.Unlock()
		_ = net.Withdraw()
		net.Close()
		return
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	p.net, p.stop = net, stop
	e.mu.Unlock()

	served := &ztunnel.Pod{UID: p.reg.UID, Sockets: net, Outbound: net.Outbound, Plaintext: net.Plaintext, Tunnel: net.Tunnel,
		Netns: net.Cookie(), Direct: direct{net}}
	e.tasks.Go(func() { e.cfg.Proxy.Serve(life, served) })
	e.openWay(p, net)
}

// openWay makes a captured pod's connections pass, unless it was removed meanwhile: its place in the kernel may be
// another pod's by now.
func (e *Enroller) openWay(p *pod, net *podnet.Pod) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p.net != net {
		return
	}
	if err := net.Enroll(); err != nil {
		e.setState(p, Pending, err.Error())
		return
	}
	e.setState(p, Enrolled, "")
}

// adoptIdentity makes the pod want the SVID of the service account that the controller names. Caller holds mu.
func (e *Enroller) adoptIdentity(p *pod, w *mesh.Workload) {
	id, err := identity.New(w.TrustDomain, w.Namespace, w.ServiceAccount)
	if err != nil {
		e.cfg.Log.Error("pod has no valid identity", "pod", p.reg.fullName(), "err", err)
		return
	}
	p.id = id
	e.cfg.Certs.Want(string(p.reg.UID), id)
}

func (e *Enroller) awaitSVID(ctx context.Context, p *pod, id identity.ID) {
	wctx, cancel := context.WithTimeout(ctx, svidWait)
	defer cancel()
	if _, err := e.cfg.Certs.Get(wctx, id); err != nil {
		e.cfg.Log.Warn("pod enrolled without SVID: its connections are refused until it has one", "pod", p.reg.fullName(), "err", err)
	}
}

// release lets a running pod go: its new connections are plain at once; what is open goes on; peers that do not
// know yet reach it by tunnel for a while.
func (e *Enroller) release(p *pod) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p.state == Unmanaged {
		return // the grace below is running
	}
	net, stop := p.net, p.stop
	if net == nil {
		return // removed meanwhile
	}
	if err := net.Leave(); err != nil {
		e.setState(p, p.state, err.Error())
		return
	}
	e.setState(p, Unmanaged, "left the mesh")
	time.AfterFunc(leaveGrace, func() { e.finishRelease(p, net, stop) })
}

func (e *Enroller) finishRelease(p *pod, net *podnet.Pod, stop context.CancelFunc) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p.net != net || p.state != Unmanaged {
		return // removed, or back in the mesh
	}
	if err := net.Withdraw(); err != nil {
		e.cfg.Log.Warn("pod's capture remains", "pod", p.reg.fullName(), "err", err)
	}
	e.cfg.Certs.Forget(string(p.reg.UID))
	net.Close()
	stop()
	p.net, p.id = nil, identity.ID{}
	e.wake() // it may be wanted again
}

func choicesOf(w *mesh.Workload) podnet.Choices {
	return podnet.Choices{FailOpen: w.FailOpen, Accelerate: w.Accelerate}
}

// refresh takes up changed addresses and settings, and pods that come back during their grace.
func (e *Enroller) refresh(ctx context.Context, p *pod, w *mesh.Workload) {
	e.mu.Lock()
	net, state := p.net, p.state
	e.mu.Unlock()
	if net == nil {
		return
	}
	if err := net.Refresh(ctx, choicesOf(w)); err != nil {
		e.cfg.Log.Warn("pod's addresses could not be read again", "pod", p.reg.fullName(), "err", err)
		return
	}
	if state != Enrolled {
		e.openWay(p, net)
	}
}

// Info is what there is to say about one registered pod.
type Info struct {
	Registration
	State  State
	Reason string
	ID     identity.ID
	Addrs  []string
}

// Pods returns every registered pod.
func (e *Enroller) Pods() []Info {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]Info, 0, len(e.pods))
	for _, p := range e.pods {
		i := Info{Registration: p.reg, State: p.state, Reason: p.reason, ID: p.id}
		if p.net != nil {
			for _, a := range p.net.Addrs() {
				i.Addrs = append(i.Addrs, a.String())
			}
		}
		out = append(out, i)
	}
	return out
}
