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
	return decide(c.Decoded.Policies, source, id, t), nil
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

// decide decides a connection that has been resolved.
func decide(set *policy.Set, source *mesh.Workload, id identity.ID, t target) *adminv1.AuthzReply {
	out := &adminv1.AuthzReply{FromId: id.String()}
	if t.workload == nil || !t.workload.Enrolled {
		out.Allowed, out.Reason = true, notInMesh
		return out
	}
	out.ToId = meshview.ID(t.workload).String()
	conn := policy.Conn{Src: id, Dst: t.addr}
	if source != nil {
		conn.SrcAddr = sameFamily(source.Addrs, t.addr.Addr())
	}
	dst := meshview.TargetOf(t.workload, t.addr.Port())
	d := set.Decide(dst, conn)
	out.Allowed, out.Rule, out.Reason, out.Audit = d.Allowed, d.Rule, string(d.Reason), d.Audit
	out.Considered = set.Explain(dst, conn)
	return out
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
