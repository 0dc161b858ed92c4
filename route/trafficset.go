package route

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// ErrInvalid is wrapped by every error of [NewTable] and [NewTrafficSet].
var ErrInvalid = errors.New("invalid route configuration")

// TrafficSet finds the TrafficPolicies of a service and of a route's rule. It is immutable.
type TrafficSet struct {
	services map[string]Traffic
	routes   map[ruleName]Traffic
}

// ruleName names a route's rule, or with an empty rule the route itself.
type ruleName struct {
	kind                  Kind
	namespace, name, rule string
}

// NewTrafficSet indexes policies. Of several for one target the oldest wins, field by field.
// Returns an error that wraps ErrInvalid if a target or a regular expression is not one.
func NewTrafficSet(policies []*TrafficPolicy) (*TrafficSet, error) {
	s := &TrafficSet{services: make(map[string]Traffic), routes: make(map[ruleName]Traffic)}
	ordered := slices.Clone(policies)
	slices.SortStableFunc(ordered, func(a, b *TrafficPolicy) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.FullName(), b.FullName()))
	})
	for _, p := range ordered {
		for _, target := range p.Targets {
			if err := s.add(p, target); err != nil {
				return nil, fmt.Errorf("%w: traffic policy %s: %w", ErrInvalid, p.FullName(), err)
			}
		}
	}
	return s, nil
}

func (s *TrafficSet) add(p *TrafficPolicy, target string) error {
	compiled, err := compileTraffic(p, target)
	if err != nil {
		return err
	}
	service, rule, err := parseTarget(target)
	switch {
	case err != nil:
		return err
	case service != "":
		s.services[service] = s.services[service].or(compiled)
	default:
		s.routes[rule] = s.routes[rule].or(compiled)
	}
	return nil
}

// CheckTarget returns what is wrong with a TrafficPolicy's target.
func CheckTarget(target string) error {
	_, _, err := parseTarget(target)
	return err
}

func parseTarget(target string) (service string, rule ruleName, err error) {
	kind, name, _ := strings.Cut(target, " ")
	parts := strings.Split(name, "/")
	if len(parts) < 2 || slices.Contains(parts, "") {
		return "", ruleName{}, fmt.Errorf("target %q: it must be \"<kind> <namespace>/<name>\"", target)
	}
	switch {
	case kind == "Service" && len(parts) == 2:
		return name, ruleName{}, nil
	case kind == HTTP.String() && len(parts) <= 3:
		rule.kind = HTTP
	case kind == GRPC.String() && len(parts) <= 3:
		rule.kind = GRPC
	default:
		return "", ruleName{}, fmt.Errorf("target %q: it must be a Service, an HTTPRoute or a GRPCRoute, "+
			"of which the latter two may have a rule's name behind a /", target)
	}
	rule.namespace, rule.name = parts[0], parts[1]
	if len(parts) == 3 {
		rule.rule = parts[2]
	}
	return "", rule, nil
}

// compileTraffic returns what p says for target, ready to be asked.
func compileTraffic(p *TrafficPolicy, target string) (Traffic, error) {
	t := p.Traffic
	if t.Fault != nil {
		fault := *t.Fault
		var err error
		if fault.headers, err = newValues(fault.Headers, http.CanonicalHeaderKey); err != nil {
			return Traffic{}, fmt.Errorf("fault: headers: %w", err)
		}
		t.Fault = &fault
	}
	t.RateLimits = slices.Clone(t.RateLimits)
	for i := range t.RateLimits {
		l := &t.RateLimits[i]
		var err error
		if l.headers, err = newValues(l.Headers, http.CanonicalHeaderKey); err != nil {
			return Traffic{}, fmt.Errorf("rate_limits[%d]: headers: %w", i, err)
		}
		l.Key = p.FullName() + " " + target + " " + cmp.Or(l.Name, strconv.Itoa(i))
	}
	return t, nil
}

// or returns t with what it does not say taken from u.
func (t Traffic) or(u Traffic) Traffic {
	t.Fault = cmp.Or(t.Fault, u.Fault)
	if len(t.RateLimits) == 0 {
		t.RateLimits = u.RateLimits
	}
	t.Outlier = cmp.Or(t.Outlier, u.Outlier)
	t.Connections = cmp.Or(t.Connections, u.Connections)
	t.LoadBalancing = cmp.Or(t.LoadBalancing, u.LoadBalancing)
	t.RetryBudget = cmp.Or(t.RetryBudget, u.RetryBudget)
	return t
}

// For returns what is to be done to a request to a service ("<namespace>/<name>") that fell to a rule, or to none if hit
// is nil. Field by field, a policy for the rule wins over one for its route, and that over one for the service.
func (s *TrafficSet) For(service string, hit *Hit) Traffic {
	if s == nil {
		return Traffic{}
	}
	if hit == nil || hit.Route == nil || len(s.routes) == 0 {
		return s.services[service]
	}
	at := ruleName{kind: hit.Route.Kind, namespace: hit.Route.Namespace, name: hit.Route.Name}
	whole := s.routes[at]
	at.rule = hit.RuleName()
	return s.routes[at].or(whole).or(s.services[service])
}

// RuleName is the name of the rule, or its number from 0 if it has none.
func (h *Hit) RuleName() string {
	if h.Rule != nil && h.Rule.Name != "" {
		return h.Rule.Name
	}
	return strconv.Itoa(h.Index)
}
