package telemetry

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/waypoint/exchange"
)

// The bounds of foreign text, in bytes.
const (
	maxPath   = 512
	maxHost   = 255
	maxMethod = 32
	maxAgent  = 256
	maxDetail = 512
	// maxTries bounds the tries that are told one by one, the newest.
	maxTries = 16
)

// bounded cuts foreign text and makes it valid UTF-8, without which neither a flow nor a span can be encoded. Control
// characters beyond ASCII go too: terminals obey them, and JSON does not escape them.
func bounded(s string, limit int) string {
	if len(s) <= limit && utf8.ValidString(s) && strings.IndexFunc(s, highControl) < 0 {
		return s
	}
	out := strings.Map(func(r rune) rune {
		if highControl(r) {
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(cut(s, limit), "\ufffd"))
	if len(s) > limit || len(out) > limit {
		return cut(out, limit) + "…"
	}
	return out
}

func highControl(r rune) bool { return r >= 0x7f && r <= 0x9f }

// cut returns at most limit bytes of s, whole characters if it is UTF-8.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

// flowOf is a record in the form that leaves the process.
func (t *Telemetry) flowOf(r *exchange.Record) *adminv1.Flow {
	f := &adminv1.Flow{
		Id: r.ID, Node: t.cfg.Node, Pod: t.cfg.Pod, Reporter: "waypoint", Protocol: r.Protocol, Security: "mtls",
		Src: &adminv1.Peer{}, Dst: &adminv1.Peer{},
		Verdict: verdict(r), Reason: string(r.Outcome), Rule: r.Policy, Audit: r.Audit, Detail: bounded(r.Detail, maxDetail),
		BytesIn: r.BytesIn, BytesOut: r.BytesOut,
		StartUnixNano: r.Start.UnixNano(), EndUnixNano: r.Start.Add(r.Took).UnixNano(),
		Phases: &adminv1.Phases{Authorize: int64(r.Authorize)},
	}
	if r.Protocol != TCP {
		f.Http = t.requestOf(r)
	}
	c := r.Conn
	if c == nil {
		return f
	}
	if f.Id == "" {
		f.Id = c.TraceID
	}
	f.Src = peer(c.Workload, c.ClientAddr)
	f.Src.SpiffeId = c.Client.String()
	f.Dst = peer(c.Target, c.Dialled)
	if n := len(r.Tries); n > 0 {
		f.Dst = peer(r.Tries[n-1].Endpoint, r.Tries[n-1].Addr)
	}
	if c.Service != nil {
		f.Dst.Service = c.Service.FullName()
	}
	if c.Dialled.IsValid() {
		f.Dialled = c.Dialled.String()
	}
	return f
}

// OpenFlow is the flow of a connection that has not ended.
func (t *Telemetry) OpenFlow(r *exchange.Record) *adminv1.Flow {
	f := t.flowOf(r)
	f.EndUnixNano, f.Http = 0, nil
	if r.Outcome == "" {
		f.Verdict = "forwarded"
	}
	return f
}

// verdict tells a request in the words of connections: forwarded if it was served, denied if it might not be, else failed.
func verdict(r *exchange.Record) string {
	switch r.Outcome {
	case exchange.Answered, exchange.Redirected, exchange.Preflight:
		if r.Audit != "" {
			return "audited"
		}
		return "forwarded"
	case exchange.Denied, exchange.Refused, exchange.Limited:
		return "denied"
	}
	return "failed"
}

func (t *Telemetry) requestOf(r *exchange.Record) *adminv1.HTTPRequest {
	h := &adminv1.HTTPRequest{
		Method: bounded(r.Method, maxMethod), Host: bounded(r.Host, maxHost), Path: bounded(r.Path, maxPath),
		Status: uint32(max(r.Status, 0)), GrpcStatus: int32(grpcOf(r)), Rule: r.Rule, Backend: r.Backend, Outcome: string(r.Outcome),
		Header: int64(r.Header), Duration: int64(r.Took), TraceId: r.TraceID, SpanId: r.SpanID, ParentId: r.ParentID, Sampled: r.Sampled,
		UserAgent: bounded(r.UserAgent, maxAgent), Gateway: t.cfg.Gateway,
	}
	if r.Route != nil {
		h.Route = r.Route.Kind.String() + " " + r.Route.FullName()
	}
	for _, try := range newest(r.Tries) {
		h.Tries = append(h.Tries, &adminv1.HTTPTry{
			Endpoint: peer(try.Endpoint, try.Addr), StartUnixNano: try.Start.UnixNano(), Took: int64(try.Took),
			Status: uint32(max(try.Status, 0)), Error: bounded(try.Err, maxDetail),
		})
	}
	return h
}

func newest(tries []exchange.Try) []exchange.Try { return tries[max(0, len(tries)-maxTries):] }

func peer(w *mesh.Workload, at netip.AddrPort) *adminv1.Peer {
	p := &adminv1.Peer{}
	if at.IsValid() {
		p.Address, p.Port = at.Addr().String(), uint32(at.Port())
	}
	if w != nil {
		p.Namespace, p.Workload, p.ServiceAccount, p.Node = w.Namespace, w.Name, w.ServiceAccount, w.Node
		p.SpiffeId = spiffeOf(w)
	}
	return p
}

// spiffeOf is the id that a workload in the mesh proves itself by, which tunnels to it insist on.
func spiffeOf(w *mesh.Workload) string {
	if w == nil || !w.Enrolled {
		return ""
	}
	return "spiffe://" + w.TrustDomain + "/ns/" + w.Namespace + "/sa/" + w.ServiceAccount
}

// write logs a request, or a connection. Keys are those of agents' lines; values that a peer chose are quoted by slog.
func (t *Telemetry) write(f *adminv1.Flow) {
	attrs := make([]slog.Attr, 0, 28)
	attrs = append(attrs,
		slog.String("id", f.GetId()), slog.String("reporter", f.GetReporter()),
		slog.String("src", address(f.GetSrc())), slog.String("dst", address(f.GetDst())),
		slog.String("src_id", f.GetSrc().GetSpiffeId()), slog.String("dst_id", f.GetDst().GetSpiffeId()),
		slog.String("verdict", f.GetVerdict()), slog.String("reason", f.GetReason()), slog.String("security", f.GetSecurity()),
		slog.Uint64("bytes_in", f.GetBytesIn()), slog.Uint64("bytes_out", f.GetBytesOut()),
		slog.Duration("dur", time.Duration(f.GetEndUnixNano()-f.GetStartUnixNano())))
	name := "connection"
	if h := f.GetHttp(); h != nil {
		name = "request"
		attrs = append(attrs,
			slog.String("protocol", f.GetProtocol()), slog.String("method", h.GetMethod()), slog.String("host", h.GetHost()),
			slog.String("path", h.GetPath()), slog.Int("status", int(h.GetStatus())), slog.Int("tries", len(h.GetTries())),
			slog.Duration("header", time.Duration(h.GetHeader())), slog.String("trace", h.GetTraceId()))
		if h.GetGrpcStatus() >= 0 {
			attrs = append(attrs, slog.Int("grpc_status", int(h.GetGrpcStatus())))
		}
	}
	h := f.GetHttp()
	for _, more := range [...]slog.Attr{
		slog.String("service", f.GetDst().GetService()), slog.String("route", h.GetRoute()), slog.String("route_rule", h.GetRule()),
		slog.String("backend", h.GetBackend()), slog.String("user_agent", h.GetUserAgent()), slog.String("rule", f.GetRule()),
		slog.String("audit", f.GetAudit()), slog.String("detail", f.GetDetail()),
	} {
		if more.Value.String() != "" {
			attrs = append(attrs, more)
		}
	}
	t.cfg.Log.LogAttrs(context.Background(), slog.LevelInfo, name, attrs...)
}

// address is a party's, empty if it is not known.
func address(p *adminv1.Peer) string {
	a, err := netip.ParseAddr(p.GetAddress())
	if err != nil {
		return ""
	}
	return netip.AddrPortFrom(a, uint16(p.GetPort())).String()
}
