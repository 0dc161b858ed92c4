package observe

import (
	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/ztunnel"
)

// FlowOf is a record in the form that leaves the process.
func FlowOf(node string, r ztunnel.Record) *adminv1.Flow {
	f := &adminv1.Flow{
		Id: r.ID, Node: node, Reporter: string(r.Reporter), Protocol: "tcp",
		Src: party(r.Src), Dst: party(r.Dst),
		Verdict: verdictOf(&r), Reason: string(r.Reason), Rule: r.Rule, Detail: r.Detail, Audit: r.Audit,
		Security: string(r.Security), Direct: r.Direct, Accelerated: r.Accelerated, BytesIn: r.In, BytesOut: r.Out,
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
