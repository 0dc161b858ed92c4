// Package admin answers warren.admin.v1.Admin for one pod of a waypoint, through the relay stream that the pod keeps open
// to the controller. Nothing listens.
package admin

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/agent/feed"
	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/internal/flowlog"
	"github.com/warren-mesh/warren/internal/meshview"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/waypoint/exchange"
	"github.com/warren-mesh/warren/waypoint/telemetry"
)

// Config is what the server shows. All fields are required.
type Config struct {
	// Gateway is "<namespace>/<name>" of the Gateway, Pod the pod's.
	Gateway, Pod, Node, Version string
	Started                     time.Time
	ID                          identity.ID
	Bundle                      identity.GetBundle
	Certs                       *identity.Manager
	// Feed tells how far the waypoint follows the controller; feed.Client's Status does.
	Feed      func() feed.Status
	World     *mesh.Store[exchange.World]
	Telemetry *telemetry.Telemetry
	// Open returns a record of every connection that is open, begun and not ended.
	Open func() []*exchange.Record
}

// Server implements adminv1.AdminServer. What only a node can tell is Unimplemented.
type Server struct {
	adminv1.UnimplementedAdminServer
	cfg Config
}

// New returns a server that shows cfg.
func New(cfg Config) *Server { return &Server{cfg: cfg} }

// Status implements Admin: the pod's own.
func (s *Server) Status(context.Context, *adminv1.StatusRequest) (*adminv1.StatusReply, error) {
	namespace, gateway, _ := strings.Cut(s.cfg.Gateway, "/")
	_, pod, _ := strings.Cut(s.cfg.Pod, "/")
	f := s.cfg.Feed()
	open, ended, rate := s.cfg.Telemetry.Requests()
	w := &adminv1.WaypointStatus{
		Namespace: namespace, Gateway: gateway, Pod: pod, Node: s.cfg.Node, Version: s.cfg.Version, StartedUnix: s.cfg.Started.Unix(),
		Connected: true, ControllerConnected: f.Connected, EnforcedVersion: f.Enforced, LatestVersion: f.Latest, Epoch: f.Epoch,
		LastNack: f.LastNack, EnforcedUnix: unixOf(f.EnforcedAt), SpiffeId: s.cfg.ID.String(),
		OpenConnections: uint32(len(s.cfg.Open())), OpenRequests: uint32(open), Requests: ended, RequestsPerSecond: rate,
	}
	cert := s.cert()
	w.SvidNotAfterUnix = unixOf(cert.NotAfter)
	w.Problems = append(s.certProblems(cert), s.feedProblems(f)...)
	return &adminv1.StatusReply{Waypoints: []*adminv1.WaypointStatus{w}, Problems: w.Problems}, nil
}

func (s *Server) cert() identity.Status {
	for _, c := range s.cfg.Certs.Snapshot() {
		if c.ID == s.cfg.ID.String() {
			return c
		}
	}
	return identity.Status{State: "missing", Err: "nobody asked for it yet"}
}

func (s *Server) problem(severity adminv1.Problem_Severity, text, hint string) *adminv1.Problem {
	return &adminv1.Problem{Severity: severity, Node: s.cfg.Node, Subject: "waypoint pod " + s.cfg.Pod, Text: text, Hint: hint}
}

func (s *Server) certProblems(c identity.Status) []*adminv1.Problem {
	const hint = "see the waypoint's log, and whether the controller runs"
	switch {
	case c.State == "expired":
		return []*adminv1.Problem{s.problem(adminv1.Problem_ERROR,
			fmt.Sprintf("its SVID expired %s ago and could not be renewed: %s", time.Since(c.NotAfter).Round(time.Second), c.Err), hint)}
	case c.State == "missing":
		return []*adminv1.Problem{s.problem(adminv1.Problem_ERROR, "it has no SVID: "+c.Err, hint)}
	case c.Err != "":
		return []*adminv1.Problem{s.problem(adminv1.Problem_WARNING,
			fmt.Sprintf("its SVID could not be renewed, and is good for another %s: %s", time.Until(c.NotAfter).Round(time.Second), c.Err), hint)}
	}
	return nil
}

func (s *Server) feedProblems(f feed.Status) (out []*adminv1.Problem) {
	const lastGood = "the last good configuration stays in force; "
	if !f.Connected {
		out = append(out, s.problem(adminv1.Problem_WARNING, "it does not follow the controller: "+f.LastError,
			lastGood+"check that the controller runs and can be reached"))
	}
	if f.LastNack != "" {
		out = append(out, s.problem(adminv1.Problem_ERROR, "it refused an update: "+f.LastNack, lastGood+"see the controller's log"))
	}
	return out
}

// Flows implements Admin: requests that ended, connections that are open, and with follow what comes.
func (s *Server) Flows(q *adminv1.FlowsRequest, out grpc.ServerStreamingServer[adminv1.Flow]) error {
	return s.cfg.Telemetry.Flows().Serve(q, s.open, out)
}

// open are the flows of open connections.
func (s *Server) open() (out []*adminv1.Flow) {
	for _, r := range s.cfg.Open() {
		out = append(out, s.cfg.Telemetry.OpenFlow(r))
	}
	return out
}

// Connections implements Admin.
func (s *Server) Connections(_ context.Context, q *adminv1.ListRequest) (*adminv1.ConnectionsReply, error) {
	out := &adminv1.ConnectionsReply{}
	for _, f := range s.open() {
		if flowlog.Match(&adminv1.FlowsRequest{Namespace: q.GetNamespace()}, f) {
			out.Connections = append(out.Connections, f)
		}
	}
	return out, nil
}

// Workloads implements Admin.
func (s *Server) Workloads(_ context.Context, q *adminv1.ListRequest) (*adminv1.WorkloadsReply, error) {
	return meshview.Workloads(s.cfg.World.Load().Mesh, q.GetNamespace()), nil
}

// Services implements Admin.
func (s *Server) Services(_ context.Context, q *adminv1.ListRequest) (*adminv1.ServicesReply, error) {
	return meshview.Services(s.cfg.World.Load().Mesh, q.GetNamespace()), nil
}

// Policies implements Admin.
func (s *Server) Policies(_ context.Context, q *adminv1.ListRequest) (*adminv1.PoliciesReply, error) {
	w := s.cfg.World.Load()
	return meshview.Policies(w.Mesh, w.Policies, q.GetNamespace()), nil
}

// Certs implements Admin.
func (s *Server) Certs(context.Context, *adminv1.ListRequest) (*adminv1.CertsReply, error) {
	out := &adminv1.CertsReply{}
	bundle, now := s.cfg.Bundle(), time.Now()
	for _, c := range s.cfg.Certs.Snapshot() {
		out.Certs = append(out.Certs, &adminv1.CertInfo{
			Node: s.cfg.Node, SpiffeId: c.ID, Serial: c.Serial, State: c.State, Error: c.Err, Root: c.Root(bundle, now), RenewAtUnix: unixOf(c.RenewAt),
			NotBeforeUnix: unixOf(c.NotBefore), NotAfterUnix: unixOf(c.NotAfter), Workloads: []string{s.cfg.Pod},
		})
	}
	for _, td := range bundle.TrustDomains() {
		info := &adminv1.BundleInfo{Node: s.cfg.Node, TrustDomain: td}
		for _, root := range bundle.Roots(td) {
			info.Fingerprints = append(info.Fingerprints, identity.Fingerprint(root))
			info.NotAfterUnix = append(info.NotAfterUnix, root.NotAfter.Unix())
		}
		out.Bundles = append(out.Bundles, info)
	}
	return out, nil
}

// Renew implements Admin.
func (s *Server) Renew(_ context.Context, q *adminv1.RenewRequest) (*adminv1.RenewReply, error) {
	if q.GetRoot() == "" {
		return nil, status.Error(codes.InvalidArgument, "root: it must be the SHA-256 of a root")
	}
	return &adminv1.RenewReply{Due: uint32(s.cfg.Certs.RenewUnless(q.GetRoot()))}, nil
}

// unixOf is a time in Unix seconds, 0 for none.
func unixOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}
