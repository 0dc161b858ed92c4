// Package exchange is what a waypoint knows about one request and its answer, from who asked to how it ended: the words
// that routing, policy, forwarding and telemetry share. It decides and forwards nothing.
package exchange

import (
	"context"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/route"
)

// World is what a waypoint decides by, swapped whole.
type World struct {
	Mesh           *mesh.Snapshot
	Policies       *policy.Set
	Routes         *route.Table
	Traffic        *route.TrafficSet
	Authentication *policy.AuthenticationSet
	// Behind are the targets of connections to a workload that is an endpoint of this waypoint's services, by its UID: what
	// is said of the services holds for who dials the workload itself, too. BehindOf makes it.
	Behind map[mesh.UID][]string
}

// BehindOf returns the Behind of a gateway's waypoint. It is that of the world before if no service has changed since.
func BehindOf(gateway string, m *mesh.Snapshot, before *World) map[mesh.UID][]string {
	if before != nil && m.SameServices(before.Mesh) {
		return before.Behind
	}
	out := map[mesh.UID][]string{}
	for _, svc := range m.Services() {
		if svc.Waypoint != gateway {
			continue
		}
		for i := range svc.Endpoints {
			uid := svc.Endpoints[i].Workload
			if uid == "" {
				continue
			}
			if out[uid] == nil {
				out[uid] = []string{"Gateway " + gateway}
			}
			if target := "Service " + svc.FullName(); !slices.Contains(out[uid], target) { // a pod may be there with each family
				out[uid] = append(out[uid], target)
			}
		}
	}
	return out
}

// Targets are what policies may target to be held against connections by c through a gateway: the gateway, the service
// that was dialled, or those that the workload is behind that was dialled. Every request asks, so the list is the
// connection's or the world's: callers must not change it.
func (w *World) Targets(gateway string, c *Conn) []string {
	if c.Service == nil && c.Target != nil {
		if of := w.Behind[c.Target.UID]; of != nil {
			return of
		}
	}
	if of := c.targets.Load(); of != nil {
		return *of
	}
	of := []string{"Gateway " + gateway}
	if c.Service != nil {
		of = append(of, "Service "+c.Service.FullName())
	}
	c.targets.Store(&of)
	return of
}

// Conn is one connection that a client made, as the tunnel that carried it tells.
type Conn struct {
	// Client was proved by a certificate; ClientAddr is its address, by which its workload was found (nil if unknown).
	Client     identity.ID
	ClientAddr netip.AddrPort
	Workload   *mesh.Workload
	// ClientCert is the DER of the certificate that proved it.
	ClientCert []byte
	// Dialled is what it wanted: a service's address, or a workload's.
	Dialled netip.AddrPort
	// Service and Port are the service's that was dialled; nil if a workload was.
	Service *mesh.Service
	Port    mesh.Port
	// Target is the workload that was dialled by its own address, nil if a service was.
	Target *mesh.Workload
	// TraceID is the connection's, which the client's ztunnel gave it: 32 hex digits.
	TraceID string

	requests atomic.Uint32
	targets  atomic.Pointer[[]string] // as far as no world changes them
}

// Begin counts a request that begins on the connection, and returns its number, from 1.
func (c *Conn) Begin() uint32 { return c.requests.Add(1) }

// Outcome is what became of a request. The set is closed, so that it can be a metric's label.
type Outcome string

const (
	Answered    Outcome = "answered"     // by a backend
	Redirected  Outcome = "redirected"   // by a route
	Preflight   Outcome = "preflight"    // a CORS question, answered by a route
	Denied      Outcome = "denied"       // by policy
	Limited     Outcome = "rate_limited" // by a rate limit
	Injected    Outcome = "fault"        // by a fault
	NoRoute     Outcome = "no_route"     // routes are attached, and none matched
	Broken      Outcome = "broken_route" // the route refers to what is not there
	NoEndpoint  Outcome = "no_endpoint"  // the backend has no endpoint that may be used
	Overloaded  Outcome = "overloaded"   // a limit of the backend's, or of the waypoint's own
	TimedOut    Outcome = "timeout"      // the route's
	Unreachable Outcome = "unreachable"  // no try got an answer
	Malformed   Outcome = "bad_request"  // not taken for a request, or one that could be read in two ways
	Gone        Outcome = "client_gone"  // the client went away first
	BackendGone Outcome = "backend_gone" // the backend went away in the middle of its answer
	Refused     Outcome = "refused"      // authentication: a token that is not valid
)

// Try is one attempt to have a request answered by an endpoint.
type Try struct {
	Endpoint *mesh.Workload // nil for what is no workload
	Addr     netip.AddrPort
	Start    time.Time
	Took     time.Duration // until the answer's header, or the failure
	Status   int           // 0 if there was no answer
	Err      string
	// SpanID is what the endpoint was told to be its parent: telemetry's Inject returns it. Empty if it was told nothing.
	SpanID string
}

// Record is all there is to say about one request. It is the source of its log line, metrics, flow and span.
type Record struct {
	// ID is the connection's trace id; TraceID and SpanID the request's own, ParentID that of whoever asked.
	ID, TraceID, SpanID, ParentID string
	Sampled                       bool
	Conn                          *Conn

	Protocol  string // HTTP/1.1, HTTP/2, gRPC, websocket
	Method    string
	Host      string
	Path      string // without query
	UserAgent string

	Route   *route.Route // nil if none was attached
	Rule    string       // the route's rule: its name or its number from 0
	Backend string       // "<namespace>/<name>" of the backend's service
	Tries   []Try

	Outcome Outcome
	Status  int
	// GRPCStatus is the trailer's, -1 for what is no gRPC.
	GRPCStatus int
	Policy     string // the policy's rule that decided
	Audit      string
	Detail     string

	Start     time.Time
	Header    time.Duration // until the answer's header went to the client
	Took      time.Duration // until all was over
	BytesIn   uint64        // of the request's body
	BytesOut  uint64        // of the answer's
	Authorize time.Duration
}

type connKey struct{}

// WithConn returns a context that carries a connection to whoever serves its requests.
func WithConn(ctx context.Context, c *Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// ConnOf returns the connection that a request came by, nil if its context has none.
func ConnOf(ctx context.Context) *Conn {
	c, _ := ctx.Value(connKey{}).(*Conn)
	return c
}
