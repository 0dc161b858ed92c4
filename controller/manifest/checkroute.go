package manifest

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// What one route may have: the Gateway API's own bounds, so that a file says nothing that a cluster would refuse.
const (
	maxParents    = 32
	maxHostnames  = 16
	maxRouteRules = 16
	maxRouteMatch = 64 // of one rule, and twice as many of all
	maxRouteList  = 16 // headers, query parameters, filters, backends
	maxRoutePath  = 1024
	maxMatchValue = 4096
	maxNameLength = 256
	maxWeight     = 1_000_000
	maxRetries    = 16
	maxRetryCodes = 64
	maxTimeout    = 7 * 24 * time.Hour
	// maxRegexCost bounds all regular expressions of one route together, in instructions.
	maxRegexCost = 100_000
)

// routeChecker checks one route whose requests a waypoint is to route.
type routeChecker struct {
	*decoder
	kind  string
	regex int // what its regular expressions cost so far
	match int // how many matches it has so far
}

func checkRoute(d *decoder, kind string, spec *Route) error {
	c := &routeChecker{decoder: d, kind: kind}
	if len(spec.ParentRefs) > maxParents || len(spec.Hostnames) > maxHostnames || len(spec.Rules) > maxRouteRules {
		return d.at("spec", "more than %d parentRefs, %d hostnames or %d rules", maxParents, maxHostnames, maxRouteRules)
	}
	for i := range spec.ParentRefs {
		if err := c.parent(fmt.Sprintf("spec.parentRefs[%d]", i), &spec.ParentRefs[i]); err != nil {
			return err
		}
	}
	for i, name := range spec.Hostnames {
		if !isHostname(strings.TrimPrefix(name, "*.")) {
			return d.at(fmt.Sprintf("spec.hostnames[%d]", i), "want a name such as a.example.com or *.example.com, got %q", name)
		}
	}
	names := make(map[string]bool)
	for i := range spec.Rules {
		path := fmt.Sprintf("spec.rules[%d]", i)
		name := spec.Rules[i].Name
		if name != "" && (!isSubdomain(name) || names[name]) {
			return d.at(path+".name", "want a name of lower-case letters, digits, '-' and '.' that no other rule has, got %q", name)
		}
		names[name] = true
		if err := c.rule(path, &spec.Rules[i]); err != nil {
			return err
		}
	}
	return nil
}

// isHostname tells whether s is a host's name and no address.
func isHostname(s string) bool {
	_, err := netip.ParseAddr(s)
	return isSubdomain(s) && err != nil
}

func (c *routeChecker) parent(path string, p *ParentRef) error {
	switch {
	case !isSubdomain(p.Name):
		return c.at(path+".name", "want an object's name, got %q", p.Name)
	case p.Namespace != nil && (!isSubdomain(*p.Namespace) || strings.Contains(*p.Namespace, ".")):
		return c.at(path+".namespace", "want a namespace's name, got %q", *p.Namespace)
	case p.Port != nil && *p.Port == 0:
		return c.at(path+".port", "want a port from 1 to 65535")
	case p.SectionName != nil && !isSubdomain(*p.SectionName):
		return c.at(path+".sectionName", "want a port's name, got %q", *p.SectionName)
	}
	return nil
}

// rule checks one rule: first what a kind of routes does not have, which a strict reader does not see as the kinds share
// their types here.
func (c *routeChecker) rule(path string, r *RouteRule) error {
	if err := c.foreign(path, r); err != nil {
		return err
	}
	c.match += len(r.Matches)
	if len(r.Matches) > maxRouteMatch || c.match > 2*maxRouteMatch {
		return c.at(path+".matches", "more than %d matches in a rule, or %d in all of them", maxRouteMatch, 2*maxRouteMatch)
	}
	if len(r.Filters) > maxRouteList || len(r.BackendRefs) > maxRouteList {
		return c.at(path, "more than %d filters or backendRefs", maxRouteList)
	}
	for i := range r.Matches {
		if err := c.matches(fmt.Sprintf("%s.matches[%d]", path, i), &r.Matches[i]); err != nil {
			return err
		}
	}
	if err := c.filters(path, r.Filters, r); err != nil {
		return err
	}
	for i := range r.BackendRefs {
		if err := c.backend(fmt.Sprintf("%s.backendRefs[%d]", path, i), &r.BackendRefs[i], r); err != nil {
			return err
		}
	}
	if err := c.timeouts(path+".timeouts", r.Timeouts); err != nil {
		return err
	}
	if err := c.retry(path+".retry", r.Retry); err != nil {
		return err
	}
	return c.session(path+".sessionPersistence", r.SessionPersistence)
}

// foreign refuses fields of another kind of routes.
func (c *routeChecker) foreign(path string, r *RouteRule) error {
	l4 := c.kind == KindTCPRoute || c.kind == KindTLSRoute
	for _, f := range []struct {
		name  string
		there bool
	}{
		{"matches", l4 && r.Matches != nil}, {"filters", l4 && r.Filters != nil},
		{"sessionPersistence", l4 && r.SessionPersistence != nil},
		{"timeouts", c.kind != KindHTTPRoute && r.Timeouts != nil}, {"retry", c.kind != KindHTTPRoute && r.Retry != nil},
	} {
		if f.there {
			return c.at(path+"."+f.name, "a %s has no such field", c.kind)
		}
	}
	if l4 && len(r.BackendRefs) == 0 {
		return c.at(path+".backendRefs", "want at least one")
	}
	return nil
}

func (c *routeChecker) backend(path string, b *BackendRef, r *RouteRule) error {
	switch {
	case b.Name == "":
		return c.at(path+".name", "is missing")
	case b.IsService() && !isSubdomain(b.Name):
		return c.at(path+".name", "want a service's name, got %q", b.Name)
	case b.Namespace != "" && (!isSubdomain(b.Namespace) || strings.Contains(b.Namespace, ".")):
		return c.at(path+".namespace", "want a namespace's name, got %q", b.Namespace)
	case b.IsService() && (b.Port == nil || *b.Port == 0):
		return c.at(path+".port", "want a port of the service, from 1 to 65535")
	case b.Weight != nil && (*b.Weight < 0 || *b.Weight > maxWeight):
		return c.at(path+".weight", "want 0 to %d, got %d", maxWeight, *b.Weight)
	case len(b.Filters) > maxRouteList:
		return c.at(path+".filters", "more than %d", maxRouteList)
	case b.Filters != nil && c.kind != KindHTTPRoute && c.kind != KindGRPCRoute:
		return c.at(path+".filters", "a %s has no such field", c.kind)
	}
	return c.filters(path, b.Filters, r)
}

func (c *routeChecker) timeouts(path string, t *RouteTimeouts) error {
	if t == nil {
		return nil
	}
	for _, d := range []*Duration{t.Request, t.BackendRequest} {
		if d != nil && time.Duration(*d) > maxTimeout {
			return c.at(path, "want at most %s", maxTimeout)
		}
	}
	if t.Request != nil && t.BackendRequest != nil && *t.Request != 0 && *t.BackendRequest > *t.Request {
		return c.at(path+".backendRequest", "is longer than request, which includes it")
	}
	return nil
}

func (c *routeChecker) retry(path string, r *RouteRetry) error {
	if r == nil {
		return nil
	}
	if len(r.Codes) > maxRetryCodes {
		return c.at(path+".codes", "more than %d", maxRetryCodes)
	}
	for i, code := range r.Codes {
		if code < 400 || code > 599 {
			return c.at(fmt.Sprintf("%s.codes[%d]", path, i), "want a status from 400 to 599, got %d", code)
		}
	}
	if r.Attempts != nil && (*r.Attempts < 0 || *r.Attempts > maxRetries) {
		return c.at(path+".attempts", "want 0 to %d, got %d", maxRetries, *r.Attempts)
	}
	if r.Backoff != nil && time.Duration(*r.Backoff) > time.Hour {
		return c.at(path+".backoff", "want at most 1h")
	}
	return nil
}

func (c *routeChecker) session(path string, s *SessionPersistence) error {
	if s == nil {
		return nil
	}
	permanent := s.CookieConfig != nil && s.CookieConfig.LifetimeType == CookiePermanent
	switch {
	case s.Type != "" && s.Type != SessionCookie && s.Type != SessionHeader:
		return c.at(path+".type", "want Cookie or Header, got %q", s.Type)
	case s.SessionName != "" && (!isToken(s.SessionName) || len(s.SessionName) > 128):
		return c.at(path+".sessionName", "want a cookie's or a header's name of at most 128 characters, got %q", s.SessionName)
	case s.CookieConfig != nil && !permanent && s.CookieConfig.LifetimeType != "" && s.CookieConfig.LifetimeType != CookieSession:
		return c.at(path+".cookieConfig.lifetimeType", "want Session or Permanent, got %q", s.CookieConfig.LifetimeType)
	case s.CookieConfig != nil && s.Type == SessionHeader:
		return c.at(path+".cookieConfig", "is of no use to a session that a header keeps")
	case permanent && s.AbsoluteTimeout == nil:
		return c.at(path+".absoluteTimeout", "is missing: a Permanent cookie needs it")
	}
	return nil
}
