package admin

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/internal/meshview"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/policy"
)

// notInMesh is the reason of a decision that nobody takes.
const notInMesh = "not_in_mesh"

// Authz implements adminv1.AdminServer: what the destination would decide, by the newest compiled state.
// Returns InvalidArgument if a name cannot be resolved.
func (s *Server) Authz(_ context.Context, req *adminv1.AuthzRequest) (*adminv1.AuthzReply, error) {
	c := s.cfg.Compiled()
	if req.GetPort() > 65535 {
		return nil, status.Errorf(codes.InvalidArgument, "port %d", req.GetPort())
	}
	source, id, err := whoFrom(c.Decoded.Mesh, req)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "from: %v", err)
	}
	t, err := resolve(c.Decoded.Mesh, source, req.GetTo(), uint16(req.GetPort()))
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "to: %v", err)
	}
	request, err := meshview.Request(req)
	if err != nil {
		return nil, err
	}
	return decide(c.Decoded.Policies, asker{source, id, request}, t), nil
}

// asker is who asks for what.
type asker struct {
	workload *mesh.Workload // nil if it is none's
	id       identity.ID
	request  *policy.Request // nil: a connection
}

// whoFrom returns the workload and the identity that a connection would come with. A pod outside the mesh has none.
func whoFrom(s *mesh.Snapshot, req *adminv1.AuthzRequest) (*mesh.Workload, identity.ID, error) {
	from := req.GetFrom()
	if strings.HasPrefix(from, "spiffe://") {
		id, err := identity.Parse(from)
		if req.GetPlaintext() {
			id = identity.ID{}
		}
		return nil, id, err
	}
	if from == "" {
		return nil, identity.ID{}, nil
	}
	w := s.WorkloadNamed(from)
	if a, err := netip.ParseAddr(from); err == nil {
		w = s.WorkloadAt(a)
	}
	if w == nil {
		return nil, identity.ID{}, fmt.Errorf("%q is no pod of the mesh: write namespace/pod or a SPIFFE id", from)
	}
	if req.GetPlaintext() {
		return w, identity.ID{}, nil
	}
	return w, meshview.ID(w), nil
}

// decide decides a connection or a request that has been resolved.
func decide(set *policy.Set, from asker, t target) *adminv1.AuthzReply {
	out := &adminv1.AuthzReply{FromId: from.id.String()}
	if t.workload == nil || !t.workload.Enrolled {
		out.Allowed, out.Reason = true, notInMesh
		return out
	}
	out.ToId = meshview.ID(t.workload).String()
	conn := policy.Conn{Src: from.id, Dst: t.addr}
	if from.workload != nil {
		conn.SrcAddr = sameFamily(from.workload.Addrs, t.addr.Addr())
	}
	targets := []policy.Target{meshview.TargetOf(t.workload, t.addr.Port())}
	through := t.waypoint()
	switch {
	case through != "" && from.request != nil:
		targets = append([]policy.Target{{Targets: t.attached(through)}}, targets...)
	case through != "":
		out.Considered = []string{"waypoint " + through + " decides about each request: ask about one by its method and path"}
	case from.request != nil:
		from.request = nil
		out.Considered = []string{t.workload.FullName() + " is reached without a waypoint, so nobody reads the request"}
	}
	d, asks := meshview.Decide(set, targets, conn, from.request)
	out.Allowed, out.Rule, out.Reason, out.Audit, out.Asks = d.Allowed, d.Rule, string(d.Reason), d.Audit, asks
	for _, dst := range targets {
		out.Considered = append(out.Considered, set.ExplainRequest(dst, conn, from.request)...)
	}
	return out
}

// waypoint is the one that a connection goes through, "" if it goes through none.
func (t target) waypoint() string {
	if t.service != nil && t.service.Waypoint != "" {
		return t.service.Waypoint
	}
	return t.workload.Waypoint
}

// attached are what policies may be attached to on the way through a waypoint.
func (t target) attached(waypoint string) []string {
	var out []string
	if t.service != nil && t.service.Waypoint != "" {
		out = append(out, "Service "+t.service.FullName())
	}
	return append(out, "Gateway "+waypoint)
}

// sameFamily returns the address that a connection to dst would come from, invalid if there is none.
func sameFamily(addrs []netip.Addr, dst netip.Addr) netip.Addr {
	for _, a := range addrs {
		if a.Is4() == dst.Is4() {
			return a
		}
	}
	return netip.Addr{}
}
