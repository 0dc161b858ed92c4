package manifest

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/warren-mesh/warren/api/v1alpha1"
)

// What one TrafficPolicy may have; the CRD has the same bounds.
const (
	maxTargetRefs = 16
	maxRateLimits = 16
	maxCount      = 10_000_000 // requests, connections
	maxFaultDelay = time.Hour
	maxPeriod     = 24 * time.Hour
	maxHeaders    = 16
	// maxHeaderValue is less than a route's: an API server weighs what trying a regular expression of that size costs.
	maxHeaderValue = 512
)

// ParseDuration reads a length of time as the Gateway API writes it.
func ParseDuration(s string) (time.Duration, error) {
	quoted, err := json.Marshal(s)
	if err != nil {
		return 0, err
	}
	var d Duration
	err = d.UnmarshalJSON(quoted)
	return time.Duration(d), err
}

// trafficChecker checks one TrafficPolicy. Its regular expressions are bounded as a route's are.
type trafficChecker struct{ routeChecker }

func checkTrafficPolicy(d *decoder, spec *v1alpha1.TrafficPolicySpec) error {
	c := &trafficChecker{routeChecker{decoder: d, kind: KindTrafficPolicy}}
	if spec.Fault == nil && spec.RateLimits == nil && spec.OutlierDetection == nil && spec.ConnectionLimits == nil &&
		spec.LoadBalancing == nil && spec.RetryBudget == nil {
		return d.at("spec", "says nothing: want at least one of fault, rateLimits, outlierDetection, connectionLimits, loadBalancing, retryBudget")
	}
	for _, check := range []func(*v1alpha1.TrafficPolicySpec) error{c.targets, c.fault, c.rateLimits, c.outlier, c.numbers, c.balancing} {
		if err := check(spec); err != nil {
			return err
		}
	}
	return nil
}

func (c *trafficChecker) targets(spec *v1alpha1.TrafficPolicySpec) error {
	if len(spec.TargetRefs) == 0 || len(spec.TargetRefs) > maxTargetRefs {
		return c.at("spec.targetRefs", "want 1 to %d, got %d", maxTargetRefs, len(spec.TargetRefs))
	}
	for i, t := range spec.TargetRefs {
		path := fmt.Sprintf("spec.targetRefs[%d]", i)
		isRoute := t.Group == GatewayGroup && (t.Kind == KindHTTPRoute || t.Kind == KindGRPCRoute)
		switch {
		case !isRoute && (t.Group != "" || t.Kind != KindService):
			return c.at(path, "want a Service (group %q), or an HTTPRoute or a GRPCRoute (group %q), got kind %q of group %q", "", GatewayGroup, t.Kind, t.Group)
		case !isSubdomain(t.Name):
			return c.at(path+".name", "want an object's name, got %q", t.Name)
		case t.SectionName != "" && !isRoute:
			return c.at(path+".sectionName", "is a route's rule: a Service has none")
		case t.SectionName != "" && !isSubdomain(t.SectionName):
			return c.at(path+".sectionName", "want a rule's name, got %q", t.SectionName)
		}
	}
	return nil
}

func (c *trafficChecker) fault(spec *v1alpha1.TrafficPolicySpec) error {
	f := spec.Fault
	if f == nil {
		return nil
	}
	if f.Delay == nil && f.Abort == nil {
		return c.at("spec.fault", "want a delay, an abort or both")
	}
	if f.Delay != nil {
		if _, err := f.Delay.Percent.PerMyriad(); err != nil {
			return c.at("spec.fault.delay.percent", "%v", err)
		}
		if err := c.duration("spec.fault.delay.duration", f.Delay.Duration, maxFaultDelay); err != nil {
			return err
		}
	}
	if f.Abort != nil {
		if _, err := f.Abort.Percent.PerMyriad(); err != nil {
			return c.at("spec.fault.abort.percent", "%v", err)
		}
		if f.Abort.Status < 400 || f.Abort.Status > 599 {
			return c.at("spec.fault.abort.status", "want 400 to 599, got %d", f.Abort.Status)
		}
	}
	return c.headers("spec.fault.headers", f.Headers)
}

// duration checks a length of time that must be there.
func (c *trafficChecker) duration(path, text string, most time.Duration) error {
	d, err := ParseDuration(text)
	if err != nil {
		return c.at(path, "%v", err)
	}
	if d <= 0 || d > most {
		return c.at(path, "want more than 0s and at most %s, got %q", most, text)
	}
	return nil
}

func (c *trafficChecker) headers(path string, all []v1alpha1.HeaderMatch) error {
	if all != nil && len(all) == 0 || len(all) > maxHeaders {
		return c.at(path, "want 1 to %d, got %d: leave it out for every request", maxHeaders, len(all))
	}
	var matches []ValueMatch
	for i, h := range all {
		if len(h.Value) > maxHeaderValue {
			return c.at(fmt.Sprintf("%s[%d].value", path, i), "want at most %d characters, got %d", maxHeaderValue, len(h.Value))
		}
		matches = append(matches, ValueMatch{Type: h.Type, Name: h.Name, Value: h.Value})
	}
	return c.values(path, matches)
}

func (c *trafficChecker) rateLimits(spec *v1alpha1.TrafficPolicySpec) error {
	if spec.RateLimits != nil && len(spec.RateLimits) == 0 || len(spec.RateLimits) > maxRateLimits {
		return c.at("spec.rateLimits", "want 1 to %d, got %d", maxRateLimits, len(spec.RateLimits))
	}
	names := make(map[string]bool)
	for i := range spec.RateLimits {
		l := &spec.RateLimits[i]
		path := "spec.rateLimits[" + strconv.Itoa(i) + "]"
		if !isSubdomain(l.Name) || len(l.Name) > 63 || names[l.Name] {
			return c.at(path+".name", "want a name of at most 63 lower-case letters, digits, '-' and '.' that no other limit has, got %q", l.Name)
		}
		names[l.Name] = true
		if err := c.rateLimit(path, l); err != nil {
			return err
		}
	}
	return nil
}

func (c *trafficChecker) rateLimit(path string, l *v1alpha1.RateLimit) error {
	switch l.By {
	case "", v1alpha1.LimitEverybody, v1alpha1.LimitByIdentity:
		if l.Header != "" {
			return c.at(path+".header", "is for by: Header")
		}
	case v1alpha1.LimitByHeader:
		if !isToken(l.Header) {
			return c.at(path+".header", "want a header's name, got %q", l.Header)
		}
	default:
		return c.at(path+".by", "want Everybody, Identity or Header, got %q", l.By)
	}
	if l.Requests < 1 || l.Requests > maxCount {
		return c.at(path+".requests", "want 1 to %d, got %d", maxCount, l.Requests)
	}
	if l.Burst != nil && (*l.Burst < 1 || *l.Burst > maxCount) {
		return c.at(path+".burst", "want 1 to %d, got %d", maxCount, *l.Burst)
	}
	if l.Period != "" {
		if err := c.duration(path+".period", l.Period, maxPeriod); err != nil {
			return err
		}
	}
	return c.headers(path+".headers", l.Headers)
}

func (c *trafficChecker) outlier(spec *v1alpha1.TrafficPolicySpec) error {
	o := spec.OutlierDetection
	if o == nil {
		return nil
	}
	for _, d := range []struct{ name, text string }{{"baseEjection", o.BaseEjection}, {"maxEjection", o.MaxEjection}} {
		if d.text == "" {
			continue
		}
		if err := c.duration("spec.outlierDetection."+d.name, d.text, maxPeriod); err != nil {
			return err
		}
	}
	return nil
}

// numbers checks every number that may be left out.
func (c *trafficChecker) numbers(spec *v1alpha1.TrafficPolicySpec) error {
	type number struct {
		path        string
		value       *int32
		least, most int32
	}
	var all []number
	if o := spec.OutlierDetection; o != nil {
		all = append(all, number{"spec.outlierDetection.consecutiveErrors", o.ConsecutiveErrors, 1, 1000},
			number{"spec.outlierDetection.maxEjectedPercent", o.MaxEjectedPercent, 0, 100})
	}
	if l := spec.ConnectionLimits; l != nil {
		if l.MaxRequests == nil && l.MaxConnectionsPerEndpoint == nil && l.MaxPending == nil {
			return c.at("spec.connectionLimits", "says nothing: want at least one limit")
		}
		all = append(all, number{"spec.connectionLimits.maxRequests", l.MaxRequests, 1, maxCount},
			number{"spec.connectionLimits.maxConnectionsPerEndpoint", l.MaxConnectionsPerEndpoint, 1, maxCount},
			number{"spec.connectionLimits.maxPending", l.MaxPending, 1, maxCount})
	}
	if b := spec.RetryBudget; b != nil {
		all = append(all, number{"spec.retryBudget.percent", b.Percent, 0, 100},
			number{"spec.retryBudget.minRetriesPerSecond", b.MinRetriesPerSecond, 0, maxCount})
	}
	for _, n := range all {
		if n.value != nil && (*n.value < n.least || *n.value > n.most) {
			return c.at(n.path, "want %d to %d, got %d", n.least, n.most, *n.value)
		}
	}
	return nil
}

func (c *trafficChecker) balancing(spec *v1alpha1.TrafficPolicySpec) error {
	l := spec.LoadBalancing
	if l == nil {
		return nil
	}
	switch l.Type {
	case "", v1alpha1.BalancePeakEWMA, v1alpha1.BalanceRoundRobin, v1alpha1.BalanceLeastRequests, v1alpha1.BalanceRandom:
		if l.Hash != nil {
			return c.at("spec.loadBalancing.hash", "is for type ConsistentHash")
		}
		return nil
	case v1alpha1.BalanceConsistentHash:
	default:
		return c.at("spec.loadBalancing.type", "want PeakEWMA, RoundRobin, LeastRequests, Random or ConsistentHash, got %q", l.Type)
	}
	if l.Hash == nil {
		return c.at("spec.loadBalancing.hash", "is missing: ConsistentHash goes by a header, a cookie, a query parameter or the source")
	}
	things := 0
	for _, name := range []string{l.Hash.Header, l.Hash.Cookie, l.Hash.Query} {
		if name == "" {
			continue
		}
		if things++; !isToken(name) {
			return c.at("spec.loadBalancing.hash", "want a name of letters, digits and marks, got %q", name)
		}
	}
	if l.Hash.Source {
		things++
	}
	if things != 1 {
		return c.at("spec.loadBalancing.hash", "want one of header, cookie, query and source, got %d", things)
	}
	return nil
}
