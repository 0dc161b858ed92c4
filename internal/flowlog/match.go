package flowlog

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/warren-mesh/warren/api/adminv1"
)

// The types of flows.
const (
	Connection = "connection"
	Request    = "request"
)

// Match tells whether a flow passes a request's filters.
func Match(q *adminv1.FlowsRequest, f *adminv1.Flow) bool {
	either := func(ok func(*adminv1.Peer) bool) bool { return ok(f.GetSrc()) || ok(f.GetDst()) }
	switch {
	case q.GetSinceUnixNano() != 0 && max(f.GetStartUnixNano(), f.GetEndUnixNano()) < q.GetSinceUnixNano(),
		q.GetFrom() != "" && !names(q.GetFrom(), f.GetSrc()),
		q.GetTo() != "" && !names(q.GetTo(), f.GetDst()),
		q.GetNamespace() != "" && !either(func(p *adminv1.Peer) bool { return p.GetNamespace() == q.GetNamespace() }),
		q.GetPod() != "" && !either(func(p *adminv1.Peer) bool { return names(q.GetPod(), p) }),
		q.GetVerdict() != "" && !strings.EqualFold(q.GetVerdict(), f.GetVerdict()),
		q.GetPort() != 0 && f.GetDst().GetPort() != q.GetPort() && f.GetSrc().GetPort() != q.GetPort() && !dialled(f, q.GetPort()),
		q.GetProtocol() != "" && !speaks(f, q.GetProtocol()),
		q.GetId() != "" && !identified(f, strings.ToLower(q.GetId())),
		q.GetNode() != "" && q.GetNode() != f.GetNode():
		return false
	}
	return matchRequest(q, f.GetHttp())
}

// matchRequest holds what is asked of requests against one; r is nil for a connection.
func matchRequest(q *adminv1.FlowsRequest, r *adminv1.HTTPRequest) bool {
	switch q.GetType() {
	case "":
	case Connection:
		if r != nil {
			return false
		}
	default: // what this release does not know has none
		if r == nil || q.GetType() != Request {
			return false
		}
	}
	if q.GetMethod() == "" && q.GetPath() == "" && q.GetStatus() == "" {
		return true
	}
	return r != nil &&
		(q.GetMethod() == "" || strings.EqualFold(q.GetMethod(), r.GetMethod())) &&
		strings.HasPrefix(r.GetPath(), q.GetPath()) &&
		(q.GetStatus() == "" || hasStatus(q.GetStatus(), r.GetStatus()))
}

// hasStatus compares a status with a pattern: 404, or 4xx.
func hasStatus(pattern string, status uint32) bool {
	text := strconv.FormatUint(uint64(status), 10)
	if class, ok := strings.CutSuffix(strings.ToLower(pattern), "xx"); ok {
		return len(text) == 3 && class == text[:1]
	}
	return pattern == text
}

// speaks tells whether a flow's protocol is the one asked for; http means every version.
func speaks(f *adminv1.Flow, protocol string) bool {
	if strings.EqualFold(protocol, "http") {
		return f.GetHttp() != nil
	}
	return strings.EqualFold(protocol, f.GetProtocol())
}

func identified(f *adminv1.Flow, id string) bool {
	return strings.HasPrefix(f.GetId(), id) || strings.HasPrefix(f.GetHttp().GetTraceId(), id)
}

func dialled(f *adminv1.Flow, port uint32) bool {
	ap, err := netip.ParseAddrPort(f.GetDialled())
	return err == nil && uint32(ap.Port()) == port
}

// names tells whether a pattern names a party: "pod", "namespace/pod", "namespace/", "namespace/service", an
// address, or a SPIFFE id.
func names(pattern string, p *adminv1.Peer) bool {
	if strings.HasPrefix(pattern, "spiffe://") {
		return p.GetSpiffeId() == pattern
	}
	if a, err := netip.ParseAddr(pattern); err == nil {
		return p.GetAddress() == a.Unmap().String()
	}
	ns, name, qualified := strings.Cut(pattern, "/")
	if !qualified {
		return p.GetWorkload() == pattern
	}
	return p.GetNamespace() == ns && (name == "" || name == p.GetWorkload()) || p.GetService() == pattern
}
