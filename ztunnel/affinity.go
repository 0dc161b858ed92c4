package ztunnel

import (
	"container/list"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/warren-mesh/warren/mesh"
)

// maxAffinities bounds what a node remembers of who stays with which endpoint: a few hundred pods times as many
// services as each of them may talk to. One entry takes about 300 bytes.
const maxAffinities = 16_384

// affinities remembers which endpoint a client had of a service that wants clients to stay (sessionAffinity ClientIP).
// Each node remembers for its own pods, as kube-proxy does. Time runs from a client's last connection.
type affinities struct {
	max int

	mu        sync.Mutex
	byKey     map[affinityKey]*list.Element // of recent
	recent    list.List                     // of *affinity, the longest unused first
	displaced uint64
}

// affinityKey names a client and what it stays at. A pod has one address a family, and a service's port is answered by
// the same endpoints whichever of its addresses was dialled. The pod and not its address is the key: the next pod with
// that address is another client.
type affinityKey struct {
	client             mesh.UID
	namespace, service string
	port               uint16
	v4                 bool
}

type affinity struct {
	key      affinityKey
	endpoint netip.AddrPort
	until    time.Time
}

func newAffinities(most int) *affinities {
	return &affinities{max: most, byKey: map[affinityKey]*list.Element{}}
}

// settle says which of a route's hops are tried: the endpoint that the client had, if it is one that may be used still,
// before the others. A distribution is a preference and this is a promise, so a nearer one does not take its place. The
// choice is remembered if `keep`, in the same step: connections that begin together stay together.
func (a *affinities) settle(way *route, now time.Time, keep bool) {
	svc := way.service()
	if svc != nil && svc.Affinity > 0 && len(way.hops) > 0 {
		a.mu.Lock()
		key := way.affinityKey()
		if e := a.byKey[key]; e != nil && now.Before(e.Value.(*affinity).until) {
			way.prefer(e.Value.(*affinity).endpoint)
		}
		if keep {
			a.put(key, way.hops[0].addr, now.Add(svc.Affinity), now)
		}
		a.mu.Unlock()
	}
}

// move says that the client goes to another endpoint, as the one that it had did not answer.
func (a *affinities) move(way *route, to netip.AddrPort, now time.Time) {
	svc := way.service()
	if svc == nil || svc.Affinity == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.put(way.affinityKey(), to, now.Add(svc.Affinity), now)
}

func (r *route) affinityKey() affinityKey {
	svc := r.service()
	return affinityKey{r.client, svc.Namespace, svc.Name, r.front.Port, r.hops[0].addr.Addr().Is4()}
}

// prefer puts an endpoint before all others, if it is one that may be used: in the place that it has, or the last one's.
func (r *route) prefer(addr netip.AddrPort) {
	h, ok := r.reach.at(addr)
	if !ok {
		return
	}
	h.asked = r.asked
	i := slices.IndexFunc(r.hops, func(o hop) bool { return o.addr == addr })
	if i < 0 {
		i = len(r.hops) - 1
	}
	copy(r.hops[1:i+1], r.hops[:i])
	r.hops[0] = h
}

// put remembers an endpoint. Caller holds mu.
func (a *affinities) put(key affinityKey, endpoint netip.AddrPort, until, now time.Time) {
	if e := a.byKey[key]; e != nil {
		one := e.Value.(*affinity)
		one.endpoint, one.until = endpoint, until
		a.recent.MoveToBack(e)
		return
	}
	for oldest := a.recent.Front(); oldest != nil; oldest = a.recent.Front() {
		one := oldest.Value.(*affinity)
		alive := now.Before(one.until)
		if alive && len(a.byKey) < a.max {
			break
		}
		if alive {
			a.displaced++
		}
		a.recent.Remove(oldest)
		delete(a.byKey, one.key)
	}
	a.byKey[key] = a.recent.PushBack(&affinity{key, endpoint, until})
}

// Affinities returns how many clients are remembered to stay with an endpoint, and how many were forgotten before
// their time because there were too many.
func (p *Proxy) Affinities() (kept int, displaced uint64) {
	a := p.affinities
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.byKey), a.displaced
}
