package ztunnel

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warren-mesh/warren/mesh"
)

// The direct way. Two pods of one node need nobody in between: the kernel knows who is at either end. The first connection
// of a pod to another's port is carried, as any is, and decided; then the kernel is permitted to connect the next ones by
// itself, for as long as nothing changes that this follows from. It tells of each, so that they are registered, recorded
// and ended as all others are (direct_conn.go).
//
// Such a connection is packets of the pods' own, which a NetworkPolicy or the network's plug-in may drop where ztunnel's way
// is open. So a permit is given only after a trial: ztunnel connects from the one pod to the other's port itself, and takes
// that connection on the other side before the app sees it. One that is never established takes the permit back.

// Kernel voids what it was permitted.
type Kernel interface {
	// Generation returns the one whose permits count now. A permit must follow from what was true after this was asked.
	Generation() uint64
	// Advance makes another generation count and voids all permits of earlier ones. When it returns, DirectOpens was
	// called for every connection that was made by those.
	Advance(generation uint64)
}

// Direct is the direct way out of one pod.
type Direct interface {
	// Permit has the kernel connect what the pod dials at dst to another pod while the generation counts.
	Permit(dst netip.AddrPort, to Neighbour, generation uint64) error
	Forbid(dst netip.AddrPort) error
	// Abort resets a connection of the pod's own socket, Traffic says how many bytes it has sent and received.
	Abort(local, remote netip.AddrPort) error
	Traffic(local, remote netip.AddrPort) (sent, received uint64, err error)
}

// Neighbour is a pod of this node, and the port of its that is dialled.
type Neighbour struct {
	Addr  netip.AddrPort
	Netns uint64 // cookie of its network namespace
}

const (
	// maxPermits bounds what is permitted at a time; what is not is carried.
	maxPermits = 32_768
	// trialTimeout is how long the network of one node may take to connect two pods, and trialPause how long it is not
	// tried again after it did not.
	trialTimeout = 500 * time.Millisecond
	trialPause   = time.Minute
)

// permitKey is what a pod dials.
type permitKey struct {
	pod *Pod
	dst netip.AddrPort
}

// permit is what is known of one.
type permit struct {
	given bool      // else it is being tried, or was in vain
	again time.Time // when it may be tried again
}

// directs holds what the kernel was permitted, and the connections that it made by that.
type directs struct {
	proxy *Proxy
	full  atomic.Uint64 // permits that there was no room for

	mu      sync.Mutex
	permits map[permitKey]*permit
	trials  map[trialKey]*trial
	open    map[Ends]*directConn
	fresh   []DirectConn        // of open, those that CheckDirects has not looked at
	strange map[Ends]DirectConn // one of their pods is not served, or not yet
}

func newDirects(p *Proxy) *directs {
	return &directs{proxy: p, permits: map[permitKey]*permit{}, trials: map[trialKey]*trial{}, open: map[Ends]*directConn{}, strange: map[Ends]DirectConn{}}
}

// generation is read before the world is loaded that a permit shall follow from.
func (d *directs) generation() uint64 {
	if d.proxy.cfg.Kernel == nil {
		return 0
	}
	return d.proxy.cfg.Kernel.Generation()
}

// permit lets the kernel connect what the pod dials at dst from now on, if that may be and the network lets it. It does not
// wait for that.
func (d *directs) permit(w *World, pod *Pod, dst netip.AddrPort, generation uint64) {
	if d.proxy.cfg.Kernel == nil || pod.Direct == nil {
		return
	}
	to, ok := d.plan(w, pod, dst)
	if !ok || !d.claim(permitKey{pod, dst}) {
		return
	}
	d.proxy.conns.tasks.Go(func() {
		ok := d.try(pod, dst, to)
		if ok {
			ok = pod.Direct.Permit(dst, to, generation) == nil
		}
		d.settle(permitKey{pod, dst}, ok)
	})
}

// claim tells whether the caller is the one who is to see to a permit.
func (d *directs) claim(k permitKey) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.permits[k]
	switch {
	case p == nil && len(d.permits) >= maxPermits:
		d.full.Add(1)
		return false
	case p == nil:
		d.permits[k] = &permit{again: time.Now().Add(trialPause)}
		return true
	case p.given: // its generation may have ended before its renewal
		return true
	case time.Now().Before(p.again):
		return false
	}
	p.again = time.Now().Add(trialPause)
	return true
}

// settle notes how a trial went.
func (d *directs) settle(k permitKey, given bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.permits[k]; p != nil {
		p.given = given
	}
}

// DirectPermits returns how many kinds of connections the kernel may make by itself, and how often there was no room for
// one more.
func (p *Proxy) DirectPermits() (given int, full uint64) {
	p.direct.mu.Lock()
	defer p.direct.mu.Unlock()
	for _, permit := range p.direct.permits {
		if permit.given {
			given++
		}
	}
	return given, p.direct.full.Load()
}

// plan returns which pod of this node the kernel may connect a pod to that dials dst, if there is one. Where there is a
// choice the connection is carried: to the less loaded endpoint, to another if one does not answer, to the one that the
// client had before.
func (d *directs) plan(w *World, pod *Pod, dst netip.AddrPort) (to Neighbour, ok bool) {
	p := d.proxy
	self := w.Mesh.Workload(pod.UID)
	if self == nil || self.Gateway != "" || p.cfg.EncryptSameNode {
		return Neighbour{}, false
	}
	id, err := idOf(self)
	h, only := d.endpoint(w.Mesh, self, dst)
	next := d.neighbour(h)
	if err != nil || !only || next == nil {
		return Neighbour{}, false
	}
	src := pod.Sockets.Source(netip.AddrPortFrom(loopbackOf(dst.Addr()), 0)).Addr()
	a := arrival{client: netip.AddrPortFrom(src, 0), src: id, app: h.addr, security: SameNode}
	return Neighbour{Addr: h.addr, Netns: next.Netns}, decide(w, next.UID, a).Allowed
}

// endpoint returns the one endpoint that connections to dst can go to, if it is the only one.
func (d *directs) endpoint(m *mesh.Snapshot, self *mesh.Workload, dst netip.AddrPort) (h hop, only bool) {
	front, ok := m.FrontendAt(dst)
	if !ok {
		return hop{addr: dst, workload: m.WorkloadAt(dst.Addr())}, true
	}
	svc := front.Service
	if _, split := svc.Splits[front.Port]; split || svc.Waypoint != "" || !svc.HasPort(front.Port) {
		return hop{}, false
	}
	r := d.proxy.reachOf(d.proxy.searchFor(m, front, self, dst))
	if len(r.hops) != 1 {
		return hop{}, false
	}
	return r.hops[0], true
}

// neighbour returns the pod that a hop leads to if the kernel can connect to it: a pod of this node behind no waypoint.
func (d *directs) neighbour(h hop) *Pod {
	w := h.workload
	if w == nil || !w.Tunnelled() || w.Node != d.proxy.cfg.Node || w.Waypoint != "" || w.Gateway != "" || len(w.Through) > 0 ||
		h.addr.Port() == TunnelPort {
		return nil
	}
	pod := d.proxy.local(w.UID)
	if pod == nil || pod.Direct == nil {
		return nil
	}
	return pod
}

// renew has the kernel permit what the world in force allows, of what it was permitted, and nothing else. When it returns,
// every connection that was made by an earlier permit is registered.
func (d *directs) renew(w *World) {
	kernel := d.proxy.cfg.Kernel
	if kernel == nil {
		return
	}
	next := kernel.Generation() + 1
	d.mu.Lock()
	keys := make([]permitKey, 0, len(d.permits))
	for k, p := range d.permits {
		if p.given {
			keys = append(keys, k)
		}
	}
	d.mu.Unlock()
	for _, k := range keys {
		to, ok := d.plan(w, k.pod, k.dst)
		if !ok || k.pod.Direct.Permit(k.dst, to, next) != nil {
			d.forbid(k)
		}
	}
	kernel.Advance(next)
}

func (d *directs) forbid(k permitKey) {
	d.mu.Lock()
	delete(d.permits, k)
	d.mu.Unlock()
	_ = k.pod.Direct.Forbid(k.dst) // void in any case, by its generation
}

// forget drops what a pod was permitted that is served no more. Its place in the kernel is gone, or will be.
func (d *directs) forget(pod *Pod) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for k := range d.permits {
		if k.pod == pod {
			delete(d.permits, k)
		}
	}
}

func loopbackOf(a netip.Addr) netip.Addr {
	if a.Unmap().Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}
