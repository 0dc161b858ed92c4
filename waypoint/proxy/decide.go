package proxy

import (
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/route"
	"github.com/warren-mesh/warren/waypoint/exchange"
	"github.com/warren-mesh/warren/waypoint/upstream"
)

// maxAuthorizers bounds how many external authorizers one decision asks.
const maxAuthorizers = 8

// maxDeadline is what a longer gRPC deadline is taken for, so that hours do not overflow.
const maxDeadline = 10000 * time.Hour

// route finds the rule, and with it the deadline.
func (x *passage) route() *refusal {
	if x.conn.Service == nil {
		x.traffic = x.world.Traffic.For("", nil)
		return x.setDeadline(0)
	}
	service := x.conn.Service.FullName()
	hit, attached, found := x.world.Routes.Find(service, x.conn.Port.Number, x.conn.Client.Namespace(), &route.Request{
		Method: x.in.Method, Host: x.asked.bare, Path: x.asked.path, RawQuery: x.asked.query, Header: x.in.Header,
	})
	if !found {
		x.traffic = x.world.Traffic.For(service, nil)
		if attached {
			return refusalOf(http.StatusNotFound, exchange.NoRoute, "no route matches the request")
		}
		return x.setDeadline(0)
	}
	x.hit, x.traffic = hit, x.world.Traffic.For(service, &hit)
	x.rec.Route, x.rec.Rule = hit.Route, hit.RuleName()
	return x.setDeadline(hit.Rule.Timeout)
}

// setDeadline bounds the whole request by the route's timeout, and by gRPC's deadline if the client set one.
func (x *passage) setDeadline(timeout time.Duration) *refusal {
	asked, ok := grpcTimeout(x.in.Header)
	switch {
	case x.asked.grpc && ok && (timeout == 0 || asked <= timeout):
		x.limits = new(timeLimit).begin(x.ctx, asked, upstream.ErrClientDeadline)
	case timeout > 0:
		x.limits = new(timeLimit).begin(x.ctx, timeout, errRequestTimeout)
	default:
		return nil
	}
	x.ctx = x.limits.ctx
	return nil
}

// authorize holds the request against the policies that target the service or the gateway.
func (x *passage) authorize() *refusal {
	return x.decide(policy.Target{Targets: x.asked.targets}, x.conn.Dialled)
}

// authorizeBackend holds it against the policies that target the backend, if that is another service.
func (x *passage) authorizeBackend() *refusal {
	s := x.to.service
	if s == nil || same(s, x.conn.Service) {
		return nil
	}
	dst := netip.AddrPortFrom(x.conn.Dialled.Addr(), x.to.port.Number)
	return x.decide(policy.Target{Targets: []string{"Service " + s.FullName()}}, dst)
}

// same tells whether two are the same service, maybe of different worlds; nil is none.
func same(a, b *mesh.Service) bool {
	return b != nil && a.Namespace == b.Namespace && a.Name == b.Name
}

// targetOf is what an endpoint's workload says. Its waypoint decides in its place, about the client itself.
func targetOf(e upstream.Endpoint) policy.Target {
	w := e.Workload
	if w == nil {
		return policy.Target{}
	}
	return policy.Target{
		Policies:     w.Policies,
		Strict:       w.MTLS.ModeOf(e.Addr.Port()) == mesh.Strict,
		StrictSource: w.MTLS.Source,
	}
}

// decide asks policy, and the external authorizers that it names.
func (x *passage) decide(t policy.Target, dst netip.AddrPort) *refusal {
	began := x.p.now()
	defer func() { x.rec.Authorize += x.p.now().Sub(began) }()
	c := policy.Conn{Src: x.conn.Client, SrcAddr: x.conn.ClientAddr.Addr(), Dst: dst}
	for range maxAuthorizers {
		d := x.world.Policies.DecideRequest(t, c, &x.request)
		if d.Ask == nil {
			return x.note(d)
		}
		if no := x.askExternal(d.Ask); no != nil {
			x.note(d)
			return no
		}
	}
	return denied("more than " + strconv.Itoa(maxAuthorizers) + " authorizers are to be asked")
}

// note puts a decision into the record, and turns it into the request's end if it is one.
func (x *passage) note(d policy.Decision) *refusal {
	if d.Rule != "" {
		x.rec.Policy = d.Rule
	}
	if x.rec.Audit != "" && d.Audit != "" {
		x.rec.Audit += ", "
	}
	x.rec.Audit += d.Audit
	if d.Allowed {
		return nil
	}
	return denied(d.Rule)
}

func denied(why string) *refusal {
	no := refusalOf(http.StatusForbidden, exchange.Denied, "denied by policy")
	no.detail = why
	return no
}

// grpcTimeout reads the client's deadline: up to eight digits and a unit.
func grpcTimeout(h http.Header) (time.Duration, bool) {
	v := h.Get("Grpc-Timeout")
	if len(v) < 2 || len(v) > 9 {
		return 0, false
	}
	var unit time.Duration
	switch v[len(v)-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	}
	n, err := strconv.ParseUint(v[:len(v)-1], 10, 32)
	if n > uint64(maxDeadline/time.Hour) && unit == time.Hour {
		return maxDeadline, err == nil
	}
	return time.Duration(n) * unit, unit > 0 && err == nil
}
