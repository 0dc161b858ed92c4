package ztunnel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/warren-mesh/warren/mesh"
)

// Hop is one place that a connection may be sent to, for people.
type Hop struct {
	Addr     netip.AddrPort
	Workload *mesh.Workload // nil for what the mesh does not know
}

// Route returns where a connection of src's to dst would be sent, the first choice first, and the service dialled.
// A reason says why there is nowhere.
func (p *Proxy) Route(src *mesh.Workload, dst netip.AddrPort) (hops []Hop, service string, reason Reason) {
	way, reason := p.find(p.cfg.World.Load().Mesh, src, dst)
	p.affinities.settle(&way, time.Now(), false)
	if svc := way.service(); svc != nil {
		service = svc.FullName()
	}
	for _, h := range way.hops {
		hops = append(hops, Hop{h.addr, h.workload})
	}
	return hops, service, reason
}

// Probe reaches for a hop as a connection of src's would, sends nothing, and says which step failed:
// connect or tls.
func (p *Proxy) Probe(ctx context.Context, src *mesh.Workload, h Hop, tunnel bool) (step string, err error) {
	pod := p.local(src.UID)
	if pod == nil {
		return "connect", errors.New("the pod is not served by this node")
	}
	if !tunnel {
		conn, err := pod.Sockets.Dial(ctx, netip.Addr{}, h.Addr)
		if err != nil {
			return "connect", err
		}
		return "connect", conn.Close()
	}
	srcID, err := idOf(src)
	if err != nil {
		return "tls", err
	}
	dstID, err := idOf(h.Workload)
	if err != nil {
		return "tls", err
	}
	conn, err := p.pool.dial(ctx, tunnelKey{pod: src.UID, src: srcID, dst: dstID, to: h.Addr.Addr()})
	if errors.Is(err, errDial) {
		return "connect", fmt.Errorf("tunnel port %d: %w", TunnelPort, err)
	}
	if err != nil {
		return "tls", err
	}
	return "tls", conn.Close()
}
