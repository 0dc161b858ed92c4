package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/api/resource"
	"github.com/warren-mesh/warren/api/v1alpha1"
	"github.com/warren-mesh/warren/controller/manifest"
)

// TrafficStatus is what is to be said about one TrafficPolicy.
type TrafficStatus struct {
	manifest.Key
	UID        string
	Generation int64
	Condition  RouteCondition
	// Gateways are the waypoints that follow it, sorted: those of the services that it targets, or that the routes are for
	// that it targets.
	Gateways []string
}

// ReasonTargetNotFound is why a TrafficPolicy does nothing: what it targets is not there.
const ReasonTargetNotFound = "TargetNotFound"

// addTraffic makes a resource of every TrafficPolicy. A target that is not there is left in: it is there once somebody
// makes it, and until then the policy says that it is missing.
func (c *compiler) addTraffic(out *Output) {
	there := make(map[string]*manifest.Object)
	for _, o := range slices.Concat(c.services, c.routes) {
		there[o.Key.String()] = o
	}
	follow := c.followers(out)
	for _, o := range c.traffic {
		spec := o.Spec.(*v1alpha1.TrafficPolicySpec)
		status := TrafficStatus{Key: o.Key, UID: o.Meta.UID, Generation: o.Meta.Generation,
			Condition: RouteCondition{RouteAccepted, true, ReasonAccepted, "every target is there"}}
		wire := wireTraffic(o, spec)
		_, err := resource.DecodeTraffic(wire)
		switch missing := missingTargets(o, spec, there); {
		case err != nil:
			status.Condition = RouteCondition{RouteAccepted, false, "Invalid", "left out: " + err.Error()}
		case len(missing) > 0:
			status.Condition = RouteCondition{RouteAccepted, len(missing) < len(spec.TargetRefs), ReasonTargetNotFound, strings.Join(missing, "; ")}
		}
		if err == nil {
			add(out, resource.Traffic(wire))
		}
		if status.Condition.Reason != ReasonAccepted {
			c.problem(o, "%s", status.Condition.Message)
		}
		for _, t := range spec.TargetRefs {
			status.Gateways = append(status.Gateways, follow[manifest.Key{Kind: t.Kind, Namespace: o.Namespace, Name: t.Name}]...)
		}
		slices.Sort(status.Gateways)
		status.Gateways = slices.Compact(status.Gateways)
		out.Traffic = append(out.Traffic, status)
	}
	slices.SortFunc(out.Traffic, func(a, b TrafficStatus) int { return manifest.CompareKeys(a.Key, b.Key) })
}

// followers returns the waypoints that follow what is said of a service, or of a route, by its key.
func (c *compiler) followers(out *Output) map[manifest.Key][]string {
	of := make(map[manifest.Key][]string)
	for _, o := range c.services {
		if name := c.serviceWaypointName(o); name != "" && c.hasWaypoint(o) {
			of[o.Key] = []string{name}
		}
	}
	for _, r := range out.Resources {
		route := r.GetRoute()
		key := manifest.Key{Kind: manifest.KindHTTPRoute, Namespace: route.GetNamespace(), Name: route.GetName()}
		if route.GetKind() == meshv1.Route_GRPC {
			key.Kind = manifest.KindGRPCRoute
		}
		for _, p := range route.GetParents() {
			namespace, name, _ := strings.Cut(p.GetService(), "/")
			of[key] = append(of[key], of[manifest.Key{Kind: manifest.KindService, Namespace: namespace, Name: name}]...)
		}
	}
	return of
}

// missingTargets says which targets are not there, or have no rule of the name.
func missingTargets(o *manifest.Object, spec *v1alpha1.TrafficPolicySpec, there map[string]*manifest.Object) (missing []string) {
	for i, t := range spec.TargetRefs {
		key := manifest.Key{Kind: t.Kind, Namespace: o.Namespace, Name: t.Name}
		target := there[key.String()]
		if target == nil {
			missing = append(missing, fmt.Sprintf("spec.targetRefs[%d]: there is no %s", i, key))
			continue
		}
		if t.SectionName == "" {
			continue
		}
		rules := target.Spec.(*manifest.Route).Rules
		if !slices.ContainsFunc(rules, func(r manifest.RouteRule) bool { return r.Name == t.SectionName }) {
			missing = append(missing, fmt.Sprintf("spec.targetRefs[%d]: %s has no rule named %q", i, key, t.SectionName))
		}
	}
	return missing
}

func wireTraffic(o *manifest.Object, spec *v1alpha1.TrafficPolicySpec) *meshv1.TrafficPolicy {
	wire := &meshv1.TrafficPolicy{
		Namespace: o.Namespace, Name: o.Name, CreatedUnix: createdUnix(o),
		Fault: wireFault(spec.Fault), Outlier: wireOutlier(spec.OutlierDetection), LoadBalancing: wireBalancing(spec.LoadBalancing),
	}
	for _, t := range spec.TargetRefs {
		name := t.Kind + " " + o.Namespace + "/" + t.Name
		if t.SectionName != "" {
			name += "/" + t.SectionName
		}
		wire.Targets = append(wire.Targets, name)
	}
	for _, l := range spec.RateLimits {
		wire.RateLimits = append(wire.RateLimits, wireRateLimit(&l))
	}
	if l := spec.ConnectionLimits; l != nil {
		wire.Connections = &meshv1.ConnectionLimits{
			MaxRequests: number(l.MaxRequests, 0), MaxConnectionsPerEndpoint: number(l.MaxConnectionsPerEndpoint, 0), MaxPending: number(l.MaxPending, 0),
		}
	}
	if b := spec.RetryBudget; b != nil {
		wire.RetryBudget = &meshv1.RetryBudget{Percent: number(b.Percent, 20), MinRetriesPerSecond: number(b.MinRetriesPerSecond, 10)}
	}
	return wire
}

// number is a number that was checked, or what it is if it was left out.
func number(n *int32, otherwise uint32) uint32 {
	if n == nil {
		return otherwise
	}
	return uint32(*n)
}

// lengthMillis is a length of time that was checked.
func lengthMillis(text, otherwise string) uint32 {
	d, err := manifest.ParseDuration(cmp.Or(text, otherwise))
	if err != nil {
		return 0 // which no decoder takes where it matters
	}
	return uint32(d / time.Millisecond)
}

func perMyriad(p v1alpha1.Percent) uint32 {
	n, err := p.PerMyriad()
	if err != nil {
		return 0
	}
	return n
}

func wireFault(f *v1alpha1.Fault) *meshv1.Fault {
	if f == nil {
		return nil
	}
	wire := &meshv1.Fault{Headers: wireHeaderMatches(f.Headers)}
	if f.Delay != nil {
		wire.DelayPerMyriad, wire.DelayMs = perMyriad(f.Delay.Percent), lengthMillis(f.Delay.Duration, "0s")
	}
	if f.Abort != nil {
		wire.AbortPerMyriad, wire.AbortStatus = perMyriad(f.Abort.Percent), uint32(f.Abort.Status)
	}
	return wire
}

func wireHeaderMatches(all []v1alpha1.HeaderMatch) []*meshv1.ValueMatch {
	var out []*meshv1.ValueMatch
	for _, h := range all {
		out = append(out, &meshv1.ValueMatch{Name: strings.ToLower(h.Name), Value: h.Value, Regex: h.Type == v1alpha1.MatchRegularExpression})
	}
	return out
}

func wireRateLimit(l *v1alpha1.RateLimit) *meshv1.RateLimit {
	wire := &meshv1.RateLimit{
		Name: l.Name, Header: l.Header, Requests: uint32(l.Requests), PeriodMs: lengthMillis(l.Period, "1s"),
		Burst: number(l.Burst, uint32(l.Requests)), Headers: wireHeaderMatches(l.Headers),
	}
	switch l.By {
	case v1alpha1.LimitByIdentity:
		wire.By = meshv1.RateLimit_IDENTITY
	case v1alpha1.LimitByHeader:
		wire.By = meshv1.RateLimit_HEADER
	}
	return wire
}

func wireOutlier(o *v1alpha1.OutlierDetection) *meshv1.OutlierDetection {
	if o == nil {
		return nil
	}
	wire := &meshv1.OutlierDetection{
		ConsecutiveErrors: number(o.ConsecutiveErrors, 5), MaxEjectedPercent: number(o.MaxEjectedPercent, 50),
		BaseEjectionMs: lengthMillis(o.BaseEjection, "30s"), MaxEjectionMs: lengthMillis(o.MaxEjection, "5m"),
	}
	wire.MaxEjectionMs = max(wire.MaxEjectionMs, wire.BaseEjectionMs)
	return wire
}

func wireBalancing(l *v1alpha1.LoadBalancing) *meshv1.LoadBalancing {
	if l == nil {
		return nil
	}
	wire := &meshv1.LoadBalancing{LocalityFailover: l.LocalityFailover}
	switch l.Type {
	case v1alpha1.BalanceRoundRobin:
		wire.Kind = meshv1.LoadBalancing_ROUND_ROBIN
	case v1alpha1.BalanceLeastRequests:
		wire.Kind = meshv1.LoadBalancing_LEAST_REQUESTS
	case v1alpha1.BalanceRandom:
		wire.Kind = meshv1.LoadBalancing_RANDOM
	case v1alpha1.BalanceConsistentHash:
		wire.Kind = meshv1.LoadBalancing_CONSISTENT_HASH
	}
	if h := l.Hash; h != nil {
		wire.HashHeader, wire.HashCookie, wire.HashQuery, wire.HashSource = h.Header, h.Cookie, h.Query, h.Source
	}
	return wire
}
