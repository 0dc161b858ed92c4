package ztunnel

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/warren-mesh/warren/mesh"
)

// toWaypoint returns the route to a waypoint, which takes the connection on from there: hops are its pods, and what is
// asked of them is what the client dialled. There is no other way: without a waypoint that is ready the connection is
// refused, as what the waypoint decides nobody would decide.
func (p *Proxy) toWaypoint(m *mesh.Snapshot, way route, client *mesh.Workload, name string, dst netip.AddrPort) (route, Reason) {
	way.waypoint = name
	svc := m.ServiceNamed(name)
	if svc == nil {
		return way, ReasonNoWaypoint
	}
	way.front = mesh.Frontend{Service: svc, Port: TunnelPort}
	asked := search{m: m, front: way.front, v4: dst.Addr().Is4(), node: p.cfg.Node, zone: client.Zone, waypoint: true}
	way.reach = p.reachOf(asked)
	if way.reach.missing == ReasonNoFamily { // a tunnel carries either family
		asked.v4 = !asked.v4
		way.reach = p.reachOf(asked)
	}
	if way.reach.missing != "" {
		return way, ReasonNoWaypoint
	}
	way.hops, way.asked = p.order(way.reach), dst
	for i := range way.hops {
		way.hops[i].asked = dst
	}
	return way, ""
}

// tryBy reaches an endpoint by its waypoint, if it has one and the service that was dialled has none: the endpoint
// takes connections from there only.
func (p *Proxy) tryBy(ctx context.Context, k *conn, client *net.TCPConn, m *mesh.Snapshot, h hop) (*link, *failure) {
	if h.asked.IsValid() || h.workload == nil || h.workload.Waypoint == "" || h.workload.Gateway != "" {
		return p.try(ctx, k, client, h)
	}
	way, missing := p.toWaypoint(m, route{}, k.record.Src.Workload, h.workload.Waypoint, h.addr)
	if missing != "" {
		return nil, fail(missing, p.explain(m, &way, missing, h.addr))
	}
	k.set(func(r *Record) { r.Waypoint = way.waypoint })
	var l *link
	var f *failure
	for _, h := range way.hops {
		if l, f = p.try(ctx, k, client, h); f == nil || !f.retry {
			break
		}
	}
	return l, f
}

// explainWaypoint says in words why no waypoint takes a connection.
func (r *route) explainWaypoint(m *mesh.Snapshot) error {
	if m.ServiceNamed(r.waypoint) == nil {
		return fmt.Errorf("waypoint %s is not there, and nothing may pass it by: apply its Gateway, or remove the label "+
			"warren.dev/use-waypoint", r.waypoint)
	}
	return fmt.Errorf("waypoint %s has no pod that is ready, and nothing may pass it by", r.waypoint)
}
