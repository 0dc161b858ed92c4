package observe

import (
	"net/netip"
	"strings"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/ztunnel"
)

// FlowOf is a record in the form that leaves the process.
func FlowOf(node string, r ztunnel.Record) *adminv1.Flow {
	f := &adminv1.Flow{
		Id: r.ID, Node: node, Reporter: string(r.Reporter), Protocol: "tcp",
		Src: party(r.Src), Dst: party(r.Dst),
		Verdict: string(r.Verdict), Reason: string(r.Reason), Rule: r.Rule, Detail: r.Detail, Audit: r.Audit,
		Security: string(r.Security), BytesIn: r.In, BytesOut: r.Out,
		StartUnixNano: r.Start.UnixNano(),
		Phases: &adminv1.Phases{
			Capture: int64(r.Phases.Capture), Route: int64(r.Phases.Route), Connect: int64(r.Phases.Connect),
			Tls: int64(r.Phases.TLS), Authorize: int64(r.Phases.Authorize), App: int64(r.Phases.App),
		},
	}
	f.Dst.Service = r.Service
	if r.Dialled.IsValid() {
		f.Dialled = r.Dialled.String()
	}
	if !r.End.IsZero() {
		f.EndUnixNano = r.End.UnixNano()
	}
	if r.Audit != "" && f.Verdict == string(ztunnel.Forwarded) {
		f.Verdict = "audited"
	}
	return f
}

func party(p ztunnel.Party) *adminv1.Peer {
	out := &adminv1.Peer{SpiffeId: p.ID.String()}
	if p.Addr.IsValid() {
		out.Address, out.Port = p.Addr.Addr().String(), uint32(p.Addr.Port())
	}
	if w := p.Workload; w != nil {
		out.Namespace, out.Workload, out.ServiceAccount, out.Node = w.Namespace, w.Name, w.ServiceAccount, w.Node
	}
	return out
}

// Match tells whether a flow passes a request's filters.
func Match(q *adminv1.FlowsRequest, f *adminv1.Flow) bool {
	either := func(ok func(*adminv1.Peer) bool) bool { return ok(f.Src) || ok(f.Dst) }
	switch {
	case q.SinceUnixNano != 0 && max(f.StartUnixNano, f.EndUnixNano) < q.SinceUnixNano,
		q.From != "" && !names(q.From, f.Src),
		q.To != "" && !names(q.To, f.Dst),
		q.Namespace != "" && !either(func(p *adminv1.Peer) bool { return p.Namespace == q.Namespace }),
		q.Pod != "" && !either(func(p *adminv1.Peer) bool { return names(q.Pod, p) }),
		q.Verdict != "" && !strings.EqualFold(q.Verdict, f.Verdict),
		q.Port != 0 && f.Dst.Port != q.Port && f.Src.Port != q.Port && !dialled(f, q.Port),
		q.Protocol != "" && !strings.EqualFold(q.Protocol, f.Protocol),
		q.Id != "" && !strings.HasPrefix(f.Id, strings.ToLower(q.Id)),
		q.Node != "" && q.Node != f.Node:
		return false
	}
	return true
}

func dialled(f *adminv1.Flow, port uint32) bool {
	ap, err := netip.ParseAddrPort(f.Dialled)
	return err == nil && uint32(ap.Port()) == port
}

// names tells whether a pattern names a party: "pod", "namespace/pod", "namespace/", "namespace/service", an
// address, or a SPIFFE id.
func names(pattern string, p *adminv1.Peer) bool {
	if strings.HasPrefix(pattern, "spiffe://") {
		return p.SpiffeId == pattern
	}
	if a, err := netip.ParseAddr(pattern); err == nil {
		return p.Address == a.Unmap().String()
	}
	ns, name, qualified := strings.Cut(pattern, "/")
	if !qualified {
		return p.Workload == pattern
	}
	return p.Namespace == ns && (name == "" || name == p.Workload) || p.Service == pattern
}
