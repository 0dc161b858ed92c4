// Package enroll decides which pods of this node are captured, and makes it so.
//
// Whoever makes a pod's network namespace (a CNI plug-in, the lab) registers it here by UID and path. The
// controller says by the same UID whether the pod is in the mesh and who it is. Both known, the pod is enrolled;
// when it leaves the mesh it is let go without cutting what is open. A pod's identity never follows from an address.
package enroll

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/warren-mesh/warren/agent/podnet"
	"github.com/warren-mesh/warren/bpf"
	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/ztunnel"
)

// Config is what an Enroller needs; every field is required but Finder.
type Config struct {
	Node     string
	StateDir string
	World    *mesh.Store[ztunnel.World]
	Capture  *bpf.Capture
	Thread   *podnet.Thread
	Proxy    *ztunnel.Proxy
	Certs    Certs
	Log      *slog.Logger
	// Followed tells whether the controller is followed now.
	Followed func() bool
	// Finder finds pods that ran before anybody announced them; nil finds none.
	Finder Finder
}

// Finder finds the network namespaces of running pods.
type Finder interface {
	// Find returns a path for each pod whose network namespace it found.
	Find(uids []mesh.UID) (map[mesh.UID]string, error)
}

// Certs is what enrolling needs of the identity manager.
type Certs interface {
	Want(uid string, id identity.Name)
	Forget(uid string)
	Get(ctx context.Context, id identity.Name) (*identity.SVID, error)
}

const (
	// addTimeout is how long Add waits for the controller to know the pod, and for its enrolment.
	addTimeout = 10 * time.Second
	// aloneTimeout is how long Add waits for a controller that is not followed.
	aloneTimeout = time.Second
	// svidWait is how long enrolling waits for the pod's first SVID. Without one it is enrolled all the same, and
	// its connections are refused with a reason.
	svidWait = 3 * time.Second
	// leaveGrace is how long peers that do not know yet may still reach a pod that left by tunnel.
	leaveGrace = 5 * time.Second
	// rescan is how often addresses are read again.
	rescan = 10 * time.Second
)

// ErrUnknownPod is returned by Add if the controller did not tell about the pod in time.
var ErrUnknownPod = errors.New("the controller does not know this pod")

// Enroller owns the pods of this node.
type Enroller struct {
	cfg   Config
	kick  chan struct{} // capacity 1
	tasks sync.WaitGroup

	mu     sync.Mutex
	pods   map[mesh.UID]*pod
	looked time.Time         // when Finder was asked last
	lost   map[mesh.UID]bool // enrolled pods of this node that have addresses and were not found
}

// pod is one registered pod. Only reconcile changes net and state, under Enroller.mu.
type pod struct {
	reg     Registration
	state   State
	reason  string
	starts  bool // nothing of it runs before Add has returned
	net     *podnet.Pod
	id      identity.ID
	changed chan struct{} // closed at each change of state
	stop    context.CancelFunc
}

// State is where a pod stands.
type State string

const (
	Unknown   State = "unknown"   // registered, but the controller has not told about it
	Unmanaged State = "unmanaged" // not in the mesh
	Pending   State = "pending"   // in the mesh and not served yet; refused as soon as it is captured
	Enrolled  State = "enrolled"  // captured and served
)

// New reads the registry of an earlier agent and returns an Enroller that does nothing until Run.
func New(cfg Config) (*Enroller, error) {
	e := &Enroller{cfg: cfg, kick: make(chan struct{}, 1), pods: map[mesh.UID]*pod{}}
	regs, err := loadRegistry(e.registryPath())
	if err != nil {
		return nil, err
	}
	for _, r := range regs {
		if _, err := os.Stat(r.Netns); err != nil {
			cfg.Log.Info("forgetting pod whose network namespace is gone", "pod", r.fullName())
			continue
		}
		e.pods[r.UID] = newPod(r)
	}
	return e, nil
}

func newPod(r Registration) *pod {
	return &pod{reg: r, state: Unknown, changed: make(chan struct{})}
}

func (e *Enroller) registryPath() string { return filepath.Join(e.cfg.StateDir, "pods.json") }

// Run enrols and lets go as the world says, until ctx ends. Pods stay captured then.
func (e *Enroller) Run(ctx context.Context) error {
	tick := time.NewTicker(rescan)
	defer tick.Stop()
	defer e.closeAll()
	first, held, since := true, true, time.Now()
	for {
		changed := e.cfg.World.Changed()
		e.forgetGone()
		e.discover()
		e.reconcile(ctx)
		if first {
			first = false
			if err := e.retain(); err != nil {
				e.cfg.Log.Warn("stale captures remain", "err", err)
			}
		}
		if held {
			held = !e.unhold(since)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-e.kick:
		case <-tick.C:
		}
	}
}

// retain drops the captures of namespaces that no registered pod has.
func (e *Enroller) retain() error {
	e.mu.Lock()
	keep := map[uint64]bool{}
	for _, p := range e.pods {
		if p.net != nil {
			keep[p.net.Cookie()] = true
			continue
		}
		if cookie, err := podnet.CookieOf(context.Background(), e.cfg.Thread, p.reg.Netns); err == nil {
			keep[cookie] = true // still pending on the controller's word: what captures it stays
		}
	}
	e.mu.Unlock()
	return errors.Join(e.cfg.Capture.Retain(keep), e.cfg.Capture.RetireOthers())
}

// Add registers a pod and waits until it is enrolled, or known not to be in the mesh.
// Returns an error that wraps ErrUnknownPod if the controller does not tell about it in time.
func (e *Enroller) Add(ctx context.Context, reg Registration) (State, error) {
	if _, err := os.Stat(reg.Netns); err != nil {
		return "", fmt.Errorf("add pod %s: network namespace: %w", reg.fullName(), err)
	}
	ctx, cancel := context.WithTimeout(ctx, addTimeout)
	defer cancel()
	e.mu.Lock()
	p := e.pods[reg.UID]
	if p == nil || p.reg != reg {
		if p != nil {
			e.letGo(p)
		}
		p = newPod(reg)
		p.starts = true
		e.pods[reg.UID] = p
	}
	err := e.save()
	e.mu.Unlock()
	if err != nil {
		return "", err
	}
	e.wake()
	state, err := e.await(ctx, p)
	if err == nil {
		e.locked(func() { p.starts = false })
	}
	return state, err
}

func (e *Enroller) await(ctx context.Context, p *pod) (State, error) {
	alone := time.After(aloneTimeout)
	for {
		e.mu.Lock()
		state, reason, changed := p.state, p.reason, p.changed
		e.mu.Unlock()
		if state == Enrolled || state == Unmanaged {
			return state, nil
		}
		select {
		case <-changed:
		case <-alone:
			if state == Unknown && !e.cfg.Followed() && e.outside(p.reg) {
				return Unmanaged, nil
			}
		case <-ctx.Done():
			switch {
			case state != Unknown:
				return "", fmt.Errorf("add pod %s: still %s: %s", p.reg.fullName(), state, reason)
			case e.outside(p.reg):
				return Unmanaged, nil
			}
			return "", fmt.Errorf("add pod %s: %w (uid %s)", p.reg.fullName(), ErrUnknownPod, p.reg.UID)
		}
	}
}

// outside tells whether a pod of which nothing is known is in a namespace that is known not to be in the mesh. Such a pod
// runs: a controller that is away must not keep the rest of the cluster from starting pods. Should it have a label of its
// own, it is captured once the controller says so.
func (e *Enroller) outside(reg Registration) bool {
	ns, ok := e.cfg.World.Load().Mesh.Namespace(reg.Namespace)
	return ok && !ns.Enrolled
}

// Remove forgets a pod whose network namespace goes away. Its open connections end. If netns is given and the pod has
// another one by now, nothing happens: a runtime may repeat the removal of a sandbox after it made the next one.
func (e *Enroller) Remove(uid mesh.UID, netns string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.pods[uid]
	if p == nil || netns != "" && !samePlace(netns, p.reg.Netns) {
		return nil
	}
	e.letGo(p)
	delete(e.pods, uid)
	return e.save()
}

// samePlace tells whether two paths name one network namespace. /var/run is /run on every system that has both; one that
// was found by a process is not known by its name, and taken for the same.
func samePlace(a, b string) bool {
	a, b = strings.TrimPrefix(a, "/var"), strings.TrimPrefix(b, "/var")
	return a == b || strings.HasSuffix(b, "/ns/net")
}

// letGo ends everything about a pod at once. Caller holds mu.
func (e *Enroller) letGo(p *pod) {
	e.cfg.Certs.Forget(string(p.reg.UID))
	if p.net != nil {
		if err := p.net.Withdraw(); err != nil {
			e.cfg.Log.Warn("pod's capture remains", "pod", p.reg.fullName(), "err", err)
		}
		p.stop()
		p.net.Close()
		e.cfg.Proxy.EndPod(p.reg.UID) // nothing more is accepted
		p.net = nil
	}
	e.setState(p, Unknown, "")
}

func (e *Enroller) save() error {
	regs := make([]Registration, 0, len(e.pods))
	for _, p := range e.pods {
		regs = append(regs, p.reg)
	}
	slices.SortFunc(regs, func(a, b Registration) int { return strings.Compare(string(a.UID), string(b.UID)) })
	return saveRegistry(e.registryPath(), regs)
}

func (e *Enroller) wake() {
	select {
	case e.kick <- struct{}{}:
	default:
	}
}

func (e *Enroller) setState(p *pod, s State, reason string) {
	if p.state == s && p.reason == reason {
		return
	}
	if p.state != s {
		e.cfg.Log.Info("pod "+string(s), "pod", p.reg.fullName(), "reason", reason)
	}
	p.state, p.reason = s, reason
	close(p.changed)
	p.changed = make(chan struct{})
}

// closeAll closes every pod's listeners and waits for those who accepted on them.
func (e *Enroller) closeAll() {
	e.mu.Lock()
	for _, p := range e.pods {
		if p.net != nil {
			p.stop()
			p.net.Close()
		}
	}
	e.mu.Unlock()
	e.tasks.Wait()
}
