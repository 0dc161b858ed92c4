package resource

import (
	"fmt"
	"strings"
	"time"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/route"
)

// What one route may have. The Gateway API allows less of nearly everything; these are the bounds of what a waypoint is
// willing to search.
const (
	maxParents   = 256
	maxHostnames = 256
	maxRules     = 256
	maxMatches   = 1024 // of all rules together
	maxValues    = 64   // headers, or query parameters, of one match
	maxValue     = 4096
	maxPath      = 1024
	maxToken     = 256
	maxBroken    = 1024
	maxAttempts  = 100
	maxCodes     = 64
	maxTimeout   = 7 * 24 * time.Hour
	// Instructions of all regular expressions of one route.
	maxPatternCost = 100_000
)

// routeReader decodes one route and counts what only all of its parts together must not exceed.
type routeReader struct {
	matches, cost int
}

// Route wraps a route as a resource under its key.
func Route(r *meshv1.Route) *meshv1.Resource {
	return &meshv1.Resource{Key: "route/" + routeName(r), Kind: &meshv1.Resource_Route{Route: r}}
}

// routeName is "<kind>/<namespace>/<name>", empty if it lacks one of them.
func routeName(r *meshv1.Route) string {
	kind, ok := routeKind(r.GetKind())
	if name := fullName(r); ok && name != "" {
		return kind.String() + "/" + name
	}
	return ""
}

func routeKind(k meshv1.Route_Kind) (route.Kind, bool) {
	switch k {
	case meshv1.Route_HTTP:
		return route.HTTP, true
	case meshv1.Route_GRPC:
		return route.GRPC, true
	}
	return 0, false
}

// DecodeRoute returns a route, or an error that wraps ErrUndecodable.
func DecodeRoute(r *meshv1.Route) (*route.Route, error) {
	out, err := decodeRoute(r)
	if err != nil {
		return nil, undecodable("%w", err)
	}
	return out, nil
}

func decodeRoute(r *meshv1.Route) (*route.Route, error) {
	kind, ok := routeKind(r.GetKind())
	if !ok {
		return nil, fmt.Errorf("kind: %d is none that this version knows", r.GetKind())
	}
	if err := checkNames(r.GetNamespace(), r.GetName()); err != nil {
		return nil, err
	}
	if len(r.GetRules()) > maxRules || len(r.GetHostnames()) > maxHostnames {
		return nil, fmt.Errorf("%d rules and %d hostnames; there may be %d and %d",
			len(r.GetRules()), len(r.GetHostnames()), maxRules, maxHostnames)
	}
	parents, err := decodeParents(r.GetParents())
	if err != nil {
		return nil, err
	}
	out := &route.Route{
		Kind: kind, Namespace: r.GetNamespace(), Name: r.GetName(), Created: time.Unix(r.GetCreatedUnix(), 0).UTC(),
		Parents: parents, Hostnames: r.GetHostnames(),
	}
	var reader routeReader
	for i, wire := range r.GetRules() {
		rule, err := reader.rule(kind, wire)
		if err != nil {
			return nil, fmt.Errorf("rules[%d]: %w", i, err)
		}
		out.Rules = append(out.Rules, rule)
	}
	return out, nil
}

func checkNames(names ...string) error {
	for _, name := range names {
		if name == "" || len(name) > maxName {
			return fmt.Errorf("a name of %d bytes; it must have 1 to %d", len(name), maxName)
		}
	}
	return nil
}

func decodeParents(wire []*meshv1.RouteParent) ([]route.Parent, error) {
	if len(wire) > maxParents {
		return nil, fmt.Errorf("parents: %d, more than %d", len(wire), maxParents)
	}
	var out []route.Parent
	for i, p := range wire {
		if err := checkService(p.GetService()); err != nil {
			return nil, fmt.Errorf("parents[%d]: %w", i, err)
		}
		if p.GetPort() > 65535 || len(p.GetConsumerNamespace()) > maxName {
			return nil, fmt.Errorf("parents[%d]: port %d, or a namespace of %d bytes",
				i, p.GetPort(), len(p.GetConsumerNamespace()))
		}
		out = append(out, route.Parent{Service: p.GetService(), Port: uint16(p.GetPort()), Consumer: p.GetConsumerNamespace()})
	}
	return out, nil
}

func checkService(name string) error {
	namespace, service, ok := strings.Cut(name, "/")
	if !ok || namespace == "" || service == "" || strings.Contains(service, "/") || len(name) > 2*maxName+1 {
		return fmt.Errorf("service: %.100q is not <namespace>/<name>", name)
	}
	return nil
}

func (d *routeReader) rule(kind route.Kind, r *meshv1.RouteRule) (out route.Rule, err error) {
	d.matches += len(r.GetMatches())
	if d.matches > maxMatches || len(r.GetBackends()) > maxBackends {
		return out, fmt.Errorf("more than %d matches in the route, or than %d backends in the rule", maxMatches, maxBackends)
	}
	if len(r.GetName()) > maxName || len(r.GetBroken()) > maxBroken {
		return out, fmt.Errorf("a name of %d bytes, or a reason of %d", len(r.GetName()), len(r.GetBroken()))
	}
	out = route.Rule{
		Name: r.GetName(), Timeout: milliseconds(r.GetTimeoutMs()), BackendTimeout: milliseconds(r.GetBackendTimeoutMs()),
		Broken: r.GetBroken(),
	}
	if out.Timeout > maxTimeout || out.BackendTimeout > maxTimeout {
		return out, fmt.Errorf("a timeout of more than %v", maxTimeout)
	}
	for i, m := range r.GetMatches() {
		match, err := d.match(kind, m)
		if err != nil {
			return out, fmt.Errorf("matches[%d]: %w", i, err)
		}
		out.Matches = append(out.Matches, match)
	}
	for i, b := range r.GetBackends() {
		backend, err := decodeBackend(b)
		if err != nil {
			return out, fmt.Errorf("backends[%d]: %w", i, err)
		}
		out.Backends = append(out.Backends, backend)
	}
	if out.Filters, err = decodeFilters(r.GetFilters()); err != nil {
		return out, err
	}
	if out.Retry, err = decodeRetry(r.GetRetry()); err != nil {
		return out, err
	}
	out.Session, err = decodeSession(r.GetSession())
	return out, err
}

func milliseconds(n uint32) time.Duration { return time.Duration(n) * time.Millisecond }

func (d *routeReader) match(kind route.Kind, m *meshv1.RouteMatch) (out route.Match, err error) {
	out = route.Match{
		Path: m.GetPath(), Method: m.GetMethod(),
		GRPCService: m.GetGrpcService(), GRPCMethod: m.GetGrpcMethod(), GRPCRegex: m.GetGrpcRegex(),
	}
	if out.Method != "" && !isToken(out.Method) {
		return out, fmt.Errorf("method: %.100q is not one", out.Method)
	}
	if err := d.path(m, &out); err != nil {
		return out, err
	}
	if kind == route.GRPC {
		if err := d.method(&out); err != nil {
			return out, err
		}
	}
	if out.Headers, err = d.values("headers", m.GetHeaders(), isToken); err != nil {
		return out, err
	}
	out.Query, err = d.values("query", m.GetQuery(), isText)
	return out, err
}

func (d *routeReader) path(m *meshv1.RouteMatch, out *route.Match) error {
	switch m.GetPathKind() {
	case meshv1.RouteMatch_PREFIX:
		out.PathKind = route.Prefix
	case meshv1.RouteMatch_EXACT:
		out.PathKind = route.Exact
	case meshv1.RouteMatch_REGEX:
		out.PathKind = route.Regex
		return d.pattern("path", out.Path)
	default:
		return fmt.Errorf("path_kind: %d is none that this version knows", m.GetPathKind())
	}
	if out.Path == "" {
		return nil
	}
	return checkPath("path", out.Path)
}

func (d *routeReader) method(m *route.Match) error {
	if m.GRPCRegex {
		if err := d.pattern("grpc_service", m.GRPCService); err != nil {
			return err
		}
		return d.pattern("grpc_method", m.GRPCMethod)
	}
	for _, name := range []string{m.GRPCService, m.GRPCMethod} {
		if !isText(name) || len(name) > maxPath || strings.Contains(name, "/") {
			return fmt.Errorf("grpc: %.100q is no service's or method's name", name)
		}
	}
	return nil
}

// pattern checks a regular expression, and what all of the route cost together.
func (d *routeReader) pattern(field, pattern string) error {
	cost, err := route.PatternCost(pattern)
	if err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	if d.cost += cost; d.cost > maxPatternCost {
		return fmt.Errorf("%s: the route's regular expressions are too complex: more than %d instructions", field, maxPatternCost)
	}
	return nil
}

func (d *routeReader) values(
	field string, wire []*meshv1.ValueMatch, valid func(string) bool,
) ([]route.ValueMatch, error) {
	if len(wire) > maxValues {
		return nil, fmt.Errorf("%s: %d, more than %d", field, len(wire), maxValues)
	}
	var out []route.ValueMatch
	for i, v := range wire {
		if !valid(v.GetName()) || v.GetName() == "" || len(v.GetName()) > maxToken {
			return nil, fmt.Errorf("%s[%d]: %.100q is not a name", field, i, v.GetName())
		}
		if len(v.GetValue()) > maxValue {
			return nil, fmt.Errorf("%s[%d]: a value of %d bytes, more than %d", field, i, len(v.GetValue()), maxValue)
		}
		if v.GetRegex() {
			if err := d.pattern(field, v.GetValue()); err != nil {
				return nil, err
			}
		}
		out = append(out, route.ValueMatch{Name: v.GetName(), Value: v.GetValue(), Regex: v.GetRegex()})
	}
	return out, nil
}

func decodeBackend(b *meshv1.RouteBackend) (out route.Backend, err error) {
	if b.GetWeight() > maxWeight || b.GetPort() > 65535 {
		return out, fmt.Errorf("weight %d, port %d; there may be %d and 65535", b.GetWeight(), b.GetPort(), maxWeight)
	}
	if len(b.GetBroken()) > maxBroken || len(b.GetService()) > 2*maxName+1 {
		return out, fmt.Errorf("a service's name of %d bytes, or a reason of %d", len(b.GetService()), len(b.GetBroken()))
	}
	out = route.Backend{Service: b.GetService(), Port: uint16(b.GetPort()), Weight: b.GetWeight(), Broken: b.GetBroken()}
	if out.Broken == "" {
		if err := checkReached(out.Service, out.Port); err != nil {
			return out, err
		}
	}
	out.Filters, err = decodeFilters(b.GetFilters())
	return out, err
}

// checkReached checks where requests are sent.
func checkReached(service string, port uint16) error {
	if port == 0 {
		return fmt.Errorf("port: it is missing")
	}
	return checkService(service)
}

func decodeRetry(r *meshv1.RouteRetry) (*route.Retry, error) {
	if r == nil {
		return nil, nil
	}
	if r.GetAttempts() > maxAttempts || len(r.GetCodes()) > maxCodes {
		return nil, fmt.Errorf("retry: %d attempts on %d codes; there may be %d and %d",
			r.GetAttempts(), len(r.GetCodes()), maxAttempts, maxCodes)
	}
	out := &route.Retry{Attempts: int(r.GetAttempts()), Backoff: milliseconds(r.GetBackoffMs())}
	for _, code := range r.GetCodes() {
		if code < 400 || code > 599 {
			return nil, fmt.Errorf("retry: codes: %d is no error of HTTP", code)
		}
		out.Codes = append(out.Codes, int(code))
	}
	if out.Backoff > maxTimeout {
		return nil, fmt.Errorf("retry: backoff_ms: more than %v", maxTimeout)
	}
	return out, nil
}

func decodeSession(s *meshv1.SessionPersistence) (*route.Session, error) {
	if s == nil {
		return nil, nil
	}
	if s.GetName() != "" && !isToken(s.GetName()) {
		return nil, fmt.Errorf("session: name: %.100q is no name of a header or cookie", s.GetName())
	}
	out := &route.Session{
		Name: s.GetName(), Cookie: s.GetCookie(), Permanent: s.GetPermanent(),
		Absolute: time.Duration(s.GetAbsoluteTimeout()) * time.Second, Idle: time.Duration(s.GetIdleTimeout()) * time.Second,
	}
	return out, nil
}

func (d *Decoded) indexRoutes(routes []*route.Route, traffic []*route.TrafficPolicy) (err error) {
	if d.Routes, err = route.NewTable(routes); err != nil {
		return err
	}
	d.Traffic, err = route.NewTrafficSet(traffic)
	return err
}
