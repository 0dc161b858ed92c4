package upstream

import (
	"fmt"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/route"
	"github.com/warren-mesh/warren/waypoint/exchange"
)

// Endpoint is one place that requests may go to. Addr tells endpoints of one world apart.
type Endpoint struct {
	Addr     netip.AddrPort
	Workload *mesh.Workload // nil for what is no workload
}

// Ask is what an endpoint is wanted for.
type Ask struct {
	// Service and Port are the backend's. Both are looked up in the current world.
	Service *mesh.Service
	Port    uint16
	// Target and TargetPort are asked for if Service is nil: a workload by its own address.
	Target     *mesh.Workload
	TargetPort uint16
	// V4 is the family that the client dialled. Endpoints that have no address of it are for when no other does.
	V4      bool
	Request *http.Request
	Conn    *exchange.Conn
	HTTP2   bool
	Session *route.Session
	// Tried are the endpoints that failed this request. They come last, and the request counts as a retry.
	Tried   []netip.AddrPort
	Traffic route.Traffic
	// Patient is set if no other endpoint will be tried: RoundTrip waits a while where the error would be ErrAway.
	Patient bool
}

// Pick is one request's place at an endpoint. It ends with RoundTrip's answer, its error, or Release.
type Pick struct {
	Endpoint Endpoint

	u       *Upstreams
	entry   *entry
	group   *group
	outlier *route.Outlier
	limits  route.ConnectionLimits
	conn    *exchange.Conn
	http2   bool
	patient bool
	resumed stamp // of the session that the request came with, if it was kept
	started time.Time
	over    atomic.Bool
}

// Pick chooses an endpoint and counts the request as open there. Returns an error that wraps ErrNoEndpoint or
// ErrOverloaded.
func (u *Upstreams) Pick(a Ask) (*Pick, error) {
	g, v, err := u.find(&a)
	if err != nil {
		return nil, err
	}
	if err = g.service.admit(&a); err != nil {
		u.metrics.overloaded.WithLabelValues("requests").Inc()
		return nil, err
	}
	now := u.now()
	p := &Pick{u: u, group: g, outlier: a.Traffic.Outlier, conn: a.Conn, http2: a.HTTP2, patient: a.Patient, started: now}
	if a.Traffic.Connections != nil {
		p.limits = *a.Traffic.Connections
	}
	c := chooser{u: u, g: g, v: v, ask: &a, now: now}
	p.entry, p.resumed = c.choose()
	if p.entry == nil {
		g.service.open.Add(-1)
		return nil, fmt.Errorf("%s: %s: %w", g.key, c.missing(), ErrNoEndpoint)
	}
	p.Endpoint = Endpoint{Addr: p.entry.peer.key.addr, Workload: p.entry.workload}
	p.entry.peer.open.Add(1)
	g.service.count(&a, now)
	return p, nil
}

// Release gives the place back. It is for picks whose RoundTrip is not called, and does nothing after it was.
func (p *Pick) Release() {
	if p.over.CompareAndSwap(false, true) {
		p.entry.peer.open.Add(-1)
		p.group.service.open.Add(-1)
	}
}
