package upstream

import (
	"net/netip"
	"sync/atomic"

	"github.com/warren-mesh/warren/mesh"
)

// peerKey names an endpoint for as long as its workload has its address.
type peerKey struct {
	addr netip.AddrPort
	uid  mesh.UID // empty for what is no workload
}

// peer is an endpoint, whichever services it belongs to: its connections, and what was measured of it.
type peer struct {
	key     peerKey
	host    string       // its address, as a request's URL has it
	open    atomic.Int64 // requests
	latency latency
	http1   *pool
	http2   *pool
	holders int // groups that have it as a member; under Upstreams.mu
}

func (p *peer) pool(http2 bool) *pool {
	if http2 {
		return p.http2
	}
	return p.http1
}

// peer returns an endpoint for one more group.
func (u *Upstreams) peer(key peerKey) *peer {
	u.mu.Lock()
	defer u.mu.Unlock()
	p := u.peers[key]
	if p == nil {
		p = &peer{key: key, host: key.addr.String(), http1: newPool(u.http1, u.metrics, &u.wires), http2: newPool(u.http2, u.metrics, &u.wires)}
		u.peers[key] = p
	}
	p.holders++
	return p
}

// drop says that a group has an endpoint no more. Without any, its connections end with the requests that they have.
func (u *Upstreams) drop(p *peer) {
	u.mu.Lock()
	p.holders--
	last := p.holders == 0
	if last && u.peers[p.key] == p {
		delete(u.peers, p.key)
	}
	u.mu.Unlock()
	if last {
		p.retire()
	}
}

// retire ends its connections with the requests that they have.
func (p *peer) retire() {
	p.http1.retire()
	p.http2.retire()
}
