package meshview

import (
	"fmt"
	"net/netip"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/policy"
)

// Authz says what would be decided about a connection, and why. Nothing is dialled.
// Its errors are gRPC statuses: InvalidArgument or NotFound, naming the field.
func Authz(m *mesh.Snapshot, set *policy.Set, q *adminv1.AuthzRequest) (*adminv1.AuthzReply, error) {
	if q.Port == 0 || q.Port > 65535 {
		return nil, status.Errorf(codes.InvalidArgument, "port: %d is not a TCP port", q.Port)
	}
	switch r, err := Request(q); {
	case err != nil:
		return nil, err
	case r != nil:
		return nil, status.Error(codes.InvalidArgument, "method: a node's agent reads no requests: ask the controller")
	}
	to := m.WorkloadNamed(q.To)
	if to == nil {
		return nil, status.Errorf(codes.NotFound, "to: no workload is called %q (agentctl workloads lists them)", q.To)
	}
	conn, err := connOf(m, q)
	if err != nil {
		return nil, err
	}
	if len(to.Addrs) > 0 {
		conn.Dst = netip.AddrPortFrom(to.Addrs[0], uint16(q.Port))
	} else {
		conn.Dst = netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(q.Port))
	}
	reply := &adminv1.AuthzReply{FromId: conn.Src.String(), ToId: ID(to).String()}
	if !to.Enrolled {
		reply.Allowed, reply.Reason = true, "not_in_mesh"
		reply.Considered = []string{fmt.Sprintf("%s is not in the mesh: nothing is enforced there", q.To)}
		return reply, nil
	}
	target := TargetOf(to, uint16(q.Port))
	d := set.Decide(target, conn)
	reply.Allowed, reply.Rule, reply.Reason, reply.Audit = d.Allowed, d.Rule, string(d.Reason), d.Audit
	reply.Considered = set.Explain(target, conn)
	return reply, nil
}

// TargetOf is what a workload says about connections to one of its ports.
func TargetOf(w *mesh.Workload, port uint16) policy.Target {
	return policy.Target{
		Policies: w.Policies, Strict: w.MTLS.ModeOf(port) == mesh.Strict, StrictSource: w.MTLS.Source,
	}
}

func connOf(m *mesh.Snapshot, q *adminv1.AuthzRequest) (policy.Conn, error) {
	if strings.HasPrefix(q.From, "spiffe://") {
		id, err := identity.Parse(q.From)
		if err != nil {
			return policy.Conn{}, status.Errorf(codes.InvalidArgument, "from: %v", err)
		}
		return policy.Conn{Src: id}, nil
	}
	if a, err := netip.ParseAddr(q.From); err == nil {
		return policy.Conn{SrcAddr: a.Unmap()}, nil
	}
	from := m.WorkloadNamed(q.From)
	if from == nil {
		return policy.Conn{}, status.Errorf(codes.NotFound, "from: no workload is called %q (agentctl workloads lists them)", q.From)
	}
	var c policy.Conn
	if !q.Plaintext {
		c.Src = ID(from)
	}
	if len(from.Addrs) > 0 {
		c.SrcAddr = from.Addrs[0]
	}
	return c, nil
}
