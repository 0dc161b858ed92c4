package resource

import (
	"fmt"
	"time"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/route"
)

const (
	maxTargets    = 256
	maxRateLimits = 64
	maxDelay      = time.Hour
	maxPeriod     = 24 * time.Hour
	maxCount      = 10_000_000 // requests, connections
	myriad        = 10_000
)

// Traffic wraps a traffic policy as a resource under its key.
func Traffic(p *meshv1.TrafficPolicy) *meshv1.Resource {
	return &meshv1.Resource{Key: "traffic/" + fullName(p), Kind: &meshv1.Resource_Traffic{Traffic: p}}
}

// DecodeTraffic returns a traffic policy, or an error that wraps ErrUndecodable.
func DecodeTraffic(p *meshv1.TrafficPolicy) (*route.TrafficPolicy, error) {
	out, err := decodeTraffic(p)
	if err != nil {
		return nil, undecodable("%w", err)
	}
	return out, nil
}

func decodeTraffic(p *meshv1.TrafficPolicy) (*route.TrafficPolicy, error) {
	if err := checkNames(p.GetNamespace(), p.GetName()); err != nil {
		return nil, err
	}
	if len(p.GetTargets()) > maxTargets {
		return nil, fmt.Errorf("targets: %d, more than %d", len(p.GetTargets()), maxTargets)
	}
	for _, target := range p.GetTargets() {
		if err := route.CheckTarget(target); err != nil || len(target) > 4*maxName {
			return nil, fmt.Errorf("targets: %w", err)
		}
	}
	out := &route.TrafficPolicy{
		Namespace: p.GetNamespace(), Name: p.GetName(), Created: time.Unix(p.GetCreatedUnix(), 0).UTC(),
		Targets: p.GetTargets(),
	}
	var d routeReader
	var err error
	if out.Fault, err = d.fault(p.GetFault()); err != nil {
		return nil, fmt.Errorf("fault: %w", err)
	}
	if len(p.GetRateLimits()) > maxRateLimits {
		return nil, fmt.Errorf("rate_limits: %d, more than %d", len(p.GetRateLimits()), maxRateLimits)
	}
	for i, wire := range p.GetRateLimits() {
		limit, err := d.rateLimit(wire)
		if err != nil {
			return nil, fmt.Errorf("rate_limits[%d]: %w", i, err)
		}
		out.RateLimits = append(out.RateLimits, limit)
	}
	return out, decodeSending(p, out)
}

// decodeSending decodes what a policy says about endpoints and connections to them.
func decodeSending(p *meshv1.TrafficPolicy, out *route.TrafficPolicy) (err error) {
	if out.Outlier, err = decodeOutlier(p.GetOutlier()); err != nil {
		return fmt.Errorf("outlier: %w", err)
	}
	if out.Connections, err = decodeLimits(p.GetConnections()); err != nil {
		return fmt.Errorf("connections: %w", err)
	}
	if out.LoadBalancing, err = decodeBalancing(p.GetLoadBalancing()); err != nil {
		return fmt.Errorf("load_balancing: %w", err)
	}
	if b := p.GetRetryBudget(); b != nil {
		if b.GetPercent() > 100 || b.GetMinRetriesPerSecond() > maxCount {
			return fmt.Errorf("retry_budget: %d per cent, at least %d a second", b.GetPercent(), b.GetMinRetriesPerSecond())
		}
		out.RetryBudget = &route.RetryBudget{
			Percent: int(b.GetPercent()), MinRetriesPerSecond: int(b.GetMinRetriesPerSecond()),
		}
	}
	return nil
}

func (d *routeReader) fault(f *meshv1.Fault) (*route.Fault, error) {
	if f == nil {
		return nil, nil
	}
	if f.GetDelayPerMyriad() > myriad || f.GetAbortPerMyriad() > myriad {
		return nil, fmt.Errorf("%d delays and %d aborts of %d requests", f.GetDelayPerMyriad(), f.GetAbortPerMyriad(), myriad)
	}
	if f.GetAbortPerMyriad() > 0 && (f.GetAbortStatus() < 400 || f.GetAbortStatus() > 599) {
		return nil, fmt.Errorf("abort_status: %d is no error of HTTP", f.GetAbortStatus())
	}
	out := &route.Fault{
		DelayPerMyriad: f.GetDelayPerMyriad(), Delay: milliseconds(f.GetDelayMs()),
		AbortPerMyriad: f.GetAbortPerMyriad(), AbortStatus: int(f.GetAbortStatus()),
	}
	if out.Delay > maxDelay {
		return nil, fmt.Errorf("delay_ms: more than %v", maxDelay)
	}
	var err error
	out.Headers, err = d.values("headers", f.GetHeaders(), isToken)
	return out, err
}

func (d *routeReader) rateLimit(l *meshv1.RateLimit) (out route.RateLimit, err error) {
	out = route.RateLimit{
		Name: l.GetName(), Header: l.GetHeader(),
		Requests: l.GetRequests(), Period: milliseconds(l.GetPeriodMs()), Burst: l.GetBurst(),
	}
	switch l.GetBy() {
	case meshv1.RateLimit_EVERYBODY:
		out.By = route.Everybody
	case meshv1.RateLimit_IDENTITY:
		out.By = route.ByIdentity
	case meshv1.RateLimit_HEADER:
		out.By = route.ByHeader
		if !isToken(out.Header) {
			return out, fmt.Errorf("header: %.100q is not a header's name", out.Header)
		}
	default:
		return out, fmt.Errorf("by: %d is none that this version knows", l.GetBy())
	}
	if len(out.Name) > maxName {
		return out, fmt.Errorf("a name of %d bytes", len(out.Name))
	}
	if out.Requests == 0 || out.Requests > maxCount || out.Burst > maxCount || out.Period <= 0 || out.Period > maxPeriod {
		return out, fmt.Errorf("%d requests in %v, %d at once; there may be 1 to %d in up to %v",
			out.Requests, out.Period, out.Burst, maxCount, maxPeriod)
	}
	out.Headers, err = d.values("headers", l.GetHeaders(), isToken)
	return out, err
}

func decodeOutlier(o *meshv1.OutlierDetection) (*route.Outlier, error) {
	if o == nil {
		return nil, nil
	}
	out := &route.Outlier{
		ConsecutiveErrors: int(o.GetConsecutiveErrors()), MaxEjectedPercent: int(o.GetMaxEjectedPercent()),
		BaseEjection: milliseconds(o.GetBaseEjectionMs()), MaxEjection: milliseconds(o.GetMaxEjectionMs()),
	}
	if o.GetConsecutiveErrors() > maxCount || o.GetMaxEjectedPercent() > 100 ||
		max(out.BaseEjection, out.MaxEjection) > maxPeriod {
		return nil, fmt.Errorf("%d errors, %v to %v, %d per cent",
			o.GetConsecutiveErrors(), out.BaseEjection, out.MaxEjection, o.GetMaxEjectedPercent())
	}
	return out, nil
}

func decodeLimits(l *meshv1.ConnectionLimits) (*route.ConnectionLimits, error) {
	if l == nil {
		return nil, nil
	}
	for _, n := range []uint32{l.GetMaxRequests(), l.GetMaxConnectionsPerEndpoint(), l.GetMaxPending()} {
		if n > maxCount {
			return nil, fmt.Errorf("%d, more than %d", n, maxCount)
		}
	}
	return &route.ConnectionLimits{
		MaxRequests: int(l.GetMaxRequests()), MaxPending: int(l.GetMaxPending()),
		MaxConnectionsPerEndpoint: int(l.GetMaxConnectionsPerEndpoint()),
	}, nil
}

func decodeBalancing(l *meshv1.LoadBalancing) (*route.LoadBalancing, error) {
	if l == nil {
		return nil, nil
	}
	out := &route.LoadBalancing{
		HashHeader: l.GetHashHeader(), HashCookie: l.GetHashCookie(), HashQuery: l.GetHashQuery(), HashSource: l.GetHashSource(),
		LocalityFailover: l.GetLocalityFailover(),
	}
	kinds := map[meshv1.LoadBalancing_Kind]route.Balance{
		meshv1.LoadBalancing_PEAK_EWMA: route.PeakEWMA, meshv1.LoadBalancing_ROUND_ROBIN: route.RoundRobin,
		meshv1.LoadBalancing_LEAST_REQUESTS: route.LeastRequests, meshv1.LoadBalancing_RANDOM: route.Random,
		meshv1.LoadBalancing_CONSISTENT_HASH: route.ConsistentHash,
	}
	var known bool
	if out.Kind, known = kinds[l.GetKind()]; !known {
		return nil, fmt.Errorf("kind: %d is none that this version knows", l.GetKind())
	}
	hashed := 0
	for _, name := range []string{out.HashHeader, out.HashCookie, out.HashQuery} {
		if len(name) > maxToken || !isText(name) {
			return nil, fmt.Errorf("hash: %.100q is not a name", name)
		}
		if name != "" {
			hashed++
		}
	}
	if out.HashSource {
		hashed++
	}
	if (out.Kind == route.ConsistentHash) != (hashed == 1) {
		return nil, fmt.Errorf("%d things to hash; there must be one for CONSISTENT_HASH, and none for the others", hashed)
	}
	return out, nil
}
