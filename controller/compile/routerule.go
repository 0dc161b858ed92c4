package compile

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/controller/manifest"
)

const (
	// defaultRetries and defaultBackoff are what a retry does that does not say.
	defaultRetries = 2
	defaultBackoff = 25 * time.Millisecond
)

// wireRule makes one rule. What it says was checked when it was read: what is left to find is what no waypoint can do,
// and references that lead nowhere.
func wireRule(r *route, i int, refs *references) *meshv1.RouteRule {
	rule := &r.spec.Rules[i]
	path := fmt.Sprintf("spec.rules[%d]", i)
	f := &filterer{route: r, refs: refs}
	wire := &meshv1.RouteRule{Name: rule.Name, Filters: f.wire(path, rule.Filters)}
	for _, m := range rule.Matches {
		wire.Matches = append(wire.Matches, wireMatch(&m))
	}
	for j := range rule.BackendRefs {
		ref := &rule.BackendRefs[j]
		at := fmt.Sprintf("%s.backendRefs[%d]", path, j)
		t := refs.resolve(r, at, ref)
		wire.Backends = append(wire.Backends, &meshv1.RouteBackend{
			Service: t.service, Port: t.port, Weight: weightOf(ref), Broken: t.broken, Filters: f.wire(at, ref.Filters),
		})
	}
	if t := rule.Timeouts; t != nil {
		wire.TimeoutMs, wire.BackendTimeoutMs = millis(t.Request), millis(t.BackendRequest)
	}
	wire.Retry, wire.Session = wireRetry(rule.Retry), wireSession(rule.SessionPersistence)
	switch {
	case len(f.unsupported) > 0:
		r.badRules++
		r.unsupported = append(r.unsupported, f.unsupported...)
		wire.Broken = clipped(ReasonUnsupportedValue + ": " + listed(f.unsupported))
	case len(rule.BackendRefs) == 0 && wire.GetFilters().GetRedirect() == nil:
		wire.Broken = ReasonBackendNotFound + ": the rule has no backendRefs"
	}
	return wire
}

func wireMatch(m *manifest.RouteMatch) *meshv1.RouteMatch {
	wire := &meshv1.RouteMatch{Method: m.Method.HTTP, Headers: wireValues(m.Headers, true), Query: wireValues(m.QueryParams, false)}
	if m.Path != nil {
		wire.Path = m.Path.Value
		switch m.Path.Type {
		case manifest.MatchExact:
			wire.PathKind = meshv1.RouteMatch_EXACT
		case manifest.MatchRegex:
			wire.PathKind = meshv1.RouteMatch_REGEX
		}
	}
	if g := m.Method.GRPC; g != nil {
		wire.GrpcService, wire.GrpcMethod, wire.GrpcRegex = g.Service, g.Method, g.Type == manifest.MatchRegex
	}
	return wire
}

// wireValues takes the first of several matches of one name, as the Gateway API says. Headers' names have no case.
func wireValues(all []manifest.ValueMatch, header bool) []*meshv1.ValueMatch {
	var out []*meshv1.ValueMatch
	seen := make(map[string]bool, len(all))
	for _, v := range all {
		name := v.Name
		if header {
			name = strings.ToLower(name)
		}
		if seen[name] {
			continue
		}
		seen[name] = true
		out = append(out, &meshv1.ValueMatch{Name: name, Value: v.Value, Regex: v.Type == manifest.MatchRegex})
	}
	return out
}

func wireRetry(retry *manifest.RouteRetry) *meshv1.RouteRetry {
	if retry == nil {
		return nil
	}
	wire := &meshv1.RouteRetry{Attempts: defaultRetries, BackoffMs: uint32(defaultBackoff.Milliseconds())}
	for _, code := range retry.Codes {
		wire.Codes = append(wire.Codes, uint32(code))
	}
	if retry.Attempts != nil {
		wire.Attempts = uint32(*retry.Attempts)
	}
	if retry.Backoff != nil {
		wire.BackoffMs = millis(retry.Backoff)
	}
	return wire
}

func wireSession(s *manifest.SessionPersistence) *meshv1.SessionPersistence {
	if s == nil {
		return nil
	}
	return &meshv1.SessionPersistence{
		Name: s.SessionName, Cookie: s.Type != manifest.SessionHeader,
		AbsoluteTimeout: seconds(s.AbsoluteTimeout), IdleTimeout: seconds(s.IdleTimeout),
		Permanent: s.CookieConfig != nil && s.CookieConfig.LifetimeType == manifest.CookiePermanent,
	}
}

// millis is a duration on the wire; 0 for none. What is too long for the wire is as good as forever.
func millis(d *manifest.Duration) uint32 {
	if d == nil {
		return 0
	}
	return uint32(min(time.Duration(*d).Milliseconds(), math.MaxUint32))
}

// seconds rounds up: a timeout of less than a second is not none.
func seconds(d *manifest.Duration) uint32 {
	if d == nil {
		return 0
	}
	return uint32(min((time.Duration(*d)+time.Second-1)/time.Second, math.MaxUint32))
}

func lowered(names []string) []string {
	var out []string
	for _, name := range names {
		out = append(out, strings.ToLower(name))
	}
	return out
}
